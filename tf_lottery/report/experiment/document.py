"""``experiment.json``: what one experiment of the paper measured, with one seed or several.

The document is plain JSON. Accuracies are shares in [0, 1], times seconds; epochs count from
1, passes in images (forward, input-gradient and weight-gradient together).

* ``settings`` (nested), ``command`` (argv), ``machine``, ``data``, ``package_version``: as in
  ``results.json``;
* ``experiment``: id, source (``Fig. 5``), title, question, what the paper says, and the
  ``sweep`` (label of the swept setting, whether on a logarithmic axis) or null; ``scale``: in
  which way this run is smaller than the paper's, empty if it is not;
* ``seeds``: the root seed of each replicate; ``attacks``: what the attacks' names stand for;
* ``arms``: what is compared. Each has one of ``runs`` a seed, in the order of ``seeds``, the
  values that the paper gives (``published``, keyed by measure) and the name of its run in the
  authors' curves (``reference``, or null). Arms of one ``series`` are one line over ``x``;
* ``baseline`` (or null): the arm that the ratios of the runs refer to, but for arms that name
  a ``baseline`` of their own. Where there is none ``total_flops_over_dense`` refers to a dense
  training of as many epochs as the settings give one, counted and not run;
* ``claims``: what the paper found, as a comparison of arms or with a number; ``figures``: what
  to draw, see ``FORMS``; both in the words of ``tf_lottery.report.experiment.measures``;
* ``transfer`` (or null): for each seed the accuracy of the column's arm on adversarial
  examples made on the row's, and the paper's (``published``, or null);
* ``reference`` (or null): the authors' curves;
* ``ledger``: what each stage cost; ``models`` are the names of the arms that use it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tf_lottery.report.experiment.problems import ARM_KEYS, FORMAT, RUN_KEYS, TOP_KEYS, problem
from tf_lottery.report.json_document import ordered, read_document, write_document

EXPERIMENT = "experiment.json"
_ARM_ORDER = (*ARM_KEYS[:-1], "baseline", ARM_KEYS[-1])

Document: TypeAlias = dict[str, Any]


def write_experiment(path: str | os.PathLike, document: Document) -> Path:
    """Writes ``document`` atomically; keys in a fixed, readable order.

    Raises:
      ValueError: something is missing or contradicts itself, or a number is NaN or infinite.
    """
    wrong = problem(document)
    if wrong:
        raise ValueError(f"no experiment document: {wrong}")
    chosen = ordered(document, TOP_KEYS)
    chosen["arms"] = [ordered(arm, _ARM_ORDER) for arm in document["arms"]]
    for arm in chosen["arms"]:
        arm["runs"] = [ordered(run, RUN_KEYS) for run in arm["runs"]]
    return write_document(path, chosen, "an experiment")


def read_experiment(path: str | os.PathLike) -> Document:
    """The checked document at ``path``.

    Raises:
      StoreError: missing, unreadable, not JSON, of another format, or incomplete.
    """
    return read_document(path, "a finished experiment", FORMAT, _strange, problem)


def _strange(document: Any) -> str:
    if not isinstance(document, dict) or "format" not in document or "arms" not in document:
        return "not an experiment (no format number or no arms)"
    return ""


def arm(document: Document, name: str) -> dict:
    """The arm called ``name``."""
    return next(entry for entry in document["arms"] if entry["name"] == name)


def baseline_of(document: Document, arm: dict) -> str | None:
    """Name of the arm that the ratios of an arm's runs refer to."""
    return arm.get("baseline", document["baseline"])


def baselines(document: Document) -> list[str]:
    """The arms that ratios refer to."""
    found = (baseline_of(document, arm) for arm in document["arms"])
    return list(dict.fromkeys(name for name in found if name is not None))


def has_counted(document: Document) -> bool:
    """Whether FLOPs are set against a dense training that was not run."""
    runs = [run for arm in document["arms"] for run in arm["runs"]]
    counted = any(run["total_flops_over_dense"] is not None for run in runs)
    return counted and not baselines(document)


def listed(names: Sequence[str]) -> str:
    """Names in a row, told apart although they may hold commas."""
    return ("; " if any("," in name for name in names) else ", ").join(names)


def drawn_arms(document: Document, figure: dict) -> list[dict]:
    """The arms of a figure, in its order."""
    if figure["arms"] is None:
        return list(document["arms"])
    return [arm(document, name) for name in figure["arms"]]


def attack_names(document: Document) -> list[str]:
    """The attacks, in the order of the document."""
    return [attack["name"] for attack in document["attacks"]]
