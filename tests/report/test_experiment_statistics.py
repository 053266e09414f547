import math

import numpy as np
import pytest
from scipy import stats
from tf_lottery.report.experiment.statistics import (
    basis_words,
    count,
    drawn,
    estimate,
    half_width,
    paired,
)

from tf_lottery.statistics import difference, wilson


def test_t_interval_by_hand():
    # The 97.5 % quantile of Student's t: 12.7062 with 1, 4.3027 with 2 degrees of freedom.
    assert half_width([0.0, 2.0]) == pytest.approx(12.7062 * math.sqrt(2) / math.sqrt(2), rel=1e-5)
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("seeds", [2, 3, 5, 30])
def test_t_interval_agrees_with_scipy(seeds):
    values = list(np.random.default_rng(seeds).normal(0.7, 0.02, seeds))
    found = estimate(values, 10_000)
    low, high = stats.t.interval(0.95, seeds - 1, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.basis == "seeds"
    assert found.seeds == seeds


def test_paired_interval_agrees_with_the_paired_t_test():
    rng = np.random.default_rng(1)
    theirs = rng.normal(0.6, 0.05, 6)
    ours = theirs + rng.normal(0.03, 0.005, 6)
    found = paired(list(ours), list(theirs), (1000, 1000))
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.low > 0  # unpaired it would hold 0
    low, high = stats.ttest_ind(ours, theirs).confidence_interval(0.95)
    assert low < 0 < high


def test_the_mean_of_normal_seeds_is_covered_as_often_as_claimed():
    rng = np.random.default_rng(0)
    hits = 0
    for values in rng.normal(5.0, 1.0, (4000, 3)):
        found = estimate(list(values))
        hits += found.low <= 5.0 <= found.high
    assert 0.94 < hits / 4000 < 0.96


def test_one_seed_has_the_interval_over_the_images():
    found = estimate([0.8], 1000)
    assert (found.low, found.high) == wilson(0.8, 1000)
    assert basis_words(found) == "1 seed, interval over the images only"
    gap = paired([0.8], [0.7], (1000, 500))
    assert gap[:3] == pytest.approx(difference(0.8, 1000, 0.7, 500))
    assert gap.basis == "images"


@pytest.mark.parametrize("values", [[7.0], [0.0]])
def test_one_seed_without_images_has_no_interval(values):
    found = estimate(values)
    assert found == (values[0], None, None, 1, "none")
    assert basis_words(found) == "1 seed, no interval"
    assert paired(values, [3.0]) == (values[0] - 3.0, None, None, 1, "none")


@pytest.mark.parametrize("share", [0.1, 0.0, 1.0])
def test_identical_accuracies_are_not_certain(share):
    found = estimate([share] * 3, 1000)
    assert (found.low, found.high) == pytest.approx(wilson(share, 1000))
    assert found.high - found.low > 0.003
    assert basis_words(found).startswith("3 seeds with identical values, interval over the im")
    gap = paired([share] * 3, [share] * 3, (1000, 1000))
    assert gap.low < 0 < gap.high


def test_differences_that_are_identical_are_not_certain_either():
    gap = paired([0.81, 0.82, 0.83], [0.80, 0.81, 0.82], (1000, 1000))
    assert gap.basis == "identical"
    assert gap[:3] == pytest.approx(difference(0.82, 1000, 0.81, 1000))


def test_a_difference_of_one_image_is_a_spread():
    assert estimate([0.500, 0.501], 1000).basis == "seeds"
    assert estimate([0.5000, 0.5004], 1000).basis == "identical"


def test_numbers_that_no_seed_can_change():
    assert estimate([1.46], counted=True) == (1.46, 1.46, 1.46, 1, "counted")
    assert paired([1.5, 1.5], [1.0, 1.0], counted=True) == (0.5, 0.5, 0.5, 2, "counted")
    assert basis_words(estimate([1.0], counted=True)) == "counted, the same for any seed"
    # Not the same after all.
    assert estimate([1.0, 2.0], counted=True).basis == "seeds"


def test_bounds_of_accuracies_stay_possible():
    found = estimate([0.99, 0.90], 100)
    assert 0 <= found.low < found.mean < found.high == 1.0
    gap = paired([0.9, 0.1], [0.1, 0.2], (100, 100))
    assert (gap.low, gap.high) == (-1.0, 1.0)
    assert estimate([10.0, 20.0]).low < 0  # of no accuracy


def test_difference_to_a_constant():
    found = estimate([0.5, 0.7], 1000).minus(0.5)
    assert found.mean == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(1.0)  # cut off at 0 and 1
    assert estimate([3.0]).minus(1.0) == (2.0, None, None, 1, "none")


def test_what_figures_show():
    assert drawn([0.4, 0.6], 1000) == (0.5, 0.4, 0.6)
    assert drawn([0.5], 1000) == (0.5, *wilson(0.5, 1000))
    assert drawn([7.0]) == (7.0, 7.0, 7.0)
    mean, low, high = drawn([1.0, 2.0, 3.0])
    assert (mean, high - mean, mean - low) == pytest.approx((2.0, 2.4841, 2.4841), rel=1e-4)


def test_count():
    assert [count(1, "seed"), count(1200, "stage")] == ["1 seed", "1,200 stages"]
