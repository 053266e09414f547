"""Intervals at 95 %, and comparisons: over test images, over seeds.

**Over the images.** An accuracy on n images gets Wilson's score interval. Two networks on the
same images are compared image by image: Agresti & Min's interval for matched pairs and McNemar's
exact test. Where it is not known which images each gets right, Newcombe's interval for two
independent samples stands in, which is if anything too wide. These intervals cover the draw of
the images alone, not what another seed (initialisation, order of the data) would change.

**Over the seeds**, of which it takes two or more: Student's t-interval of the mean. A comparison
is paired: replicate i of one arm minus replicate i of the other, and the t-interval of the mean
of these differences. It covers what a seed changes and holds for the test images at hand; it
takes the seeds' values for normally distributed. Accuracies that are the same in every seed, to
less than half an image, would give an interval of no width, which claims more than anyone knows:
they get the interval over the images, as if there were one seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution

Basis = Literal["seeds", "images", "pairs", "identical", "counted", "none"]


@functools.lru_cache(maxsize=65536)
def wilson(accuracy: float, examples: int) -> tuple[float, float]:
    """Wilson score interval of a binomial share (Wilson 1927).

    Unlike accuracy +- 1.96 standard errors it stays inside [0, 1] and does not
    shrink to a point at 0 and 1.

    Args:
      accuracy: share in [0, 1], a multiple of 1 / ``examples`` up to rounding.
      examples: number of images it is the mean over, at least 1.

    Returns:
      (low, high).

    Example:
      >>> [round(bound, 4) for bound in wilson(0.9, 100)]
      [0.8256, 0.9448]
    """
    from scipy.stats import binomtest  # takes longer to import than the rest of a command line

    if not 0 <= accuracy <= 1 or examples < 1:
        raise ValueError(f"no interval for {accuracy!r} of {examples!r} images")
    hits = min(max(round(accuracy * examples), 0), examples)
    found = binomtest(hits, examples).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


def difference(
    ours: float, our_examples: int, theirs: float, their_examples: int
) -> tuple[float, float, float]:
    """Difference of two shares with Newcombe's score interval (1998, method 10).

    It takes the two samples to be independent. Two models on the same images agree on most
    of them; for those it is if anything too wide.

    Returns:
      (difference, low, high), in [-1, 1].

    Example:
      >>> [round(value, 4) for value in difference(56 / 70, 70, 48 / 80, 80)]
      [0.2, 0.0524, 0.3339]
    """
    our_low, our_high = wilson(ours, our_examples)
    their_low, their_high = wilson(theirs, their_examples)
    gap = ours - theirs
    low = gap - math.hypot(ours - our_low, their_high - theirs)
    high = gap + math.hypot(our_high - ours, theirs - their_low)
    return gap, low, high


def paired_difference(only_a: int, only_b: int, n: int) -> tuple[float, float, float]:
    """Accuracy of ``a`` minus that of ``b`` on the same images, with its interval.

    Agresti & Min 2005, "Simple improved confidence intervals for comparing matched
    proportions": Wald's interval after half an image is added to each of the four
    cells right/wrong with a/b ("Wald+2"). With b and c the images that only one of
    the two gets right, n* = n + 2 and d* = (b - c) / n*, it is
    d* +- 1.96 sqrt(b + c + 1 - n* d*^2) / n*, cut off at -1 and 1. Unlike Newcombe's
    paired method it needs no more than the discordant counts, and unlike Wald's own
    it does not shrink to a point where the two models never differ.

    Args:
      only_a: images that ``a`` alone classifies correctly.
      only_b: images that ``b`` alone classifies correctly.
      n: all images, those included that both get right or wrong; at least 1.

    Returns:
      (difference, low, high), in [-1, 1]; the difference itself is not adjusted.

    Example:
      >>> [round(value, 4) for value in paired_difference(20, 40, 160)]
      [-0.125, -0.216, -0.0309]
    """
    if min(only_a, only_b) < 0 or n < 1 or only_a + only_b > n:
        raise ValueError(f"no interval for {only_a!r} and {only_b!r} of {n!r} images")
    gap = (only_a - only_b) / n
    size = n + 2
    middle = (only_a - only_b) / size
    half = Z95 * math.sqrt(only_a + only_b + 1 - size * middle**2) / size
    return gap, max(-1.0, min(middle - half, gap)), min(1.0, max(middle + half, gap))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of McNemar's exact test that both models are equally accurate.

    Given the images on which exactly one of the two is right, each is as likely to be the one.
    Without such an image p is 1. Conservative: it errs on the side of claiming nothing.

    Example:
      >>> round(mcnemar(1, 7), 4)
      0.0703
    """
    from scipy.stats import binomtest

    if min(only_a, only_b) < 0:
        raise ValueError(f"no counts: {only_a!r}, {only_b!r}")
    trials = int(only_a) + int(only_b)
    return float(binomtest(int(only_a), trials).pvalue) if trials else 1.0


def discordant(right_a: np.ndarray, right_b: np.ndarray) -> tuple[int, int]:
    """Images that only ``a``, and that only ``b``, classifies correctly.

    Args:
      right_a: bool (n,), whether ``a`` classifies each image correctly.
      right_b: the same of ``b``, images in the same order.
    """
    right_a, right_b = np.asarray(right_a), np.asarray(right_b)
    if right_a.dtype != bool or right_b.dtype != bool:
        raise ValueError(f"need bool arrays, got {right_a.dtype} and {right_b.dtype}")
    if right_a.ndim != 1 or right_a.shape != right_b.shape:
        raise ValueError(f"need two equally long rows, got {right_a.shape} and {right_b.shape}")
    return int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))


def compare(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, Any]:
    """Two models on the same images, as an entry of an evaluation's ``pairs``.

    Args:
      right_a, right_b: as of ``discordant``.

    Returns:
      ``examples``, ``difference`` (a minus b, a share), its 95 % bounds ``low`` and
      ``high``, the counts ``only_a`` and ``only_b``, and McNemar's ``p``.
    """
    only_a, only_b = discordant(right_a, right_b)
    gap, low, high = paired_difference(only_a, only_b, len(right_a))
    return {
        "examples": len(right_a),
        "difference": gap,
        "low": low,
        "high": high,
        "only_a": only_a,
        "only_b": only_b,
        "p": mcnemar(only_a, only_b),
    }


class Estimate(NamedTuple):
    """A mean and its interval.

    Attributes:
      mean: over the seeds.
      low, high: bounds at 95 %; ``None`` where there is no interval.
      seeds: how many values it is the mean of.
      basis: what the interval covers: ``seeds``; ``images``; ``pairs`` (the images, compared
        one by one); ``identical`` (the images too, as all seeds agree); ``counted`` (a number
        that no seed can change, of no width); ``none``.
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
    from scipy.special import stdtrit

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
    if not _agree(values, images):
        return _t_interval(values, (0.0, 1.0) if images else None)
    if images:
        return Estimate(mean, *wilson(min(max(mean, 0.0), 1.0), images), *_one(values, "images"))
    return _point(values, mean, counted)


def paired(
    ours: Sequence[float],
    theirs: Sequence[float],
    images: tuple[int, int] | None = None,
    counted: bool = False,
    discordant: Sequence[tuple[int, int]] | None = None,
) -> Estimate:
    """The mean of ``ours - theirs``, seed by seed.

    Args:
      ours: one value a seed.
      theirs: of the same seeds, in the same order.
      images: of accuracies, how many each arm's were measured on.
      counted: the settings alone decide the values.
      discordant: of accuracies on the same images, for each seed how many of them only ours and
        only theirs gets right; ``None`` where that is not known.
    """
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    if not _agree(gaps, min(images) if images else None):
        return _t_interval(gaps, (-1.0, 1.0) if images else None)
    if images and discordant:
        bounds = [paired_difference(*only, images[0]) for only in discordant]
        low, high = min(b[1] for b in bounds), max(b[2] for b in bounds)
        return Estimate(float(np.mean(gaps)), low, high, *_one(gaps, "pairs"))
    if images:
        mine, other = float(np.mean(ours)), float(np.mean(theirs))
        found = difference(mine, images[0], other, images[1])
        return Estimate(*found, *_one(gaps, "images"))
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


def _one(values: Sequence[float], basis: Basis) -> tuple[int, Basis]:
    return len(values), basis if len(values) == 1 else "identical"


def _point(values: Sequence[float], mean: float, counted: bool) -> Estimate:
    """Numbers other than accuracies that do not differ: known as well as they can be if
    counted; else, such as a best epoch, their agreement in a few seeds says nothing of how far
    another seed may be off."""
    if counted:
        return Estimate(mean, mean, mean, len(values), "counted")
    return Estimate(mean, None, None, len(values), "none")


def drawn(values: Sequence[float], images: int | None = None) -> tuple[float, float, float]:
    """(mean, low, high) as figures show them: of two values the values themselves, of which a
    t-interval would be many times as wide as they are apart; of one number without an interval
    the number."""
    found = estimate(values, images)
    if len(values) == 2:  # also where they agree: the interval over the images would stick out
        return found.mean, min(values), max(values)
    if found.low is None or found.high is None:
        return found.mean, found.mean, found.mean
    return found.mean, found.low, found.high
