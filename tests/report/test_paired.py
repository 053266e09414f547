"""Two models on the same images: the interval of their difference and McNemar's exact test."""

import math

import numpy as np
import pytest

from tf_lottery.report.formats import p_value
from tf_lottery.statistics import compare, difference, mcnemar, paired_difference

Z = 1.959963984540054


def test_interval_against_published_output():
    # The reference implementation's documented example (R, PropCIs: b = 40, c = 20, n = 160).
    _, low, high = paired_difference(20, 40, 160)
    assert (low, high) == pytest.approx((-0.21601726, -0.03089632), abs=1e-8)


def test_interval_is_walds_on_a_table_with_half_an_image_more_in_each_cell():
    both, only_a, only_b, neither = 30.5, 12.5, 2.5, 16.5
    n = both + only_a + only_b + neither
    p = np.array([both, only_a, only_b, neither]) / n
    score = np.array([0, 1, -1, 0])  # of one image
    mean = p @ score
    deviation = math.sqrt((p @ score**2 - mean**2) / n)
    gap, low, high = paired_difference(12, 2, 60)
    assert gap == pytest.approx(10 / 60)
    assert (low, high) == pytest.approx((mean - Z * deviation, mean + Z * deviation))


def _binomial(n, p):
    return np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


@pytest.mark.parametrize(("p_a", "p_b"), [(0.05, 0.05), (0.2, 0.1), (0.3, 0.02), (0.02, 0.001)])
def test_exact_coverage(p_a, p_b):
    """Probability that the interval holds the true difference, over all outcomes of 60 images."""
    n, covered, wald, total = 60, 0.0, 0.0, 0.0
    for only_a, first in enumerate(_binomial(n, p_a)):
        for only_b, second in enumerate(_binomial(n - only_a, p_b / (1 - p_a))):
            _, low, high = paired_difference(only_a, only_b, n)
            covered += first * second * (low <= p_a - p_b <= high)
            gap = (only_a - only_b) / n
            half = Z * math.sqrt(max(only_a + only_b - n * gap**2, 0)) / n
            wald += first * second * (gap - half <= p_a - p_b <= gap + half)
            total += first * second
    assert total == pytest.approx(1)
    assert covered >= 0.94
    if min(p_a, p_b) < 0.01:
        assert wald < 0.8  # what the added images are for


def test_interval_is_antisymmetric_and_contains_the_difference():
    for only_a, only_b, n in [(0, 0, 5), (5, 0, 5), (1, 0, 1), (3, 9, 400), (400, 0, 400)]:
        gap, low, high = paired_difference(only_a, only_b, n)
        assert -1 <= low <= gap <= high <= 1
        assert low < high
        assert paired_difference(only_b, only_a, n) == pytest.approx((-gap, -high, -low))


def test_pairing_narrows_the_interval():
    # 700 and 660 of 1,000 right, 80 images apart.
    gap, low, high = paired_difference(60, 20, 1000)
    other = difference(0.70, 1000, 0.66, 1000)
    assert gap == pytest.approx(other[0])
    assert low > 0 > other[1]
    assert high < other[2]


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(only_a, only_b, n):
    with pytest.raises(ValueError, match="no interval"):
        paired_difference(only_a, only_b, n)


def test_mcnemar_published_value():
    # Fagerland, Lydersen & Laake 2013, airway hyper-responsiveness: 1 and 7 discordant pairs.
    assert mcnemar(1, 7) == pytest.approx(0.0703, abs=5e-5)


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 0), (0, 1), (4, 4), (5, 14), (57, 69), (0, 40), (300, 240)]
)
def test_mcnemar_is_the_binomial_test(only_a, only_b):
    stats = pytest.importorskip("scipy.stats")
    trials = only_a + only_b
    expected = stats.binomtest(only_a, trials, 0.5).pvalue if trials else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(only_b, only_a) == mcnemar(only_a, only_b)


def test_mcnemar_of_a_whole_large_test_set():
    assert mcnemar(5000, 5000) == 1.0
    assert mcnemar(0, 10_000) == 0.0  # 2**-9999
    assert 0 < mcnemar(4900, 5100) < 0.05
    with pytest.raises(ValueError, match="no counts"):
        mcnemar(-1, 2)


def test_mcnemar_errs_on_the_side_of_claiming_nothing():
    """Under equal models at most 5 % of the outcomes give p < 0.05."""
    for trials in (5, 20, 61):
        chance = _binomial(trials, 0.5)
        claims = [mcnemar(k, trials - k) < 0.05 for k in range(trials + 1)]
        assert 0 <= chance @ np.array(claims) <= 0.05
    assert mcnemar(0, 5) > 0.05 > mcnemar(0, 6)


def test_compare_counts_image_by_image():
    right_a = np.array([1, 1, 1, 0, 0, 1, 1, 0], bool)
    right_b = np.array([1, 0, 0, 0, 1, 1, 0, 0], bool)
    found = compare(right_a, right_b)
    gap, low, high = paired_difference(3, 1, 8)
    assert found == {
        "examples": 8,
        "difference": np.mean(right_a) - np.mean(right_b),
        "low": low,
        "high": high,
        "only_a": 3,
        "only_b": 1,
        "p": 2 * 5 / 16,
    }
    assert gap == 0.25
    assert {type(value) for value in found.values()} == {int, float}  # JSON as it stands


def test_compare_refuses_what_is_not_right_or_wrong():
    with pytest.raises(ValueError, match="bool arrays"):
        compare(np.array([0, 1]), np.array([True, False]))
    with pytest.raises(ValueError, match="equally long"):
        compare(np.array([True]), np.array([True, False]))


def test_p_as_text():
    assert [p_value(p) for p in (0.0, 0.00099, 0.001, 0.0123, 0.0499, 0.05, 0.3149, 1.0)] == [
        "< 0.001", "< 0.001", "0.001", "0.012", "0.0499", "0.050", "0.31", "1.00",
    ]  # fmt: skip
