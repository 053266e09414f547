"""What the figures of an experiment share: panels, line styles, the paper's values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, NullLocator

from tf_lottery.report.experiment import measures
from tf_lottery.report.experiment.measures import Measure
from tf_lottery.report.style import WIDTH, Style, legend, series, short, styles, visible

PAPER = "paper (full scale)"  # its entry in a legend
BANDS = 6  # more of them hide each other
_NAME = 36  # characters of a name in a legend
_ROW = 3.5  # inches of a row of panels
_LEGEND_ROW = 0.23  # inches
_DENSE_COLOR_AT = 6  # place in the palette of ``series`` that the dense network has


def make(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels: up to three side by side, more in rows of two."""
    columns = count if count <= 3 else 2
    rows = math.ceil(count / columns)
    height = 4.1 if count == 1 else _ROW * rows + 0.2
    layout = ConstrainedLayoutEngine(w_pad=0.06, wspace=0.02)
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def finish(figure: Figure, axes: Sequence[Axes]) -> Figure:
    """Legend above the panels, which keep their height however long it is."""
    for ax in axes:
        if ax.get_autoscaley_on():
            ax.margins(y=0.07)
    rows = legend(figure, axes, last=PAPER)
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * rows)
    return figure


def label(ax: Axes, told: dict, measure: Measure, shown: Iterable[Measure], x: str) -> None:
    """Title and axis labels; the figure's own ``y_label`` where it fits all panels."""
    words = measures.words(measure)
    units = {(other.unit, other.quantity == "distance") for other in shown}
    own = told["y_label"] if len(units) == 1 else ""
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


def line_styles(lines: Sequence[tuple[str, str | None]]) -> dict[str, Style]:
    """Name -> style.

    Args:
      lines: (name, kind) pairs; the kind is ``None`` where a line is of several.
    """
    kinds = [kind for _, kind in lines]
    if None not in kinds and len(set(kinds)) == len(kinds):
        return styles({"rows": [{"name": name, "kind": kind} for name, kind in lines]})
    # A lighter shade of a kind's colour is hard to tell from it: each line gets a colour of
    # its own, but for the one dense network, which looks the same in all figures.
    dense = [name for name, kind in lines if kind == "dense"]
    if len(dense) != 1:
        return series(name for name, _ in lines)
    others = [name for name, kind in lines if kind != "dense"]
    places: list[str | None] = [*others[:_DENSE_COLOR_AT], None, *others[_DENSE_COLOR_AT:]]
    keyed: dict[Any, Style] = dict(series(places))  # type: ignore[arg-type]
    keyed.pop(None)
    return styles({"rows": [{"name": dense[0], "kind": "dense"}]}) | keyed


def legend_name(name: str) -> str:
    """A line's entry in the legend. Long names lose their middle: arms differ in their ends."""
    name = " ".join(name.split())
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
