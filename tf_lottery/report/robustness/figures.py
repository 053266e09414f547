"""The figures of an evaluation under attacks; each function returns a ``Figure`` or ``None``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from tf_lottery.options.attacks import AttackConfig
from tf_lottery.report import formats
from tf_lottery.report.figures.heat_map import heat_map
from tf_lottery.report.figures.saving import save
from tf_lottery.report.robustness.document import Curve, Evaluation, Model
from tf_lottery.report.style import (
    WIDTH,
    legend,
    readable,
    series,
    short,
    styled,
    tint,
    visible,
)
from tf_lottery.report.text import norm_word
from tf_lottery.statistics import wilson

RISE = "a rise"  # its entry in a legend
BANDS = 6  # more of them hide each other
_WRONG, _STANDING = "#8A8A8A", "#FFFFFF"
_WIDE = 30.0  # values further apart than this factor go on a logarithmic axis


@styled
def accuracy_per_eps(document: Evaluation) -> Figure | None:
    """Accuracy over the radius, a line a model, with the radius of the other results marked."""
    curve = document.curve("eps")
    if curve is None:
        return None
    norm, reference = curve.attack.norm, curve.attack.eps
    # Whole grey levels are easier to read than their 255ths.
    scale = 255 if norm == "linf" and formats.pixels(reference).endswith("/255") else 1
    values = [scale * value for value in curve.values]
    figure = Figure(figsize=(WIDTH, 4.2 + _legend_height(curve)), layout="constrained")
    ax = figure.subplots()
    _lines(ax, document, curve, values)
    positive = [value for value in values if value > 0]
    if positive and positive[-1] > _WIDE * positive[0]:
        ax.set_xscale("symlog", linthresh=positive[0])
    ax.xaxis.set_major_locator(FixedLocator(_apart(ax, values)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    unit = " (in 1/255)" if scale == 255 else ""
    ax.set(xlabel=f"{norm_word(norm)} radius{unit}", ylabel="accuracy (%)")
    ax.axvline(scale * reference, color="#555555", lw=1.1, ls=(0, (1, 2)), zorder=1)
    ax.annotate(
        f"radius {formats.length(reference, norm)}",
        (scale * reference, 1),
        (4, -4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=9,
        color="#444444",
    )
    legend(figure, [ax], last=RISE)
    return figure


@styled
def accuracy_per_steps(document: Evaluation) -> Figure | None:
    """Accuracy over the number of attack steps, on a logarithmic axis."""
    curve = document.curve("steps")
    if curve is None:
        return None
    figure = Figure(figsize=(WIDTH, 4.0 + _legend_height(curve)), layout="constrained")
    ax = figure.subplots()
    _lines(ax, document, curve, curve.values)
    ax.set_xscale("symlog" if curve.values[0] == 0 else "log")
    ax.xaxis.set_major_locator(FixedLocator(_apart(ax, curve.values)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.set(xlabel="steps", ylabel="accuracy (%)")
    legend(figure, [ax], last=RISE)
    return figure


def _legend_height(curve: Curve) -> float:
    """Inches that the legend of many models takes, so that the axes keep their height."""
    return 0.08 * max(0, len(curve.accuracy) - 4)


def _lines(ax: Axes, document: Evaluation, curve: Curve, x: list[float]) -> None:
    """A line a model with its Wilson band; a ring and an arrow where a curve rises."""
    drawn = series(model.name for model in document.models)
    for name, shares in curve.accuracy.items():
        style = drawn[name]
        if len(curve.accuracy) <= BANDS:
            bounds = np.array([wilson(share, curve.examples) for share in shares])
            ax.fill_between(x, *(100 * bounds.T), color=style.color, alpha=0.11, lw=0)
        ax.plot(
            x,
            [100 * share for share in shares],
            color=style.color,
            ls=style.line,
            marker=style.marker,
            ms=5,
            lw=1.8,
            label=visible(name),
            zorder=2,
        )
    ends = [
        (x[curve.values.index(end)], 100 * curve.accuracy[name][curve.values.index(end)])
        for name, rises in curve.rises.items()
        if name in curve.accuracy
        for _, end, _ in rises
    ]
    if ends:
        at, height = zip(*ends, strict=True)
        ring: Any = {"ls": "none", "marker": "o", "ms": 12, "mfc": "none", "mec": "black"}
        ax.plot(at, height, label=RISE, zorder=3, **ring)
    top = 100 * max(max(shares) for shares in curve.accuracy.values())
    ax.set_ylim(-3, min(103, top + 12))


def _apart(ax: Axes, values: list[float]) -> list[float]:
    """The values whose labels do not run into each other, the first and the last among them."""
    ax.set_xlim(*ax.get_xlim())
    place = dict(zip(values, ax.transAxes.inverted().transform(
        ax.transData.transform([(value, 0) for value in values])
    )[:, 0], strict=True))  # fmt: skip
    kept = [values[0]]
    for value in values[1:-1]:
        if place[value] - place[kept[-1]] > 0.045 and place[values[-1]] - place[value] > 0.045:
            kept.append(value)
    return kept + values[-1:] if len(values) > 1 else kept


def transfer(document: Evaluation) -> Figure | None:
    """See ``figures.heat_map``."""
    found = document.transfer
    if found is None or len(found.models) < 2:
        return None
    return heat_map(found.models, np.array(found.accuracy))


@styled
def broken_by(document: Evaluation) -> Figure | None:
    """Stacked bars: images wrong when clean, broken by each part of AutoAttack, standing."""
    suite = autoattack(document)
    if suite is None:
        return None
    models = document.models
    parts = suite_parts(document, suite)
    styles = series(parts)
    kinds: list[tuple[str, Any, str]] = [("wrong when clean", _WRONG, "")]
    kinds += [(part, tint(styles[part].color), styles[part].hatch) for part in parts]
    kinds.append(("standing", _STANDING, ""))
    counts = np.array([fates(model, suite.name, parts) for model in models], float)
    shares = 100 * counts / np.array([[model.examples] for model in models])
    figure = Figure(figsize=(WIDTH, 1.5 + 0.42 * len(models)), layout="constrained")
    ax = figure.subplots()
    left = np.zeros(len(models))
    for i, (label, color, hatch) in enumerate(kinds):
        edge = styles[label].color if label in styles else "#333333"
        ax.barh(
            np.arange(len(models)),
            shares[:, i],
            0.66,
            left,
            label=visible(label),
            facecolor=color,
            edgecolor=edge,
            hatch=hatch,
            linewidth=0.9,
        )
        for row in np.flatnonzero(shares[:, i] >= 5):
            ax.text(
                left[row] + shares[row, i] / 2,
                float(row),
                formats.percent(shares[row, i] / 100),
                ha="center",
                va="center",
                fontsize=9,
                color=readable(color),
                # Hatching runs through the figure otherwise.
                bbox={"facecolor": color, "edgecolor": "none", "pad": 1.2} if hatch else None,
            )
        left += shares[:, i]
    ax.set_yticks(np.arange(len(models)), [short(model.name, 28) for model in models])
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="test images (%)", xlim=(0, 100))
    legend(figure, [ax], last="standing")
    return figure


def autoattack(document: Evaluation) -> AttackConfig | None:
    """Settings of the first suite of attacks, if there is one."""
    return next((a for a in document.attacks if a.method == "autoattack"), None)


def suite_parts(document: Evaluation, suite: AttackConfig) -> list[str]:
    """The suite's attacks in their order, then any others that broke an image."""
    parts = [part.name for part in suite.components]
    for model in document.models:
        parts += [part for part in model.broken_by[suite.name] if part not in parts]
    return parts


def fates(model: Model, attack: str, parts: list[str]) -> list[int]:
    """Counts that sum to the model's images: wrong when clean, broken by each part, standing."""
    broken = [model.broken_by[attack].get(part, 0) for part in parts]
    standing = model.standing[attack]
    return [model.examples - sum(broken) - standing, *broken, standing]


FIGURES: dict[str, Callable[[Evaluation], Figure | None]] = {
    "broken_by": broken_by,
    "accuracy_per_eps": accuracy_per_eps,
    "accuracy_per_steps": accuracy_per_steps,
    "transfer": transfer,
}


def save_figures(document: Evaluation, folder: str | os.PathLike) -> dict[str, Path]:
    """Writes ``<folder>/<name>.png`` for every figure that has data, and removes the others.

    Returns:
      Figure name -> path, in the order of the report.
    """
    return save({name: draw(document) for name, draw in FIGURES.items()}, folder)
