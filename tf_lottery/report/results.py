"""``results.json``: what a run measured, one row a model.

The document is plain JSON. Accuracies are shares in [0, 1]; times are seconds;
epochs count from 1; FLOPs are floating-point operations, not per second.

* ``settings`` (nested), ``command`` (argv), ``machine``, ``package_version``;
* ``data``: sizes, digest and class names; the optional ``validation_used`` is the
  number of validation images that the curves were measured on, if not all;
* ``rows``: final test accuracies and cost of each model, see ``ROW_KEYS``; every
  attack has its own key with ``{"best": ..., "last": ...}``, as has ``natural``, and
  where there are attacks ``worst``: the share of images that are classified correctly
  clean and under every attack. ``search_source`` says where the cost of the search is
  from: ``run``, ``ticket`` (as recorded in a given one) or ``none``;
* ``curves``: run label -> one record an epoch; a search run's label begins with
  ``search``, every other label is a row's name;
* ``layers``: row name -> weights and kept weights of each layer;
* ``ledger``: what each stage cost; ``attacks``: what the attacks' names stand for.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tf_lottery.errors import StoreError
from tf_lottery.options import settings as config
from tf_lottery.report import formats
from tf_lottery.report.json_document import one_line, ordered, read_document, write_document
from tf_lottery.report.text import aligned, attack_problem
from tf_lottery.statistics import wilson

FORMAT = 1
RESULTS = "results.json"
PICTURES = "pictures.npz"
WORST = "worst"  # beside the attacks' keys, in a row; there are none without attacks
SEARCH_SOURCES = ("run", "ticket", "none")

Document: TypeAlias = dict[str, Any]

TOP_KEYS = (
    "format", "package_version", "command", "settings", "machine", "data",
    "attacks", "rows", "curves", "layers", "ledger",
)  # fmt: skip
ROW_KEYS = (
    "name", "kind", "model", "dataset", "seed", "density", "test_examples", "natural",
    "epochs", "best_epoch", "search_seconds", "train_seconds", "total_over_dense",
    "search_flops", "train_flops", "total_flops_over_dense",
    "search_source", "epochs_to_dense", "seconds_to_dense_over_dense",
    "flops_to_dense_over_dense",
)  # fmt: skip
CURVE_KEYS = (
    "epoch", "learning_rate", "loss", "train_accuracy", "validation_natural",
    "validation_robust", "seconds", "validation_seconds",
)  # fmt: skip
LEDGER_KEYS = (
    "stage", "kind", "label", "models", "seconds", "startup_seconds", "validation_seconds",
    "examples", "forward_passes", "input_gradient_passes", "weight_gradient_passes",
    "flops", "cached",
)  # fmt: skip
ATTACK_KEYS = ("name", "eps", "steps", "step_size", "random_start", "restarts", "loss")
MACHINE_KEYS = ("cpu", "cores", "memory_gb", "python", "tensorflow")
DATA_KEYS = ("name", "train", "validation", "test", "digest", "classes")
LAYER_KEYS = ("layer", "weights", "kept")
PICTURE_KEYS = (
    "clean", "adversarial", "label", "clean_prediction", "adversarial_prediction",
    "class_names", "eps",
)  # fmt: skip
SHOWN_DIFFERENCES = 4  # in an error message, which has to stay one line


def attack_names(document: Document) -> list[str]:
    """The attacks of the rows, in the order of the document."""
    return [attack["name"] for attack in document["attacks"]]


def accuracy_names(document: Document) -> list[str]:
    """Keys of the accuracies to show; the worst of a single attack is that attack."""
    attacks = attack_names(document)
    return ["natural", *attacks, *([WORST] if len(attacks) > 1 else [])]


def is_search(label: str) -> bool:
    """Whether a curve or ledger label names a search run."""
    return label.startswith("search")


def write_results(path: str | os.PathLike, document: Document) -> Path:
    """Writes ``document`` atomically; keys in a fixed, readable order.

    Raises:
      ValueError: a key is missing, or a number is NaN or infinite.
    """
    problem = _problem(document)
    if problem:
        raise ValueError(f"no results document: {problem}")
    chosen = ordered(document, TOP_KEYS)
    row_keys = list(ROW_KEYS)
    place = row_keys.index("natural") + 1
    row_keys[place:place] = [*attack_names(document), WORST]
    chosen["rows"] = [ordered(row, row_keys) for row in document["rows"]]
    chosen["ledger"] = [ordered(entry, LEDGER_KEYS) for entry in document["ledger"]]
    return write_document(path, chosen, "a results file")


def read_results(path: str | os.PathLike) -> Document:
    """The checked document at ``path``.

    Raises:
      StoreError: missing, unreadable, not JSON, of another format, or incomplete.
    """
    return read_document(path, "a finished --mode=run", FORMAT, _strange, _problem)


def _strange(document: Any) -> str:
    if not isinstance(document, dict) or "format" not in document:
        return "not a results file (no format number)"
    return ""


def read_pictures(path: str | os.PathLike) -> dict[str, np.ndarray] | None:
    """The arrays of ``pictures.npz``; ``None`` where there is no such file.

    ``clean`` and ``adversarial`` are uint8 (n, height, width, channels); ``label``
    and the predictions int (n,); ``class_names`` strings; ``eps`` on [0, 1] pixels. The
    optional ``model`` and ``attack`` say in words which model was attacked and how.

    Raises:
      StoreError: damaged, or an array is missing or of the wrong shape.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            pictures = {key: archive[key] for key in archive.files}
    except Exception as error:  # a damaged zip raises five different types
        raise StoreError(f"{path}: cannot be read ({one_line(error)}); remove it") from error
    missing = [key for key in PICTURE_KEYS if key not in pictures]
    if missing:
        raise StoreError(f"{path}: lacks {', '.join(missing)}")
    clean = pictures["clean"]
    ok = clean.ndim == 4 and clean.shape[-1] in (1, 3) and clean.dtype == np.uint8
    ok = ok and pictures["adversarial"].shape == clean.shape
    ok = ok and pictures["adversarial"].dtype == np.uint8 and pictures["eps"].size == 1
    classes = len(np.atleast_1d(pictures["class_names"]))
    for key in ("label", "clean_prediction", "adversarial_prediction"):
        index = pictures[key]
        ok = ok and index.shape == clean.shape[:1] and index.dtype.kind in "iu"
        ok = ok and bool(np.all((index >= 0) & (index < classes)))
    if not ok:
        raise StoreError(f"{path}: arrays of the wrong shape, type or range")
    return pictures


def check_same_settings(path: str | os.PathLike, settings: Any) -> None:
    """Refuses to mix two runs in one work directory.

    Args:
      path: the work directory, or the ``results.json`` in it; may not exist yet.
      settings: of the run about to start; a settings dataclass or its JSON form.

    Raises:
      StoreError: results of other settings are there; names what differs.
    """
    path = Path(path)
    if path.name != RESULTS:
        path = path / RESULTS
    if not path.exists():
        return
    ours = json.loads(json.dumps(config.settings(settings)))
    lines = config.differences(ours, config.settings(read_results(path)["settings"]))
    if lines:
        more = len(lines) - SHOWN_DIFFERENCES
        shown = "; ".join(lines[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise StoreError(
            f"{path} holds the results of other settings ({shown}): "
            "choose another --workdir or remove that file"
        )


def table(document: Document) -> str:
    """The rows as aligned plain text for a terminal; accuracies as best/last in percent."""
    names = accuracy_names(document)
    lines = [["model", "density %", *names, "epochs", "search s", "train s", "total/dense"]]
    for row in document["rows"]:
        accuracies = [row[name] for name in names]
        lines.append(
            [
                one_line(row["name"]),
                formats.percent(row["density"]),
                *(f"{formats.percent(a['best'])}/{formats.percent(a['last'])}" for a in accuracies),
                str(row["epochs"]),
                formats.seconds(row["search_seconds"]),
                formats.seconds(row["train_seconds"]),
                formats.ratio(row["total_over_dense"]),
            ]
        )
    return "\n".join([*aligned(lines), _precision(document)])


def _precision(document: Document) -> str:
    """One line on what the accuracies mean and how far they can be trusted."""
    names = accuracy_names(document)
    halves = [
        (high - low) / 2
        for row in document["rows"]
        for name in names
        for low, high in [wilson(row[name][which], row["test_examples"]) for which in _WHICH]
    ]
    tested = sorted({row["test_examples"] for row in document["rows"]})
    worst = "worst: correct under every attack; " if WORST in names else ""
    return (
        f"Test accuracy in %, best/last epoch, on {' or '.join(f'{n:,}' for n in tested)} images; "
        f"{worst}"
        f"95 % interval up to +-{100 * max(halves):.1f} points."
    )


_WHICH = ("best", "last")


def _problem(document: Document) -> str:
    """What is wrong with a document, in one line; empty when nothing is."""
    try:
        return _first_problem(document)
    except (TypeError, AttributeError, LookupError, ValueError, OverflowError) as error:
        return f"not in the expected form ({one_line(error)})"


def _first_problem(document: Document) -> str:
    missing = _missing(document, TOP_KEYS)
    if missing:
        return f"lacks {missing}"
    parts: list[tuple[str, Any, tuple[str, ...]]]
    parts = [("machine", document["machine"], MACHINE_KEYS), ("data", document["data"], DATA_KEYS)]
    parts += [(f"attacks[{i}]", a, ATTACK_KEYS) for i, a in enumerate(document["attacks"])]
    parts += [(f"rows[{i}]", row, ROW_KEYS) for i, row in enumerate(document["rows"])]
    parts += [(f"ledger[{i}]", e, LEDGER_KEYS) for i, e in enumerate(document["ledger"])]
    for label, records in document["curves"].items():
        parts += [(f"curves[{label!r}][{i}]", r, CURVE_KEYS) for i, r in enumerate(records)]
    for name, layers in document["layers"].items():
        parts += [(f"layers[{name!r}][{i}]", r, LAYER_KEYS) for i, r in enumerate(layers)]
    for where, part, keys in parts:
        missing = _missing(part, keys)
        if missing:
            return f"{where} lacks {missing}"
    for i, attack in enumerate(document["attacks"]):
        problem = attack_problem(attack)
        if problem:
            return f"attacks[{i}]: {problem}"
    if not document["rows"]:
        return "has no rows"
    names = [row["name"] for row in document["rows"]]
    if len(set(names)) != len(names):
        return "two rows have the same name"
    for row in document["rows"]:
        if row["kind"] not in config.KINDS:
            return f"row {row['name']!r} is of unknown kind {row['kind']!r}"
        if row["test_examples"] < 1:
            return f"row {row['name']!r} was tested on no images"
        if row["search_source"] not in SEARCH_SOURCES:
            return f"row {row['name']!r}: unknown search_source {row['search_source']!r}"
        attacks = attack_names(document)
        for name in ("natural", *attacks, *([WORST] if attacks else [])):
            accuracy = row.get(name)
            if not isinstance(accuracy, dict) or _missing(accuracy, _WHICH):
                return f"row {row['name']!r} lacks the best or last accuracy of {name}"
            if not all(0 <= accuracy[which] <= 1 for which in _WHICH):
                return f"row {row['name']!r}: accuracy of {name} outside [0, 1]"
    return ""


def _missing(part: Any, keys: tuple[str, ...]) -> str:
    return ", ".join(repr(key) for key in keys if key not in part)
