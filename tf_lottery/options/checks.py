"""Checks of single settings, with messages that name the flag."""

from __future__ import annotations

import math

from tf_lottery.errors import UsageError


def choice(flag: str, value: str, choices) -> None:
    """Raises ``UsageError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise UsageError.unknown(flag, value, choices)


def some_of(flag: str, values, choices) -> None:
    """Raises ``UsageError`` unless ``values`` are one or more of ``choices``, each once."""
    if not values:
        raise UsageError.bad_value(flag, "", f"some of {', '.join(choices)}")
    for value in values:
        choice(flag, value, choices)
    if len(set(values)) != len(values):
        raise UsageError.bad_value(flag, ",".join(values), "each of them once")


def at_least(flag: str, value: float, low: float) -> None:
    """Raises ``UsageError`` unless ``value`` is finite and ``low`` or more."""
    if not low <= value < math.inf:  # an int may be larger than any float
        raise UsageError.bad_value(flag, value, f"{low:g} or more")


def positive(flag: str, value: float) -> None:
    """Raises ``UsageError`` unless ``value`` is finite and above 0."""
    if not 0 < value < math.inf:
        raise UsageError.bad_value(flag, value, "more than 0")
