"""Figures of form ``epochs``: a panel a measure, a line an arm."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tf_lottery.report.experiment import measures, panels
from tf_lottery.report.experiment.document import Document, drawn_arms
from tf_lottery.report.experiment.measures import Measure
from tf_lottery.report.experiment.statistics import drawn
from tf_lottery.report.style import WIDTH, Style, styled

_EDGE = 1.035  # of the last epoch: where the paper's best and last values stand
_MARKS = 10  # about so many markers on a line
_CURVE = {"validation_natural": "natural", "validation_robust": "robust"}


class Line(NamedTuple):
    """One arm in one panel, in the panel's unit; ``epochs`` rise."""

    epochs: list[int]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def shown_measures(document: Document, told: dict) -> list[Measure]:
    """The figure's measures that at least one of its arms has."""
    arms = drawn_arms(document, told)
    wanted = [measures.resolve(document, measures.parse(word), arms) for word in told["measures"]]
    return [
        measure
        for measure in dict.fromkeys(wanted)
        if any(line(document, arm, measure) is not None for arm in arms)
    ]


def line(document: Document, arm: dict, measure: Measure) -> Line | None:
    """Mean over the seeds, epoch by epoch, as long as all seeds that have values have one."""
    curves = [
        {
            record["epoch"]: record[measure.quantity]
            for record in run["curve"]
            if record[measure.quantity] is not None
        }
        for run in arm["runs"]
    ]
    curves = [curve for curve in curves if curve]
    if not curves:
        return None
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not epochs:
        return None
    images = measures.images(document, arm, measure)
    found = [drawn([curve[epoch] for curve in curves], images) for epoch in epochs]
    mean, low, high = measures.scale(measure) * np.array(found).T
    return Line(epochs, mean, low, high)


def reference_line(document: Document, arm: dict, measure: Measure, last: int) -> Line | None:
    """The authors' own curve of the arm in the epochs up to ``last``."""
    key = _CURVE.get(measure.quantity)
    if document["reference"] is None or key is None:
        return None
    records = document["reference"]["runs"].get(arm["reference"], [])
    points = sorted((r["epoch"], r[key]) for r in records if r[key] is not None)
    points = [(epoch, share) for epoch, share in points if epoch <= last]
    if not points:
        return None
    epochs, shares = zip(*points, strict=True)
    mean = measures.scale(measure) * np.array(shares)
    return Line(list(epochs), mean, mean, mean)


def published_points(
    document: Document, arm: dict, measure: Measure, last: int
) -> list[tuple[float, float]]:
    """(epoch, value) of the paper's single values; its best and last ones at the right edge.

    Those that the authors' curve goes through are left out.
    """
    points = []
    curve = reference_line(document, arm, measure, last)
    drawn_epochs = [] if curve is None else curve.epochs
    for word, number in arm["published"].items():
        parsed = measures.parse(word)
        if parsed.at is None or parsed.quantity not in measures.CURVES:
            continue
        if measures.resolve(document, parsed, [arm])._replace(at=None) != measure:
            continue
        if isinstance(parsed.at, str):
            points.append((_EDGE * last, measures.scale(measure) * number))
        elif parsed.at <= last and parsed.at not in drawn_epochs:
            points.append((float(parsed.at), measures.scale(measure) * number))
    return points


def last_epoch(document: Document, told: dict) -> int:
    """The last epoch that any line of the figure has."""
    ends = [
        found.epochs[-1]
        for arm in drawn_arms(document, told)
        for measure in shown_measures(document, told)
        for found in [line(document, arm, measure)]
        if found is not None
    ]
    return max(ends)


@styled
def over_epochs(document: Document, told: dict) -> Figure | None:
    """The figure; ``None`` where none of its measures was measured."""
    shown = shown_measures(document, told)
    if not shown:
        return None
    arms = drawn_arms(document, told)
    last = last_epoch(document, told)
    styles = _styles(document, arms)
    figure, axes = panels.make(len(shown))
    thin = hollow = False
    for ax, measure in zip(axes, shown, strict=True):
        for arm in arms:
            style = styles[arm["name"]]
            found = line(document, arm, measure)
            if found is not None:
                _draw(ax, arm["name"], found, style, len(arms) <= panels.BANDS)
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
        panels.label(ax, told, measure, shown, told["x_label"] or "epoch")
        _epochs_axis(ax, told, last, WIDTH / min(len(shown), 3) - 0.9)
    if thin or hollow:
        panels.paper_entry(axes[0], thin, hollow)
    return panels.finish(figure, axes)


def _styles(document: Document, arms: list[dict]) -> dict[str, Style]:
    """The same in all figures of a report, unless there are too many arms for that."""
    styled_arms = document["arms"] if len(document["arms"]) <= 12 else arms
    return panels.line_styles([(arm["name"], arm["kind"]) for arm in styled_arms])


def _draw(ax: Axes, name: str, found: Line, style: Style, band: bool) -> None:
    if band and len(found.epochs) == 1:
        spread = np.array([found.mean - found.low, found.high - found.mean])
        ax.errorbar(found.epochs, found.mean, spread, fmt="none", ecolor=style.color, capsize=3)
    elif band and np.any(found.high > found.low):
        ax.fill_between(found.epochs, found.low, found.high, color=style.color, alpha=0.13, lw=0)
    ax.plot(
        found.epochs,
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


def _epochs_axis(ax: Axes, told: dict, last: int, inches: float) -> None:
    if last == 1:
        ax.set_xlim(0.5, 1.5)
        ax.set_xticks([1])
    elif told["log_x"]:
        ax.set_xscale("log")
        steps = [base * 10**power for power in range(7) for base in (1, 2, 5)]
        panels.ticks(ax, [1, *(step for step in steps if 1 < step < last), last], inches)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        ax.set_xlim(left=max(0.3, 1 - 0.04 * last))
