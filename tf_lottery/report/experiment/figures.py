"""The figures of an experiment, as PNG for pages and as SVG for print."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tf_lottery.files import write_atomically
from tf_lottery.report.experiment.curves import over_epochs
from tf_lottery.report.experiment.document import Document
from tf_lottery.report.experiment.sweep import over_sweep
from tf_lottery.report.figures import save
from tf_lottery.report.robustness import figures as robustness
from tf_lottery.report.style import styled


def mean_transfer(document: Document, told: dict | None = None) -> tuple[list[str], np.ndarray]:
    """Names and mean accuracies over the seeds, (names, names), of the arms of a figure or
    (without one) of all arms between which examples were carried over."""
    transfer = document["transfer"]
    if transfer is None:
        return [], np.zeros((0, 0))
    wanted = transfer["arms"] if told is None or told["arms"] is None else told["arms"]
    names = [name for name in wanted if name in transfer["arms"]]
    places = [transfer["arms"].index(name) for name in names]
    return names, np.mean(transfer["matrices"], axis=0)[np.ix_(places, places)]


def heat_map(document: Document, told: dict) -> Figure | None:
    """Form ``transfer``: accuracy of the column's arm on examples made on the row's."""
    names, shares = mean_transfer(document, told)
    if len(names) < 2:
        return None
    return robustness.transfer({"transfer": {"models": names, "accuracy": shares}})


_DRAW: dict[str, Callable[[Document, dict], Figure | None]] = {
    "epochs": over_epochs,
    "sweep": over_sweep,
    "transfer": heat_map,
}


def draw(document: Document, told: dict) -> Figure | None:
    """One entry of the document's ``figures``; ``None`` where there is nothing to show."""
    return _DRAW[told["form"]](document, told)


def save_figures(document: Document, folder: str | os.PathLike) -> dict[str, Path]:
    """Writes ``<folder>/<name>.png`` and ``.svg`` of every figure that has data; removes the
    files of those that have none.

    Returns:
      Figure name -> path of the PNG, in the order of the document.
    """
    drawn = {told["name"]: draw(document, told) for told in document["figures"]}
    saved = save(drawn, folder)
    for name, figure in drawn.items():
        path = Path(folder) / f"{name}.svg"
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, svg(figure))
    return saved


@styled
def svg(figure: Figure) -> bytes:
    """The figure as SVG, text as outlines; the same data gives the same bytes."""
    buffer = io.BytesIO()
    # Identifiers are random otherwise, and the date and version would be written.
    with mpl.rc_context({"svg.hashsalt": "tf_lottery"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
