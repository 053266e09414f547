"""Attacks on half-precision networks: what must stay float32, and what must not vanish."""

import numpy as np
import pytest

from tf_lottery.attacks import make_attack
from tf_lottery.attacks.losses import cross_entropy
from tf_lottery.attacks.procedure import value_and_gradient
from tf_lottery.keras import tf
from tf_lottery.options.settings import AttackConfig

WEIGHTS = np.array([[0.01, -0.01], [-0.01, 0.01]])  # (pixels, classes)


def confident(margin, dtype=tf.float16):
    """A linear network whose true logit (of class 0) is ahead by ``margin``."""

    def logits_fn(x):
        x = tf.cast(tf.reshape(x, (-1, 2)), dtype)
        logits = tf.matmul(x, tf.cast(WEIGHTS, dtype))
        return tf.cast(logits, tf.float32) + tf.constant([margin, 0.0])

    return logits_fn


def grey():
    return np.full((1, 1, 2, 1), 0.5, "float32"), np.array([0])


@pytest.mark.parametrize("margin", [0.0, 15.0, 22.0, 40.0, 80.0])
def test_a_scale_for_each_image_saves_float16_gradients_at_any_margin(margin):
    """By hand: d(loss)/d(logits) is (-q, q), brought to (-16, 16); times the weights, 0.32.

    From a margin of 17 on, float32 itself rounds the true logit's p - 1 to 0, and half is left.
    """
    x, y = grey()
    _, loss, gradient = value_and_gradient(
        lambda logits: cross_entropy(logits, y), confident(margin), tf.constant(x), None
    )
    gradient = np.ravel(gradient)
    assert 0.1599 < gradient[1] < 0.3203
    assert gradient[0] == -gradient[1]
    if margin in (0, 80):
        np.testing.assert_allclose(gradient[1], 0.16 if margin else 0.32, rtol=1e-3)
    np.testing.assert_allclose(loss, [np.log1p(np.exp(-margin))], atol=2e-7)  # is not scaled
    x_adv = make_attack("fgsm", eps=0.1, gradient_scale=None)(confident(margin), x, y, 0)
    np.testing.assert_allclose(np.ravel(x_adv), [0.4, 0.6], atol=1e-6)


@pytest.mark.parametrize(("scale", "margin", "moves"), [(1.0, 15, False), (1024.0, 15, True),
                                                        (1024.0, 22, False)])  # fmt: skip
def test_a_fixed_scale_only_shifts_the_margin_at_which_gradients_vanish(scale, margin, moves):
    x, y = grey()
    x_adv = make_attack("fgsm", eps=0.1, gradient_scale=scale)(confident(margin), x, y, 0)
    np.testing.assert_allclose(np.ravel(x_adv), [0.4, 0.6] if moves else [0.5, 0.5], atol=1e-6)


def test_a_scale_for_each_image_depends_on_that_image_alone():
    """Confident and mistaken images in one batch: each has its largest derivative at 16.

    Of the confident one only the wrong logit's is left, in float32 as well.
    """
    offsets = tf.constant([[0.0, 0.0], [60.0, 0.0], [-60.0, 0.0]])

    def logits_fn(x):
        return tf.matmul(tf.reshape(x, (-1, 2)), tf.constant(WEIGHTS, tf.float32)) + offsets

    y = np.zeros(3, int)
    _, _, gradient = value_and_gradient(
        lambda logits: cross_entropy(logits, y), logits_fn, tf.fill((3, 1, 2, 1), 0.5), None
    )
    expected = [[-0.32, 0.32], [-0.16, 0.16], [-0.32, 0.32]]
    np.testing.assert_allclose(np.reshape(gradient, (3, 2)), expected, rtol=1e-5)


def test_where_float32_has_no_gradient_there_is_none_to_scale():
    """The softmax's error underflows at a margin of about 104: 0, not 0 / 0."""
    x, y = grey()
    _, _, gradient = value_and_gradient(
        lambda logits: cross_entropy(logits, y), confident(120.0, tf.float32), tf.constant(x), None
    )
    np.testing.assert_array_equal(gradient, np.zeros_like(x))


def test_in_float32_the_scale_changes_nothing(tiny_network, tiny_data):
    network = tiny_network()
    x = tiny_data.train_images[:16] / np.float32(255)
    y = tiny_data.train_labels[:16]
    found = [
        make_attack("pgd3", eps=0.1, gradient_scale=scale)(
            lambda images: network(images, training=False), x, y, 0
        )
        for scale in (1.0, None)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_steps_finer_than_half_precision_add_up(policy):
    """bfloat16 knows 0.8984375 and 0.90234375 and nothing between; eight steps of 1/2040.

    The network rounds what it is shown; the attack's own image has to keep every step.
    """
    dtype = tf.bfloat16 if policy == "mixed_bfloat16" else tf.float16
    eps, step = 16 / 2040, 1 / 2040
    attack = make_attack(AttackConfig("pgd8", "linf", eps, 8, step), gradient_scale=None)
    x = np.full((1, 1, 2, 1), 0.899, "float32")
    x_adv = attack(confident(1.0, dtype), x, np.array([0]), 0)
    assert x_adv.dtype == tf.float32
    np.testing.assert_allclose(np.ravel(x_adv), [0.899 - 8 * step, 0.899 + 8 * step], atol=1e-6)
    shown = tf.cast([0.899, 0.899 + step], tf.bfloat16)
    assert shown[0] == shown[1]  # there the first step is lost


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_what_stays_float32(tiny_network, tiny_data, policy):
    network = tiny_network(dtype_policy=policy, mean=[0.5], std=[0.25])
    x = tf.constant(tiny_data.train_images[:8] / np.float32(255))
    y = tiny_data.train_labels[:8]
    logits, loss, gradient = value_and_gradient(
        lambda logits: cross_entropy(logits, y),
        lambda images: network(images, training=False),
        x,
        None,
    )
    assert {t.dtype for t in (logits, loss, gradient)} == {tf.float32}
    computes = {layer.name: layer.compute_dtype for layer in network.layers}
    half = policy.removeprefix("mixed_")
    assert computes.pop("normalization") == computes.pop("logits") == "float32"
    assert computes.pop("pixels") == "float32"
    assert set(computes.values()) == {half}
    assert {variable.dtype for variable in network.variables} == {tf.float32}
