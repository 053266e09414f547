"""Exported models, read by a fresh process that has nothing but TensorFlow."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import tf_lottery
from tf_lottery import weights
from tf_lottery.errors import LotteryError
from tf_lottery.evaluation import evaluate
from tf_lottery.export import export_saved_model
from tf_lottery.keras import tf
from tf_lottery.options.settings import ModelConfig
from tf_lottery.tickets import NetworkSpec, Ticket

NAMES = ("zero", "one", "two", "three")

# What a person without this package does with the directory.
_CLIENT = """
import sys
import numpy as np
import tensorflow as tf
directory, images, out = sys.argv[1:]
loaded = tf.saved_model.load(directory)
x = np.load(images)  # uint8
result = {}
for n in (1, 3, 7):
    floats = loaded.signatures["serving_default"](images=tf.constant(x[:n] / np.float32(255)))
    integers = loaded.signatures["serving_uint8"](images=tf.constant(x[:n]))
    for key in floats:
        result[f"float/{n}/{key}"] = floats[key].numpy()
        result[f"uint8/{n}/{key}"] = integers[key].numpy()
    result[f"logits/{n}"] = loaded.logits(tf.constant(x[:n] / np.float32(255))).numpy()
for name, kernel in loaded.kernels.items():
    result[f"kernel/{name}"] = kernel.numpy()
with tf.GradientTape() as tape:
    images = tf.constant(x[:3] / np.float32(255))
    tape.watch(images)
    total = tf.reduce_sum(loaded.logits(images)[:, 1])
result["gradient"] = tape.gradient(total, images).numpy()
np.savez(out, **result)
foreign = [m for m in sys.modules
           if m.split(".")[0] in ("tf_keras", "tensorflow_model_optimization", "tf_lottery")]
assert not foreign, foreign
"""


@pytest.fixture(scope="module")
def network(tiny_masks):
    """A sparse network, rewound from a ticket, with statistics as after training."""
    spec = NetworkSpec(
        ModelConfig("convnet", width_multiplier=0.1, normalize=True), (8, 8, 1), 4, (0.4,), (0.3,)
    )
    bare = spec.build(0)
    kernels = {layer.name: layer.kernel for layer in bare.layers if hasattr(layer, "kernel")}
    masks = tiny_masks(kernels, density=0.3)
    ticket = Ticket(spec, "tiny", 0, weights.digest(weights.get_weights(bare)), masks)
    masked = ticket.network()
    rng = np.random.default_rng(0)
    for name, variable in weights.named_variables(masked.network).items():
        if not name.endswith("kernel"):
            low, high = (-0.3, 0.3) if name.endswith(("beta", "bias", "mean")) else (0.5, 1.5)
            variable.assign(rng.uniform(low, high, variable.shape))
    return masked.network, masks


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "saved_model"
    found = {"ticket": {"digest": "abc", "density": 0.3}}
    assert export_saved_model(network[0], str(path), NAMES, found) == path
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (7, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def client(exported, images, tmp_path_factory):
    directory = tmp_path_factory.mktemp("client")
    np.save(directory / "x.npy", images)
    # The second one is set in this process by tfmot; TensorFlow then imports tf_keras.
    ours = ("PYTHONPATH", "TF_USE_LEGACY_KERAS")
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    done = subprocess.run(
        [sys.executable, "-c", _CLIENT, str(exported), "x.npy", "out.npz"],
        cwd=directory, env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(directory / "out.npz") as archive:
        return dict(archive)


@pytest.mark.parametrize("n", [1, 3, 7])
def test_same_answers_at_any_batch_size(client, network, images, n):
    expected = network[0](images[:n] / np.float32(255), training=False).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(client[f"logits/{n}"], expected, atol=1e-6)
    for kind in ("float", "uint8"):
        np.testing.assert_allclose(client[f"{kind}/{n}/logits"], expected, atol=1e-6)
        probabilities = client[f"{kind}/{n}/probabilities"]
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
        softmax = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
        np.testing.assert_allclose(probabilities, softmax, atol=1e-6)
        classes = client[f"{kind}/{n}/class"]
        assert classes.dtype == np.int32
        np.testing.assert_array_equal(classes, expected.argmax(1))


def test_outputs_and_their_types(client):
    keys = {key.split("/")[2] for key in client if key.startswith("float/7")}
    assert keys == {"logits", "probabilities", "class"}
    assert client["float/7/logits"].dtype == np.float32
    assert client["float/7/probabilities"].shape == (7, 4)
    assert client["float/7/class"].shape == (7,)


def test_pruned_weights_are_exact_zeros(client, network):
    bare, masks = network
    assert {key for key in client if key.startswith("kernel/")} == {f"kernel/{n}" for n in masks}
    for name, mask in masks.items():
        kernel = client[f"kernel/{name}"]
        assert not kernel[~mask].any()
        np.testing.assert_array_equal(kernel, bare.get_layer(name).kernel.numpy())


def test_gradient_of_the_loaded_function(client, network, images):
    x = tf.constant(images[:3] / np.float32(255))
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(network[0](x, training=False)[:, 1])
    expected = tape.gradient(total, x).numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(client["gradient"], expected, atol=1e-5)


def test_masks_and_wrappers_are_not_exported(exported, network):
    names = [name for name, _ in tf.train.list_variables(str(exported / "variables" / "variables"))]
    assert not [name for name in names if "mask" in name or "pruning" in name]
    values = sum("VARIABLE_VALUE" in name for name in names)
    assert values == len(network[0].weights)


def test_attack_on_the_loaded_model(exported, network):
    x = np.random.default_rng(2).integers(0, 256, (30, 8, 8, 1)).astype(np.uint8)
    y = network[0](x / np.float32(255), training=False).numpy().argmax(1)
    loaded = tf.saved_model.load(str(exported))
    ours = evaluate(network[0], x, y, ["pgd10"], eps=0.5, batch_size=20)
    theirs = evaluate(loaded, x, y, ["pgd10"], eps=0.5, batch_size=20)
    assert theirs.natural == ours.natural == 1
    assert 0 < theirs.robust["pgd10"] < 1
    np.testing.assert_array_equal(ours.survived["pgd10"], theirs.survived["pgd10"])


def test_metadata(exported, network):
    bare, masks = network
    document = json.loads((exported / "metadata.json").read_text())
    kernels = {name: bare.get_layer(name).kernel.numpy() for name in masks}
    assert document["format"] == 1
    assert document["package_version"] == tf_lottery.__version__
    assert document["tensorflow"] == tf.__version__
    assert document["input"] == {"shape": [None, 8, 8, 1], "range": [0, 1]}
    assert document["classes"] == list(NAMES)
    assert document["weights"] == sum(mask.size for mask in masks.values())
    assert document["nonzero_weights"] == sum(int(mask.sum()) for mask in masks.values())
    assert document["kernels_digest"] == weights.digest(kernels)
    graph = (exported / "saved_model.pb").read_bytes()
    assert document["graph_digest"] == hashlib.sha256(graph).hexdigest()
    assert document["ticket"] == {"digest": "abc", "density": 0.3}


def test_exporting_leaves_the_network(network, tmp_path):
    before = weights.digest(weights.get_weights(network[0]))
    export_saved_model(network[0], tmp_path / "m")
    assert weights.digest(weights.get_weights(network[0])) == before
    assert json.loads((tmp_path / "m" / "metadata.json").read_text())["classes"] == []


def test_a_directory_in_use_is_not_overwritten(network, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "saved_model.pb").write_text("somebody's model")
    with pytest.raises((FileExistsError, ValueError, LotteryError)):
        export_saved_model(network[0], tmp_path / "m")
    assert (tmp_path / "m" / "saved_model.pb").read_text() == "somebody's model"


def test_a_half_precision_network_is_exported_in_float32_or_refused(tiny_network, tmp_path):
    """An exported model is there to be attacked; half-precision gradients mislead."""
    half = tiny_network(dtype_policy="mixed_float16")
    try:
        export_saved_model(half, tmp_path / "m")
    except (ValueError, LotteryError):
        return
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    types = {t.dtype for op in loaded.logits.concrete_functions[0].graph.get_operations()
             for t in op.outputs}  # fmt: skip
    assert tf.float16 not in types
