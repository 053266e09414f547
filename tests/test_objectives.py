"""Objectives: what they see of a step, what they minimise, what they cost."""

import numpy as np
import outside_training
import pytest

from tf_lottery.errors import UsageError
from tf_lottery.keras import tf
from tf_lottery.lottery.costs import training_cost
from tf_lottery.objectives import Step, adversarial, cross_entropy, natural, passes_of
from tf_lottery.options.settings import ObjectiveConfig, TrainConfig, attack_from_name


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


def network(x, training):
    """Logits that say in which mode they were made."""
    return tf.reshape(x, (len(x), -1)) * (1.0 if training else 2.0)


def make_step(make_attack=None, **options):
    x, y = tf.constant([0.25, 0.75], shape=(1, 2, 1, 1)), tf.constant([1])
    freeze = lambda network: lambda x: network(x, training=False)  # noqa: E731
    return Step(x, y, tf.constant([[3, 4]]), network, freeze, make_attack, **options)


def test_natural_training_is_on_clean_images():
    step = make_step()
    loss, logits = natural(step)
    np.testing.assert_array_equal(logits, [[0.25, 0.75]])
    assert float(loss) == pytest.approx(softmax_loss([[0.25, 0.75]], [1]))


def test_adversarial_training_is_on_what_the_attack_makes_of_the_step():
    seen = []

    def make_attack():
        return lambda *args: (seen.append(args), args[1] + 1)[1]

    step = make_step(make_attack)
    loss, logits = adversarial(step)
    np.testing.assert_array_equal(logits, [[1.25, 1.75]])
    assert float(loss) == pytest.approx(softmax_loss([[1.25, 1.75]], [1]))
    ((logits_fn, *others),) = seen
    for got, expected in zip(others, (step.x, step.y, step.seeds), strict=True):
        assert got is expected
    np.testing.assert_array_equal(logits_fn(step.x), [[0.5, 1.5]])  # in inference mode


def test_attack_and_frozen_logits_are_constants():
    weight = tf.Variable(3.0)

    def scaled(x, training):
        return weight * network(x, training)

    with tf.GradientTape() as tape:
        step = make_step(
            lambda loss: lambda f, x, y, seed: x * loss(f(x), y), unrecorded=tape.stop_recording
        )
        step._network = scaled
        constants = [
            step.frozen(step.x),
            step.attack(lambda logits, y: tf.reduce_sum(logits * step.frozen(step.x))),
        ]
        sums = [tf.reduce_sum(value) for value in constants]
        total = tf.reduce_sum(step.logits(step.x)) + tf.add_n(sums)
    np.testing.assert_allclose(constants[0], [[1.5, 4.5]])
    np.testing.assert_allclose(tf.reshape(constants[1], -1), 22.5 * np.array([0.25, 0.75]))
    assert float(tape.gradient(total, weight)) == 1.0


def test_an_objective_that_attacks_needs_an_attack():
    with pytest.raises(ValueError, match="no attack"):
        adversarial(make_step())
    for name, attack in (("natural", attack_from_name("pgd10")), ("pgd", None)):
        with pytest.raises(ValueError, match="natural"):
            ObjectiveConfig(name, attack)


@pytest.mark.parametrize(
    ("name", "attack", "expected"),
    [
        ("natural", None, (1, 1, 1)),
        ("fgsm", "fgsm", (2, 2, 1)),
        ("pgd", "pgd10", (11, 11, 1)),
        ("fgsm_rs", "fgsm", (2, 2, 1)),
        ("n_fgsm", "fgsm", (2, 2, 1)),
        ("nuat", "fgsm", (4, 3, 2)),
        ("free", "fgsm", (1, 1, 1)),
        ("pgd2", "pgd2", (3, 3, 1)),
        ("trades", "pgd10", (13, 12, 2)),
        ("mart", "pgd10", (12, 12, 2)),
        ("outside_training:smoothed", "pgd10", (1, 1, 1)),
        ("outside_training:trades", "pgd10", (13, 12, 2)),
    ],
)
def test_passes_an_image(name, attack, expected):
    config = ObjectiveConfig(name, attack and attack_from_name(attack))
    assert passes_of(config) == expected
    cost = training_cost(TrainConfig(config, epochs=2, batch_size=4), 9, forward_flops=7)
    assert cost.flops == 2 * 8 * 7 * sum(expected)
    assert cost.weight_gradient_passes == 2 * 8 * expected[2]


@pytest.mark.parametrize(
    ("name", "attack", "multiple"),
    [("natural", None, 6), ("pgd", "pgd10", 26), ("trades", "pgd10", 27 + 6), ("free", "fgsm", 6)],
)
def test_weight_perturbation_costs_what_is_differentiated_once_more(name, attack, multiple):
    config = ObjectiveConfig(name, attack and attack_from_name(attack), awp_gamma=0.01)
    assert sum(passes_of(config)) == multiple


def test_the_attack_of_a_step_is_made_once_though_it_is_differentiated_twice():
    made = []

    def make_attack():
        return lambda *args: (made.append(1), args[1] + len(made))[1]

    step = make_step(make_attack)
    images = []
    for _ in range(2):
        with tf.GradientTape() as tape:
            step.record(tape)
            images.append(step.attack())
    assert len(made) == 1
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_labels(smoothing):
    logits, y = np.random.default_rng(0).normal(0, 4, (7, 3)).astype("float32"), np.arange(7) % 3
    step = make_step(config=ObjectiveConfig("natural", label_smoothing=smoothing))
    step.y = tf.constant(y)
    own = softmax_loss(logits, y)
    others = np.mean([softmax_loss(logits, np.full(7, k)) for k in range(3)])
    expected = (1 - smoothing) * own + smoothing * others
    assert float(step.cross_entropy(tf.constant(logits))) == pytest.approx(expected, rel=1e-5)


def test_an_objective_from_elsewhere_has_to_say_what_it_costs(monkeypatch):
    monkeypatch.delattr(outside_training.smoothed, "passes")
    with pytest.raises(UsageError, match=r"--objective: .*smoothed.*says what a step costs"):
        passes_of(ObjectiveConfig("outside_training:smoothed", attack_from_name("pgd10")))


@pytest.mark.parametrize("name", ["trade", "outside_training:nothing", "nowhere:trades"])
def test_unknown_objectives_are_told(name):
    with pytest.raises(UsageError, match=f"--objective.*{name}"):
        passes_of(ObjectiveConfig(name))
