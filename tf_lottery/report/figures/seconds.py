"""Figures of form ``seconds``: validation accuracy over the time of search and training."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Picture
from msgspec.structs import replace

from tf_lottery.report import formats
from tf_lottery.report.figures import panels
from tf_lottery.report.figures.epochs import draw_level, draw_line, line, mark_best, shown_measures
from tf_lottery.report.measures import Measure
from tf_lottery.report.results import Arm, Figure, Results
from tf_lottery.report.style import styled


def ends(document: Results, arm: Arm, epochs: int) -> tuple[float, list[float]]:
    """Seconds until the search ends, and until each epoch ends; means over the seeds."""
    rows = [row for row in document.runs(arm.name) if len(row.curve) >= epochs]
    searched = float(np.mean([row.search_seconds for row in rows]))
    each = np.mean([[record.seconds for record in row.curve[:epochs]] for row in rows], axis=0)
    return searched, list(searched + np.cumsum(each))


@styled
def over_seconds(document: Results, figure: Figure) -> Picture | None:
    """A line an arm, which starts where its search ends; ``None`` without a curve."""
    wanted = figure.measures or ("validation",)
    shown = shown_measures(document, replace(figure, measures=wanted))
    if not shown:
        return None
    measure: Measure = shown[-1]
    picture, (ax,) = panels.make(1)
    styles = panels.arm_styles(document, figure)
    searches = set()
    for arm in document.drawn(figure):
        found = line(document, arm, measure)
        if found is None or found.epochs != list(range(1, len(found.epochs) + 1)):
            continue
        searched, x = ends(document, arm, len(found.epochs))
        searches.add(searched)
        draw_line(ax, arm.name, x, found, styles[arm.name])
        mark_best(ax, document, arm, x, found, styles[arm.name])
    for end in sorted(searches - {0}):
        ax.axvline(end, color="#8A8A8A", lw=1, zorder=1)
        ax.annotate(
            "search ends",
            (end, 0),
            (-4, 6),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            rotation=90,
            ha="right",
            fontsize=9,
            color="#666666",
        )
    panels.label(ax, figure, measure, shown, figure.x_label)
    ax.xaxis.set_major_formatter(formats.tick)
    ax.set_xlim(left=0)
    draw_level(ax, document, measure, [measure])
    return panels.finish(picture, [ax])
