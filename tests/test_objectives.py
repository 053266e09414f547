"""Objectives: what is perturbed, what is minimised."""

import numpy as np
import pytest

from tf_lottery.keras import tf
from tf_lottery.objectives import cross_entropy, make_objective
from tf_lottery.options.settings import ObjectiveConfig, attack_from_name


def softmax_loss(logits, y):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -log_p[np.arange(len(y)), y].mean()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_cross_entropy_is_the_batch_mean_in_float32(dtype):
    logits = tf.cast(np.random.default_rng(0).normal(0, 4, (7, 3)), dtype)
    y = np.array([0, 1, 2, 2, 1, 0, 0])
    loss = cross_entropy(logits, tf.constant(y))
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(
        loss, softmax_loss(tf.cast(logits, tf.float32).numpy(), y), rtol=1e-5
    )


def test_cross_entropy_of_confident_logits_is_finite():
    loss = cross_entropy(tf.constant([[1000.0, 0.0]]), tf.constant([1]))
    assert float(loss) == 1000


def test_natural_objective_leaves_the_images():
    objective = make_objective(ObjectiveConfig("natural"))
    x = tf.random.stateless_uniform((2, 3, 3, 1), (0, 1))

    def logits_fn(_):
        raise AssertionError("natural training attacks nothing")

    assert objective.perturb(logits_fn, x, tf.constant([0, 1]), 0) is x
    assert objective.name == "natural"


def test_adversarial_objective_hands_everything_to_the_attack():
    seen = []

    def attack(logits_fn, x, y, seed):
        seen.append((logits_fn, x, y, seed))
        return x + 1

    config = ObjectiveConfig("fgsm", attack_from_name("fgsm"))
    objective = make_objective(config, attack)
    x = tf.zeros((1, 2, 2, 1))
    np.testing.assert_array_equal(objective.perturb("f", x, "y", "seed"), np.ones((1, 2, 2, 1)))
    assert seen[0][0] == "f"
    assert seen[0][1] is x
    assert seen[0][2:] == ("y", "seed")


def test_no_gradient_flows_through_the_attack():
    config = ObjectiveConfig("pgd", attack_from_name("pgd3"))
    objective = make_objective(config, lambda logits_fn, x, y, seed: x * x)
    x = tf.fill((1, 1, 1, 1), 3.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = objective.perturb(None, x, None, 0)
    assert tape.gradient(value, x) is None


def test_attack_and_objective_must_go_together():
    with pytest.raises(ValueError, match="natural"):
        make_objective(ObjectiveConfig("natural"), lambda *_: None)
    with pytest.raises(ValueError, match="pgd"):
        make_objective(ObjectiveConfig("pgd", attack_from_name("pgd10")))
