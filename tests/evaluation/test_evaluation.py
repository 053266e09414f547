"""Accuracies against functions whose answers are known by hand or in closed form."""

import doctest
import warnings

import numpy as np
import pytest

import tf_lottery.evaluation.evaluator
import tf_lottery.evaluation.packing
from tf_lottery.errors import UsageError
from tf_lottery.evaluation import Evaluator, evaluate, logits_function
from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import AttackConfig, attack_from_name

EPS = 0.1


def images(n=23, seed=0, side=4):
    """uint8 pixels far enough from 0 and 255 that no attack of EPS meets the border."""
    return np.random.default_rng(seed).integers(60, 196, (n, side, side, 1)).astype(np.uint8)


class Linear:
    """logits = pixels @ weights + bias, with a record of what it was called on."""

    def __init__(self, classes=2, seed=1, side=4):
        rng = np.random.default_rng(seed)
        self.weights = rng.normal(size=(side * side, classes)).astype("float32")
        middle = np.full(side * side, 0.5, np.float32)
        self.bias = -(middle @ self.weights)
        self.traced = []

    def __call__(self, x):
        self.traced.append(tuple(x.shape))
        return tf.reshape(x, (-1, len(self.weights))) @ self.weights + self.bias

    def exact(self, x):
        x = np.asarray(x, np.float64)
        x = x / 255 if x.max() > 1 else x
        return x.reshape(len(x), -1) @ self.weights.astype(np.float64) + self.bias


def brightest(x):
    """Class 0, 1 or 2: which of the first three pixels is the brightest."""
    return tf.reshape(x, (tf.shape(x)[0], -1))[:, :3]


def test_known_accuracy():
    x = np.full((5, 2, 2, 1), 100, np.uint8)
    for i, winner in enumerate([0, 1, 2, 2, 1]):
        x[i].reshape(-1)[winner] = 200
    result = evaluate(brightest, x, np.array([0, 1, 2, 0, 0]), attacks=[], batch_size=2)
    assert result.natural == 0.6
    assert result.robust == {}
    assert result.clean_predictions.tolist() == [0, 1, 2, 2, 1]
    assert result.correct.tolist() == [True, True, True, False, False]
    assert result.labels.tolist() == [0, 1, 2, 0, 0]
    assert set(result.seconds) == {"natural"}


def test_known_robustness():
    """The brightest of three pixels leads by d: robust against eps just when d > 2 eps."""
    leads = np.array([2, 10, 19, 21, 40, 90])
    x = np.full((6, 2, 2, 1), 100, np.uint8)
    x[:, 0, 0, 0] += leads.astype(np.uint8)
    y = np.array([0, 0, 0, 0, 0, 1])  # the last is wrong, however robust
    eps = 10 / 255
    for attack in ("pgd20", "cw", "fgsm"):
        result = evaluate(brightest, x, y, [attack], eps=eps, random_start=False, batch_size=4)
        assert result.natural == 5 / 6
        assert result.survived[attack].tolist() == [False, False, False, True, True, False]
        assert result.robust == {attack: 2 / 6}


def test_padding_is_never_counted():
    """The last image is the only wrong one; padding repeats it."""
    x = np.full((9, 2, 2, 1), 100, np.uint8)
    x[:, 0, 0, 0] = 200
    y = np.array([0] * 8 + [1])
    for batch_size in (1, 2, 4, 5, 8, 9, 10, 64):
        result = evaluate(brightest, x, y, ["fgsm"], eps=0.01, batch_size=batch_size)
        assert result.natural == 8 / 9
        assert result.robust["fgsm"] == 8 / 9
        assert len(result.correct) == len(result.predictions["fgsm"]) == 9


@pytest.mark.parametrize("attack", ["fgsm", "pgd20", "cw"])
def test_two_class_linear_model_in_closed_form(attack):
    model = Linear()
    x = images(200)
    z = model.exact(x)
    rng = np.random.default_rng(2)
    y = np.where(rng.random(200) < 0.9, z.argmax(1), 1 - z.argmax(1))
    margin = z[np.arange(200), y] - z[np.arange(200), 1 - y]
    worst = margin - EPS * np.abs(model.weights[:, 0] - model.weights[:, 1]).sum()
    result = evaluate(model, x, y, [attack], eps=EPS, batch_size=64)
    assert result.natural == (margin > 0).mean()
    np.testing.assert_array_equal(result.survived[attack], worst > 0)
    assert 0.02 < result.robust[attack] < result.natural  # both kinds occur


def test_float_and_uint8_images_agree():
    model, x = Linear(classes=5), images(31)
    y = model.exact(x).argmax(1)
    attacks = ["pgd5"]
    whole = evaluate(model, x, y, attacks, eps=0.02, batch_size=8)
    assert 0 < whole.robust["pgd5"] < 1
    for dtype in ("float32", "float64"):
        other = evaluate(model, (x / 255).astype(dtype), y, attacks, eps=0.02, batch_size=8)
        np.testing.assert_array_equal(other.clean_predictions, whole.clean_predictions)
        np.testing.assert_array_equal(other.predictions["pgd5"], whole.predictions["pgd5"])


def test_flags_are_consistent_and_robust_never_exceeds_natural():
    model, x = Linear(classes=4), images(40)
    y = np.random.default_rng(0).integers(0, 4, 40)  # mostly wrong: attacks may "repair" some
    names = ["fgsm", "pgd3", "cw"]
    result = evaluate(model, x, y, names, eps=0.3, batch_size=16)
    assert list(result.robust) == names
    assert set(result.seconds) == {"natural", *names}
    np.testing.assert_array_equal(result.correct, result.clean_predictions == y)
    assert result.natural == result.correct.mean()
    for name in names:
        np.testing.assert_array_equal(
            result.survived[name], result.correct & (result.predictions[name] == y)
        )
        assert result.robust[name] == result.survived[name].mean() <= result.natural


def test_an_attack_that_repairs_an_error_does_not_make_it_robust():
    """One step overshoots: class 0 is the answer only close to the middle."""

    def narrow(x):
        d = tf.reduce_mean(x, (1, 2, 3)) - 0.5
        return tf.stack([0.05 - tf.abs(d - 0.001), tf.zeros_like(d)], 1)

    x = np.full((1, 2, 2, 1), 0.5, np.float32)
    one_step = AttackConfig("step", eps=0.1, steps=1, step_size=0.1)
    result = evaluate(narrow, x, np.array([1]), [one_step])
    assert result.correct.tolist() == [False]
    assert result.predictions["step"].tolist() == [0]  # clean errors are not attacked
    assert result.broken_by["step"].tolist() == ["clean"]
    assert result.distances["step"].tolist() == [0]
    assert result.survived["step"].tolist() == [False]
    assert result.robust["step"] == 0


def test_random_start_is_keyed_by_example_not_by_batch():
    """A loss without gradient leaves the random start: the prediction tells which it was."""

    def noisy(x):
        flat = tf.stop_gradient(tf.reshape(x, (tf.shape(x)[0], -1)))
        return flat[:, :5] + 0.0 * tf.reshape(x, (tf.shape(x)[0], -1))[:, :5]

    x = np.full((37, 4, 4, 1), 0.5, np.float32)
    y = np.zeros(37, int)

    def run(batch_size, seed=0):
        result = evaluate(noisy, x, y, ["pgd2"], eps=0.2, batch_size=batch_size, seed=seed)
        return result.predictions["pgd2"].tolist()

    first = run(37)
    assert len(set(first)) == 5
    assert all(run(batch_size) == first for batch_size in (1, 10, 64))
    assert run(37, seed=1) != first


def test_results_do_not_depend_on_the_batch_size(tiny_network, tiny_data):
    network = tiny_network()
    x, y = tiny_data.test_images, tiny_data.test_labels
    y = network(x / np.float32(255), training=False).numpy().argmax(1)
    found = [
        evaluate(network, x, y, ["pgd3"], eps=0.03, batch_size=size).survived["pgd3"]
        for size in (7, 40, 100)
    ]
    assert 0 < found[0].sum() < len(y)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_nothing_is_traced_again_for_other_batches_calls_or_survivors():
    model = Linear(classes=3)
    attacks = [attack_from_name(name) for name in ("pgd3", "fgsm", "autoattack")]
    evaluator = Evaluator(model, attacks, 16)
    answers = np.argmax(model.exact(images(50)), -1)
    evaluator(images(50), answers)
    traced = len(model.traced)
    assert set(model.traced) == {(None, 4, 4, 1)}
    for count in (50, 9, 1):  # other batch sizes, other numbers of survivors
        evaluator(images(count), answers[:count], seed=5)
    assert len(model.traced) == traced


def test_evaluator_sees_changed_weights(tiny_network, tiny_data):
    network = tiny_network()
    evaluator = Evaluator(network, (), 40)
    first = evaluator(tiny_data.test_images, tiny_data.test_labels).clean_predictions
    network.get_layer("logits").bias.assign([0, 0, 1e6, 0])
    after = evaluator(tiny_data.test_images, tiny_data.test_labels).clean_predictions
    assert (after == 2).all()
    assert (first != 2).any()


def test_evaluation_moves_no_batchnorm_statistics(tiny_network, tiny_data):
    network = tiny_network()
    before = [w.numpy() for w in network.weights]
    evaluate(network, tiny_data.test_images, tiny_data.test_labels, ["pgd2"])
    for old, new in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


def test_jit_compiled_attack_agrees(tiny_network, tiny_data):
    network, x, y = tiny_network(), tiny_data.test_images, tiny_data.test_labels
    attacks = [attack_from_name("pgd3", eps=0.03)]
    plain = Evaluator(network, attacks, 20)(x, y)
    jit = Evaluator(network, attacks, 20, jit_compile=True)(x, y)
    assert (plain.predictions["pgd3"] != jit.predictions["pgd3"]).sum() <= 1


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_refused_by_layer(tiny_network, policy):
    with pytest.raises(ValueError, match="conv1 computes in half precision"):
        logits_function(tiny_network(dtype_policy=policy))
    nested = keras.Sequential([tiny_network(dtype_policy=policy)])
    nested.build((None, 8, 8, 1))
    with pytest.raises(ValueError, match="half precision"):
        evaluate(nested, np.zeros((1, 8, 8, 1), np.uint8), [0])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((0, 4, 4, 1), np.uint8), [], "n > 0"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0], r"\(2, 4, 4, 1\)"),
        (np.zeros((2, 4, 4), np.uint8), [0, 0], r"\(2, 4, 4\)"),
        (np.zeros((2, 4, 4, 1), np.uint8), [[0], [0]], r"\(2, 1\)"),
        (np.full((1, 4, 4, 1), 1.5), [0], "1.5"),
        (np.full((1, 4, 4, 1), -0.1), [0], "-0.1"),
        (np.full((1, 4, 4, 1), 200, np.int64), [0], "200"),
        (np.full((1, 4, 4, 1), np.nan), [0], "nan"),
    ],
)
def test_bad_images_and_labels(x, y, message):
    with pytest.raises(ValueError, match=message):
        evaluate(Linear(), x, np.array(y, int), [])


def test_bad_settings():
    x, y = images(2), np.zeros(2, int)
    with pytest.raises(UsageError, match="pgd"):
        evaluate(Linear(), x, y, ["pgd"])
    with pytest.raises(UsageError, match="eps"):
        evaluate(Linear(), x, y, ["pgd20"], eps=8)
    with pytest.raises(ValueError, match="neither a model"):
        evaluate("model", x, y, [])


@pytest.mark.parametrize("labels", [[0, 2], [0, -1], [0.5, 1.0]])
def test_labels_that_are_no_class_raise(labels):
    """Out of range or fractional labels would otherwise count as plain errors."""
    with pytest.raises(ValueError, match="label"):
        evaluate(Linear(classes=2), images(2), np.array(labels), ["fgsm"])


def test_two_attacks_of_one_name_are_refused():
    attacks = [attack_from_name("fgsm", eps=0.1), attack_from_name("fgsm", eps=0.2)]
    with pytest.raises(ValueError, match="fgsm"):
        Evaluator(Linear(), attacks)


def test_plain_saved_model_with_one_signature(tmp_path):
    model = Linear(classes=3)

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 1], tf.float32, "pixels")])
        def serve(self, x):
            return {"scores": model(x)}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": module.serve})
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    x = images(12)
    y = model.exact(x).argmax(1)
    ours = evaluate(model, x, y, ["pgd3"], eps=0.05)
    theirs = evaluate(loaded, x, y, ["pgd3"], eps=0.05)
    np.testing.assert_array_equal(ours.survived["pgd3"], theirs.survived["pgd3"])
    assert 0 < theirs.robust["pgd3"] < 1

    tf.saved_model.save(tf.Module(), str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="no serving_default"):
        evaluate(tf.saved_model.load(str(tmp_path / "empty")), x, y, [])


def test_docstring_examples():
    found = doctest.testmod(tf_lottery.evaluation.evaluator)
    assert found.attempted >= 4
    assert found.failed == 0
    assert doctest.testmod(tf_lottery.evaluation.packing) == (0, 1)


def test_probabilities_instead_of_logits_are_warned_of():
    linear = Linear(classes=3)

    def probabilities(x):
        return tf.nn.softmax(linear(x))

    with pytest.warns(UserWarning, match="look like probabilities"):
        evaluate(probabilities, images(8), np.zeros(8, int), ["fgsm"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(linear, images(8), np.zeros(8, int), ["fgsm"])
