"""From an entry of a document's ``figures`` to the picture."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as Picture

from tf_lottery.report.figures.bars import cost, layer_density, test_accuracy
from tf_lottery.report.figures.epochs import over_epochs
from tf_lottery.report.figures.frontier import over_cost
from tf_lottery.report.figures.heat_map import heat_map
from tf_lottery.report.figures.pictures import Pictures, adversarial_examples
from tf_lottery.report.figures.saving import save
from tf_lottery.report.figures.seconds import over_seconds
from tf_lottery.report.figures.sweep import over_sweep
from tf_lottery.report.results import Figure, Results


def mean_transfer(document: Results, figure: Figure) -> tuple[list[str], np.ndarray]:
    """Names and mean accuracies over the seeds, (names, names), of the arms of a figure between
    which examples were carried over."""
    transfer = document.transfer
    if transfer is None:
        return [], np.zeros((0, 0))
    wanted = transfer.arms if figure.arms is None else figure.arms
    names = [name for name in wanted if name in transfer.arms]
    places = [transfer.arms.index(name) for name in names]
    return names, np.mean(transfer.matrices, axis=0)[np.ix_(places, places)]


def transfer_matrix(document: Results, figure: Figure) -> Picture | None:
    """Accuracy of the column's arm on examples made on the row's."""
    names, shares = mean_transfer(document, figure)
    return heat_map(names, shares) if len(names) > 1 else None


_DRAW: dict[str, Callable[[Results, Figure], Picture | None]] = {
    "epochs": over_epochs,
    "sweep": over_sweep,
    "transfer": transfer_matrix,
    "seconds": over_seconds,
    "accuracy": test_accuracy,
    "cost": cost,
    "layers": layer_density,
    "frontier": over_cost,
}


def draw(document: Results, figure: Figure, pictures: Pictures | None = None) -> Picture | None:
    """The picture; ``None`` where there is nothing to show."""
    if figure.form != "pictures":
        return _DRAW[figure.form](document, figure) if document.drawn(figure) else None
    if pictures is None or not len(pictures["label"]):
        return None
    return adversarial_examples(pictures)


def save_figures(
    document: Results, pictures: Pictures | None, folder: str | os.PathLike
) -> dict[str, Path]:
    """Writes ``<folder>/<name>.png``, of a figure of the paper ``.svg`` too, for every figure that
    has data; removes the files of those that have none.

    Returns:
      Figure name -> path of the PNG, in the order of the document.
    """
    drawn = {figure.name: draw(document, figure, pictures) for figure in document.figures}
    return save(drawn, folder, vector=document.is_experiment)
