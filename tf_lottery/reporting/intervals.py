"""95 % intervals of accuracies measured on a limited number of test images.

They cover one source of noise, the draw of the test images. They do not cover
the seed (initialisation, order of the data), which needs more than one run.
"""

from __future__ import annotations

import math

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
    this interval is then, if anything, too wide.

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
