"""``report.html`` and ``report.md`` of an experiment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_lottery.report import formats
from tf_lottery.report.experiment import costs, tables
from tf_lottery.report.experiment.captions import captions
from tf_lottery.report.experiment.document import (
    EXPERIMENT,
    Document,
    baselines,
    has_counted,
    listed,
    read_experiment,
)
from tf_lottery.report.experiment.figures import mean_transfer, save_figures
from tf_lottery.report.experiment.limits import limits
from tf_lottery.report.experiment.measures import Measure
from tf_lottery.report.experiment.statistics import count, estimate
from tf_lottery.report.experiment.tables import Cell, interval_words
from tf_lottery.report.experiment.verdict import tally, verdicts
from tf_lottery.report.report import FIGURES, command_line, render

# The colour of a verdict is never its only sign: class of the list entry, mark.
MARKS = {
    "yes": ("pass", "✓"), "no": ("behind", "✗"), "not decided": ("even", "?"),
    "not measured": ("note", "–"),
}  # fmt: skip
NAMED = 4  # arms that a stage's row names


def write_experiment_report(directory: str | os.PathLike) -> Path:
    """Writes ``figures/*.png``, ``figures/*.svg``, ``report.md`` and ``report.html`` from
    ``experiment.json``.

    ``report.html`` holds its figures and asks nothing of the network, so that the
    one file can be mailed. Each file is replaced as a whole.

    Returns:
      The path of ``report.html``.

    Raises:
      StoreError: ``experiment.json`` is missing or damaged.
    """
    directory = Path(directory)
    document = read_experiment(directory / EXPERIMENT)
    saved = save_figures(document, directory / FIGURES)
    return render(directory, "experiment", _context(document), saved, captions(document))


def _context(document: Document) -> dict[str, Any]:
    found = verdicts(document)
    others = tables.others(document)
    transfer = _transfer(document)
    gains = tables.gains(document)
    present = {
        "accuracy": True, "others": others, "transfer": transfer, "cost": True, "gains": gains,
    }  # fmt: skip
    numbered = [name for name, table in present.items() if table]
    return {
        "document": document,
        "told": document["experiment"],
        "verdicts": found,
        "tally": tally(found),
        "scale": document["scale"][:1].upper() + document["scale"][1:],
        "marks": MARKS,
        "models": ", ".join(dict.fromkeys(arm["model"] for arm in document["arms"])),
        "seeds": _seeds(document["seeds"]),
        "several": len(document["seeds"]) > 1,
        "accuracies": tables.accuracies(document),
        "others": others,
        "costs": tables.costs(document),
        "gains": gains,
        "baseline": _baseline(document),
        "relative": _relative(document),
        "worst": any(run["test"] for arm in document["arms"] for run in arm["runs"])
        and len(document["attacks"]) > 1,
        "paper": any(arm["published"] for arm in document["arms"]),
        "transfer": transfer,
        "table_number": {name: i for i, name in enumerate([*numbered, "stages"], 1)},
        "limits": list(limits(document)),
        "by_kind": costs.by_kind(document),
        "by_arm": costs.by_arm(document),
        "grand": [
            ("All stages", costs.total(document)),
            ("Of which this run", costs.fresh(document)),
        ],
        "named": lambda arms: _named(arms, len(document["arms"])),
        "count": count,
        "settings": formats.flatten(document["settings"]),
        "command": command_line(document["command"]),
    }


def _seeds(seeds: Sequence[int]) -> str:
    """``seed 0``, ``3 seeds (0, 1, 2)``."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))})"


def _baseline(document: Document) -> str:
    """What the accuracies of the table of gains are those of."""
    names = baselines(document)
    return names[0] if len(names) == 1 else f"its baseline ({listed(names)})"


def _relative(document: Document) -> str:
    """What relative costs are relative to; empty where there are none."""
    names = baselines(document)
    if not names:
        dense = "one dense training of all epochs, counted and not run"
        return dense if has_counted(document) else ""
    if len(names) == 1:
        return f"the baseline, {names[0]}, which is 1"
    return f"the arm’s own baseline ({listed(names)}), which is 1"


def _named(arms: Sequence[str], total: int) -> str:
    """The arms of a stage in a few words."""
    if len(arms) == total > 1:
        return f"all {total} arms"
    if len(arms) > NAMED:
        return f"{listed(arms[: NAMED - 1])} and {len(arms) - NAMED + 1} more"
    return listed(arms) or formats.NONE


def _transfer(document: Document) -> dict[str, Any] | None:
    """Names and cells of the transfer matrix; ``None`` where there is none."""
    names, shares = mean_transfer(document)
    if not names:
        return None
    transfer = document["transfer"]
    measure = Measure("test_transfer", "best")  # an accuracy on test images
    cells: list[list[Cell]] = []
    for row in range(len(names)):
        cells.append([])
        for column in range(len(names)):
            values = [matrix[row][column] for matrix in transfer["matrices"]]
            found = estimate(values, transfer["examples"])
            small = interval_words(found, measure)
            paper = transfer["published"] and transfer["published"][row][column]
            if paper is not None:
                small = f"{small}{', ' if small else ''}paper {formats.percent(paper)}"
            cells[-1].append(Cell(formats.percent(shares[row, column]), small))
    return {"names": names, "cells": cells} | {k: transfer[k] for k in ("attack", "examples")}
