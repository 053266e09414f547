"""Losses, projection and random numbers of the attacks, each against NumPy."""

import numpy as np
import pytest

from tf_lottery.attacks.losses import cross_entropy, margin
from tf_lottery.attacks.norms import project
from tf_lottery.attacks.seeds import example_seeds, uniform_in_ball
from tf_lottery.keras import tf

EPS = 0.1


# --- losses, projection -------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_losses_against_numpy(dtype):
    logits = np.random.default_rng(0).normal(size=(9, 5)).astype(dtype)
    y = np.random.default_rng(1).integers(0, 5, 9)
    wide = logits.astype("float64")
    true = wide[np.arange(9), y]
    others = np.where(np.arange(5) == y[:, None], -np.inf, wide)
    got_ce, got_margin = cross_entropy(logits, y), margin(logits, y)
    assert got_ce.dtype == got_margin.dtype == tf.float32
    np.testing.assert_allclose(got_ce, np.log(np.exp(wide).sum(1)) - true, rtol=1e-5)
    np.testing.assert_allclose(got_margin, others.max(1) - true, rtol=1e-5, atol=1e-6)


def test_margin_gradient_is_one_up_one_down():
    logits = tf.constant([[1.0, 4.0, 3.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = margin(logits, tf.constant([1]))
    assert tape.gradient(loss, logits).numpy().tolist() == [[0, -1, 1]]


def test_projection_by_hand():
    x = tf.constant([0.0, 0.05, 0.5, 0.95, 1.0])
    assert project(x - 1, x, 0.1).numpy() == pytest.approx([0, 0, 0.4, 0.85, 0.9])
    assert project(x + 1, x, 0.1).numpy() == pytest.approx([0.1, 0.15, 0.6, 1, 1])
    np.testing.assert_array_equal(project(x + 0.01, x, 0.0), x)


# --- seeds --------------------------------------------------------------------------


def test_seed_forms():
    by_int = example_seeds(3, 4).numpy()
    assert by_int.dtype == np.int32
    assert len({tuple(s) for s in by_int}) == 4
    np.testing.assert_array_equal(by_int, example_seeds(np.int64(3), 6)[:4])
    np.testing.assert_array_equal(by_int, example_seeds(tf.constant([3, 0]), 4))
    for other in (4, 3 + 2**31, -3):
        assert (by_int != example_seeds(other, 4).numpy()).any()
    given = np.arange(8, dtype="int32").reshape(4, 2)
    np.testing.assert_array_equal(example_seeds(given, 4), given)


@pytest.mark.parametrize("seed", [1.5, [1, 2, 3], np.zeros((4, 3), "int32"), [0.0, 1.0]])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match=r"attack seed: .*\(2,\) or \(batch, 2\)"):
        example_seeds(seed, 4)


def test_noise_is_uniform_and_differs_by_example_and_restart():
    seeds = example_seeds(0, 3)
    noise = np.stack([uniform_in_ball(seeds, r, (20, 20, 5), EPS) for r in (0, 1)])
    assert np.abs(noise).max() <= EPS
    flat = noise.reshape(6, -1)
    # A uniform variable on [-eps, eps] has deviation eps / sqrt(3); 2,000 draws each.
    np.testing.assert_allclose(flat.mean(1), 0, atol=4 * EPS / np.sqrt(3 * 2000))
    np.testing.assert_allclose(flat.std(1), EPS / np.sqrt(3), rtol=0.05)
    correlation = np.corrcoef(flat) - np.eye(6)
    assert np.abs(correlation).max() < 0.1


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 5, 3), (32, 32, 3)])
def test_noise_is_the_same_under_xla(shape):
    seeds = example_seeds(0, 3)
    function = tf.function(lambda s: uniform_in_ball(s, 2, shape, EPS), jit_compile=True)
    np.testing.assert_array_equal(function(seeds), uniform_in_ball(seeds, 2, shape, EPS))
