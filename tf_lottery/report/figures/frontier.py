"""Figures of form ``frontier``: accuracy over cost, a line a series, and what none beats."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Picture

from tf_lottery.report import measures
from tf_lottery.report.figures import panels
from tf_lottery.report.frontier import Place, places, unbeaten
from tf_lottery.report.results import Figure, Results
from tf_lottery.report.style import KIND_STYLES, WIDTH, styled
from tf_lottery.report.style import series as styles_of

FRONTIER = "no cheaper arm is better"


def series(document: Results, figure: Figure) -> dict[str, list[Place]]:
    """Name -> its places, by cost; in the figure's order."""
    y, x = map(measures.parse, figure.measures)
    names = dict.fromkeys(arm.series for arm in document.drawn(figure))
    found: dict[str, list[Place]] = {name: [] for name in names}
    for place in places(document, document.drawn(figure), y, x):
        found[place.arm.series].append(place)
    return {name: points for name, points in found.items() if points}


def frontier(document: Results, figure: Figure) -> list[Place]:
    """Of all arms of the study, not of the figure's alone."""
    y, x = map(measures.parse, figure.measures)
    return unbeaten(places(document, document.arms, y, x))


@styled
def over_cost(document: Results, figure: Figure) -> Picture | None:
    """The figure; ``None`` where nothing was measured."""
    found = series(document, figure)
    if not found:
        return None
    y = measures.parse(figure.measures[0])
    scale = measures.scale(y)
    picture, (ax,) = panels.make(1)
    best = frontier(document, figure)
    ax.plot(
        [place.cost for place in best],
        [scale * place.accuracy for place in best],
        color="#E69F00", lw=7, alpha=0.35, solid_capstyle="round", zorder=1, label=FRONTIER,
    )  # fmt: skip
    lines = styles_of(found)
    if document.baseline in found:
        lines[document.baseline] = KIND_STYLES["dense"]
        level = scale * found[document.baseline][0].accuracy
        ax.axhline(level, color=KIND_STYLES["dense"].color, ls=(0, (1, 2)), lw=1, zorder=1)
    for name, points in found.items():
        x = np.array([place.cost for place in points])
        mean, low, high = scale * np.array([place[2:] for place in points]).T
        style = lines[name]
        if len(points) > 1 and len(found) <= panels.BANDS:
            ax.fill_between(x, low, high, color=style.color, alpha=0.12, lw=0, zorder=1)
        ax.errorbar(
            x, mean, np.array([mean - low, high - mean]), color=style.color, ls=style.line,
            marker=style.marker, ms=5.5, lw=1.6, elinewidth=0.9, capsize=2,
            label=panels.legend_name(name), zorder=3,
        )  # fmt: skip
    if figure.log_x:
        ax.set_xscale("log")
    panels.label(ax, figure, y, [y], figure.x_label)
    budgets = {arm.x for arm in document.drawn(figure) if arm.x} | {1.0}
    panels.ticks(ax, budgets, WIDTH - 0.9)
    return panels.finish(picture, [ax])
