"""What a results document says under each measure."""

from __future__ import annotations

from collections.abc import Iterable

from tf_lottery.report.comparison import BOOSTING, CONTROLS
from tf_lottery.report.measures import CURVES, Measure, parse
from tf_lottery.report.results import Arm, Results, Row
from tf_lottery.statistics import Estimate, estimate

# These may follow from the settings alone, see ``is_counted``.
_COUNTED = ("density", "epochs", "search_flops", "train_flops", "search_passes", "train_passes",
            "total_flops_over_dense")  # fmt: skip


def resolve(document: Results, measure: Measure, arms: Iterable[str]) -> Measure:
    """``validation`` and ``test`` made definite for the arms of these names."""
    if measure.quantity == "validation":
        rows = [row for name in arms for row in document.runs(name)]
        robust = bool(rows) and all(map(_has_robust, rows))
        return measure._replace(quantity="validation_robust" if robust else "validation_natural")
    if measure.quantity == "test":
        return measure._replace(quantity="test_worst" if document.attacks else "test_natural")
    return measure


def _has_robust(row: Row) -> bool:
    return any(record.validation_robust is not None for record in row.curve)


def value(row: Row, measure: Measure) -> float | None:
    """The definite ``measure`` of one row; ``None`` if not measured, or never reached."""
    if measure.key is not None:
        return getattr(row, measure.key)
    if measure.quantity.startswith("test_"):
        tested = row.tests.get(measure.quantity.removeprefix("test_"))
        return None if tested is None else getattr(tested, str(measure.at))
    if not row.curve:
        return None
    epoch = {"best": row.best_epoch, "last": row.curve[-1].epoch}.get(str(measure.at), measure.at)
    record = next((record for record in row.curve if record.epoch == epoch), None)
    if record is None:
        return None
    if measure.at == "best" and row.weights == "raw":
        return getattr(record, measure.quantity.replace("validation", "raw"))
    return getattr(record, measure.quantity)


def images(document: Results, arm: str, measure: Measure) -> int | None:
    """On how many images an accuracy was measured (the fewest of the rows); else ``None``."""
    if measure.unit != "accuracy":
        return None
    if measure.quantity in CURVES:
        return document.data.validation_used or document.data.validation
    return min((row.test_examples for row in document.runs(arm) if row.tests), default=None)


def is_counted(document: Results, measure: Measure, arms: Iterable[str]) -> bool:
    """Whether the settings alone decide the number of these arms, so that no seed can change it.

    A seed decides where a training or a search ended early or went back, how wide the layers are
    of which channels are cut, and how many weights Flying Bird+ leaves.
    """
    if measure.key not in _COUNTED:
        return False
    names = {*arms, *document.baselines}
    rows = [row for row in document.rows if row.name in names]
    trained = [entry for entry in document.ledger if names & {*entry.models}]
    update, prune = (document.settings.get(part) or {} for part in ("sparsity_update", "prune"))
    searched = {"early", *((BOOSTING, *CONTROLS) if prune.get("search") == "early" else ())}
    return not (
        any(row.stopped or row.flops_left < 1 or row.kind in searched for row in rows)
        or any(entry.epochs or entry.rollbacks for entry in trained)
        or (measure.key == "density" and update.get("name") == "flying_bird_plus")
    )


def published(document: Results, arm: Arm, measure: Measure, arms: Iterable[str]) -> float | None:
    """The paper's value, also where it stands under a word that resolves to ``measure``."""
    arms = list(arms)
    for word, number in arm.published.items():
        if resolve(document, parse(word), arms) == measure:
            return number
    return None


def mean(document: Results, arm: str, measure: Measure) -> Estimate | None:
    """Over the arm's seeds that have a value; ``None`` where none has."""
    known = [v for row in document.runs(arm) if (v := value(row, measure)) is not None]
    if not known:
        return None
    return estimate(known, images(document, arm, measure), is_counted(document, measure, [arm]))
