import math

import pytest

from tf_lottery.report.formats import flatten, interval, percent, pixels, ratio, seconds, si
from tf_lottery.statistics import difference, wilson


def _wilson_by_root(share, n):
    """The shares p with (share - p)^2 = z^2 p (1 - p) / n, by the quadratic formula."""
    z2 = 1.959963984540054**2
    a, b, c = 1 + z2 / n, -(2 * share + z2 / n), share**2
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (50, 100), (241, 360), (360, 360)])
def test_wilson_solves_the_score_equation(hits, n):
    assert wilson(hits / n, n) == pytest.approx(_wilson_by_root(hits / n, n), abs=1e-12)


def test_wilson_known_values():
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    low, high = wilson(1.0, 10)
    assert high == 1.0
    assert low == pytest.approx(1 - 0.2775, abs=1e-4)


@pytest.mark.parametrize(("share", "n"), [(0.5, 0), (-0.1, 10), (1.1, 10)])
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


def test_numbers_as_text():
    assert (percent(0.8234), percent(None)) == ("82.3", "–")
    assert (ratio(1.2634), ratio(None)) == ("1.26", "–")
    assert [seconds(v) for v in (0.04, 99.94, 99.96, 134764.2)] == ["0.0", "99.9", "100", "134,764"]
    assert [si(v) for v in (0, 12, 999, 1000, 25140, 999_600)] == [
        "0", "12", "999", "1.00 k", "25.1 k", "1.00 M"
    ]  # fmt: skip
    assert si(1.234e12, "FLOP") == "1.23 TFLOP"
    assert [pixels(v) for v in (8 / 255, 0.3, 0.0, 0.1)] == ["8/255", "0.3", "0", "0.1"]
    assert interval(0.5, 100) == "40.4–59.6"


def test_settings_are_flattened_in_order():
    nested = {
        "b": {"x": 1, "y": [1, 2]},
        "a": None,
        "l": [{"n": "fgsm"}, {"n": "cw"}],
        "t": True,
        "e": {},
    }
    assert flatten(nested) == [
        ("b.x", "1"), ("b.y", "1, 2"), ("a", "–"),
        ("l[0].n", "fgsm"), ("l[1].n", "cw"), ("t", "true"), ("e", "–"),
    ]  # fmt: skip
