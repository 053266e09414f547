"""Scores of weights."""

import numpy as np
import pytest

from tf_lottery.errors import NonFiniteError, UsageError
from tf_lottery.pruning import ScoreContext, score

WEIGHTS = {
    "conv": np.array([[1.0, -2.0], [3.0, -6.0]], np.float32),
    "dense": np.array([0.5, 0.0, -0.25], np.float32),
}


def test_magnitude_by_hand():
    found = score("magnitude", ScoreContext(WEIGHTS))
    assert list(found) == ["conv", "dense"]
    assert found["conv"].tolist() == [[1, 2], [3, 6]]
    assert found["dense"].tolist() == [0.5, 0, 0.25]
    assert all(array.dtype == np.float64 for array in found.values())


def test_normalized_magnitude_by_hand():
    found = score("normalized_magnitude", ScoreContext(WEIGHTS))
    assert found["conv"].tolist() == [[1 / 3, 2 / 3], [1, 2]]
    np.testing.assert_allclose(found["dense"], [2, 0, 1])


def test_the_mean_is_over_the_survivors():
    masks = {"conv": np.array([[False, True], [False, True]]), "dense": np.ones(3, bool)}
    found = score("normalized_magnitude", ScoreContext(WEIGHTS, masks))
    assert found["conv"][0, 1] == 2 / 4
    assert found["conv"][1, 1] == 6 / 4


def test_scale_of_a_layer_does_not_matter():
    scaled = {"conv": WEIGHTS["conv"] * 1024, "dense": WEIGHTS["dense"]}
    ours, theirs = (
        score("normalized_magnitude", ScoreContext(WEIGHTS)),
        score("normalized_magnitude", ScoreContext(scaled)),
    )
    np.testing.assert_array_equal(ours["conv"], theirs["conv"])


@pytest.mark.parametrize("masks", [{}, {"a": np.zeros(4, bool)}])
def test_a_layer_of_zeros_or_without_survivors(masks):
    with np.errstate(all="raise"):
        assert (
            score("normalized_magnitude", ScoreContext({"a": np.zeros(4)}, masks))["a"].tolist()
            == [0] * 4
        )


def test_random_is_keyed_by_seed_and_layer():
    weights = {"a": np.zeros((50, 40)), "b": np.zeros((50, 40))}
    found = score("random", ScoreContext(weights, seed=1))
    assert found["a"].min() >= 0
    assert found["a"].max() < 1
    assert abs(found["a"].mean() - 0.5) < 0.05
    assert np.all(found["a"] != found["b"])
    assert np.all(found["a"] != score("random", ScoreContext(weights, seed=2))["a"])
    # Neither other layers nor masks nor values change it: rounds of pruning agree.
    alone = score(
        "random",
        ScoreContext({"b": np.ones((50, 40))}, {"b": np.zeros((50, 40), bool)}, seed=1),
    )
    np.testing.assert_array_equal(alone["b"], found["b"])


def test_inputs_are_left_alone():
    before = {layer: kernel.copy() for layer, kernel in WEIGHTS.items()}
    score("normalized_magnitude", ScoreContext(WEIGHTS))
    for layer, kernel in WEIGHTS.items():
        np.testing.assert_array_equal(kernel, before[layer])


@pytest.mark.parametrize("name", ["magnitude", "normalized_magnitude", "random"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_weights_name_the_layer(name, bad):
    weights = {"fine": np.ones(3), "broken": np.array([1.0, bad])}
    with pytest.raises(NonFiniteError, match="weights of broken are NaN or infinite"):
        score(name, ScoreContext(weights))


def test_unknown_score():
    with pytest.raises(UsageError, match="--score: unknown value 'taylor', may be one of mag"):
        score("taylor", ScoreContext(WEIGHTS))
