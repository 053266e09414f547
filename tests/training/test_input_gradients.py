"""A half-precision run whose attack has lost its gradients is stopped; others go on."""

import dataclasses

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.errors import PrecisionError
from tf_lottery.keras import tf
from tf_lottery.options.settings import (
    ObjectiveConfig,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
)
from tf_lottery.training.input_gradients import MOST_LOST, compare
from tf_lottery.training.model import attack_scale
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

QUIET = Reporting(verbose=0)
CONFIG = TrainConfig(
    objective=ObjectiveConfig("fgsm", attack_from_name("fgsm", eps=0.02)),
    epochs=1,
    batch_size=96,
    schedule=ScheduleConfig("constant", peak=1e-7),  # the margins stay
    dtype_policy="mixed_float16",
)


def test_by_hand():
    nan, inf = np.nan, np.inf
    full = np.array([[1.0, -2, 0, 4], [0, 0, 3, -1], [1, 1, 1, 1]]).reshape(3, 2, 2, 1)
    half = np.array([[1.0, 2, 5, 0], [0, 0, 0, nan], [inf, 1, 1, -1]]).reshape(3, 2, 2, 1)
    found = compare(half, full)
    assert found == {
        "lost": pytest.approx(4 / 9),  # 4, 3, -1 and the first of the last image
        "lost_images": pytest.approx(1 / 3),
        "zero": pytest.approx(6 / 12),
        "zero_float32": pytest.approx(3 / 12),
        "sign_agreement": pytest.approx(3 / 5),
    }


def test_zeros_of_float32_are_no_loss():
    nothing, something = np.zeros((2, 1, 1, 1)), np.ones((2, 1, 1, 1))
    expected = {"lost": 0, "lost_images": 0, "zero": 1, "zero_float32": 1, "sign_agreement": None}
    assert compare(nothing, nothing) == expected
    assert compare(something, nothing) == expected | {"zero": 0}


@pytest.fixture(scope="module")
def sure(sparse, tiny_network, tiny_data):
    """Makes a confident network, and images labelled as it sees them (or otherwise).

    Its BatchNorm statistics are those of the images, so that training leaves them alone.
    """
    network = sparse().network
    x = tiny_data.train_images / np.float32(255)
    for _ in range(80):
        network(x, training=True)
    logits = network(x, training=False).numpy()
    right = logits.argmax(1).astype(np.int32)
    best, second = np.sort(logits, 1)[:, :-3:-1].T
    factor = 30 / np.median(best - second)
    values = weights.get_weights(network)
    for name in ("logits/kernel", "logits/bias"):
        values[name] = values[name] * np.float32(factor)

    def make(policy, shift=0):
        masked = sparse(dtype_policy=policy)
        weights.set_weights(masked.network, values)
        data = dataclasses.replace(tiny_data, train_labels=(right + shift) % 4)
        options = {"seed": 0, "validation_network": tiny_network()}
        return masked, data, options

    return make


def test_without_a_scale_a_confident_float16_network_is_stopped(sure, tmp_path):
    config = dataclasses.replace(CONFIG, attack_loss_scale=1.0)
    masked, data, options = sure("mixed_float16")
    with pytest.raises(PrecisionError) as caught:
        train(
            masked,
            data,
            config,
            directory=tmp_path,
            **options,
            reporting=Reporting(stage="search of tiny", verbose=0),
        )
    message = str(caught.value)
    assert message.startswith("search of tiny: after epoch 1, ")
    assert 5 < float(message.split("after epoch 1, ")[1].split("%")[0]) <= 100
    for part in ("--dtype_policy=mixed_float16", "--attack_loss_scale=1 ", "at most 5%", "float32"):
        assert part in message
    assert "\n" not in message
    assert caught.value.exit_code == 1
    assert not (tmp_path / "history.json").exists()  # the epoch does not count


def test_a_scale_that_overflows_is_stopped_too(sure, tmp_path):
    """Mistaken images have derivatives of about 1 at the logits: times 1e9, infinite behind."""
    config = dataclasses.replace(CONFIG, attack_loss_scale=1e9)
    masked, data, options = sure("mixed_float16", shift=1)
    with pytest.raises(PrecisionError, match="zero or not finite under --attack_loss_scale=1e"):
        train(masked, data, config, directory=tmp_path, **options, reporting=QUIET)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("shift", [0, 1], ids=["confident", "mistaken"])
def test_the_automatic_scale_passes(sure, tmp_path, policy, shift):
    masked, data, options = sure(policy, shift)
    config = dataclasses.replace(CONFIG, dtype_policy=policy)
    logs = tmp_path / "logs"
    (row,) = train(
        masked,
        data,
        config,
        directory=tmp_path,
        **options,
        reporting=Reporting(verbose=0, log_directory=logs),
    )
    found = row["input_gradients"]
    assert found["lost"] < 0.01 < MOST_LOST
    assert found["lost_images"] == 0
    assert 0.9 < found["sign_agreement"] <= 1
    # The float32 side, by a plain gradient of the twin, whose weights were not changed since.
    twin = options["validation_network"]
    x = tf.constant(data.train_images / np.float32(255))
    with tf.GradientTape() as tape:
        tape.watch(x)
        p = tf.nn.log_softmax(twin(x, training=False))
        loss = -tf.reduce_sum(tf.gather(p, data.train_labels, batch_dims=1))
    gradient = tape.gradient(loss, x).numpy()
    assert found["zero_float32"] == pytest.approx((gradient == 0).mean(), abs=1e-3)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(logs), size_guidance={"tensors": 0})
    events.Reload()
    for name, share in found.items():
        (event,) = events.Tensors(f"input_gradients/{name}")
        assert tensor_util.make_ndarray(event.tensor_proto) == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(CONFIG, dtype_policy="float32"),
        dataclasses.replace(CONFIG, objective=ObjectiveConfig("natural")),
    ],
    ids=["float32", "natural"],
)
def test_nothing_is_compared_where_nothing_can_be_lost(sure, tmp_path, config):
    masked, data, options = sure(config.dtype_policy)
    (row,) = train(masked, data, config, directory=tmp_path, **options, reporting=QUIET)
    assert row["input_gradients"] is None


def test_which_scale_a_policy_takes():
    assert attack_scale(CONFIG) is None
    assert attack_scale(dataclasses.replace(CONFIG, dtype_policy="mixed_bfloat16")) == 1
    assert attack_scale(dataclasses.replace(CONFIG, dtype_policy="float32")) == 1
    assert attack_scale(dataclasses.replace(CONFIG, attack_loss_scale=1024.0)) == 1024
