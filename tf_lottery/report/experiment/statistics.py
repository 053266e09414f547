"""Means over seeds and their 95 % intervals.

With two seeds or more: Student's t-interval of the mean. A comparison is paired: replicate i
of one arm minus replicate i of the other, and the t-interval of the mean of these differences.
It covers what a seed changes (initialisation, order, augmentation) and holds for the test
images at hand; it takes the seeds' values for normally distributed.

With one seed, an accuracy gets the interval over the images instead (Wilson's; of a difference
Newcombe's), other numbers get none. Accuracies that are the same in every seed, to less than
half an image, would give a t-interval of no width, which claims more than anyone knows: they
get the interval over the images, as if there were one seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

from tf_lottery.statistics import difference, wilson

Basis = Literal["seeds", "images", "identical", "counted", "none"]


class Estimate(NamedTuple):
    """A mean and its interval.

    Attributes:
      mean: over the seeds.
      low, high: bounds at 95 %; ``None`` where there is no interval.
      seeds: how many values it is the mean of.
      basis: what the interval covers: ``seeds``; ``images``; ``identical`` (the images too,
        as all seeds agree); ``counted`` (a number that no seed can change, of no width);
        ``none``.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    basis: Basis

    def minus(self, value: float) -> Estimate:
        """The same for the difference to a constant."""
        if self.low is None or self.high is None:
            return self._replace(mean=self.mean - value)
        return self._replace(mean=self.mean - value, low=self.low - value, high=self.high - value)


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % t-interval of the mean of two values or more.

    Example:
      >>> round(half_width([1.0, 2.0, 3.0]), 4)  # 4.3027 * 1 / sqrt(3)
      2.4841
    """
    count = len(values)
    return float(stdtrit(count - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(count)


def estimate(values: Sequence[float], images: int | None = None, counted: bool = False) -> Estimate:
    """The mean of one value a seed.

    Args:
      values: at least one.
      images: of an accuracy, how many it was measured on.
      counted: the settings alone decide the value.
    """
    mean = float(np.mean(values))
    agree = _agree(values, images)
    if not agree:
        return _t_interval(values, (0.0, 1.0) if images else None)
    if images:
        return Estimate(mean, *wilson(min(max(mean, 0.0), 1.0), images), *_one(values))
    return _point(values, mean, counted)


def paired(
    ours: Sequence[float],
    theirs: Sequence[float],
    images: tuple[int, int] | None = None,
    counted: bool = False,
) -> Estimate:
    """The mean of ``ours - theirs``, seed by seed.

    Args:
      ours: one value a seed.
      theirs: of the same seeds, in the same order.
      images: of accuracies, how many each arm's were measured on.
      counted: the settings alone decide the values.
    """
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    if not _agree(gaps, min(images) if images else None):
        return _t_interval(gaps, (-1.0, 1.0) if images else None)
    if images:
        mine, other = float(np.mean(ours)), float(np.mean(theirs))
        return Estimate(*difference(mine, images[0], other, images[1]), *_one(gaps))
    return _point(gaps, float(np.mean(gaps)), counted)


def _agree(values: Sequence[float], images: int | None) -> bool:
    spread = max(values) - min(values)
    return spread <= (0.5 / images if images else 1e-12 * max(map(abs, values)))


def _t_interval(values: Sequence[float], bounds: tuple[float, float] | None) -> Estimate:
    mean, half = float(np.mean(values)), half_width(values)
    low, high = mean - half, mean + half
    if bounds:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Estimate(mean, low, high, len(values), "seeds")


def _one(values: Sequence[float]) -> tuple[int, Basis]:
    return len(values), "images" if len(values) == 1 else "identical"


def _point(values: Sequence[float], mean: float, counted: bool) -> Estimate:
    """Numbers other than accuracies that do not differ: known as well as they can be if
    counted; else, such as a best epoch, their agreement in a few seeds says nothing of how far
    another seed may be off."""
    if counted:
        return Estimate(mean, mean, mean, len(values), "counted")
    return Estimate(mean, None, None, len(values), "none")


def basis_words(found: Estimate) -> str:
    """What the interval covers: ``3 seeds``, ``1 seed, interval over the images only``."""
    seeds = count(found.seeds, "seed")
    return {
        "seeds": seeds,
        "images": f"{seeds}, interval over the images only",
        "identical": f"{seeds} with identical values, interval over the images only",
        "counted": "counted, the same for any seed",
        "none": f"{seeds}, no interval",
    }[found.basis]


def count(number: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def drawn(values: Sequence[float], images: int | None = None) -> tuple[float, float, float]:
    """(mean, low, high) as figures show them: of two values the values themselves, of which a
    t-interval would be many times as wide as they are apart; of one number without an interval
    the number."""
    found = estimate(values, images)
    if found.basis == "seeds" and len(values) == 2:
        return found.mean, min(values), max(values)
    if found.low is None or found.high is None:
        return found.mean, found.mean, found.mean
    return found.mean, found.low, found.high
