"""How figures look: type sizes, the style of each kind, the legend.

Kinds differ in colour (Okabe & Ito's palette for the colour-blind), line style,
marker and hatching, so that a grey print can be read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from tf_lottery.reporting.results import Document

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


_STYLES = {
    "dense": Style("#333333", (0, (6, 2)), "s", ""),
    "boosting": Style("#D55E00", "-", "o", "////"),
    "winning": Style("#0072B2", (0, (7, 2, 1.5, 2)), "^", "...."),
    "reinit": Style("#009E73", (0, (1.2, 1.6)), "D", "\\\\\\\\"),
    "random_mask": Style("#CC79A7", (0, (4, 1.5, 1, 1.5, 1, 1.5)), "v", "xxxx"),
}


def styles(document: Document) -> dict[str, Style]:
    """Row name -> style. A second row of a kind gets a lighter shade and its own marker."""
    seen: dict[str, int] = {}
    result = {}
    for row in document["rows"]:
        index = seen.get(row["kind"], 0)
        seen[row["kind"]] = index + 1
        style = _STYLES[row["kind"]]
        if index:
            shade = np.asarray(to_rgb(style.color))
            lighter = tuple(1 - (1 - shade) * max(0.35, 0.72**index))
            style = style._replace(color=lighter, marker="PX*hp8<>"[(index - 1) % 8])
        result[row["name"]] = style
    return result


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Runs ``draw`` under our type sizes and colours, whatever the user's own are."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with mpl.rc_context(_RC):
            return draw(*args, **kwargs)

    return wrapper


def legend(figure: Figure, axes: Iterable[Axes], last: str | None = None) -> None:
    """One legend above all panels, in as few rows as fit; the entry ``last`` at its end."""
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if last in entries:
        entries[last] = entries.pop(last)
    if entries:
        labels = [short(label, 36) for label in entries]
        inches = sum(0.75 + 0.085 * len(label) for label in labels)
        columns = math.ceil(len(labels) / math.ceil(inches / (WIDTH - 0.2)))
        figure.legend(
            entries.values(), labels, loc="outside upper center", ncols=columns, handlelength=3.2
        )


def tint(color: Any) -> tuple[float, ...]:
    """The colour mixed with white, so that hatching in the colour itself shows."""
    return tuple(0.45 + 0.55 * np.asarray(to_rgb(color)))


def short(text: str, length: int) -> str:
    """One line of at most ``length`` characters."""
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[: length - 1] + "…"
