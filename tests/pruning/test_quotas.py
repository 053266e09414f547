"""How many weights each layer keeps by its size alone."""

import numpy as np
import pytest

from tf_lottery.errors import DeadLayerError, LotteryError
from tf_lottery.pruning import prune, quotas, select

CONV, DENSE = (3, 3, 2, 4), (10, 20)  # 72 and 200 weights, sides 12 and 30
NETWORK = [(3, 3, 3, 64), (3, 3, 64, 64), (3, 3, 64, 128), (512, 10)]


def test_erk_by_hand():
    # e (12 + 30) weights in all: a layer keeps e times the sum of its sides.
    density = 0.2
    e = density * 272 / 42
    np.testing.assert_allclose(
        quotas.erdos_renyi_kernel([CONV, DENSE], density), [12 * e / 72, 30 * e / 200]
    )
    # At 0.9 the first would have 0.9 * 272 / 42 * 12 / 72 = 0.97, at 0.95 more than 1: it is
    # kept whole, and the second has the rest.
    np.testing.assert_allclose(
        quotas.erdos_renyi_kernel([CONV, DENSE], 0.95), [1, (0.95 * 272 - 72) / 200]
    )


def test_igq_by_hand():
    # 1 / (1 + F 72) and 1 / (1 + F 200): at F = 1/100 they keep 72 / 1.72 + 200 / 3.
    kept = 72 / 1.72 + 200 / 3
    np.testing.assert_allclose(
        quotas.ideal_gas([CONV, DENSE], kept / 272), [1 / 1.72, 1 / 3], rtol=1e-10
    )


@pytest.mark.parametrize("name", ["layer", "erk", "igq"])
@pytest.mark.parametrize("density", [1e-4, 0.02, 0.2, 0.5, 0.9, 0.999, 1.0])
def test_the_mean_density_is_the_one_asked_for(name, density):
    found = quotas.DENSITIES[name](NETWORK, density)
    sizes = [np.prod(shape) for shape in NETWORK]
    assert (found > 0).all()
    assert (found <= 1).all()
    np.testing.assert_allclose(np.dot(found, sizes) / sum(sizes), density, rtol=1e-9)


@pytest.mark.parametrize("name", ["erk", "igq"])
def test_larger_layers_are_sparser_and_all_get_denser_together(name):
    previous = np.zeros(4)
    for density in (0.01, 0.1, 0.3, 0.6, 0.9):
        found = quotas.DENSITIES[name](NETWORK, density)
        assert (found >= previous).all()
        assert found[2] <= found[1] <= found[0]
        previous = found


def test_one_layer():
    for density in quotas.DENSITIES.values():
        np.testing.assert_allclose(density([(5, 7)], 0.3), [0.3])


def scores(seed=0):
    rng = np.random.default_rng(seed)
    return {str(n): rng.random(shape) for n, shape in enumerate(NETWORK)}


def ones():
    return {str(n): np.ones(shape, bool) for n, shape in enumerate(NETWORK)}


@pytest.mark.parametrize("scope", ["erk", "igq"])
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.8, 0.99, 0.9999])
def test_masks_have_the_exact_count_and_no_empty_layer(scope, sparsity):
    found = scores()
    masks = select(found, ones(), sparsity, scope)
    counts = np.array([mask.sum() for mask in masks.values()])
    sizes = np.array([mask.size for mask in masks.values()])
    assert counts.sum() == round((1 - sparsity) * sizes.sum())
    assert counts.min() >= 1
    wanted = quotas.DENSITIES[scope](NETWORK, 1 - sparsity) * sizes
    assert np.abs(counts - np.maximum(wanted, 1)).max() <= max(1, (wanted < 1).sum())
    for name, mask in masks.items():  # the best of each layer
        if not mask.all():
            assert found[name][mask].min() >= found[name][~mask].max()


@pytest.mark.parametrize("scope", ["erk", "igq"])
def test_rounds_are_nested(scope):
    masks = ones()
    for number, sparsity in enumerate((0.0, 0.2, 0.36, 0.6, 0.9, 0.99)):
        thinner = select(scores(number), masks, sparsity, scope)
        assert all(not (thinner[name] & ~mask).any() for name, mask in masks.items())
        masks = thinner


def test_too_few_weights_for_the_layers():
    weights = {"a": np.ones((4, 3)), "b": np.ones((4, 3)), "c": np.ones((4, 3))}
    with pytest.raises(DeadLayerError, match="2 weights are too few for 3 layers: lower --spars"):
        prune(weights, None, 1 - 2 / 36, "magnitude", "erk")
    masks = prune(weights, None, 1 - 3 / 36, "magnitude", "erk")
    assert [mask.sum() for mask in masks.values()] == [1, 1, 1]


def test_a_layer_that_has_less_than_its_quota():
    masks = ones()
    masks["0"][:] = False
    masks["0"].reshape(-1)[0] = True
    with pytest.raises(LotteryError, match="lower than the current sparsity of 0; give a higher"):
        select(scores(), masks, 0.5, "erk")


@pytest.mark.parametrize(
    ("wanted", "keep", "least", "expected"),
    [
        ((2.5, 3.4, 1.1), 7, 0, (3, 3, 1)),
        ((2.5, 2.5, 1.0), 6, 0, (3, 2, 1)),  # ties: the earlier layer
        ((0.2, 0.3, 9.5), 10, 1, (1, 1, 8)),  # two layers are given what they lack
        ((0.2, 3.7, 6.1), 10, 1, (1, 3, 6)),
        ((0.25, 3.75, 6.75), 11, 1, (1, 4, 6)),  # equal remainders: the earlier
    ],
)
def test_counts_by_hand(wanted, keep, least, expected):
    most = np.array([100, 100, 100])
    assert tuple(quotas.counts(np.array(wanted), keep, least, most)) == expected
