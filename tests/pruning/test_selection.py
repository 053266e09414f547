"""Which weights stay."""

import numpy as np
import pytest

from tf_lottery.errors import DeadLayerError, LotteryError, NonFiniteError, UsageError
from tf_lottery.pruning import (
    ScoreContext,
    density,
    kept_count,
    layer_densities,
    prune,
    random_masks,
    score,
)

SHAPES = {"stem": (3, 3, 1, 4), "body": (3, 3, 4, 8), "head": (32, 10)}
TOTAL = 36 + 288 + 320


def network(seed=0, levels=None):
    """Weights; ``levels`` rounds them to few values, so that most scores are ties."""
    rng = np.random.default_rng(seed)
    weights = {layer: rng.normal(size=shape) for layer, shape in SHAPES.items()}
    if levels:
        weights = {layer: np.round(kernel * levels) / levels for layer, kernel in weights.items()}
    return {layer: kernel.astype(np.float32) for layer, kernel in weights.items()}


def brute_force(scores, alive, keep):
    """A stable sort of Python tuples: highest score, then layer, then position."""
    ranked = sorted(
        (-scores[layer].flat[i], number, i)
        for number, layer in enumerate(scores)
        for i in range(scores[layer].size)
        if alive[layer].flat[i]
    )
    masks = {layer: np.zeros(array.shape, bool) for layer, array in scores.items()}
    layers = list(scores)
    for _, number, i in ranked[:keep]:
        masks[layers[number]].flat[i] = True
    return masks


def assert_equal(ours, theirs):
    assert list(ours) == list(theirs)
    for layer in ours:
        assert ours[layer].dtype == bool
        np.testing.assert_array_equal(ours[layer], theirs[layer])


def kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def ones():
    return {layer: np.ones(shape, bool) for layer, shape in SHAPES.items()}


class TestGlobal:
    def test_by_hand(self):
        weights = {"a": np.array([[4.0, -1.0], [0.5, 3.0]]), "b": np.array([-5.0, 0.1])}
        masks = prune(weights, None, 0.5, "magnitude")
        assert masks["a"].tolist() == [[True, False], [False, True]]
        assert masks["b"].tolist() == [True, False]
        # Means 2.125 and 2.55: the scores are 1.88, 0.47, 0.24, 1.41 and 1.96, 0.04.
        masks = prune(weights, None, 2 / 3)
        assert masks["a"].tolist() == [[True, False], [False, False]]
        assert masks["b"].tolist() == [True, False]

    @pytest.mark.parametrize("name", ["magnitude", "normalized_magnitude", "random"])
    @pytest.mark.parametrize("levels", [None, 8, 1])
    @pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.8, 0.9])
    def test_matches_a_stable_sort(self, name, levels, sparsity):
        weights = network(levels=levels)
        keep = round((1 - sparsity) * TOTAL)
        expected = brute_force(score(name, ScoreContext(weights, seed=4)), ones(), keep)
        assert all(mask.any() for mask in expected.values())
        assert_equal(prune(weights, None, sparsity, name, seed=4), expected)

    @pytest.mark.parametrize("levels", [None, 8, 1])
    def test_matches_a_stable_sort_of_the_survivors(self, levels):
        weights = network(levels=levels)
        alive = {
            layer: np.random.default_rng(7).random(shape) < 0.6 for layer, shape in SHAPES.items()
        }
        for sparsity in (0.5, 0.7, 0.9):
            keep = round((1 - sparsity) * TOTAL)
            for name in ("magnitude", "normalized_magnitude"):
                expected = brute_force(score(name, ScoreContext(weights, alive)), alive, keep)
                assert_equal(prune(weights, alive, sparsity, name), expected)

    def test_pruned_zeros_do_not_tie_with_living_zeros(self):
        weights = {"a": np.array([0.0, 0.0, 0.0, 1.0])}
        alive = {"a": np.array([False, True, True, True])}
        assert prune(weights, alive, 0.5, "magnitude")["a"].tolist() == [False, True, False, True]

    def test_all_equal_keeps_the_first(self):
        weights = {"a": np.ones((2, 2)), "b": np.ones(4)}
        masks = prune(weights, None, 3 / 8, "magnitude")
        assert masks["a"].tolist() == [[True, True], [True, True]]
        assert masks["b"].tolist() == [True, False, False, False]
        swapped = prune({"b": weights["b"], "a": weights["a"]}, None, 3 / 8, "magnitude")
        assert list(swapped) == ["b", "a"]
        assert swapped["b"].all()
        assert swapped["a"].tolist() == [[True, False], [False, False]]

    def test_sign_does_not_matter(self):
        weights = network()
        flipped = {layer: -kernel for layer, kernel in weights.items()}
        assert_equal(prune(weights, None, 0.8), prune(flipped, None, 0.8))


class TestCounts:
    @pytest.mark.parametrize("scope", ["global", "layer"])
    @pytest.mark.parametrize("sizes", [(1,), (7,), (10, 3), (64, 100, 13), (2, 999, 50, 50)])
    def test_exact_on_a_grid(self, scope, sizes):
        rng = np.random.default_rng(1)
        weights = {f"l{i}": rng.normal(size=size) for i, size in enumerate(sizes)}
        survived = 0
        for sparsity in [*np.linspace(0, 0.99, 100).tolist(), 0.18, 1 / 3, 0.8, 0.98]:
            want = round((1 - sparsity) * sum(sizes))
            assert kept_count(sum(sizes), sparsity) == want
            try:
                masks = prune(weights, None, sparsity, scope=scope)
            except DeadLayerError:
                continue
            survived += 1
            assert kept(masks) == want
            if scope == "layer":
                for mask in masks.values():
                    assert abs(mask.sum() - (1 - sparsity) * mask.size) < 1
        assert survived >= (50 if min(sizes) > 2 else 20)

    def test_nothing_to_prune(self):
        assert all(mask.all() for mask in prune(network(), None, 0.0).values())

    @pytest.mark.parametrize("scope", ["global", "layer"])
    @pytest.mark.parametrize("name", ["magnitude", "normalized_magnitude", "random"])
    def test_rounds_nest(self, scope, name):
        masks = None
        for i, sparsity in enumerate([0.1, 0.19, 0.271, 0.3439, 0.5, 0.501, 0.502, 0.7, 0.9]):
            weights = network(seed=i, levels=4)  # other weights each round
            new = prune(weights, masks, sparsity, name, scope)
            assert kept(new) == round((1 - sparsity) * TOTAL)
            if masks:
                for layer in new:
                    assert not np.any(new[layer] & ~masks[layer])
            masks = new

    def test_deterministic_and_inputs_untouched(self):
        weights = network(levels=2)
        alive = prune(weights, None, 0.3)
        copies = [{k: v.copy() for k, v in arrays.items()} for arrays in (weights, alive)]
        first = prune(weights, alive, 0.6, "random", seed=1)
        assert_equal(first, prune(weights, alive, 0.6, "random", seed=1))
        other = prune(weights, alive, 0.6, "random", seed=2)
        assert any(np.any(first[layer] != other[layer]) for layer in first)
        for arrays, copy in zip((weights, alive), copies, strict=True):
            for layer in arrays:
                np.testing.assert_array_equal(arrays[layer], copy[layer])

    def test_float_masks_will_do(self):
        weights = network()
        alive = prune(weights, None, 0.5)
        floats = {layer: mask.astype(np.float32) for layer, mask in alive.items()}
        assert_equal(prune(weights, floats, 0.8), prune(weights, alive, 0.8))


class TestLayer:
    def test_each_layer_keeps_its_best(self):
        weights = network(levels=3)
        masks = prune(weights, None, 0.75, "magnitude", "layer")
        assert [int(mask.sum()) for mask in masks.values()] == [9, 72, 80]
        for layer, mask in masks.items():
            expected = brute_force(
                {layer: np.abs(weights[layer])}, {layer: ones()[layer]}, int(mask.sum())
            )
            np.testing.assert_array_equal(mask, expected[layer])

    def test_largest_remainder_by_hand(self):
        # Quotas 2.4, 3.6, 2.4 of 8.4, which rounds to 8: one seat, to the 0.6.
        weights = {"a": np.ones(4), "b": np.ones(6), "c": np.ones(4)}
        masks = prune(weights, None, 0.4, scope="layer")
        assert [int(mask.sum()) for mask in masks.values()] == [2, 4, 2]
        # Quotas 1.5, 1.5, 1.5 of 4.5, which rounds to 4: the earlier layer gets the seat.
        weights = {"a": np.ones(3), "b": np.ones(3), "c": np.ones(3)}
        masks = prune(weights, None, 0.5, scope="layer")
        assert [int(mask.sum()) for mask in masks.values()] == [2, 1, 1]

    def test_a_seat_moves_on_where_a_layer_has_none_left(self):
        weights = {"a": np.ones(10), "b": np.ones(11)}
        # Quotas 4.5 and 4.95 of 9.45 -> 9: the seat would go to b, which has only 4 left.
        alive = {"a": np.arange(10) < 5, "b": np.arange(11) < 4}
        masks = prune(weights, alive, 0.55, scope="layer")
        assert [int(mask.sum()) for mask in masks.values()] == [5, 4]

    def test_a_layer_that_is_too_sparse_already(self):
        alive = {"a": np.ones(10, bool), "b": np.arange(10) < 2}
        weights = {"a": np.ones(10), "b": np.ones(10)}
        with pytest.raises(LotteryError, match=r"got 0\.5, lower than the current sparsity of b;"):
            prune(weights, alive, 0.5, scope="layer")


class TestErrors:
    @pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
    def test_sparsity(self, sparsity):
        with pytest.raises(UsageError, match=r"--sparsity: got .*must be in \[0, 1\)"):
            prune(network(), None, sparsity)

    def test_scope(self):
        with pytest.raises(UsageError, match="--scope: unknown value 'filter'"):
            prune(network(), None, 0.5, scope="filter")

    def test_sparser_already(self):
        alive = prune(network(), None, 0.8)
        assert_equal(prune(network(), alive, 0.8), alive)
        with pytest.raises(LotteryError, match=r"got 0\.7, lower than the current sparsity 0\.799"):
            prune(network(), alive, 0.7)

    @pytest.mark.parametrize("scope", ["global", "layer"])
    def test_dead_layers_are_named(self, scope):
        weights = {"big": np.full(100, 5.0), "small": np.ones(3), "tiny": np.ones(2)}
        with pytest.raises(DeadLayerError) as error:
            prune(weights, None, 0.9, "magnitude", scope)
        text = str(error.value)
        assert "sparsity 0.9 leaves no weight in small (3 weights), tiny (2 weights)" in text
        assert "lower --sparsity" in text
        assert ("--scope=layer" in text) == (scope == "global")
        assert "big" not in text

    def test_nothing_left_at_all(self):
        with pytest.raises(DeadLayerError, match=r"a \(2 weights\), b \(1 weights\)"):
            prune({"a": np.ones(2), "b": np.ones(1)}, None, 0.99)

    def test_a_layer_dead_before(self):
        alive = {"a": np.ones(10, bool), "b": np.zeros(10, bool)}
        with pytest.raises(DeadLayerError, match="b"):
            prune({"a": np.ones(10), "b": np.ones(10)}, alive, 0.6)

    def test_non_finite(self):
        weights = network()
        weights["body"][0, 0, 0, 0] = np.nan
        with pytest.raises(NonFiniteError, match="body"):
            prune(weights, None, 0.5)

    def test_masks_of_another_network(self):
        masks = ones()
        with pytest.raises(ValueError, match=r"not of the same layers: \['head'\]"):
            prune(network(), {k: v for k, v in masks.items() if k != "head"}, 0.5)
        with pytest.raises(ValueError, match=r"head: mask of shape \(10, 32\) for .*\(32, 10\)"):
            prune(network(), masks | {"head": np.ones((10, 32), bool)}, 0.5)
        with pytest.raises(ValueError, match="no weights"):
            prune({}, None, 0.5)


class TestRandomMasks:
    def test_counts_stay_positions_change(self):
        masks = prune(network(), None, 0.8)
        found = random_masks(masks, 0)
        assert list(found) == list(masks)
        for layer in masks:
            assert found[layer].shape == masks[layer].shape
            assert found[layer].dtype == bool
            assert found[layer].sum() == masks[layer].sum()
            assert np.any(found[layer] != masks[layer])
        assert_equal(found, random_masks(masks, 0))
        assert any(np.any(found[k] != random_masks(masks, 1)[k]) for k in masks)

    def test_every_position_is_as_likely(self):
        mask = {"a": np.arange(20).reshape(4, 5) < 5}
        share = np.mean([random_masks(mask, seed)["a"] for seed in range(2000)], axis=0)
        assert np.all(np.abs(share - 0.25) < 0.05)  # five standard deviations

    def test_layers_differ(self):
        masks = {"a": np.arange(100) < 50, "b": np.arange(100) < 50}
        found = random_masks(masks, 0)
        assert np.any(found["a"] != found["b"])


def test_densities_by_hand():
    masks = {"a": np.array([[True, False], [False, False]]), "b": np.array([1.0, 1.0, 0.0])}
    assert density(masks) == 3 / 7
    assert layer_densities(masks) == {"a": 1 / 4, "b": 2 / 3}
    assert all(type(value) is float for value in layer_densities(masks).values())
