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
* ``baseline`` (or null): the arm that the ratios of the runs refer to;
* ``claims``: what the paper found, as a comparison of arms or with a number; ``figures``: what
  to draw, see ``FORMS``; both in the words of ``tf_lottery.reporting.experiment.measures``;
* ``transfer`` (or null): for each seed the accuracy of the column's arm on adversarial
  examples made on the row's; ``reference`` (or null): the authors' curves;
* ``ledger``: what each stage cost; ``models`` are the names of the arms that use it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tf_lottery.errors import StoreError
from tf_lottery.files import write_atomically
from tf_lottery.reporting.experiment.problems import ARM_KEYS, FORMAT, RUN_KEYS, TOP_KEYS, problem

EXPERIMENT = "experiment.json"

Document: TypeAlias = dict[str, Any]


def write_experiment(path: str | os.PathLike, document: Document) -> Path:
    """Writes ``document`` atomically; keys in a fixed, readable order.

    Raises:
      ValueError: something is missing or contradicts itself, or a number is NaN or infinite.
    """
    wrong = problem(document)
    if wrong:
        raise ValueError(f"no experiment document: {wrong}")
    ordered = _ordered(document, TOP_KEYS)
    ordered["arms"] = [_ordered(arm, ARM_KEYS) for arm in document["arms"]]
    for arm in ordered["arms"]:
        arm["runs"] = [_ordered(run, RUN_KEYS) for run in arm["runs"]]
    text = json.dumps(ordered, indent=1, allow_nan=False, ensure_ascii=False, default=_plain)
    return write_atomically(path, text + "\n")


def read_experiment(path: str | os.PathLike) -> Document:
    """The checked document at ``path``.

    Raises:
      StoreError: missing, unreadable, not JSON, of another format, or incomplete.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; a finished experiment leaves it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read ({_one_line(error)})") from error
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not JSON ({_one_line(error)}); remove it") from error
    if not isinstance(document, dict) or "format" not in document or "arms" not in document:
        raise StoreError(f"{path}: not an experiment (no format number or no arms)")
    number = document["format"]
    if number != FORMAT:
        newer = isinstance(number, int) and number > FORMAT
        advice = "written by a newer tf_lottery; update the package" if newer else "unknown"
        raise StoreError(f"{path}: format {number!r}, this version reads {FORMAT}: {advice}")
    wrong = problem(document)
    if wrong:
        raise StoreError(f"{path}: {wrong}")
    return document


def arm(document: Document, name: str) -> dict:
    """The arm called ``name``."""
    return next(entry for entry in document["arms"] if entry["name"] == name)


def drawn_arms(document: Document, figure: dict) -> list[dict]:
    """The arms of a figure, in its order."""
    if figure["arms"] is None:
        return list(document["arms"])
    return [arm(document, name) for name in figure["arms"]]


def attack_names(document: Document) -> list[str]:
    """The attacks, in the order of the document."""
    return [attack["name"] for attack in document["attacks"]]


def _ordered(part: dict, keys) -> dict:
    known = {key: part[key] for key in keys if key in part}
    return known | {key: part[key] for key in sorted(set(part) - set(known))}


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} does not belong in an experiment")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
