"""Finds a ticket, trains and evaluates under states of Keras and TensorFlow; prints digests.

    python ambient.py STATE...    # in one process, one after the other

The last line is a JSON object: state -> what came out. What Keras reads when it is imported
(``KERAS_HOME``) and other environment variables are the caller's to set.
"""

import hashlib
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np

from tf_lottery import build_model, evaluate, find_ticket, lottery_config, weights
from tf_lottery.export import export_saved_model
from tf_lottery.keras import keras, tf

backend = keras.backend
SHAPE = (8, 8, 1)


def nothing():
    pass


def numbers():
    """Keras' own idea of numbers and images."""
    backend.set_floatx("float64")
    backend.set_epsilon(0.1)
    backend.set_image_data_format("channels_first")


def policy():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")


def execution():
    """How functions run."""
    tf.config.run_functions_eagerly(True)
    tf.config.optimizer.set_jit(True)
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision": True})
    tf.config.experimental.enable_tensor_float_32_execution(False)
    np.seterr(all="raise")


def seeds():
    """Global generators, and the learning phase."""
    keras.utils.set_random_seed(7)
    tf.random.set_seed(8)
    np.random.seed(9)
    random.seed(10)
    np.set_printoptions(precision=1)
    backend.set_learning_phase(1)
    build_model("vgg", (8, 8, 1), 4, 1, width_multiplier=0.02)


def determinism():
    tf.config.experimental.enable_op_determinism()


def reset():
    tf.config.run_functions_eagerly(False)
    tf.config.optimizer.set_jit(False)
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision": False})
    tf.config.experimental.enable_tensor_float_32_execution(True)
    np.seterr(all="warn", under="ignore")
    backend.set_floatx("float32")
    backend.set_epsilon(1e-7)
    backend.set_image_data_format("channels_last")
    keras.mixed_precision.set_global_policy("float32")


def told():
    """What the states above set, as it reads now."""
    return [
        backend.floatx(),
        backend.epsilon(),
        backend.image_data_format(),
        keras.mixed_precision.global_policy().name,
        tf.config.functions_run_eagerly(),
        tf.config.optimizer.get_jit(),
        tf.config.optimizer.get_experimental_options().get("auto_mixed_precision"),
        tf.config.experimental.tensor_float_32_execution_enabled(),
        np.geterr(),
    ]


def results():
    config = lottery_config(
        dataset="digits",
        train_examples=96,
        validation_examples=20,
        test_examples=20,
        width_multiplier=0.2,
        batch_size=32,
        objective="fgsm",
        search_objective="fgsm",
        sparsity=0.5,
        epochs=1,
        search_epochs=1,
        warmup_epochs=0,
        attacks=("pgd2",),
    )
    with tempfile.TemporaryDirectory() as directory:
        ticket = find_ticket(config, directory)
        (trained,) = Path(directory).glob("train-*/final.npz")
        final = weights.read_arrays(trained)
        exported = export_saved_model(build_model("convnet", SHAPE, 10, 1), f"{directory}/out")
        read = json.loads((exported / "metadata.json").read_text())["kernels_digest"]
    network = ticket.network().network
    x = np.random.default_rng(0).random((24, *SHAPE)).astype(np.float32)
    found = evaluate(network, x, np.arange(24) % 10, ["pgd3", "cw"], eps=0.1)
    arrays = {name: value for name, value in found.arrays().items() if value.dtype.kind != "U"}
    other = build_model("lenet", (28, 28, 1), 10, 1, width_multiplier=0.1)
    return {
        "ticket": ticket.digest,
        "final": weights.digest(final),
        "dtypes": sorted({str(variable.dtype.name) for variable in network.variables}),
        "evaluation": weights.digest(arrays),
        "export": read,
        "layers": hashlib.sha256(repr(other.get_config()).encode()).hexdigest(),
    }


if __name__ == "__main__":
    answers = {}
    for state in sys.argv[1:]:
        globals()[state]()
        before = told()
        answers[state] = results()
        answers[state]["restored"] = told() == before
        reset()
    print(json.dumps(answers))
