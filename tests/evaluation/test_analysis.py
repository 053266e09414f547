"""Transfer, curves and diagnosis on models whose weaknesses are known."""

import doctest

import numpy as np
import pytest

import tf_lottery.evaluation.curves
from tf_lottery.evaluation import evaluate
from tf_lottery.evaluation.curves import eps_curve, rises, steps_curve
from tf_lottery.evaluation.diagnosis import diagnose
from tf_lottery.evaluation.models import half_precision_operations, logits_function
from tf_lottery.evaluation.transfer import transfer_matrix
from tf_lottery.keras import tf
from tf_lottery.options.settings import attack_from_name
from tf_lottery.report.robustness.document import CHECKS

EPS = 0.03
_RNG = np.random.default_rng(5)
FIRST = _RNG.normal(size=(64, 12)).astype("float32")
SECOND = _RNG.normal(size=(12, 5)).astype("float32")


def curved(x):
    return tf.tanh(tf.reshape(x - 0.5, (-1, 64)) @ FIRST) @ SECOND


def saturated(x):
    return curved(x) * 2000


def random(x):
    return curved(x + 0.05 * tf.random.normal(tf.shape(x)))


def probabilities(x):
    return tf.nn.softmax(curved(x))


def half(x):
    return tf.cast(tf.cast(curved(x), tf.float16), tf.float32)


@pytest.fixture(scope="module")
def examples():
    x = np.random.default_rng(1).uniform(0.2, 0.8, (64, 8, 8, 1)).astype("float32")
    return x, np.argmax(curved(x), 1).astype("int32")


def outcomes(model, x, y, **options):
    checks = diagnose(model, x, y, eps=EPS, **options)
    assert [check.check for check in checks] == list(CHECKS)
    for check in checks:
        assert check.text[0].isupper() or check.text[0].isdigit()
        assert check.text.endswith(".")
    return {check.check: check for check in checks}


def test_a_sound_model_passes_every_check(examples):
    found = outcomes(curved, *examples, eps_accuracy=([0.0, 0.1], [0.9, 0.1]))
    assert {check.outcome for check in found.values()} == {"pass"}


def test_a_saturated_model_raises_the_warning(examples):
    x, y = examples
    found = outcomes(saturated, x, y)
    assert found["zero_gradients"].outcome == "warn"
    assert found["zero_gradients"].value > 0.5
    assert found["black_box_beats_gradients"].outcome == "warn"
    assert found["unbounded_attack"].outcome == "warn"
    assert found["eps_curve"].outcome == "skipped"
    # The share is what a gradient by hand gives.
    with tf.GradientTape() as tape:
        images = tf.constant(x)
        tape.watch(images)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y, saturated(images))
    zero = np.all(tape.gradient(loss, images).numpy() == 0, axis=(1, 2, 3))
    assert found["zero_gradients"].value == pytest.approx(zero.mean())


@pytest.mark.parametrize(
    ("model", "check"),
    [(random, "randomness"), (probabilities, "probabilities"), (half, "half_precision")],
)
def test_each_sign_is_seen(examples, model, check):
    found = outcomes(model, *examples)
    assert found[check].outcome == "warn"
    sound = {"randomness", "probabilities", "half_precision"} - {check}
    assert all(found[other].outcome == "pass" for other in sound)


def test_a_rising_curve_is_seen(examples):
    found = outcomes(curved, *examples, eps_accuracy=([0.0, 0.1, 0.2], [0.9, 0.3, 0.4]))
    assert found["eps_curve"].outcome == "warn"
    assert found["eps_curve"].value == pytest.approx(0.1)
    assert "10.0 points from eps 0.1 to 0.2" in found["eps_curve"].text


def test_half_precision_inside_a_saved_model_is_seen(tmp_path):
    module = tf.Module()
    spec = [tf.TensorSpec([None, 8, 8, 1], tf.float32)]
    module.logits = tf.function(half, input_signature=spec)
    tf.saved_model.save(module, str(tmp_path / "half"))
    loaded = tf.saved_model.load(str(tmp_path / "half"))
    assert half_precision_operations(loaded.logits, (8, 8, 1))
    assert half_precision_operations(logits_function(curved), (8, 8, 1)) == []


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_eps_curve_is_the_accuracy_at_each_radius(examples, norm):
    x, y = examples
    eps = EPS if norm == "linf" else 0.2
    attack = attack_from_name("pgd10", eps, norm=norm)
    radii, accuracy = eps_curve(curved, x, y, attack, seed=4)
    assert radii[0] == 0
    assert radii[4] == eps
    assert accuracy[0] == 1  # all images are right when clean
    half_eps = attack_from_name("pgd10", eps / 2, norm=norm)
    assert accuracy[2] == evaluate(curved, x, y, [half_eps], seed=4).robust["pgd10"]
    assert rises(radii, accuracy, len(x)) == []
    assert accuracy[-1] < 0.2


def test_the_steps_curve_is_pgd_with_so_many_steps(examples):
    x, y = examples
    steps, accuracy = steps_curve(curved, x, y, attack_from_name("pgd20", EPS), seed=4)
    assert steps == [1, 2, 5, 10, 20, 50, 100]
    for number in (1, 5, 20):
        attack = attack_from_name(f"pgd{number}", EPS)
        same = evaluate(curved, x, y, [attack], seed=4).robust[attack.name]
        assert accuracy[steps.index(number)] == same


def test_rises_by_hand():
    assert doctest.testmod(tf_lottery.evaluation.curves) == (0, 1)
    assert rises([0, 1, 2], [0.5, 0.4, 0.409], 1000) == []  # less than a point
    assert rises([0, 1, 2, 3], [0.5, 0.2, 0.3, 0.4], 1000) == [[1, 2, 0.1], [1, 3, 0.2]]
    assert rises([0, 1], [0.5, 0.54], 50) == []  # two images
    assert rises([0, 1], [0.5, 0.56], 50) == [[0, 1, 0.06]]


def test_transfer_by_hand(examples):
    """Two models that look at different pixels: nothing carries over; twins share all."""
    x, _ = examples

    def left(images):
        return tf.reduce_sum(images[:, :, :4, 0] - 0.5, (1, 2))[:, None] * [[0.0, 1.0]]

    def right(images):
        return tf.reduce_sum(images[:, :, 4:, 0] - 0.5, (1, 2))[:, None] * [[0.0, 1.0]]

    x = np.full((20, 8, 8, 1), 0.52, np.float32)
    x[10:] = 0.48
    y = np.array([1] * 10 + [0] * 10)
    attack = attack_from_name("fgsm", 0.05)
    told = []
    matrix = transfer_matrix(
        {"left": left, "twin": left, "right": right}, x, y, attack, batch_size=8,
        announce=told.append,
    )  # fmt: skip
    # FGSM moves only the pixels the source sees (sign of 0 is 0).
    assert matrix.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    assert len(told) == 3


def test_the_diagonal_of_the_transfer_matrix_is_the_white_box_accuracy(examples):
    x, y = examples
    attack = attack_from_name("pgd5", EPS)
    matrix = transfer_matrix({"a": curved, "b": saturated}, x, y, attack, seed=9, batch_size=32)
    assert matrix[0, 0] == evaluate(curved, x, y, [attack], seed=9).robust["pgd5"]
    # Examples made on the model with a gradient break its saturated twin alike.
    assert matrix[0, 1] == matrix[0, 0] < matrix[1, 1]
