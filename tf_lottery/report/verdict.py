"""What a results document shows, in plain sentences, whichever way it went.

Every claim of a difference rests on a 95 % interval over the images; where the
interval holds 0 the sentence says that nothing can be claimed. Costs are judged by
FLOPs, which are the same on every machine; seconds are stated as measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

from tf_lottery.report import formats
from tf_lottery.report.limits import limits
from tf_lottery.report.results import WORST, Document, attack_names
from tf_lottery.statistics import difference

Outcome = Literal["ahead", "behind", "even", "note"]

PHRASES = {
    "dense": "the dense network",
    "boosting": "the boosting ticket",
    "winning": "the winning ticket",
    "reinit": "the same mask re-initialised",
    "random_mask": "a random mask of the same density",
}
TICKETS = ("boosting", "winning")
FIRST, FINAL, COST, LIMITS = "First epoch", "Final accuracy", "Cost", "Limits"


class Finding(NamedTuple):
    """One sentence (or two).

    Attributes:
      topic: the heading it stands under.
      outcome: of the sparse model against its baseline: ``ahead`` and ``behind``
        only where the interval excludes 0 (or the FLOPs ratio, to two decimals, 1).
      text: plain text, no markup.
    """

    topic: str
    outcome: Outcome
    text: str


def findings(document: Document) -> list[Finding]:
    """All findings of a document, grouped by topic in reading order."""
    return [
        *_first_epoch(document),
        *_final_accuracy(document),
        *_speed(document),
        *_cost(document),
        *(Finding(LIMITS, "note", text) for text in limits(document)),
    ]


def headline(document: Document) -> str | None:
    """The row key that "robust" stands for in the findings; ``None`` without attacks.

    The worst of all attacks image by image, so that no model picks its judge.
    """
    return WORST if document["attacks"] else None


def headline_words(document: Document) -> str:
    """``worst of fgsm, pgd20``, or the one attack's name."""
    names = attack_names(document)
    return names[0] if len(names) == 1 else f"worst of {', '.join(names)}"


def phrase(document: Document, row: dict) -> str:
    """``the boosting ticket``; with the row's name where the kind alone is ambiguous."""
    alike = [other for other in document["rows"] if other["kind"] == row["kind"]]
    words = PHRASES[row["kind"]]
    return words if len(alike) == 1 else f"{words} ({row['name']})"


def partner(document: Document, row: dict, kind: str) -> dict | None:
    """The row of ``kind`` that ``row`` is compared with: same network, data set and seed,
    and but for ``dense`` the same density."""
    for other in document["rows"]:
        if other["kind"] != kind or any(other[k] != row[k] for k in ("model", "dataset", "seed")):
            continue
        # Two masks of one sparsity may differ by a weight or two, where scores tie.
        if kind == "dense" or math.isclose(other["density"], row["density"], abs_tol=5e-4):
            return other
    return None


def _first_epoch(document: Document) -> Iterator[Finding]:
    for row, kind in _pairs(document, FIRST):
        other = partner(document, row, kind)
        ours, theirs = _record(document, row, 1), _record(document, other, 1)
        if other is None or ours is None or theirs is None:
            continue
        key = _judged_by([ours, theirs])
        word = "robust " if key == "validation_robust" else ""
        interval = _validation_difference(document, ours[key], theirs[key])
        outcome, span = _judge(interval)
        text = (
            f"After epoch 1 {phrase(document, row)} is at {formats.percent(ours[key])} % "
            f"{word}validation accuracy, {phrase(document, other)} "
            f"at {formats.percent(theirs[key])} % ({_points(interval[0])}, {span})"
        )
        yield Finding(FIRST, outcome, f"{text}{_claim(outcome)}.")


def _pairs(document: Document, topic: str) -> Iterator[tuple[dict, str]]:
    """A ticket and the kind it is set against, the dense network first."""
    for row in _of_kind(document, *TICKETS):
        yield row, "dense"
        if row["kind"] == "boosting":
            # Only the boosting ticket's mask is re-initialised.
            yield row, "reinit"
            if topic == FINAL:
                yield row, "random_mask"
            yield row, "winning"


def _final_accuracy(document: Document) -> Iterator[Finding]:
    robust = headline(document)
    for row, kind in _pairs(document, FINAL):
        other = partner(document, row, kind)
        if other is None:
            continue
        yield _compare(document, row, other, robust or "natural", "last")
        # The last epoch shows what robust overfitting leaves; the best one was
        # chosen on validation images. Where they coincide, once is enough.
        whole = kind in ("dense", "winning")
        if whole and any(r["best_epoch"] != r["epochs"] for r in (row, other)):
            yield _compare(document, row, other, robust or "natural", "best")
        if kind == "dense" and robust:
            yield _compare(document, row, other, "natural", "last")


def _compare(document: Document, row: dict, other: dict, name: str, which: str) -> Finding:
    interval = difference(
        row[name][which], row["test_examples"], other[name][which], other["test_examples"]
    )
    outcome, span = _judge(interval)
    when = "At the end" if which == "last" else "At the best validation epoch"
    what = "natural" if name == "natural" else f"robust ({headline_words(document)})"
    tested = sorted({row["test_examples"], other["test_examples"]})
    images = " and ".join(f"{n:,}" for n in tested)
    text = (
        f"{when}, {row['name']} minus {other['name']}: {_points(interval[0])} {what} "
        f"({formats.percent(row[name][which])} against {formats.percent(other[name][which])} %) "
        f"on {images} test images, {span}"
    )
    claim = _claim(outcome) or (f": {row['name']} is {'higher' if outcome == 'ahead' else 'lower'}")
    return Finding(FINAL, outcome, f"{text}{claim}.")


def _speed(document: Document) -> Iterator[Finding]:
    for row in document["rows"]:
        dense = partner(document, row, "dense")
        if dense is None or row["kind"] == "dense":
            continue
        if row["epochs_to_dense"] is None:
            yield _never_reached(document, row, dense)
            continue
        text = (
            f"{_upper(phrase(document, row))} reached the dense run's best validation accuracy "
            f"after {formats.epochs(row['epochs_to_dense'])} of {_count(row['epochs'], 'epoch')}"
        )
        share = row["flops_to_dense_over_dense"]
        if share is None:
            yield Finding(COST, "note", f"{text}.")
            continue
        text += (
            f" (the dense run in epoch {dense['best_epoch']}); {_search_words(row)} that is "
            f"{formats.ratio(share)}x the dense run's FLOPs to its own best"
            f"{_measured(row['seconds_to_dense_over_dense'])}"
        )
        if _unknown_search(row):
            yield Finding(COST, "note", f"{text}{_UNKNOWN}.")
        else:
            yield Finding(COST, _cheaper(share), f"{text}.")


def _never_reached(document: Document, row: dict, dense: dict) -> Finding:
    """Worse only if its own best lies lower by more than the validation images can explain."""
    text = (
        f"{_upper(phrase(document, row))} never reached the dense run's best validation accuracy "
        f"in its {_count(row['epochs'], 'epoch')}"
    )
    ours, theirs = (document["curves"].get(r["name"], []) for r in (row, dense))
    if not ours or not theirs:
        return Finding(COST, "note", f"{text}.")
    key = _judged_by([*ours, *theirs])
    best, goal = (max(record[key] for record in curve) for curve in (ours, theirs))
    missed = _validation_difference(document, goal, best)
    dense_outcome, span = _judge(missed)
    text += f": it missed it by {_round(missed[0]):.1f} points ({span})"
    if dense_outcome == "ahead":
        return Finding(COST, "behind", f"{text}.")
    return Finding(COST, "note", f"{text}, which is within noise.")


def _cost(document: Document) -> Iterator[Finding]:
    for row in _of_kind(document, *TICKETS):
        dense = partner(document, row, "dense")
        share = row["total_flops_over_dense"]
        if dense is None or share is None:
            continue
        equal = row["epochs"] == dense["epochs"]
        epochs = (
            "equal epochs"
            if equal
            else f"{row['epochs']} against {_count(dense['epochs'], 'epoch')}"
        )
        text = (
            f"{_upper(_search_words(row))}, the full {row['name']} run took "
            f"{formats.ratio(share)}x the dense run's FLOPs{_measured(row['total_over_dense'])}"
        )
        if _unknown_search(row):
            yield Finding(COST, "note", f"{text} at {epochs}{_UNKNOWN}.")
            continue
        outcome = _cheaper(share)
        saved = f"{100 * (1 - share):.0f} % of the FLOPs are saved"
        text += f": {saved if outcome == 'ahead' else 'no FLOPs are saved'} at {epochs}"
        if outcome == "ahead" and _worse(document, row, dense):
            outcome = "note"
            text += ", but its accuracy is lower (above), so the two do not buy the same"
        yield Finding(COST, outcome, f"{text}.")


_UNKNOWN = ": the ticket records no search cost, so no saving can be claimed"


def _unknown_search(row: dict) -> bool:
    """Whether a given ticket does not say what finding it cost."""
    return row["search_source"] == "ticket" and min(row["search_seconds"], row["search_flops"]) <= 0


def _search_words(row: dict) -> str:
    if _unknown_search(row):
        return "the search left out"
    if row["search_flops"] <= 0:
        return "without any search"
    if row["search_source"] == "ticket":
        return "with the search's cost as recorded in the ticket"
    return "search included"


def _measured(share: float | None) -> str:
    return "" if share is None else f" ({formats.ratio(share)}x its seconds, as measured)"


def _of_kind(document: Document, *kinds: str) -> list[dict]:
    return [row for row in document["rows"] if row["kind"] in kinds]


def _record(document: Document, row: dict | None, epoch: int) -> dict | None:
    curve = document["curves"].get(row["name"], []) if row else []
    return next((record for record in curve if record["epoch"] == epoch), None)


def _worse(document: Document, row: dict, dense: dict) -> bool:
    names = ("natural", headline(document))
    return any(
        _compare(document, row, dense, name, "last").outcome == "behind" for name in names if name
    )


def _judged_by(records: list[dict]) -> str:
    """The validation accuracy that all ``records`` have, robust if they do."""
    robust = all(record["validation_robust"] is not None for record in records)
    return "validation_robust" if robust else "validation_natural"


def _validation_difference(
    document: Document, ours: float, theirs: float
) -> tuple[float, float, float]:
    images = document["data"].get("validation_used") or document["data"]["validation"]
    return difference(ours, images, theirs, images)


def _judge(interval: tuple[float, float, float]) -> tuple[Outcome, str]:
    _, low, high = interval
    outcome: Outcome = "ahead" if low > 0 else "behind" if high < 0 else "even"
    return outcome, f"95 % interval [{_bound(low)}, {_bound(high)}]"


def _cheaper(share: float) -> Outcome:
    rounded = round(share, 2)  # what the sentence shows
    return "ahead" if rounded < 1 else "behind" if rounded > 1 else "even"


def _claim(outcome: Outcome) -> str:
    return ": no difference can be claimed" if outcome == "even" else ""


def _points(gap: float) -> str:
    return f"{_round(gap):+.1f} points"


def _bound(bound: float) -> str:
    return f"{_round(bound):.1f}"


def _round(share: float) -> float:
    return round(100 * share, 1) + 0.0  # + 0.0 turns -0.0 into 0.0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]
