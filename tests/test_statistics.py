"""Intervals and tests: published values, the definitions solved another way, and coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from tf_lottery.statistics import (
    compare,
    difference,
    discordant,
    drawn,
    estimate,
    half_width,
    mcnemar,
    paired,
    paired_difference,
    wilson,
)

Z = 1.959963984540054


def score_roots(share, n):
    """The shares p with (share - p)^2 = z^2 p (1 - p) / n, by the quadratic formula."""
    a, b, c = 1 + Z**2 / n, -(2 * share + Z**2 / n), share**2
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def binomial(n, p):
    return np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


# Over the images. -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 10, 360])
def test_wilson_solves_the_score_equation(n):
    for hits in {0, 1, n // 3, n - 1, n}:
        assert wilson(hits / n, n) == pytest.approx(score_roots(hits / n, n), abs=1e-12)


def test_wilson_known_values():
    assert wilson(0.9, 100) == pytest.approx((0.8256, 0.9448), abs=5e-5)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)
    low, high = wilson(1.0, 10)
    assert (low, high) == pytest.approx((1 - 0.2775, 1.0), abs=5e-5)


@pytest.mark.parametrize(("share", "n"), [(0.5, 0), (-0.1, 10), (1.1, 10), (math.nan, 10)])
def test_wilson_refuses(share, n):
    with pytest.raises(ValueError, match="no interval"):
        wilson(share, n)


def test_difference_against_newcombes_published_table():
    # Newcombe 1998, Table II, method 10.
    assert difference(56 / 70, 70, 48 / 80, 80) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert difference(9 / 10, 10, 3 / 10, 10) == pytest.approx((0.6, 0.1705, 0.8090), abs=5e-5)
    assert difference(10 / 10, 10, 0.0, 10) == pytest.approx((1.0, 0.6075, 1.0), abs=5e-5)


def test_difference_is_antisymmetric():
    gap, low, high = difference(0.7, 360, 0.6, 180)
    assert difference(0.6, 180, 0.7, 360) == pytest.approx((-gap, -high, -low))


def test_paired_interval_against_published_output():
    # The reference implementation's documented example (R, PropCIs: b = 40, c = 20, n = 160).
    _, low, high = paired_difference(20, 40, 160)
    assert (low, high) == pytest.approx((-0.21601726, -0.03089632), abs=1e-8)


def test_paired_interval_is_walds_with_half_an_image_more_in_each_cell():
    cells = np.array([30.5, 12.5, 2.5, 16.5])  # both, only a, only b, neither
    n, p, score = cells.sum(), cells / cells.sum(), np.array([0, 1, -1, 0])
    mean = p @ score
    deviation = math.sqrt((p @ score**2 - mean**2) / n)
    gap, low, high = paired_difference(12, 2, 60)
    assert gap == pytest.approx(10 / 60)
    assert (low, high) == pytest.approx((mean - Z * deviation, mean + Z * deviation))


@pytest.mark.parametrize(("p_a", "p_b"), [(0.05, 0.05), (0.3, 0.02), (0.02, 0.001)])
def test_paired_interval_covers_the_truth(p_a, p_b):
    """Its probability to hold the true difference, over all outcomes of 60 images."""
    n, covered, total = 60, 0.0, 0.0
    for only_a, first in enumerate(binomial(n, p_a)):
        for only_b, second in enumerate(binomial(n - only_a, p_b / (1 - p_a))):
            _, low, high = paired_difference(only_a, only_b, n)
            covered += first * second * (low <= p_a - p_b <= high)
            total += first * second
    assert total == pytest.approx(1)
    assert covered >= 0.94


@pytest.mark.parametrize(
    ("only_a", "only_b", "n"), [(0, 0, 5), (5, 0, 5), (1, 0, 1), (3, 9, 400), (400, 0, 400)]
)
def test_paired_interval_is_antisymmetric_and_holds_the_difference(only_a, only_b, n):
    gap, low, high = paired_difference(only_a, only_b, n)
    assert -1 <= low <= gap <= high <= 1
    assert low < high
    assert paired_difference(only_b, only_a, n) == pytest.approx((-gap, -high, -low))


def test_pairing_narrows_the_interval_where_models_agree_on_most_images():
    for only_a, only_b in ((60, 20), (30, 30), (5, 0)):  # of 1,000, of which a gets 700 right
        theirs = (700 - only_a + only_b) / 1000
        gap, low, high = paired_difference(only_a, only_b, 1000)
        unpaired = difference(0.7, 1000, theirs, 1000)
        assert gap == pytest.approx(unpaired[0])
        assert high - low < 0.5 * (unpaired[2] - unpaired[1])


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(only_a, only_b, n):
    with pytest.raises(ValueError, match="no interval"):
        paired_difference(only_a, only_b, n)


def test_mcnemar_published_value():
    # Fagerland, Lydersen & Laake 2013, airway hyper-responsiveness: 1 and 7 discordant pairs.
    assert mcnemar(1, 7) == pytest.approx(0.0703, abs=5e-5)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 1), (4, 4), (5, 14), (57, 69), (0, 40)])
def test_mcnemar_sums_all_outcomes_that_are_no_likelier(only_a, only_b):
    trials = only_a + only_b
    counts = [math.comb(trials, k) for k in range(trials + 1)]
    p = sum(count for count in counts if count <= counts[only_a]) / 2**trials
    assert mcnemar(only_a, only_b) == pytest.approx(p, rel=1e-9)
    assert mcnemar(only_b, only_a) == pytest.approx(p, rel=1e-9)


def test_mcnemar_errs_on_the_side_of_claiming_nothing():
    for trials in (5, 20, 61):
        claims = [mcnemar(k, trials - k) < 0.05 for k in range(trials + 1)]
        assert 0 <= binomial(trials, 0.5) @ np.array(claims) <= 0.05
    assert mcnemar(0, 5) > 0.05 > mcnemar(0, 6)
    assert mcnemar(5000, 5000) == 1.0
    assert mcnemar(0, 10_000) == 0.0  # 2**-9999
    with pytest.raises(ValueError, match="no counts"):
        mcnemar(-1, 2)


def test_images_are_counted_one_by_one():
    right_a = np.array([1, 1, 1, 0, 0, 1, 1, 0], bool)
    right_b = np.array([1, 0, 0, 0, 1, 1, 0, 0], bool)
    assert discordant(right_a, right_b) == (3, 1)
    found = compare(right_a, right_b)
    assert found["difference"] == np.mean(right_a) - np.mean(right_b)
    assert (found["examples"], found["p"]) == (8, 2 * 5 / 16)
    assert (found["low"], found["high"]) == paired_difference(3, 1, 8)[1:]
    assert {type(value) for value in found.values()} == {int, float}  # JSON as it stands
    with pytest.raises(ValueError, match="bool arrays"):
        compare(np.array([0, 1]), np.array([True, False]))
    with pytest.raises(ValueError, match="equally long"):
        compare(np.array([True]), np.array([True, False]))


# Over the seeds. ------------------------------------------------------------------------


def test_t_interval_by_hand():
    # The 97.5 % quantile of Student's t: 12.7062 with 1, 4.3027 with 2 degrees of freedom.
    assert half_width([0.0, 2.0]) == pytest.approx(12.7062, rel=1e-5)
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("seeds", [2, 3, 30])
def test_t_interval_agrees_with_scipys(seeds):
    values = list(np.random.default_rng(seeds).normal(0.7, 0.02, seeds))
    found = estimate(values, 10_000)
    expected = stats.t.interval(0.95, seeds - 1, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.basis, found.seeds) == ("seeds", seeds)


def test_the_paired_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(1)
    theirs = rng.normal(0.6, 0.05, 6)
    ours = theirs + rng.normal(0.03, 0.005, 6)
    found = paired(list(ours), list(theirs), (1000, 1000))
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.low > 0  # seed by seed; unpaired it would hold 0
    assert stats.ttest_ind(ours, theirs).confidence_interval(0.95).low < 0


def test_the_mean_of_normal_seeds_is_covered_as_often_as_claimed():
    found = [estimate(list(v)) for v in np.random.default_rng(0).normal(5.0, 1.0, (2000, 3))]
    assert 0.94 < np.mean([each.low <= 5.0 <= each.high for each in found]) < 0.96


def test_one_seed_has_the_interval_over_the_images():
    found = estimate([0.8], 1000)
    assert (found.low, found.high, found.basis) == (*wilson(0.8, 1000), "images")
    gap = paired([0.8], [0.7], (1000, 500))
    assert gap[:3] == pytest.approx(difference(0.8, 1000, 0.7, 500))
    assert gap.basis == "images"


def test_one_seed_with_pairs_has_the_interval_for_matched_pairs():
    gap = paired([0.8], [0.78], (1000, 1000), discordant=[(35, 15)])
    assert gap[:3] == pytest.approx(paired_difference(35, 15, 1000))
    assert gap.basis == "pairs"
    assert gap.low > 0 > paired([0.8], [0.78], (1000, 1000)).low


def test_seeds_that_differ_count_for_more_than_pairs():
    sides = ([0.80, 0.85], [0.78, 0.78], (1000, 1000))
    assert paired(*sides, discordant=[(35, 15), (80, 10)]) == paired(*sides)


def test_identical_differences_with_pairs_have_the_widest_of_their_intervals():
    gap = paired([0.8, 0.7], [0.8, 0.7], (1000, 1000), discordant=[(2, 2), (40, 40)])
    assert gap[:3] == pytest.approx(paired_difference(40, 40, 1000))
    assert (gap.basis, gap.seeds) == ("identical", 2)


@pytest.mark.parametrize("share", [0.1, 0.0, 1.0])
def test_identical_accuracies_are_not_certain(share):
    found = estimate([share] * 3, 1000)
    assert (found.low, found.high) == pytest.approx(wilson(share, 1000))
    assert found.basis == "identical"
    gap = paired([share] * 3, [share] * 3, (1000, 1000))
    assert gap.low < 0 < gap.high


def test_a_difference_of_one_image_is_a_spread():
    assert estimate([0.500, 0.501], 1000).basis == "seeds"
    assert estimate([0.5000, 0.5004], 1000).basis == "identical"
    assert paired([0.81, 0.82], [0.80, 0.81], (1000, 1000)).basis == "identical"


@pytest.mark.parametrize("values", [[7.0], [0.0], [3.0, 3.0]])
def test_other_numbers_that_agree_have_no_interval_unless_counted(values):
    seeds = len(values)
    assert estimate(values) == (values[0], None, None, seeds, "none")
    assert paired(values, [3.0] * seeds)[1:] == (None, None, seeds, "none")
    assert estimate(values, counted=True) == (values[0],) * 3 + (seeds, "counted")
    assert estimate([*values, 9.0], counted=True).basis == "seeds"  # not the same after all


def test_bounds_of_accuracies_stay_possible():
    assert estimate([0.99, 0.90], 100).high == 1.0
    gap = paired([0.9, 0.1], [0.1, 0.2], (100, 100))
    assert (gap.low, gap.high) == (-1.0, 1.0)
    assert estimate([10.0, 20.0]).low < 0  # of no accuracy


def test_difference_to_a_constant():
    found = estimate([1.0, 2.0, 3.0]).minus(0.5)
    assert found[:3] == pytest.approx((1.5, 1.5 - 2.4841, 1.5 + 2.4841), rel=1e-4)
    assert estimate([3.0]).minus(1.0) == (2.0, None, None, 1, "none")


def test_what_figures_show():
    assert drawn([0.4, 0.6], 1000) == (0.5, 0.4, 0.6)
    assert drawn([0.4, 0.4], 1000) == (0.4, 0.4, 0.4)
    assert drawn([0.4] * 3, 1000) == pytest.approx((0.4, *wilson(0.4, 1000)))
    assert drawn([0.5], 1000) == (0.5, *wilson(0.5, 1000))
    assert drawn([7.0]) == (7.0, 7.0, 7.0)
    assert drawn([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), rel=1e-4)
