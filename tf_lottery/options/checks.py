"""Checks of single settings, with messages that name the flag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tf_lottery.errors import UsageError
from tf_lottery.options.registry import Registry

# (flag, value) -> None; raises ``UsageError``.
Check = Callable[[str, Any], None]


def choice(flag: str, value: str, choices) -> None:
    """Raises ``UsageError`` unless ``value`` is one of ``choices``; a registry takes more."""
    if isinstance(choices, Registry):
        choices.check(flag, value)
    elif value not in choices:
        raise UsageError.unknown(flag, value, choices)


def some_of(flag: str, values, choices) -> None:
    """Raises ``UsageError`` unless ``values`` are one or more of ``choices``, each once."""
    if not values:
        raise UsageError.bad_value(flag, "", f"some of {', '.join(choices)}")
    for value in values:
        choice(flag, value, choices)
    if len(set(values)) != len(values):
        raise UsageError.bad_value(flag, ",".join(values), "each of them once")


def within(interval: str, words: str = "") -> Check:
    """Of numbers in an interval: ``[0, 1)`` holds 0 and not 1. NaN is in none."""
    low, high = map(float, interval[1:-1].split(","))

    def check(flag: str, value: float) -> None:
        # An int may be larger than any float: compared, never converted.
        above = low <= value if interval[0] == "[" else low < value
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise UsageError.bad_value(flag, value, words or f"in {interval}")

    return check


def at_least(low: float, words: str = "") -> Check:
    """Of finite numbers that are ``low`` or more."""
    return within(f"[{low}, inf)", words or f"{low:g} or more")


positive = within("(0, inf)", "more than 0")
SMALLEST_IMAGE = 4  # pixels on a side


def image_size(flag: str, size: int) -> None:
    """Of a side of images in pixels, or 0 for what it is anyway."""
    if size and size < SMALLEST_IMAGE:
        raise UsageError.bad_value(flag, size, f"{SMALLEST_IMAGE} or more, or 0 for no change")
