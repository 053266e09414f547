"""What the figures share: panels, styles of arms, the paper's values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Picture
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullLocator

from tf_lottery.report import measures
from tf_lottery.report.measures import Measure
from tf_lottery.report.results import Figure, Results
from tf_lottery.report.style import MARKERS, WIDTH, Style, legend, line_styles, short, visible
from tf_lottery.report.text import printable

PAPER = "paper (full scale)"  # its entry in a legend
BANDS = 6  # more of them hide each other
_NAME = 36  # characters of a name in a legend
_ROW = 3.5  # inches of a row of panels
_LEGEND_ROW = 0.23  # inches


def make(count: int) -> tuple[Picture, list[Axes]]:
    """A figure of ``count`` panels: up to three side by side, more in rows of two."""
    columns = count if count <= 3 else 2
    rows = math.ceil(count / columns)
    height = 4.1 if count == 1 else _ROW * rows + 0.2
    layout = ConstrainedLayoutEngine(w_pad=0.06, wspace=0.02)
    picture = Picture(figsize=(WIDTH, height), layout=layout)
    axes = list(picture.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.remove()
    return picture, axes[:count]


def finish(picture: Picture, axes: Sequence[Axes]) -> Picture:
    """Legend above the panels, which keep their height however long it is."""
    for ax in axes:
        if ax.get_autoscaley_on():
            ax.margins(y=0.07)
    rows = legend(picture, axes, last=PAPER)
    picture.set_figheight(picture.get_figheight() + _LEGEND_ROW * rows)
    return picture


def label(ax: Axes, figure: Figure, measure: Measure, shown: Iterable[Measure], x: str) -> None:
    """Title and axis labels; the figure's own ``y_label`` where it fits all panels."""
    words = measures.words(measure)
    units = {(other.unit, other.quantity == "distance") for other in shown}
    own = figure.y_label if len(units) == 1 else ""
    title = words[:1].upper() + words[1:]
    panels = len(ax.figure.axes)
    room = 84 if panels == 1 else 42 if panels != 3 else 28  # characters
    ax.set_title(_wrapped(title, room))
    ax.set(xlabel=short(x, room), ylabel=short(own or measures.axis(measure), 44))
    if measure.unit in ("accuracy", "share"):
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -3.0), min(high, 103.0))


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def arm_styles(document: Results, figure: Figure | None = None) -> dict[str, Style]:
    """Arm -> style: the same in all figures, unless there are too many arms for that."""
    few = figure is None or len(document.arms) <= len(MARKERS)
    arms = document.arms if few or figure is None else document.drawn(figure)
    return line_styles([(arm.name, arm.kind) for arm in arms])


def legend_name(name: str) -> str:
    """A line's entry in the legend. Long names lose their middle: arms differ in their ends."""
    name = printable(name)
    if len(name) > _NAME:
        name = f"{name[: _NAME // 2 - 1]}…{name[-_NAME // 2 :]}"
    return visible(name)


def faint(color: Any) -> tuple[float, ...]:
    """The colour mixed with grey, for what is not ours."""
    return tuple(0.45 * np.asarray(to_rgb(color)) + 0.55 * 0.68)


def paper_entry(ax: Axes, line: bool, marker: bool) -> None:
    """The legend's entry for what is the paper's: a thin line, a hollow marker, or both."""
    ax.plot(
        [],
        [],
        color="#8A8A8A",
        lw=1.0,
        ls="-" if line else "none",
        marker="o" if marker else "",
        ms=6,
        mfc="white",
        mec="#8A8A8A",
        label=PAPER,
    )


def ticks(ax: Axes, values: Iterable[float], inches: float) -> None:
    """Ticks at ``values`` as far as their labels do not run into each other.

    Args:
      ax: with its scale and limits set.
      values: at least one.
      inches: about how wide the axes are.
    """
    ordered = sorted(set(values))
    places = ax.transAxes.inverted().transform(
        ax.transData.transform([(value, ax.get_ylim()[0]) for value in ordered])
    )[:, 0]
    widest = max(len(f"{value:g}") for value in ordered)
    gap = (0.1 + 0.085 * widest) / inches
    kept = [0]
    for i in range(1, len(ordered) - 1):
        if places[i] - places[kept[-1]] >= gap and places[-1] - places[i] >= gap:
            kept.append(i)
    if len(ordered) > 1:
        kept.append(len(ordered) - 1)
    ax.xaxis.set_major_locator(FixedLocator([ordered[i] for i in kept]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}" if value < 1e6 else f"{value:.3g}")
