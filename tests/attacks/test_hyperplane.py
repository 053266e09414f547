"""The projection on a hyperplane within the box, against linear programming and bisection."""

import numpy as np
import pytest
import scipy.optimize

from tf_lottery.attacks.hyperplane import distances, to_hyperplane
from tf_lottery.keras import tf

NORMS = ("linf", "l2")


def size(delta, norm):
    flat = np.asarray(delta, "float64").reshape(len(delta), -1)
    return np.abs(flat).max(1) if norm == "linf" else np.sqrt((flat**2).sum(1))


def by_bisection(x, w, gap, norm):
    """d = clip(lambda v, -x, 1 - x), v = sign(w) or w: what the KKT conditions demand.

    All in float64 and for one image; lambda has the sign of the gap.
    """
    x, w = x.astype("float64").ravel(), w.astype("float64").ravel()
    way = np.sign(gap) * (np.sign(w) if norm == "linf" else w)

    def step(lam):
        return np.where(w == 0, 0, np.clip(lam * way, -x, 1 - x))

    low, high = 0.0, 1.0
    while abs(w @ step(high)) < abs(gap) and high < 1e60:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if abs(w @ step(middle)) < abs(gap) else (low, middle)
    return step(high)


def by_linear_program(x, w, gap):
    """Smallest t so that |d_i| <= t, <w, d> = gap, 0 <= x + d <= 1."""
    n = x.size
    eye, ones = np.eye(n), np.ones((n, 1))
    done = scipy.optimize.linprog(
        np.r_[np.zeros(n), 1],
        A_ub=np.block([[eye, -ones], [-eye, -ones]]),
        b_ub=np.zeros(2 * n),
        A_eq=np.r_[w.astype("float64").ravel(), 0][None],
        b_eq=[gap],
        bounds=[(-p, 1 - p) for p in x.astype("float64").ravel()] + [(0, None)],
    )
    assert done.status == 0, done.message
    return done.fun


def problems(kind, batch=24, shape=(5, 4, 3), seed=0):
    """Points, normals, and gaps that the box lets close by steps of 10 to 95 % of the way."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (batch, *shape))
    w = rng.normal(size=x.shape)
    if kind == "edges":
        x = np.clip(rng.uniform(-1, 2, x.shape), 0, 1)  # two thirds of the pixels
    if kind == "zeros":
        w[rng.random(w.shape) < 0.7] = 0
    if kind == "heavy":  # weights over eight orders of magnitude
        w = np.sign(w) * 10 ** rng.uniform(-8, 0, w.shape)
    x, w = x.astype("float32"), w.astype("float32")
    sign = np.where(np.arange(batch) % 2, 1, -1)
    towards = sign[:, None, None, None] * np.sign(w)
    reach = (np.abs(w) * np.where(towards > 0, 1 - x, x)).sum((1, 2, 3), dtype="float64")
    gap = sign * reach * rng.uniform(0.1, 0.95, batch)
    return x, w, gap.astype("float32")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["plain", "edges", "zeros", "heavy"])
def test_smallest_step(kind, norm):
    x, w, gap = problems(kind)
    d = to_hyperplane(x, w, gap, norm).numpy()
    assert d.dtype == np.float32
    assert ((x + d >= -1e-6) & (x + d <= 1 + 1e-6)).all()
    gained = (w.astype("float64") * d).sum((1, 2, 3))
    np.testing.assert_allclose(gained, gap, rtol=1e-5)
    expected = np.stack([by_bisection(*p, norm) for p in zip(x, w, gap, strict=True)])
    np.testing.assert_allclose(d.reshape(expected.shape), expected, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(size(d, norm), size(expected, norm), rtol=2e-5)
    if norm == "linf":
        least = [by_linear_program(*p) for p in zip(x, w, gap, strict=True)]
        np.testing.assert_allclose(size(d, norm), least, rtol=2e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_closed_form_where_the_box_does_not_bind(norm):
    rng = np.random.default_rng(3)
    w = rng.normal(size=(8, 4, 4, 1)).astype("float32")
    gap = rng.uniform(-0.1, 0.1, 8).astype("float32")
    d = to_hyperplane(np.full_like(w, 0.5), w, gap, norm)
    wide = gap[:, None, None, None]
    if norm == "linf":
        expected = wide * np.sign(w) / np.abs(w).sum((1, 2, 3), keepdims=True)
    else:
        expected = wide * w / (w**2).sum((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(d, expected, rtol=1e-5)
    np.testing.assert_allclose(distances(w, gap, norm), size(expected, norm), rtol=1e-5)


def test_two_pixels_by_hand():
    """Pixel 0 gives its 0.1 times 2, so pixel 1 has to give 0.5 - 0.2."""
    x, w = np.array([0.9, 0.2]), np.array([2.0, 1.0])
    x, w = (v.reshape(1, 1, 2, 1).astype("float32") for v in (x, w))
    for norm in NORMS:
        d = to_hyperplane(x, w, np.float32([0.5]), norm).numpy().ravel()
        assert d == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize("norm", NORMS)
def test_out_of_reach_goes_to_the_corner_of_the_box(norm):
    x, w, gap = problems("zeros")
    corner = np.where(w == 0, x, np.sign(gap)[:, None, None, None] * w > 0)
    for factor in (20, 1e30, np.inf):
        d = to_hyperplane(x, w, (gap * factor).astype("float32"), norm)
        np.testing.assert_allclose(x + d, corner, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("norm", NORMS)
def test_scale_of_the_network_does_not_matter(scale, norm):
    x, w, gap = problems("edges")
    w, gap = np.float32(w * scale), np.float32(gap * scale)
    plain = to_hyperplane(x, *problems("edges")[1:], norm)
    np.testing.assert_allclose(to_hyperplane(x, w, gap, norm), plain, rtol=1e-4, atol=1e-6)
    far = distances(*problems("edges")[1:], norm)
    np.testing.assert_allclose(distances(w, gap, norm), far, rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_degenerate_hyperplanes(norm):
    x, w, gap = problems("edges", batch=5)
    w[0] = 0
    gap[1] = 0
    gap[2] = np.nan
    w[3] = np.nan
    w[4, 0, 0, 0], w[4, 0, 0, 1] = np.inf, np.nan
    d = to_hyperplane(x, w, gap, norm).numpy()
    assert np.isfinite(d).all()
    assert (d[:4] == 0).all()
    assert (d[4, 0, 0, :2] == 0).all()
    assert np.abs(d[4]).max() > 0
    assert np.isinf(distances(w, gap, norm).numpy()[[0, 3]]).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factor", [0.5, 0.9, 0.99])
def test_staircase_of_rooms(factor, norm):
    """Room halves as the weight doubles: Newton has one end after the other to pass."""
    k = np.arange(16)
    x = (1 - 2.0**-k).reshape(1, 4, 4, 1).astype("float32")
    w = (2.0**k).reshape(1, 4, 4, 1).astype("float32")
    gap = np.float32([(w * (1 - x)).sum() * factor])
    d = to_hyperplane(x, w, gap, norm).numpy()
    assert (w * d).sum(dtype="float64") == pytest.approx(gap[0], rel=1e-5)
    np.testing.assert_allclose(d.ravel(), by_bisection(x, w, gap[0], norm), rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_an_example_does_not_depend_on_its_batch_nor_the_result_on_xla(norm):
    x, w, gap = problems("edges")
    whole = to_hyperplane(x, w, gap, norm).numpy()
    for i in (0, 7):
        one = slice(i, i + 1)
        np.testing.assert_array_equal(to_hyperplane(x[one], w[one], gap[one], norm), whole[one])
    specs = [tf.TensorSpec((None, *x.shape[1:]))] * 2 + [tf.TensorSpec((None,))]
    for jit in (False, True):
        function = tf.function(
            lambda *args: to_hyperplane(*args, norm), input_signature=specs, jit_compile=jit
        )
        got = function(x, w, gap)
        np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-6)
