"""FAB against smallest perturbations in closed form and by bisection."""

import numpy as np
import pytest

from tf_lottery.attacks import make_attack, make_procedure
from tf_lottery.attacks.fab import FastAdaptiveBoundary
from tf_lottery.attacks.seeds import example_seeds
from tf_lottery.keras import tf
from tf_lottery.options.settings import AttackConfig, attack_from_name

SHAPE = (4, 4, 2)
PIXELS = 32
NORMS = ("linf", "l2")


def config(norm="linf", eps=1.0, steps=30, targets=0, restarts=1):
    return AttackConfig(
        "fab", norm, eps, steps, 0, False, restarts, "margin", "fab", targets=targets
    )


def linear(weights, bias):
    """Logits by sums, whose rounding does not depend on the batch as that of a matmul may."""
    kernel = weights.reshape(*SHAPE, -1).astype("float32")

    def logits_fn(x):
        return tf.reduce_sum(x[..., None] * kernel, axis=(1, 2, 3)) + bias.astype("float32")

    return logits_fn


def linear_problem(classes, batch=24, seed=0, low=0.35, high=0.65):
    """Weights, biases, images and their classes; by default the box does not bind."""
    rng = np.random.default_rng(seed)
    weights, bias = rng.normal(size=(PIXELS, classes)), rng.normal(size=classes) * 0.1
    x = np.clip(rng.uniform(low, high, (batch, *SHAPE)), 0, 1).astype("float32")
    return weights, bias, x, np.argmax(x.reshape(batch, -1) @ weights + bias, 1).astype("int32")


def size(delta, norm):
    flat = np.asarray(delta, "float64").reshape(len(delta), -1)
    return np.abs(flat).max(1) if norm == "linf" else np.sqrt((flat**2).sum(1))


def to_each_class(weights, bias, x, y, norm):
    """Distance to every class's boundary with y, infinite for y itself: (batch, classes)."""
    logits = x.reshape(len(x), -1).astype("float64") @ weights + bias
    differences = weights.T[None] - weights.T[y][:, None]
    dual = np.linalg.norm(differences, 1 if norm == "linf" else 2, axis=-1)
    lead = logits[np.arange(len(y)), y][:, None] - logits
    own = np.arange(weights.shape[1]) == y[:, None]
    return np.where(own, np.inf, lead / np.where(own, 1, dual))


def to_class_in_box(weights, bias, x, y, norm):
    """The same, steps staying in the box: bisection on d = clip(lambda v, -x, 1 - x)."""
    distances = np.full((len(y), weights.shape[1]), np.inf)
    for n, c in np.ndindex(distances.shape):
        if c == y[n]:
            continue
        w, point = weights[:, c] - weights[:, y[n]], x[n].ravel().astype("float64")
        gap = bias[y[n]] - bias[c] - w @ point
        way = np.sign(w) if norm == "linf" else w
        low, high = 0.0, 1e6
        if w @ np.clip(high * way, -point, 1 - point) < gap:
            continue
        for _ in range(100):
            middle = (low + high) / 2
            short = w @ np.clip(middle * way, -point, 1 - point) < gap
            low, high = (middle, high) if short else (low, middle)
        distances[n, c] = size(np.clip(high * way, -point, 1 - point)[None], norm)[0]
    return distances


def overshoot(steps):
    """What FAB reaches on a line whose boundary is at 1: the iteration in one dimension.

    Its steps go 5 % too far, to get across; going back and forth takes most of it off.
    """
    point, best = 0.0, np.inf
    for _ in range(steps):
        gap = 1 - point
        alpha = min(abs(gap) / (abs(gap) + 1), 0.1)
        point = (point + 1.05 * gap) * (1 - alpha) + 1.05 * alpha
        if point > 1:
            best, point = min(best, point), 0.9 * point
    return best


def driver(settings, logits_fn, **options):
    """Drives tries in the graph, batch size unknown: (x, y, ...) -> state as arrays."""
    procedure = make_procedure(settings, stop_when_broken=False)
    specs = [
        tf.TensorSpec((None, *SHAPE)),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None, 2), tf.int32),
        tf.TensorSpec((), tf.int32),
    ]
    start = tf.function(
        lambda *args: procedure.start(logits_fn, *args),
        input_signature=specs,
        autograph=False,
        **options,
    )
    advance = tf.function(
        lambda *args: procedure.advance(logits_fn, *args), autograph=False, **options
    )

    def drive(x, y, attempt=0, seeds=None, splits=()):
        if seeds is None:
            seeds = example_seeds(0, len(x))
        args = [tf.constant(x), tf.constant(y), tf.constant(seeds), tf.constant(attempt)]
        state, i = start(*args), tf.constant(0)
        for stop in (*splits, procedure.length):
            i, state = advance(*args, state, i, tf.constant(stop))
        assert int(i) == procedure.length
        return {name: value.numpy() for name, value in state.items()}

    return drive


def search(settings, logits_fn, x, y, *args, **options):
    return driver(settings, logits_fn, **options)(x, y, *args)


# --- smallest perturbations ---------------------------------------------------------


def test_overshoot_is_half_a_percent():
    assert overshoot(1) == pytest.approx(1.05)
    assert overshoot(30) == pytest.approx(1.0052, abs=1e-4)


def test_one_iteration_by_hand():
    """From points about the boundary; the nearer, the less they are drawn to the clean image."""
    weights, bias, x, y = linear_problem(2)
    w = (weights[:, 1] - weights[:, 0]) * np.where(y == 0, 1, -1)[:, None]
    offset = np.where(y == 0, 1, -1) * (bias[1] - bias[0])
    clean = x.reshape(len(x), -1).astype("float64")
    unit = w / (w**2).sum(1, keepdims=True)
    far = -((w * clean).sum(1) + offset)[:, None] * unit
    # Just beyond the plane the step would end on it, to rounding: none is there.
    share = np.r_[np.linspace(0.5, 0.99, 16), np.linspace(1.15, 1.4, len(x) - 16)]
    point = clean + far * share[:, None]
    near = -((w * point).sum(1) + offset)[:, None] * unit
    alpha = np.linalg.norm(near, axis=1) / (
        np.linalg.norm(near, axis=1) + np.linalg.norm(far, axis=1)
    )
    assert (alpha > 0.2).sum() > 5
    assert (alpha < 0.09).sum() > 2
    alpha = np.minimum(alpha, 0.1)[:, None]
    # Across the plane and off the line from x: what is along it is as in ``overshoot``.
    aside = np.random.default_rng(1).normal(size=w.shape)
    aside -= (aside * w).sum(1, keepdims=True) * unit
    aside *= 0.01
    moved = (point + aside + 1.05 * near) * (1 - alpha) + (clean + 1.05 * far) * alpha
    wrong = (w * moved).sum(1) + offset > 0
    after = np.where(wrong[:, None], clean + 0.9 * (moved - clean), moved)
    assert 0 < wrong.sum() < len(x)

    procedure = make_procedure(config("l2"))
    logits_fn, seeds = linear(weights, bias), example_seeds(0, len(x))
    state = procedure.start(logits_fn, x, y, seeds, 0)
    state["point"] = tf.constant((point + aside).reshape(x.shape), tf.float32)
    state = procedure.step(logits_fn, x, y, seeds, 0, state, tf.constant(0))
    np.testing.assert_allclose(state["point"], after.reshape(x.shape), atol=1e-6)
    expected = np.where(wrong, np.linalg.norm(moved - clean, axis=1), np.inf)
    np.testing.assert_allclose(state["distance"], expected, rtol=1e-4)


@pytest.mark.parametrize(("classes", "norm"), [(2, "linf"), (3, "l2"), (5, "linf"), (5, "l2")])
def test_nearest_class_of_a_linear_model(classes, norm):
    weights, bias, x, y = linear_problem(classes)
    least = to_each_class(weights, bias, x, y, norm).min(1)
    state = search(config(norm), linear(weights, bias), x, y)
    np.testing.assert_allclose(state["distance"] / least, overshoot(30), rtol=5e-4)
    np.testing.assert_allclose(size(state["closest"] - x, norm), state["distance"], rtol=1e-5)
    found = np.argmax(state["closest"].reshape(len(x), -1) @ weights + bias, 1)
    assert (found != y).all()
    np.testing.assert_array_equal(state["score"], -state["distance"])


@pytest.mark.parametrize("norm", NORMS)
def test_each_target_of_a_linear_model(norm):
    """Targets by rank of the clean logits; they find no class nearer than the nearest."""
    weights, bias, x, y = linear_problem(4)
    each = to_each_class(weights, bias, x, y, norm)
    logits = x.reshape(len(x), -1) @ weights + bias
    logits[np.arange(len(y)), y] = -np.inf
    order = np.argsort(-logits, 1)
    drive = driver(config(norm, targets=9), linear(weights, bias))
    nearest = []
    for rank in range(3):
        state = drive(x, y, rank)
        np.testing.assert_array_equal(state["target"], order[:, rank])
        nearest.append(state["distance"])
        # Another class may turn up on the way to a far one: then it counts.
        limit = each[np.arange(len(y)), order[:, rank]] * overshoot(30)
        assert (state["distance"] <= limit * (1 + 5e-4)).all()
        assert (state["distance"] >= each.min(1)).all()
    np.testing.assert_allclose(np.min(nearest, 0) / each.min(1), overshoot(30), rtol=5e-4)


@pytest.mark.parametrize(("norm", "targets"), [("linf", 0), ("linf", 9), ("l2", 0)])
def test_where_the_box_binds(norm, targets):
    weights, bias, x, y = linear_problem(2, batch=40, low=-0.3, high=1.3, seed=3)
    least = to_class_in_box(weights, bias, x, y, norm).min(1)
    free = to_each_class(weights, bias, x, y, norm).min(1)
    assert (least > 1.03 * free).sum() > 20  # the box matters
    state = search(config(norm, targets=targets), linear(weights, bias), x, y)
    ratio = state["distance"] / least
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.01
    assert state["closest"].min() >= 0
    assert state["closest"].max() <= 1


def test_unreachable_class():
    """The whole box is of class 0, but for a class 2 in its far corner."""
    weights = np.zeros((PIXELS, 3))
    weights[:, 1], weights[:, 2] = 0.1, 1.0
    bias = np.array([0, -3.3, -0.9 * PIXELS])
    x = np.full((1, *SHAPE), 0.5, "float32")
    y = np.zeros(1, "int32")
    target = search(config(targets=1), linear(weights, bias), x, y)
    assert target["target"] == [1]
    assert np.isfinite(target["point"]).all()
    near = search(config(), linear(weights, bias), x, y)
    for state in (target, near):
        assert not np.isnan(state["distance"]).any()
    both = make_attack(config(targets=2))(linear(weights, bias), x, y, 0)
    assert np.abs(both - x).max() == pytest.approx(0.4, rel=6e-3)


def sphere(radius):
    """Class 0 within a distance of the centre: the smallest l_2 perturbation is the rest."""

    def logits_fn(x):
        inside = radius**2 - tf.reduce_sum(tf.square(x - 0.5), axis=(1, 2, 3))
        return tf.stack([inside, tf.zeros_like(inside)], axis=1)

    return logits_fn


def test_curved_boundary():
    rng = np.random.default_rng(0)
    offset = rng.normal(size=(20, *SHAPE))
    offset *= (rng.uniform(0.05, 0.55, 20) / size(offset, "l2"))[:, None, None, None]
    x = (0.5 + offset).astype("float32")
    state = search(config("l2", steps=60), sphere(0.6), x, np.zeros(20, "int32"))
    ratio = state["distance"] / (0.6 - size(offset, "l2"))
    assert ratio.min() > 1 - 1e-5
    assert ratio.max() < 1.02


# --- verdicts -----------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "targets"), [("linf", 0), ("linf", 9), ("l2", 0)])
def test_verdict_is_that_of_the_closed_form(norm, targets):
    weights, bias, x, y = linear_problem(5, batch=40)
    least = to_each_class(weights, bias, x, y, norm).min(1)
    eps = float(np.sort(least)[19:21].mean())
    attack = make_attack(config(norm, eps, targets=targets))
    x_adv = tf.function(lambda x, y: attack(linear(weights, bias), x, y, 0))(x, y).numpy()
    wrong = np.argmax(x_adv.reshape(40, -1) @ weights + bias, 1) != y
    expected = least * overshoot(30) < eps
    assert 15 < expected.sum() <= 20
    np.testing.assert_array_equal(wrong, expected)
    np.testing.assert_array_equal(x_adv[~wrong], x[~wrong])
    assert (size(x_adv - x, norm) <= eps + 1e-6).all()


@pytest.mark.parametrize(("norm", "targets"), [("linf", 0), ("l2", 9)])
def test_constant_model_never_breaks(norm, targets):
    x = linear_problem(2)[2]
    y = np.zeros(len(x), "int32")
    state = search(
        config(norm, steps=3, targets=targets, restarts=2),
        lambda x: tf.tile([[1.0, 0.0, -1.0]], [tf.shape(x)[0], 1]),
        x,
        y,
        3,
    )
    assert not state["broken"].any()
    assert np.isposinf(state["distance"]).all()
    np.testing.assert_array_equal(state["x_adv"], x)
    assert np.isfinite(state["point"]).all()


def test_gradients_that_vanish_for_some_and_are_no_number_for_others():
    """sqrt has an infinite slope at 0; the relu none below 0."""

    def logits_fn(x):
        total = tf.reduce_sum(x, axis=(1, 2, 3))
        return tf.stack([tf.sqrt(tf.nn.relu(total - 1)) + 1, total * 0 + 0.5], axis=1)

    x = np.stack([np.full(SHAPE, v, "float32") for v in (0.0, 1 / PIXELS, 0.5)])
    state = search(config("l2"), logits_fn, x, np.zeros(3, "int32"))
    assert not any(np.isnan(value).any() for value in state.values())
    assert not state["broken"].any()


@pytest.mark.parametrize("targets", [0, 2])
def test_misclassified_clean_images(targets):
    weights, bias, x, y = linear_problem(3)
    y[::2] = (y[::2] + 1) % 3
    state = search(config("l2", 1e-9, targets=targets), linear(weights, bias), x, y)
    assert state["broken"][::2].all()
    assert not state["broken"][1::2].any()
    assert (state["distance"][::2] == 0).all()
    assert (state["distance"][1::2] > 0).all()
    np.testing.assert_array_equal(state["x_adv"], x)
    np.testing.assert_array_equal(state["closest"][::2], x[::2])


# --- how it is driven ---------------------------------------------------------------


@pytest.mark.parametrize(("norm", "targets"), [("linf", 0), ("l2", 9)])
def test_neither_the_batch_nor_interruptions_change_a_result(norm, targets):
    weights, bias, x, y = linear_problem(4, low=0, high=1)
    settings = config(norm, 0.02, 20, targets, restarts=2)
    logits_fn, seeds = linear(weights, bias), example_seeds(4, len(x)).numpy()
    attempt = 4 if targets else 1  # from a random point
    drive = driver(settings, logits_fn)
    whole = drive(x, y, attempt, seeds)
    split = drive(x, y, attempt, seeds, (7, 8))
    few = slice(5, 8)
    part = drive(x[few], y[few], attempt, seeds[few])
    for name, value in whole.items():
        np.testing.assert_array_equal(split[name], value, name)
        np.testing.assert_array_equal(part[name], value[few], name)


@pytest.mark.parametrize("targets", [0, 9])
def test_xla_agrees(targets):
    weights, bias, x, y = linear_problem(3, batch=6, low=0, high=1)
    settings, logits_fn = config(steps=4, targets=targets), linear(weights, bias)
    plain = search(settings, logits_fn, x, y)
    compiled = search(settings, logits_fn, x, y, jit_compile=True)
    np.testing.assert_allclose(compiled["distance"], plain["distance"], rtol=1e-4)


def test_without_a_graph():
    weights, bias, x, y = linear_problem(3, batch=6)
    least = to_each_class(weights, bias, x, y, "l2").min(1)
    x_adv = make_attack(config("l2", steps=4))(linear(weights, bias), x, y, 0)
    np.testing.assert_allclose(size(x_adv - x, "l2") / least, overshoot(4), rtol=5e-4)


def test_later_restarts_start_from_a_random_point():
    weights, bias, x, y = linear_problem(3)
    settings = config("linf", 0.1, 30, targets=2, restarts=2)
    procedure = FastAdaptiveBoundary(settings)
    assert procedure.tries(3) == 4
    points = [
        procedure.start(linear(weights, bias), x, y, example_seeds(0, len(x)), attempt)["point"]
        for attempt in range(4)
    ]
    for clean in points[:2]:
        np.testing.assert_array_equal(clean, x)
    for random in points[2:]:
        np.testing.assert_allclose(size(random - x, "linf"), 0.05, rtol=1e-5)
        assert np.std(random - x) == pytest.approx(0.05 / 3**0.5, rel=0.1)
    assert np.abs(points[2] - points[3]).max() > 0.05
    state = search(settings, linear(weights, bias), x, y, 2)
    least = to_each_class(weights, bias, x, y, "linf").min(1)
    assert (state["distance"] >= least * (1 - 1e-5)).all()
    assert np.median(state["distance"] / least) < 1.02


def test_cost_and_stops():
    procedure = make_procedure(attack_from_name("fab"))
    assert procedure.tries(10) == 1
    assert procedure.step_cost == (2, 9)  # a gradient for each wrong class
    stops = [0]
    while stops[-1] < procedure.length:
        stops.append(procedure.stop_after(stops[-1]))
    assert stops == [0, 3, *range(10, 101, 10)]
    targeted = make_procedure(attack_from_name("fab_t"))
    assert (targeted.tries(10), targeted.tries(4), targeted.tries(2)) == (9, 3, 1)
    assert targeted.step_cost == (2, 1)


def test_as_many_gradients_as_are_booked():
    """Passes through the first operation, counted as they run."""
    passes = []

    def noted(x, name):
        def note(value):
            passes.append(name)
            return value

        return tf.ensure_shape(tf.numpy_function(note, [x], tf.float32), x.shape)

    @tf.custom_gradient
    def counted(x):
        return noted(x, "forward"), lambda upstream: noted(upstream, "gradient")

    weights, bias, x, y = linear_problem(5, batch=3)
    for targets, gradients in ((0, 4), (9, 1)):
        passes.clear()
        model = linear(weights, bias)
        search(config(steps=4, targets=targets), lambda x, f=model: f(counted(x)), x, y)
        assert passes.count("forward") == 1 + 4 * 2
        assert passes.count("gradient") == 4 * gradients
