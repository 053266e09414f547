"""The L1 penalty on BatchNorm scales, against the same step without it."""

import numpy as np

from tf_lottery import objectives, weights
from tf_lottery.keras import keras, tf
from tf_lottery.models import build_model
from tf_lottery.pruning.masks import wrap
from tf_lottery.training.model import LotteryModel, batch_norm_scales

RATE, PENALTY = 0.5, 0.01


def stepped(penalty):
    """All variables after one step of plain gradient descent."""
    network = build_model("convnet", (8, 8, 1), 4, 0, width_multiplier=0.25)
    scales = batch_norm_scales(network)
    for scale in scales:
        values = np.resize(np.float32([0.5, -0.5, 0.0, 2.0]), scale.shape)
        scale.assign(values)
    masked = wrap(network)
    model = LotteryModel(masked, objectives.natural, batch_norm_l1=penalty)
    model.compile(optimizer=keras.optimizers.SGD(RATE))
    rng = np.random.default_rng(0)
    model.train_step(
        {
            "image": tf.constant(rng.random((16, 8, 8, 1)), tf.float32),
            "label": tf.constant(rng.integers(0, 4, 16), tf.int32),
            "index": tf.range(16),
            "epoch": tf.zeros([16], tf.int32),
        }
    )
    return weights.get_weights(masked.network), weights.get_weights(network)


def test_scales_lose_the_penalty_with_their_sign_and_nothing_else_changes():
    plain, start = stepped(0.0)
    with_penalty, _ = stepped(PENALTY)
    seen = 0
    for name, value in plain.items():
        expected = value
        if name.endswith("/gamma"):
            seen += 1
            expected = value - RATE * PENALTY * np.sign(start[name])
        np.testing.assert_allclose(with_penalty[name], expected, rtol=1e-5, atol=1e-7)
    assert seen == len([name for name in start if name.endswith("gamma")]) > 0
