"""Figures of form ``epochs``: a panel a measure, a line an arm."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator

from tf_lottery.report import measures, values
from tf_lottery.report.figures import panels
from tf_lottery.report.measures import Measure
from tf_lottery.report.results import Arm, Figure, Record, Results
from tf_lottery.report.style import WIDTH, Style, styled
from tf_lottery.statistics import drawn

_EDGE = 1.035  # of the last epoch: where the paper's best and last values stand
_MARKS = 10  # about so many markers on a line
_CURVE = {"validation_natural": "natural", "validation_robust": "robust"}
_SEARCH: Any = {"color": "#8A8A8A", "lw": 1.0, "ls": (0, (3, 2)), "zorder": 1.5}


class Line(NamedTuple):
    """One arm in one panel, in the panel's unit; ``epochs`` rise."""

    epochs: list[int]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def shown_measures(document: Results, figure: Figure) -> list[Measure]:
    """The figure's measures that at least one of its arms has."""
    arms = document.drawn(figure)
    names = [arm.name for arm in arms]
    wanted = [values.resolve(document, measures.parse(word), names) for word in figure.measures]
    return [
        measure
        for measure in dict.fromkeys(wanted)
        if any(line(document, arm, measure) is not None for arm in arms)
    ]


def curve_of(records: list[Record], quantity: str) -> dict[int, float]:
    """Epoch -> value, where it was measured."""
    found = ((record.epoch, getattr(record, quantity)) for record in records)
    return {epoch: value for epoch, value in found if value is not None}


def line(document: Results, arm: Arm, measure: Measure) -> Line | None:
    """Mean over the seeds, epoch by epoch, as long as all seeds that have values have one."""
    curves = [curve_of(row.curve, measure.quantity) for row in document.runs(arm.name)]
    curves = [curve for curve in curves if curve]
    epochs = sorted(set.intersection(*map(set, curves))) if curves else []
    if not epochs:
        return None
    images = values.images(document, arm.name, measure)
    found = [drawn([curve[epoch] for curve in curves], images) for epoch in epochs]
    mean, low, high = measures.scale(measure) * np.array(found).T
    return Line(epochs, mean, low, high)


def reference_line(document: Results, arm: Arm, measure: Measure, last: int) -> Line | None:
    """The authors' own curve of the arm in the epochs up to ``last``."""
    key = _CURVE.get(measure.quantity)
    if document.reference is None or key is None or arm.reference is None:
        return None
    points = document.reference.runs.get(arm.reference, [])
    known = sorted((p.epoch, getattr(p, key)) for p in points if getattr(p, key) is not None)
    known = [(epoch, share) for epoch, share in known if epoch <= last]
    if not known:
        return None
    epochs, shares = zip(*known, strict=True)
    mean = measures.scale(measure) * np.array(shares)
    return Line(list(epochs), mean, mean, mean)


def published_points(
    document: Results, arm: Arm, measure: Measure, last: int
) -> list[tuple[float, float]]:
    """(epoch, value) of the paper's single values; its best and last ones at the right edge.

    Those that the authors' curve goes through are left out.
    """
    points = []
    curve = reference_line(document, arm, measure, last)
    drawn_epochs = [] if curve is None else curve.epochs
    for word, number in arm.published.items():
        parsed = measures.parse(word)
        if parsed.at is None or parsed.quantity not in measures.CURVES:
            continue
        if values.resolve(document, parsed, [arm.name])._replace(at=None) != measure:
            continue
        if isinstance(parsed.at, str):
            points.append((_EDGE * last, measures.scale(measure) * number))
        elif parsed.at <= last and parsed.at not in drawn_epochs:
            points.append((float(parsed.at), measures.scale(measure) * number))
    return points


def last_epoch(document: Results, figure: Figure) -> int:
    """The last epoch that any line of the figure has."""
    return max(
        found.epochs[-1]
        for arm in document.drawn(figure)
        for measure in shown_measures(document, figure)
        for found in [line(document, arm, measure)]
        if found is not None
    )


@styled
def over_epochs(document: Results, figure: Figure) -> Picture | None:
    """The figure; ``None`` where none of its measures was measured."""
    shown = shown_measures(document, figure)
    if not shown:
        return None
    arms = document.drawn(figure)
    last = last_epoch(document, figure)
    styles = panels.arm_styles(document, figure)
    picture, axes = panels.make(len(shown))
    thin = hollow = False
    for ax, measure in zip(axes, shown, strict=True):
        for arm in arms:
            style = styles[arm.name]
            found = line(document, arm, measure)
            if found is not None:
                _draw(ax, arm.name, found, style, len(arms) <= panels.BANDS)
                mark_best(ax, document, arm, found.epochs, found, style)
            theirs = reference_line(document, arm, measure, last)
            if theirs is not None:
                thin = True
                color = panels.faint(style.color)
                ax.plot(theirs.epochs, theirs.mean, color=color, ls=style.line, lw=1.0, zorder=1.5)
            points = published_points(document, arm, measure, last)
            hollow = hollow or bool(points)
            for at, value in points:
                ax.plot(
                    at, value, style.marker, ms=9, mfc="none", mec=style.color, mew=1.2,
                    zorder=4, clip_on=False,
                )  # fmt: skip
        for label, records in document.searches.items():
            known = curve_of(records, measure.quantity)
            heights = [measures.scale(measure) * value for value in known.values()]
            ax.plot(list(known), heights, label=panels.legend_name(label), **_SEARCH)
        draw_level(ax, document, measure, shown)
        panels.label(ax, figure, measure, shown, figure.x_label or "epoch")
        _epochs_axis(ax, figure, last, WIDTH / min(len(shown), 3) - 0.9)
    if thin or hollow:
        panels.paper_entry(axes[0], thin, hollow)
    return panels.finish(picture, axes)


def mark_best(
    ax: Axes, document: Results, arm: Arm, x: list[float] | list[int], found: Line, style: Style
) -> None:
    """A ring at the best epoch of the one seed, where few lines are drawn."""
    best = document.runs(arm.name)[0].best_epoch
    few = len(document.seeds) == 1 and len(document.arms) <= panels.BANDS
    if few and best in found.epochs:
        place = found.epochs.index(best)
        ax.plot(x[place], found.mean[place], "o", ms=11, mfc="none", mec=style.color, mew=1.4)


def draw_level(ax: Axes, document: Results, measure: Measure, shown: list[Measure]) -> None:
    """A thin line at the baseline's best, in the panel that decides the best epoch; where search
    and time are drawn too, which are read against it."""
    if document.baseline is None or document.is_experiment or measure != shown[-1]:
        return
    found = line(document, document.arm(document.baseline), measure)
    if found is not None:
        ax.axhline(float(found.mean.max()), color="#333333", lw=0.9, ls=(0, (1, 2)), zorder=1)


def _draw(ax: Axes, name: str, found: Line, style: Style, band: bool) -> None:
    if band and len(found.epochs) == 1:
        spread = np.array([found.mean - found.low, found.high - found.mean])
        ax.errorbar(found.epochs, found.mean, spread, fmt="none", ecolor=style.color, capsize=3)
    elif band and np.any(found.high > found.low):
        ax.fill_between(found.epochs, found.low, found.high, color=style.color, alpha=0.13, lw=0)
    draw_line(ax, name, found.epochs, found, style)


def draw_line(ax: Axes, name: str, x: list[float] | list[int], found: Line, style: Style) -> None:
    """The means over ``x``."""
    ax.plot(
        x,
        found.mean,
        color=style.color,
        ls=style.line,
        marker=style.marker,
        ms=5,
        markevery=max(1, len(found.epochs) // _MARKS),
        lw=1.8,
        label=panels.legend_name(name),
        zorder=3,
    )


def _epochs_axis(ax: Axes, figure: Figure, last: int, inches: float) -> None:
    if last == 1:
        ax.set_xlim(0.5, 1.5)
        ax.set_xticks([1])
    elif figure.log_x:
        ax.set_xscale("log")
        steps = [base * 10**power for power in range(7) for base in (1, 2, 5)]
        panels.ticks(ax, [1, *(step for step in steps if 1 < step < last), last], inches)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        ax.set_xlim(left=max(0.3, 1 - 0.04 * last))
