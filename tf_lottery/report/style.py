"""How figures look: type sizes, the style of each kind, the legend.

Kinds differ in colour (Okabe & Ito's palette for the colour-blind), line style,
marker and hatching, so that a grey print can be read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from tf_lottery.report.text import printable

WIDTH = 9.0  # inches

_RC: Any = {
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "hatch.linewidth": 0.7,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a "$" in a class name is a dollar
}


class Style(NamedTuple):
    """How one model is drawn everywhere."""

    color: Any
    line: Any
    marker: str
    hatch: str


KIND_STYLES = {
    "dense": Style("#333333", (0, (6, 2)), "s", ""),
    "dense_twin": Style("#7A5195", (0, (3, 1, 1, 1)), "P", "----"),
    "boosting": Style("#D55E00", "-", "o", "////"),
    "winning": Style("#0072B2", (0, (7, 2, 1.5, 2)), "^", "...."),
    "reinit": Style("#009E73", (0, (1.2, 1.6)), "D", "\\\\\\\\"),
    "random_mask": Style("#CC79A7", (0, (4, 1.5, 1, 1.5, 1, 1.5)), "v", "xxxx"),
    "flying_bird": Style("#56B4E9", (0, (9, 1.5)), "P", "----"),
}


# Without yellow, which white paper swallows; three cycles of different lengths,
# so that no two of a dozen series look the same.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
_LINES: Any = (
    "-",
    (0, (6, 2)),
    (0, (1.2, 1.6)),
    (0, (7, 2, 1.5, 2)),
    (0, (4, 1.5, 1, 1.5, 1, 1.5)),
)
MARKERS = "os^DvPX*hp<>"
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oo")


def series(names: Iterable[str]) -> dict[str, Style]:
    """Name -> style, in order; for models that are of no ``kind``."""
    return {
        name: Style(
            _COLORS[i % len(_COLORS)],
            _LINES[i % len(_LINES)],
            MARKERS[i % len(MARKERS)],
            _HATCHES[i % len(_HATCHES)],
        )
        for i, name in enumerate(names)
    }


_DENSE_COLOR_AT = 6  # place in the palette of ``series`` that the dense network has


def line_styles(lines: Sequence[tuple[str, str | None]]) -> dict[str, Style]:
    """Name -> style.

    Args:
      lines: (name, kind) pairs; the kind is ``None`` where a line is of several.
    """
    kinds = [kind for _, kind in lines]
    if len(set(kinds)) == len(kinds) and all(kind in KIND_STYLES for kind in kinds):
        return {name: KIND_STYLES[str(kind)] for name, kind in lines}
    # A lighter shade of a kind's colour is hard to tell from it: each line gets a colour of
    # its own, but for the one dense network, which looks the same in all figures.
    dense = [name for name, kind in lines if kind == "dense"]
    if len(dense) != 1:
        return series(name for name, _ in lines)
    others = [name for name, kind in lines if kind != "dense"]
    places = [*others[:_DENSE_COLOR_AT], "", *others[_DENSE_COLOR_AT:]]
    keyed = series(places)
    keyed.pop("")
    return {dense[0]: KIND_STYLES["dense"]} | keyed


def readable(background: Any) -> str:
    """Black or white, whichever contrasts more with ``background`` (WCAG 2.1 luminance)."""
    channels = np.asarray(to_rgb(background))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    # (luminance + 0.05) / 0.05 against 1.05 / (luminance + 0.05)
    return "black" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "white"


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Runs ``draw`` under our type sizes and colours, whatever the user's own are."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with mpl.rc_context(_RC):
            return draw(*args, **kwargs)

    return wrapper


def legend(figure: Figure, axes: Iterable[Axes], last: str | None = None) -> int:
    """One legend above all panels, in as few rows as fit; the entry ``last`` at its end.

    Returns:
      The number of its rows.
    """
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if last in entries:
        entries[last] = entries.pop(last)
    if entries:
        labels = [short(label, 36) for label in entries]
        inches = [0.75 + 0.085 * len(label) for label in labels]
        rows = math.ceil(sum(inches) / (WIDTH - 0.2))
        columns = math.ceil(len(labels) / rows)
        if rows > 1:  # a column is as wide as its longest label
            columns = min(columns, max(1, int((WIDTH - 0.2) / max(inches))))
        figure.legend(
            entries.values(), labels, loc="outside upper center", ncols=columns, handlelength=3.2
        )
        return math.ceil(len(labels) / columns)
    return 0


def visible(label: str) -> str:
    """The label, also where it begins with the underscore that matplotlib takes for "hide"."""
    return f"\N{ZERO WIDTH SPACE}{label}" if label.startswith("_") else label


def tint(color: Any) -> tuple[float, ...]:
    """The colour mixed with white, so that hatching in the colour itself shows."""
    return tuple(0.45 + 0.55 * np.asarray(to_rgb(color)))


def short(text: str, length: int) -> str:
    """One line of at most ``length`` printable characters."""
    text = printable(text)
    return text if len(text) <= length else text[: length - 1] + "…"
