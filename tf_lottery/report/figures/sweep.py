"""Figures of form ``sweep``: a panel a measure, a line a series over the swept setting."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.transforms import ScaledTranslation

from tf_lottery.report import measures, values
from tf_lottery.report.figures import panels
from tf_lottery.report.measures import Measure
from tf_lottery.report.results import Arm, Figure, Results
from tf_lottery.report.style import WIDTH, Style, line_styles, styled
from tf_lottery.statistics import drawn

_APART = 3.0  # typographic points between the error bars of two series


class Point(NamedTuple):
    """One arm in one panel, in the panel's unit; ``paper``: the published value or ``None``."""

    x: float
    mean: float | None
    low: float
    high: float
    paper: float | None


def shown_measures(document: Results, figure: Figure) -> list[Measure]:
    """The figure's measures that at least one of its arms has."""
    names = [arm.name for arm in document.drawn(figure)]
    wanted = [values.resolve(document, measures.parse(word), names) for word in figure.measures]
    rows = [row for name in names for row in document.runs(name)]
    return [
        measure
        for measure in dict.fromkeys(wanted)
        if any(values.value(row, measure) is not None for row in rows)
    ]


def lines(document: Results, figure: Figure, measure: Measure) -> dict[str, list[Point]]:
    """Series -> its points, x rising; arms without x are left out."""
    found: dict[str, list[Point]] = {}
    for arm in document.drawn(figure):
        if arm.x is not None:
            found.setdefault(arm.series, []).append(_point(document, arm, measure, arm.x))
    return {name: sorted(points, key=lambda point: point.x) for name, points in found.items()}


def levels(document: Results, figure: Figure, measure: Measure) -> dict[str, Point]:
    """Arm -> its value, of arms without x: levels across the panel."""
    return {
        arm.name: _point(document, arm, measure, float("nan"))
        for arm in document.drawn(figure)
        if arm.x is None
    }


def _point(document: Results, arm: Arm, measure: Measure, x: float) -> Point:
    scale = measures.scale(measure)
    known = [v for r in document.runs(arm.name) if (v := values.value(r, measure)) is not None]
    paper = values.published(document, arm, measure, [arm.name])
    paper = None if paper is None else scale * paper
    if not known:
        return Point(x, None, 0.0, 0.0, paper)
    mean, low, high = drawn(known, values.images(document, arm.name, measure))
    return Point(x, scale * mean, scale * low, scale * high, paper)


@styled
def over_sweep(document: Results, figure: Figure) -> Picture | None:
    """The figure; ``None`` where none of its measures was measured or no arm has an x."""
    shown = shown_measures(document, figure)
    if not shown or not lines(document, figure, shown[0]):
        return None
    styles = _styles(document, figure)
    sweep = document.study.sweep
    picture, axes = panels.make(len(shown))
    thin = False
    for ax, measure in zip(axes, shown, strict=True):
        series = lines(document, figure, measure)
        for i, (name, points) in enumerate(series.items()):
            _draw(ax, name, points, styles[name], _APART * (i - (len(series) - 1) / 2))
            thin = _draw_paper(ax, points, styles[name]) or thin
        for name, level in levels(document, figure, measure).items():
            _draw_level(ax, name, level, styles[name])
        panels.label(ax, figure, measure, shown, figure.x_label or (sweep.label if sweep else ""))
        xs = [point.x for points in series.values() for point in points]
        _x_axis(ax, figure, xs, WIDTH / min(len(shown), 3) - 0.9)
    if thin:
        panels.paper_entry(axes[0], line=True, marker=True)
    return panels.finish(picture, axes)


def _styles(document: Results, figure: Figure) -> dict[str, Style]:
    """Of the series, then of the arms that are levels."""
    kinds: dict[str, set[str]] = {}
    for arm in document.drawn(figure):
        kinds.setdefault(arm.name if arm.x is None else arm.series, set()).add(arm.kind)
    return line_styles(
        [(name, next(iter(found)) if len(found) == 1 else None) for name, found in kinds.items()]
    )


def _draw(ax: Axes, name: str, points: list[Point], style: Style, aside: float) -> None:
    """One series, ``aside`` points beside its place, so that bars do not hide each other."""
    known = [(p.x, p.mean, p.low, p.high) for p in points if p.mean is not None]
    if not known:
        return
    x, mean, low, high = np.array(known, float).T
    # The axes do not see where a shifted line ends.
    ax.update_datalim(np.column_stack([np.tile(x, 2), np.concatenate([low, high])]))
    ax.errorbar(
        x,
        mean,
        np.array([mean - low, high - mean]),
        transform=ax.transData + ScaledTranslation(aside / 72, 0, ax.figure.dpi_scale_trans),
        color=style.color,
        ls=style.line,
        marker=style.marker,
        ms=5.5,
        lw=1.8,
        elinewidth=1.1,
        capsize=2.5,
        label=panels.legend_name(name),
        zorder=3,
    )


def _draw_paper(ax: Axes, points: list[Point], style: Style) -> bool:
    known = [(point.x, point.paper) for point in points if point.paper is not None]
    if not known:
        return False
    x, values = np.array(known, float).T
    color = panels.faint(style.color)
    ax.plot(
        x, values, color=color, ls=style.line, lw=1.0, marker=style.marker, ms=6.5,
        mfc="white", mec=color, mew=1.2, zorder=2,
    )  # fmt: skip
    return True


def _draw_level(ax: Axes, name: str, level: Point, style: Style) -> None:
    if level.mean is None:
        return
    ax.axhline(
        level.mean,
        color=style.color,
        ls=style.line,
        lw=1.4,
        label=panels.legend_name(name),
        zorder=2,
    )
    if level.high > level.low:
        ax.axhspan(level.low, level.high, color=style.color, alpha=0.1, lw=0, zorder=1)


def _x_axis(ax: Axes, figure: Figure, xs: list[float], inches: float) -> None:
    positive = [x for x in xs if x > 0]
    if figure.log_x and positive:
        if len(positive) == len(xs):
            ax.set_xscale("log")
        else:
            ax.set_xscale("symlog", linthresh=min(positive))
    if len(set(xs)) == 1:
        ax.set_xlim(*((0.5 * xs[0], 2 * xs[0]) if xs[0] > 0 else (xs[0] - 1, xs[0] + 1)))
    ax.set_xlim(*ax.get_xlim())  # ticks do not move it
    panels.ticks(ax, xs, inches)
