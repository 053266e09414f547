"""Numbers as a reader wants them: percent, SI prefixes, seconds."""

from __future__ import annotations

import math
from typing import Any

from tf_lottery.statistics import wilson

_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
NONE = "–"


def percent(share: float | None) -> str:
    """``0.8234`` -> ``82.3``; ``None`` -> a dash."""
    return NONE if share is None else f"{100 * share:.1f}"


def interval(accuracy: float, examples: int) -> str:
    """95 % Wilson interval in percent, such as ``78.1–85.9``."""
    low, high = wilson(accuracy, examples)
    return f"{100 * low:.1f}–{100 * high:.1f}"


def ratio(value: float | None) -> str:
    """``1.2634`` -> ``1.26``; ``None`` -> a dash."""
    return NONE if value is None else f"{value:.2f}"


def epochs(value: float | None) -> str:
    """A possibly fractional number of epochs, ``5.2``; ``None`` -> ``never``."""
    return "never" if value is None else f"{value:.1f}".removesuffix(".0")


def seconds(value: float | None) -> str:
    """Seconds with a decimal below 100 and thousands separators above."""
    if value is None:
        return NONE
    return f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def si(value: float, unit: str = "") -> str:
    """Three significant digits with an SI prefix: ``si(1.234e12, "FLOP")`` -> ``1.23 TFLOP``."""
    power = 0
    while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    if power == 0 and float(value).is_integer():
        digits = f"{value:.0f}"
    else:
        digits = f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"
    return f"{digits} {_PREFIXES[power]}{unit}".rstrip()


def tick(value: float, _: float = 0) -> str:
    """A number at an axis: ``1,200``, ``0.5``."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def pixels(eps: float) -> str:
    """A radius on [0, 1] pixels: ``8/255`` where it is whole grey levels, else ``0.3``."""
    levels = eps * 255
    if eps and abs(levels - round(levels)) < 1e-3:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def length(value: float, norm: str) -> str:
    """A length on [0, 1] pixels: ``8/255`` in l_inf, a bare ``0.5`` in l_2."""
    return pixels(value) if norm == "linf" else f"{value:.4g}"


def points(gap: float) -> str:
    """A difference of shares in percentage points with its sign: ``+2.5``, ``0.0``."""
    rounded = _tenths(gap)
    return f"{rounded:+.1f}" if rounded else "0.0"


def point_interval(low: float, high: float) -> str:
    """Bounds of a difference of shares, in points: ``[-5.9, 0.3]``."""
    return f"[{_tenths(low):.1f}, {_tenths(high):.1f}]"


def _tenths(share: float) -> float:
    return round(100 * share, 1) + 0.0  # + 0.0 turns -0.0 into 0.0


def p_value(p: float) -> str:
    """``0.012``, ``0.31``, ``< 0.001``; never rounded up to 0.05 from below."""
    if p < 0.001:
        return "< 0.001"
    if p < 0.05 and round(p, 3) == 0.05:
        return f"{math.floor(1e4 * p) / 1e4:.4f}"
    return f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def p_words(p: float) -> str:
    """``p = 0.31``, ``p < 0.001``."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def flatten(settings: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (``search.schedule.peak``, ``0.05``) pairs, in their order."""
    if isinstance(settings, dict) and settings:
        pairs = []
        for key, value in settings.items():
            pairs += flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return pairs
    if isinstance(settings, list) and any(isinstance(value, (dict, list)) for value in settings):
        pairs = []
        for index, value in enumerate(settings):
            pairs += flatten(value, f"{prefix}[{index}]")
        return pairs
    if isinstance(settings, list):
        return [(prefix, ", ".join(map(str, settings)) or NONE)]
    if settings is None or settings == {}:
        return [(prefix, NONE)]
    if isinstance(settings, bool):
        return [(prefix, str(settings).lower())]
    return [(prefix, f"{settings:.6g}" if isinstance(settings, float) else str(settings))]
