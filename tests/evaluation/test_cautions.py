"""What every evaluation warns of, on functions whose weakness is known; of sound ones, nothing."""

import warnings

import numpy as np
import pytest

from tf_lottery.evaluation import Evaluation, RobustnessWarning, evaluate
from tf_lottery.evaluation.cautions import Draws
from tf_lottery.evaluation.diagnosis import _black_box, diagnose
from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import attack_from_name

EPS = 0.03
_RNG = np.random.default_rng(5)
FIRST = _RNG.normal(size=(64, 12)).astype("float32")
SECOND = _RNG.normal(size=(12, 5)).astype("float32")


def curved(x):
    return tf.tanh(tf.reshape(x - 0.5, (-1, 64)) @ FIRST) @ SECOND


def seeded(x):
    return curved(x + 0.3 * tf.random.normal(tf.shape(x), seed=7))


def by_place(x):
    """The same noise in each call, another for each place in the batch."""
    return curved(x + 0.3 * tf.random.stateless_normal(tf.shape(x), (1, 2)))


def of_the_batch(x):
    mean, variance = tf.nn.moments(x, 0)
    return curved(tf.nn.batch_normalization(x, mean, variance, 0.5, 0.2, 1e-3))


@tf.custom_gradient
def shattered(x):
    return x, lambda upstream: upstream * float("nan")


@tf.custom_gradient
def away(x):
    return x, lambda upstream: -upstream


def through_bytes(x):
    return curved(tf.cast(tf.cast(tf.round(x * 255), tf.uint8), tf.float32) / 255)


def half(x):
    return tf.cast(tf.cast(curved(x), tf.float16), tf.float32)


SIGNS = {
    "zero gradient": (lambda x: curved(x) * 2000, "gradient of the cross-entropy is zero"),
    "no gradient": (lambda x: curved(tf.stop_gradient(x)), "is zero or not a number"),
    "bytes": (through_bytes, "is zero or not a number for 32 of 32"),
    "NaN gradient": (lambda x: curved(shattered(x)), "is zero or not a number for 32 of 32"),
    "random": (lambda x: curved(x + 0.05 * tf.random.normal(tf.shape(x))), "model is random"),
    "seeded": (seeded, "model is random"),
    "places": (by_place, "depend on the others of its batch"),
    "batch": (of_the_batch, "depend on the others of its batch"),
    "probabilities": (lambda x: tf.nn.softmax(curved(x)), "look like probabilities"),
    "one-hot": (lambda x: tf.one_hot(tf.argmax(curved(x), 1), 5), "outputs are one-hot"),
    "rounded": (lambda x: tf.round(curved(x) * 100) / 100, "outputs are rounded"),
    "half": (half, "compute in half precision"),
}


@pytest.fixture(scope="module")
def examples():
    x = np.random.default_rng(1).uniform(0.2, 0.8, (64, 8, 8, 1)).astype("float32")
    return x, np.argmax(curved(x), 1).astype("int32")


@pytest.mark.parametrize("name", SIGNS)
@pytest.mark.parametrize("seed", [None, 0])
def test_each_sign_is_warned_of_and_stands_in_the_result(examples, name, seed):
    model, message = SIGNS[name]
    if seed is not None:
        tf.random.set_seed(seed)
    with pytest.warns(RobustnessWarning, match=message):
        found = evaluate(model, *examples, ["pgd3"], eps=EPS)
    assert any(message in line for line in found.warnings)


@pytest.mark.parametrize("scale", [1e-3, 1, 5])
def test_a_sound_model_is_not_warned_of(examples, scale):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(
            lambda x: curved(x) * scale, *examples, ["pgd20", "square300", "noise"], eps=EPS
        )
    assert found.warnings == ()


def test_a_trained_network_is_not_warned_of(tiny_network, tiny_data):
    network = tiny_network()
    x = tiny_data.test_images
    y = network(x / np.float32(255)).numpy().argmax(1)
    assert evaluate(network, x, y, ["fgsm", "square100"], eps=0.02).warnings == ()


def test_infinite_logits_are_refused_and_break(examples):
    """Not worth a class: what overflows only under attack is broken."""
    x, y = examples
    with pytest.raises(ValueError, match=r"infinity or NaN for \d+ of the clean"):
        evaluate(lambda x: curved(x) * 1e38, x, y, [])

    def overflows(images):
        off = tf.reduce_max(tf.abs(images * 100 - tf.round(images * 100)), (1, 2, 3)) > 1e-3
        return tf.where(off[:, None], np.inf * tf.one_hot(y[0], 5), curved(images))

    x = np.round(x[:1] * 100).astype("float32") / np.float32(100)
    x, y = np.repeat(x, 9, 0), np.repeat(np.argmax(curved(x), 1), 9)
    found = evaluate(overflows, x, y, ["pgd5", "apgd_ce"], eps=EPS)
    assert set(found.robust.values()) == {0.0}


def test_pixels_of_another_range_are_noticed(examples):
    x, y = examples
    far = 255.0 * x

    def expects_bytes(images):
        return curved(images / 255)

    np.testing.assert_array_equal(np.argmax(expects_bytes(far), 1), y)
    with pytest.warns(RobustnessWarning, match=r"expects those, pass lambda images: model\(255"):
        evaluate(expects_bytes, x, y, [])
    labels = np.random.default_rng(0).permutation(y)
    with pytest.warns(RobustnessWarning, match="guessing among 5 classes: are pixels"):
        evaluate(curved, x, labels, [])


def test_attacks_without_gradients_that_do_better(examples):
    x, y = examples
    attacks = ["pgd20", "square300"]
    with pytest.warns(RobustnessWarning, match=r"square300 uses no gradient, and breaks \d+ of 64"):
        evaluate(lambda images: curved(away(images)), x, y, attacks, eps=EPS)
    # FGSM is no measure, nor is another ball.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(curved, x, y, ["fgsm", "square300"], eps=EPS)
        small, large = attack_from_name("pgd20", EPS / 8), attack_from_name("square300", EPS)
        evaluate(curved, x, y, [small, large])


def test_a_part_of_a_suite_that_uses_no_gradient(examples):
    x, y = examples
    with pytest.warns(RobustnessWarning, match="square uses no gradient.*gradients of autoattack"):
        evaluate(lambda z: curved(tf.stop_gradient(z)), x[:24], y[:24], "autoattack", eps=EPS)


@pytest.mark.parametrize(
    ("standing", "vanishes", "outcome"),
    [
        ((80, 60, 60, 90), False, "pass"),  # the margin loss is the stronger one, no more
        ((80, 60, 60, 90), True, "warn"),
        ((80, 75, 60, 90), False, "warn"),
        ((60, 60, 80, 57), False, "warn"),
    ],
)
def test_the_better_of_two_losses_is_what_square_has_to_beat(standing, vanishes, outcome):
    names = ("pgd", "margin", "square", "noise")
    survived = {name: np.arange(100) < count for name, count in zip(names, standing, strict=True)}
    labels = np.zeros(100, int)
    robust = {name: float(flags.mean()) for name, flags in survived.items()}
    found = Evaluation(1.0, robust, labels, labels, {}, labels == 0, survived)
    assert _black_box(found, vanishes).outcome == outcome


def test_gradients_that_are_no_number_are_diagnosed(examples):
    (zero, *_) = diagnose(lambda x: curved(shattered(x)), *examples, eps=EPS)
    assert (zero.outcome, zero.value) == ("warn", 1)


def test_noise_of_a_saved_model_made_under_a_seed_is_seen(tmp_path):
    tf.random.set_seed(0)
    module = tf.Module()
    spec = [tf.TensorSpec([None, 8, 8, 1], tf.float32)]
    module.logits = tf.function(
        lambda x: curved(x + 0.3 * tf.random.normal(tf.shape(x))), input_signature=spec
    )
    tf.saved_model.save(module, str(tmp_path / "m"))
    tf.random.set_seed(0)
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    x = np.random.default_rng(0).random((4, 8, 8, 1)).astype("float32")
    assert Draws(loaded.logits, (8, 8, 1))(x) > 0.01
    assert Draws(curved, (8, 8, 1))(x) == 0


def test_dropout_that_was_left_on_is_seen(tiny_network, tiny_data):
    pixels = keras.Input((8, 8, 1))
    network = tiny_network()
    x = keras.layers.Dropout(0.5)(pixels, training=True)
    model = keras.Model(pixels, network(x))
    with pytest.warns(RobustnessWarning, match="model is random"):
        evaluate(model, tiny_data.test_images, tiny_data.test_labels, ["pgd2"])
