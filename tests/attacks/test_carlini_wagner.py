"""Carlini & Wagner's l_2 attack against closed forms, bisection and Adam in NumPy."""

import numpy as np
import pytest

from tf_lottery.attacks import make_attack, make_procedure
from tf_lottery.attacks.seeds import example_seeds
from tf_lottery.keras import tf
from tf_lottery.options.settings import AttackConfig, attack_from_name

SHAPE = (4, 4, 2)
PIXELS = 32


def config(eps=10.0, steps=200, search_steps=9, step_size=0.01):
    return AttackConfig(
        "cw_l2",
        "l2",
        eps,
        steps,
        step_size,
        loss="margin",
        method="cw_l2",
        search_steps=search_steps,
    )


def linear(weights, bias):
    """Logits by sums, whose rounding does not depend on the batch as that of a matmul may."""
    kernel = weights.reshape(*SHAPE, -1).astype("float32")

    def logits_fn(x):
        return tf.reduce_sum(x[..., None] * kernel, axis=(1, 2, 3)) + bias.astype("float32")

    return logits_fn


def linear_problem(classes, batch=16, seed=0, low=0.3, high=0.7):
    """Weights, biases, images and their classes, none of them next to a boundary."""
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(PIXELS, classes)), rng.normal(size=classes) * 0.1
    x = np.clip(rng.uniform(low, high, (20 * batch, *SHAPE)), 0, 1).astype("float32")
    y = np.argmax(x.reshape(len(x), -1) @ weights + bias, 1).astype("int32")
    far = to_nearest(weights, bias, x, y) > 0.15
    return weights, bias, x[far][:batch], y[far][:batch]


def size(delta):
    return np.linalg.norm(np.asarray(delta, "float64").reshape(len(delta), -1), axis=1)


def to_nearest(weights, bias, x, y):
    """Least distance to a boundary of y, the box left aside: (batch,)."""
    logits = x.reshape(len(x), -1).astype("float64") @ weights + bias
    own = np.arange(weights.shape[1]) == y[:, None]
    dual = np.linalg.norm(weights.T[None] - weights.T[y][:, None], axis=-1)
    lead = logits[np.arange(len(y)), y][:, None] - logits
    return np.where(own, np.inf, lead / np.where(own, 1, dual)).min(1)


def in_box(w, lead, point):
    """Least d with <w, d> = lead and the point + d in the box: d = clip(lambda w, ...)."""
    low, high = 0.0, 1e6
    assert w @ np.clip(high * w, -point, 1 - point) > lead
    for _ in range(100):
        middle = (low + high) / 2
        short = w @ np.clip(middle * w, -point, 1 - point) < lead
        low, high = (middle, high) if short else (low, middle)
    return np.linalg.norm(np.clip(high * w, -point, 1 - point))


def driver(settings, logits_fn, **options):
    """Drives a try in the graph, batch size unknown: (x, y, splits) -> state as arrays."""
    procedure = make_procedure(settings, stop_when_broken=False)
    start = tf.function(
        lambda *args: procedure.start(logits_fn, *args),
        input_signature=[
            tf.TensorSpec((None, *SHAPE)),
            tf.TensorSpec((None,), tf.int32),
            tf.TensorSpec((None, 2), tf.int32),
            tf.TensorSpec((), tf.int32),
        ],
        autograph=False,
        **options,
    )
    advance = tf.function(
        lambda *args: procedure.advance(logits_fn, *args), autograph=False, **options
    )

    def drive(x, y, splits=()):
        args = [tf.constant(x), tf.constant(y), example_seeds(0, len(x)), tf.constant(0)]
        state, i = start(*args), tf.constant(0)
        for stop in (*splits, procedure.length):
            i, state = advance(*args, state, i, tf.constant(stop))
        return {name: value.numpy() for name, value in state.items()}

    return drive


# --- smallest perturbations ---------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_linear_model(classes):
    weights, bias, x, y = linear_problem(classes)
    state = driver(config(), linear(weights, bias))(x, y)
    ratio = state["distance"] / to_nearest(weights, bias, x, y)
    assert ratio.min() > 1 - 1e-5
    assert ratio.max() < 1.03
    assert np.median(ratio) < 1.01
    np.testing.assert_allclose(size(state["closest"] - x), state["distance"], rtol=1e-5)
    found = np.argmax(state["closest"].reshape(len(x), -1) @ weights + bias, 1)
    assert (found != y).all()
    np.testing.assert_array_equal(state["score"], -state["distance"])


def test_where_the_box_binds():
    weights, bias, x, y = linear_problem(2, low=-0.3, high=1.3)
    assert ((x == 0) | (x == 1)).mean() > 0.3
    towards = (weights[:, 1] - weights[:, 0]) * np.where(y == 0, 1, -1)[:, None]
    offset = np.where(y == 0, 1, -1) * (bias[1] - bias[0])
    lead = -(x.reshape(len(x), -1) * towards).sum(1) - offset
    points = x.reshape(len(x), -1).astype("float64")
    least = np.array([in_box(*p) for p in zip(towards, lead, points, strict=True)])
    assert (least > 1.03 * to_nearest(weights, bias, x, y)).mean() > 0.5
    # Longer steps: at the ends of [0, 1] tanh is flat, and u has 6 to go.
    state = driver(config(step_size=0.05), linear(weights, bias))(x, y)
    ratio = state["distance"] / least
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.02
    assert state["closest"].min() >= 0
    assert state["closest"].max() <= 1


def test_curved_boundary():
    """Class 0 is a sphere of radius 0.6: the smallest perturbation is what is left of it."""

    def logits_fn(x):
        inside = 0.6**2 - tf.reduce_sum(tf.square(x - 0.5), axis=(1, 2, 3))
        return tf.stack([inside, tf.zeros_like(inside)], axis=1)

    offset = np.random.default_rng(0).normal(size=(16, *SHAPE))
    offset *= (np.linspace(0.05, 0.45, 16) / size(offset))[:, None, None, None]
    state = driver(config(), logits_fn)((0.5 + offset).astype("float32"), np.zeros(16, "int32"))
    ratio = state["distance"] / (0.6 - size(offset))
    assert ratio.min() > 1 - 1e-5
    assert ratio.max() < 1.03


# --- the search ---------------------------------------------------------------------


def test_adam_on_the_objective_against_numpy():
    """Twelve steps for four constants, the formulas by hand and in float64."""
    weights, bias, x, y = linear_problem(2, batch=4)
    procedure = make_procedure(config(steps=12, search_steps=1))
    seeds, constant = example_seeds(0, 4), np.array([1e-3, 0.1, 1.0, 10.0])
    state = procedure.start(linear(weights, bias), x, y, seeds, 0)
    state["constant"] = tf.constant(constant, tf.float32)

    towards = (weights[:, 1] - weights[:, 0]) * np.where(y == 0, 1, -1)[:, None]
    towards = towards.reshape(x.shape)
    wide = x.astype("float64")
    u = np.arctanh((2 * wide - 1) * (1 - 1e-6))
    mean = square = 0
    for i in range(12):
        state = procedure.step(linear(weights, bias), x, y, seeds, 0, state, tf.constant(i))
        image = (np.tanh(u) + 1) / 2
        short = np.argmax(image.reshape(4, -1) @ weights + bias, 1) == y
        pull = (constant * short)[:, None, None, None] * towards
        slope = (2 * (image - wide) - pull) * (1 - np.tanh(u) ** 2) / 2
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        deviation = np.sqrt(square / (1 - 0.999 ** (i + 1)))
        u -= 0.01 * mean / (1 - 0.9 ** (i + 1)) / (deviation + 1e-8)
    moved = u - np.arctanh((2 * wide - 1) * (1 - 1e-6))
    assert np.abs(moved[3]).min() > 0.1  # 12 full steps of 0.01
    np.testing.assert_allclose(state["variable"], u, atol=2e-5)


@pytest.mark.parametrize("least", [0.0, 3e-4, 0.02, 7.0, 1e9])
def test_binary_search_for_the_constant(least):
    """One iteration a constant, told that it succeeds from ``least`` upwards."""
    x, y = np.full((2, *SHAPE), 0.5, "float32"), np.zeros(2, "int32")
    procedure = make_procedure(config(steps=1, search_steps=12))
    seeds = example_seeds(0, 2)

    def logits_fn(x):
        return tf.tile([[1.0, 0.0]], [tf.shape(x)[0], 1]) + 0 * x[:, 0, 0, :2]

    state = procedure.start(logits_fn, x, y, seeds, 0)
    low, high, constant = 0.0, np.inf, 1e-3
    for i in range(12):
        state = procedure.step(logits_fn, x, y, seeds, 0, state, tf.constant(i))
        np.testing.assert_allclose(state["constant"], [constant] * 2, rtol=1e-5)
        success = constant >= least
        state["success"] = tf.constant([success] * 2)
        low, high = (low, constant) if success else (constant, high)
        constant = (low + high) / 2 if high < np.inf else 10 * constant
    if least == 0:
        assert constant == pytest.approx(1e-3 / 2**12)
    elif least < 1e9:
        assert least / 1.2 < constant < least * 1.2


def test_each_constant_starts_afresh():
    weights, bias, x, y = linear_problem(3, batch=4)
    procedure = make_procedure(config(steps=5, search_steps=3))
    logits_fn, seeds = linear(weights, bias), example_seeds(0, 4)
    fresh = procedure.start(logits_fn, x, y, seeds, 0)
    state = procedure.advance(logits_fn, x, y, seeds, 0, fresh, 0, 5)[1]
    assert np.abs(state["variable"] - fresh["variable"]).max() > 1e-3
    assert np.abs(state["mean"]).max() > 0
    state["success"] = tf.constant([False, True, False, True])
    again = procedure.step(logits_fn, x, y, seeds, 0, state, tf.constant(5))
    np.testing.assert_allclose(again["constant"], [0.01, 5e-4, 0.01, 5e-4], rtol=1e-6)
    fresh["constant"] = again["constant"]
    first = procedure.step(logits_fn, x, y, seeds, 0, fresh, tf.constant(0))
    for name in ("variable", "mean", "square", "success"):
        np.testing.assert_array_equal(again[name], first[name], name)


# --- verdicts -----------------------------------------------------------------------


def test_verdict_is_that_of_the_closed_form():
    weights, bias, x, y = linear_problem(3, batch=30)
    least = to_nearest(weights, bias, x, y)
    order = np.sort(least)
    gaps = order[10:20] / order[9:19]
    eps = float(order[9 + np.argmax(gaps)] * gaps.max() * 0.999)
    attack = make_attack(config(eps))
    x_adv = tf.function(lambda x, y: attack(linear(weights, bias), x, y, 0))(x, y).numpy()
    wrong = np.argmax(x_adv.reshape(30, -1) @ weights + bias, 1) != y
    np.testing.assert_array_equal(wrong, least < eps)
    assert 5 < wrong.sum() < 25
    np.testing.assert_array_equal(x_adv[~wrong], x[~wrong])
    assert (size(x_adv - x) <= eps + 1e-6).all()


def test_constant_model_and_pixels_at_the_ends():
    x = np.zeros((3, *SHAPE), "float32")
    x[1], x[2] = 1, np.linspace(0, 1, PIXELS).reshape(SHAPE)
    settings = config(steps=4, search_steps=4)
    state = driver(settings, lambda x: tf.tile([[1.0, 0.0]], [tf.shape(x)[0], 1]))(
        x, np.zeros(3, "int32")
    )
    assert not state["broken"].any()
    assert np.isposinf(state["distance"]).all()
    np.testing.assert_array_equal(state["x_adv"], x)
    finite = ("variable", "mean", "square", "constant")
    assert all(np.isfinite(state[name]).all() for name in finite)


def test_misclassified_clean_images():
    weights, bias, x, y = linear_problem(3)
    y[::2] = (y[::2] + 1) % 3
    state = driver(config(1e-9, steps=5, search_steps=2), linear(weights, bias))(x, y)
    assert (state["distance"][::2] == 0).all()
    assert (state["distance"][1::2] > 0).all()
    np.testing.assert_array_equal(state["broken"], np.arange(16) % 2 == 0)
    np.testing.assert_array_equal(state["x_adv"], x)


# --- how it is driven ---------------------------------------------------------------


def test_neither_the_batch_nor_interruptions_change_a_result():
    weights, bias, x, y = linear_problem(4)
    drive = driver(config(0.3, steps=20, search_steps=4, step_size=0.05), linear(weights, bias))
    whole, split, part = drive(x, y), drive(x, y, (7, 20, 41)), drive(x[5:8], y[5:8])
    assert 0 < whole["broken"].sum() < len(x)
    for name, value in whole.items():
        np.testing.assert_array_equal(split[name], value, name)
        np.testing.assert_array_equal(part[name], value[5:8], name)


def test_xla_agrees():
    weights, bias, x, y = linear_problem(3)
    settings, logits_fn = config(steps=20, search_steps=5, step_size=0.03), linear(weights, bias)
    plain = driver(settings, logits_fn)(x, y)
    compiled = driver(settings, logits_fn, jit_compile=True)(x, y)
    assert np.isfinite(plain["distance"]).all()
    np.testing.assert_allclose(compiled["distance"], plain["distance"], rtol=1e-3)


def test_length_and_stops():
    procedure = make_procedure(attack_from_name("cw_l2", 0.5, norm="l2"))
    assert procedure.length == 9000
    assert (procedure.tries(10), procedure.step_cost) == (1, (1, 1))
    assert procedure.stop_after(0) == 100
    assert procedure.stop_after(8950) == 9000
    assert make_procedure(config(steps=3, search_steps=1)).stop_after(0) == 1
