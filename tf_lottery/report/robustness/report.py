"""``report.html`` and ``report.md`` of an evaluation under attacks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tf_lottery.report import formats
from tf_lottery.report.report import FIGURES, command_line, render
from tf_lottery.report.robustness.captions import captions
from tf_lottery.report.robustness.document import (
    CHECKS,
    EVALUATION,
    NATURAL,
    Document,
    accuracy,
    attack_names,
    measures,
    read_evaluation,
    strongest,
)
from tf_lottery.report.robustness.figures import save_figures
from tf_lottery.report.robustness.verdict import (
    check_counts,
    claim_words,
    findings,
    measure_words,
)

# The colour of a finding is never its only sign.
OUTCOMES = {
    "ahead": "higher", "behind": "lower", "even": "no difference", "note": "note",
    "pass": "passed", "warn": "warning",
}  # fmt: skip
PAIRS_OPEN = 40  # rows; a longer table of pairs is folded away
MODELS_OPEN = 3  # with more models, checks that pass are folded away


def write_robustness_report(directory: str | os.PathLike) -> Path:
    """Writes ``figures/*.png``, ``report.md`` and ``report.html`` from ``evaluation.json``.

    ``report.html`` holds its figures and asks nothing of the network, so that the
    one file can be mailed. Each file is replaced as a whole.

    Returns:
      The path of ``report.html``.

    Raises:
      StoreError: ``evaluation.json`` is missing or damaged.
    """
    directory = Path(directory)
    document = read_evaluation(directory / EVALUATION)
    saved = save_figures(document, directory / FIGURES)
    return render(directory, "robustness", _context(document), saved, captions(document))


def _context(document: Document) -> dict[str, Any]:
    names = [NATURAL, *attack_names(document)]
    measure = strongest(document)
    topics: dict[str, list] = {}
    for finding in findings(document):
        topics.setdefault(finding.topic, []).append(finding)
    return {
        "document": document,
        "models": document["models"],
        "measures": measures(document),
        "accuracy": accuracy,
        "topics": topics,
        "outcomes": OUTCOMES,
        "robust": measure_words(document, measure) if measure else None,
        "pairs": [pair | {"claim": claim_words(pair)} for pair in document["pairs"]],
        "pairs_open": len(document["pairs"]) <= PAIRS_OPEN,
        "diagnosis": [
            {
                "model": name,
                "counts": check_counts(checks),
                "shown": [_named(check) for check in checks if check["outcome"] != "pass"],
                "passed": [_named(check) for check in checks if check["outcome"] == "pass"],
            }
            for name, checks in document["diagnosis"].items()
        ],
        "passes_open": len(document["diagnosis"]) <= MODELS_OPEN,
        "runs": names,
        "sums": {
            key: sum(model["cost"][name][key] for model in document["models"] for name in names)
            for key in ("seconds", "forward_passes", "input_gradient_passes")
        },
        # Of the tables after the first, which not every document has.
        "table": {name: number for number, name in enumerate(_tables(document), 2)},
        "settings": formats.flatten(document["settings"]),
        "command": command_line(document["command"]),
    }


def _tables(document: Document) -> list[str]:
    optional = [name for name in ("pairs", "transfer") if document[name]]
    return [*optional, "cost"]


def _named(check: dict) -> dict:
    return check | {"title": CHECKS[check["check"]]}
