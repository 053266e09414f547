"""Nothing that Keras and TensorFlow were told before shows in a result, in no stage's key either.

What is done about each state:

==========================================================  ====================================
``keras.json``, ``set_floatx``, ``set_epsilon``,            said to each layer; pinned while
``set_image_data_format``, global dtype policy              networks are made, stages are done
``run_functions_eagerly``, ``optimizer.set_jit``,           pinned while stages are done, models
``auto_mixed_precision``, ``np.seterr``                     are evaluated and exported
TensorFloat-32                                              on in training, off in evaluation
``enable_op_determinism``                                   as ``--deterministic`` says: in the key
seeds of TensorFlow, Keras, NumPy and Python, learning      read by nothing of ours
phase, names given so far, NumPy's print options
``KERAS_BACKEND``, ``TF_USE_LEGACY_KERAS``, locale, time    read by nothing of ours
zone, ``PYTHONHASHSEED``
scope of a ``tf.distribute`` strategy, of a graph           refused in one line
==========================================================  ====================================
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tf_lottery import evaluate, find_ticket, lottery_config
from tf_lottery.errors import UsageError
from tf_lottery.keras import deterministic, keras, pinned, tf

SCRIPT = Path(__file__).with_name("ambient.py")
STATES = ["numbers", "policy", "execution", "seeds", "determinism"]
KERAS_JSON = {
    "floatx": "float64",
    "epsilon": 0.01,
    "backend": "theano",
    "image_data_format": "channels_first",
}
ENVIRONMENT = {
    "KERAS_BACKEND": "jax",
    "TF_USE_LEGACY_KERAS": "0",
    "TZ": "Asia/Tokyo",
    "LC_ALL": "C",
    "PYTHONHASHSEED": "3",
}


def answers(*states, **environment):
    """What ``ambient.py`` prints; sums are made in one order."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *states],
        env={**os.environ, "TF_NUM_INTRAOP_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_results_do_not_depend_on_ambient_state(tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps(KERAS_JSON))
    found = answers("nothing", *STATES)
    plain = found["nothing"]
    assert plain["dtypes"] == ["float32"]
    found["keras.json"] = answers("nothing", KERAS_HOME=str(tmp_path), **ENVIRONMENT)["nothing"]
    for state, told in found.items():
        assert told == plain, state
        assert told["restored"], state


def test_scopes_that_would_swallow_a_run_are_refused():
    config = lottery_config(dataset="digits", epochs=1, search_epochs=1, warmup_epochs=0)
    outside = r"scope of a tf\.distribute strategy; call it outside"
    with (
        tf.distribute.OneDeviceStrategy("/CPU:0").scope(),
        pytest.raises(UsageError, match=outside),
    ):
        find_ticket(config)
    images, labels = np.zeros((2, 2, 2, 1), np.float32), np.zeros(2, int)
    with tf.Graph().as_default():
        with pytest.raises(UsageError, match="build a graph"):
            find_ticket(config)
        with pytest.raises(UsageError, match="build a graph"):
            evaluate(lambda x: tf.reshape(x, (-1, 4)), images, labels, [])


def test_the_global_policy_follows_floatx_again():
    assert keras.mixed_precision.global_policy().name == "float32"
    with pinned("mixed_bfloat16"):
        assert keras.mixed_precision.global_policy().name == "mixed_bfloat16"
    try:
        keras.backend.set_floatx("float64")
        assert keras.mixed_precision.global_policy().name == "float64"
        with pinned():
            assert keras.layers.Dense(1).dtype == "float32"
        assert keras.layers.Dense(1).dtype == "float64"
    finally:
        keras.backend.set_floatx("float32")


def test_a_deterministic_stage_leaves_the_generators_as_they_were():
    tf.random.set_seed(3)
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    drawn = []
    for _ in range(2):
        with deterministic(5):
            drawn.append(float(tf.random.normal([])))
            np.random.random()
    assert drawn[0] == drawn[1]
    assert np.random.random() == expected
    tf.random.set_seed(None)
