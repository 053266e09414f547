"""95 % intervals of accuracies measured on a limited number of test images.

They cover one source of noise, the draw of the test images. They do not cover
the seed (initialisation, order of the data), which needs more than one run.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson(accuracy: float, examples: int) -> tuple[float, float]:
    """Wilson score interval of a binomial share (Wilson 1927).

    Unlike accuracy +- 1.96 standard errors it stays inside [0, 1] and does not
    shrink to a point at 0 % or 100 %, where weak models under strong attacks are.

    Args:
      accuracy: share of hits, in [0, 1].
      examples: number of images, at least 1.

    Returns:
      (low, high), shares in [0, 1].

    Example:
      >>> [round(bound, 4) for bound in wilson(0.5, 100)]
      [0.4038, 0.5962]
    """
    if examples < 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"no interval for accuracy {accuracy!r} on {examples!r} examples")
    scale = 1 + Z95**2 / examples
    middle = (accuracy + Z95**2 / (2 * examples)) / scale
    variance = accuracy * (1 - accuracy) / examples + Z95**2 / (4 * examples**2)
    half = Z95 * math.sqrt(variance) / scale
    # Rounding must not put the bound on the wrong side of the estimate at 0 and 1.
    return max(0.0, min(middle - half, accuracy)), min(1.0, max(middle + half, accuracy))


def difference(
    ours: float, our_examples: int, theirs: float, their_examples: int
) -> tuple[float, float, float]:
    """``ours - theirs`` with its interval for two independent samples.

    Newcombe 1998, method 10: the two Wilson intervals combined. Two models tested
    on the same images are a paired sample; their errors mostly coincide, so that
    this interval is then, if anything, too wide. Where it is known which images
    each gets right, ``compare`` is sharper.

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

    Given the m = only_a + only_b images on which exactly one of the two is right, each is
    as likely to be the one: only_a is binomial (m, 1/2), and p = 2 P(X <= min), at most 1.
    Without such an image p is 1. Conservative: it errs on the side of claiming nothing.

    Example:
      >>> round(mcnemar(1, 7), 4)
      0.0703
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"no counts: {only_a!r}, {only_b!r}")
    trials = int(only_a) + int(only_b)
    # Whole numbers: exact, and no float overflows at 2**1024.
    term = total = 1
    for hits in range(min(int(only_a), int(only_b))):
        term = term * (trials - hits) // (hits + 1)
        total += term
    return min(1.0, 2 * total / 2**trials)


def compare(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, Any]:
    """Two models on the same images, as an entry of an evaluation's ``pairs``.

    Args:
      right_a: bool (n,), whether ``a`` classifies each image correctly.
      right_b: the same of ``b``, images in the same order.

    Returns:
      ``examples``, ``difference`` (a minus b, a share), its 95 % bounds ``low`` and
      ``high``, the counts ``only_a`` and ``only_b``, and McNemar's ``p``.
    """
    right_a, right_b = np.asarray(right_a), np.asarray(right_b)
    if right_a.dtype != bool or right_b.dtype != bool:
        raise ValueError(f"need bool arrays, got {right_a.dtype} and {right_b.dtype}")
    if right_a.ndim != 1 or right_a.shape != right_b.shape:
        raise ValueError(f"need two equally long rows, got {right_a.shape} and {right_b.shape}")
    only_a = int(np.sum(right_a & ~right_b))
    only_b = int(np.sum(right_b & ~right_a))
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
