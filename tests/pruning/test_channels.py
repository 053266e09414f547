"""Scores of channels, and which stay."""

import doctest

import numpy as np
import pytest

from tf_lottery.errors import DeadLayerError, NonFiniteError
from tf_lottery.pruning import channels
from tf_lottery.pruning.channels import (
    batch_norm,
    filter_norm,
    least_kept,
    random_channels,
    random_within,
    select_channels,
    select_within,
)
from tf_lottery.pruning.selection import select


def test_batch_norm_is_the_mean_size_of_the_scales():
    found = batch_norm([np.float32([1, -2, 0]), np.float32([-3, 0, 0.5])])
    np.testing.assert_allclose(found, [2, 1, 0.25])


def test_filter_norm_is_relative_to_the_layer():
    kernel = np.zeros((1, 2, 3, 2))
    kernel[..., 0], kernel[..., 1] = -1, 3  # norms 6 and 18, of mean 12
    np.testing.assert_allclose(filter_norm([kernel]), [0.5, 1.5])
    # The same layer of another size counts the same; a layer of zeros says nothing.
    np.testing.assert_allclose(filter_norm([kernel, 100 * kernel]), [0.5, 1.5])
    np.testing.assert_allclose(filter_norm([kernel, 0 * kernel]), [0.25, 0.75])


@pytest.mark.parametrize(
    ("width", "floor", "least"), [(10, 0, 1), (10, 0.1, 1), (11, 0.1, 2), (30, 0.1, 3), (3, 1, 3)]
)
def test_a_floor_is_rounded_up_and_at_least_one(width, floor, least):
    assert least_kept(width, floor) == least


@pytest.mark.parametrize("sparsity", [0.01, 0.3, 0.5, 0.6, 0.7])
def test_exactly_so_many_of_the_highest_stay(sparsity):
    rng = np.random.default_rng(3)
    scores = [rng.random(n) for n in (7, 30, 64)]
    kept, bound = select_channels(scores, sparsity)
    flat, chosen = np.concatenate(scores), np.concatenate(kept)
    assert chosen.sum() == round((1 - sparsity) * 101)
    assert flat[chosen].min() >= flat[~chosen].max()
    assert bound == []


def test_of_equal_scores_the_earlier_stay():
    kept, bound = select_channels([np.ones(3), np.ones(5)], 0.5)
    # The floor keeps the first of the second group.
    assert [keep.tolist() for keep in kept] == [
        [True, True, True],
        [True, False, False, False, False],
    ]
    assert bound == []
    kept, bound = select_channels([np.ones(4), np.ones(4)], 0.5)
    assert [keep.tolist() for keep in kept] == [[True] * 3 + [False], [True] + [False] * 3]
    assert bound == [1]


def test_a_floor_takes_from_the_others():
    high, low = np.arange(10, 20.0), np.arange(10.0)
    kept, bound = select_channels([high, low], 0.5, floor=0.2)
    assert [keep.tolist() for keep in kept] == [
        [False, False, *[True] * 8],
        [*[False] * 8, True, True],
    ]
    assert bound == [1]


def test_floors_may_keep_more_than_asked_for():
    kept, bound = select_channels([np.arange(10.0), np.arange(10, 20.0)], 0.95, floor=0.3)
    assert [int(keep.sum()) for keep in kept] == [3, 3]
    assert kept[0][-3:].all()
    assert bound == [0, 1]


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.77])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_channels_go_in_blocks(sparsity, floor):
    rng = np.random.default_rng(5)
    scores = [rng.random(n) * rng.random() for n in (64, 40, 20, 15, 128)]
    kept, bound = select_channels(scores, sparsity, floor, multiple=8)
    for each, keep in zip(scores, kept, strict=True):
        # In each the best stay, a multiple of 8 or all where there is room for two blocks.
        assert each[keep].min() >= each[~keep].max(initial=-1)
        assert keep.sum() % 8 == 0 or keep.all() or len(each) < 16
        assert keep.sum() >= least_kept(len(each), floor)
    if not bound:
        assert abs(sum(int(keep.sum()) for keep in kept) - (1 - sparsity) * 267) <= 4
        # No block outside is worth more than one inside.
        step = {64: 8, 40: 8, 20: 8, 15: 1, 128: 8}
        parts = [
            (np.sort(each)[::-1][i : i + step[len(each)]].mean(), i < keep.sum())
            for each, keep in zip(scores, kept, strict=True)
            for i in range(0, len(each), step[len(each)])
        ]
        inside, outside = ([v for v, there in parts if there == w] for w in (True, False))
        assert min(inside) >= max(outside, default=0)


def test_a_block_is_worth_its_mean():
    # The best single channel is in a block of little worth.
    high, even = np.array([9.0, 0, 0, 0]), np.array([3.0, 3, 0, 0])
    kept, _ = select_channels([high, even], 0.5, multiple=2)
    assert [keep.tolist() for keep in kept] == [[True, True, False, False]] * 2
    kept, _ = select_channels([high / 2, even], 0.75, multiple=2)
    assert [keep.tolist() for keep in kept][1] == [True, True, False, False]


def test_scores_that_are_no_numbers():
    with pytest.raises(NonFiniteError):
        select_channels([np.array([1.0, np.nan])], 0.5)


def block(rows, columns, shape=(2, 2, 4, 5)):
    mask = np.zeros(shape, bool)
    mask[..., np.ix_(rows, columns)[0], np.ix_(rows, columns)[1]] = True
    return mask


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_weights_are_chosen_among_those_left(scope):
    masks = {"a": block([0, 2], [1, 2, 4]), "b": block([1], [0, 3])}
    assert (masks["a"].sum(), masks["b"].sum()) == (24, 8)
    rng = np.random.default_rng(0)
    scores = {name: rng.random(mask.shape) for name, mask in masks.items()}
    found = select_within(scores, masks, 0.75, scope)
    assert sum(int(mask.sum()) for mask in found.values()) == 8
    for name, mask in found.items():
        assert not mask[~masks[name]].any()
        inside = masks[name] & ~mask
        if scope == "layer":
            assert mask.sum() == masks[name].sum() // 4
            assert scores[name][mask].min() > scores[name][inside].max()
    if scope == "global":
        flat = np.concatenate([scores[name][masks[name]] for name in masks])
        chosen = np.concatenate([scores[name][found[name]] for name in masks])
        np.testing.assert_array_equal(np.sort(chosen), np.sort(flat)[-8:])


def test_densities_by_size_are_of_the_kernels_that_are_left():
    masks = {"a": block([0, 2], [1, 2, 4]), "b": block([0, 1, 2, 3], [0, 1, 2, 3, 4])}
    rng = np.random.default_rng(1)
    scores = {name: rng.random(mask.shape) for name, mask in masks.items()}
    found = select_within(scores, masks, 0.6, "erk")
    cut = {name: scores[name][mask] for name, mask in masks.items()}
    cut = {"a": cut["a"].reshape(2, 2, 2, 3), "b": cut["b"].reshape(2, 2, 4, 5)}
    whole = {name: np.ones(each.shape, bool) for name, each in cut.items()}
    for name, mask in select(cut, whole, 0.6, "erk").items():
        np.testing.assert_array_equal(found[name][masks[name]], mask.ravel())


def test_no_layer_dies():
    masks = {"a": block([0], [1]), "b": block([1], [0])}
    scores = {"a": np.ones((2, 2, 4, 5)), "b": np.zeros((2, 2, 4, 5))}
    with pytest.raises(DeadLayerError, match="b"):
        select_within(scores, masks, 0.5)


def test_random_choices_keep_the_numbers():
    kept = {"a": np.arange(40) < 10, "b": np.arange(8) < 8}
    found = random_channels(kept, 1)
    assert {name: int(keep.sum()) for name, keep in found.items()} == {"a": 10, "b": 8}
    assert (found["a"] != kept["a"]).any()
    np.testing.assert_array_equal(found["a"], random_channels(kept, 1)["a"])
    assert (found["a"] != random_channels(kept, 2)["a"]).any()
    masks = {"a": block([0, 2], [1, 2, 4])}
    drawn = random_within(masks, {"a": 7}, 1)["a"]
    assert drawn.sum() == 7
    assert not drawn[~masks["a"]].any()
    np.testing.assert_array_equal(random_within(masks, {"a": 24}, 5)["a"], masks["a"])


def test_examples():
    assert doctest.testmod(channels, extraglobs={"np": np}).failed == 0
    assert doctest.testmod(channels, extraglobs={"np": np}).attempted >= 1
