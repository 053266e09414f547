"""Sparsity after each round."""

import numpy as np
import pytest

from tf_lottery.options.settings import PruneConfig
from tf_lottery.pruning import sparsities


def test_one_shot():
    assert sparsities(PruneConfig(0.8)) == [0.8]


@pytest.mark.parametrize("schedule", ["one_shot", "geometric", "decreasing"])
def test_no_pruning(schedule):
    assert sparsities(PruneConfig(0.0, schedule=schedule)) == [0.0]


def test_geometric_by_hand():
    found = sparsities(PruneConfig(0.8, schedule="geometric"))
    # 0.8**7 = 0.2097 of the weights are left before the round that ends at 0.2.
    np.testing.assert_allclose(found, [0.2, 0.36, 0.488, 0.5904, 0.67232, 0.737856, 0.7902848, 0.8])
    assert found[-1] == 0.8
    assert sparsities(PruneConfig(0.1, schedule="geometric")) == [0.1]


@pytest.mark.parametrize("rounds", range(1, 15))
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_geometric_takes_no_round_too_many(rounds, fraction):
    """A target that a whole number of rounds reaches, in every form of its rounding."""
    target = 1 - (1 - fraction) ** rounds
    for t in (target, round(target, 12), np.nextafter(target, 0), np.nextafter(target, 1)):
        found = sparsities(PruneConfig(float(t), schedule="geometric", round_fraction=fraction))
        assert len(found) == rounds
        assert found[-1] == t


def test_decreasing_by_hand():
    found = sparsities(PruneConfig(0.8, schedule="decreasing", rounds=10))
    # n / (n + 10) = 1/2, so round i ends at 1.6 * i / (i + 10).
    np.testing.assert_allclose(found, [1.6 * i / (i + 10) for i in range(1, 11)])
    np.testing.assert_allclose(found[:2], [0.145454545, 0.266666667])
    assert sparsities(PruneConfig(0.8, schedule="decreasing", rounds=1)) == [0.8]


@pytest.mark.parametrize("schedule", ["geometric", "decreasing"])
@pytest.mark.parametrize("target", [0.01, 0.18, 0.5, 0.8, 0.98, 0.999])
def test_each_round_is_sparser(schedule, target):
    for rounds, fraction in ((1, 0.05), (3, 0.2), (20, 0.9)):
        found = sparsities(
            PruneConfig(target, schedule=schedule, rounds=rounds, round_fraction=fraction)
        )
        assert np.all(np.diff([0, *found]) > 0)
        assert found[-1] == target
        if schedule == "decreasing":
            assert len(found) == rounds
            assert np.all(np.diff(np.diff([0, *found])) < 0)  # smaller and smaller steps
        else:
            left = 1 - np.array([0, *found])
            shares = 1 - left[1:] / left[:-1]
            np.testing.assert_allclose(shares[:-1], fraction)
            assert shares[-1] <= fraction + 1e-9
