"""What a results document shows, in plain sentences, whichever way it went.

Every claim of a difference rests on a 95 % interval over the images; where the
interval holds 0 the sentence says that nothing can be claimed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from tf_lottery.reporting import formats
from tf_lottery.reporting.intervals import difference
from tf_lottery.reporting.results import Document

Outcome = Literal["ahead", "behind", "even", "note"]

PHRASES = {
    "dense": "the dense network",
    "boosting": "the boosting ticket",
    "winning": "the winning ticket",
    "reinit": "the same mask re-initialised",
    "random_mask": "a random mask of the same density",
}
TICKETS = ("boosting", "winning")
FIRST, FINAL, SPEED, LIMITS = "First epoch", "Final accuracy", "Time", "Limits"


class Finding(NamedTuple):
    """One sentence (or two).

    Attributes:
      topic: the heading it stands under.
      outcome: of the sparse model against its baseline: ``ahead`` and ``behind``
        only where the interval excludes 0 (or the time ratio, to two decimals, 1).
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
        *_limits(document),
    ]


def headline_attack(document: Document) -> str | None:
    """The attack that "robust" stands for in the findings: the one with most gradient steps.

    Fixed by the settings, not by the outcome, so that no model picks its judge.
    ``None`` when no attack was run.
    """
    if not document["attacks"]:
        return None
    return max(document["attacks"], key=lambda a: a["steps"] * a["restarts"])["name"]


def phrase(document: Document, row: dict) -> str:
    """``the boosting ticket``; with the row's name where the kind alone is ambiguous."""
    alike = [other for other in document["rows"] if other["kind"] == row["kind"]]
    words = PHRASES[row["kind"]]
    return words if len(alike) == 1 else f"{words} ({row['name']})"


def partner(document: Document, row: dict, kind: str) -> dict | None:
    """The row of ``kind`` that ``row`` is compared with: same network, data set and seed."""
    shared = ["model", "dataset", "seed"] + (["density"] if kind != "dense" else [])
    for other in document["rows"]:
        if other["kind"] == kind and all(other[key] == row[key] for key in shared):
            return other
    return None


def _first_epoch(document: Document) -> Iterator[Finding]:
    images = document["data"].get("validation_used") or document["data"]["validation"]
    for row in _of_kind(document, *TICKETS):
        # Only the boosting ticket's mask is re-initialised.
        for kind in ("reinit", "dense") if row["kind"] == "boosting" else ("dense",):
            other = partner(document, row, kind)
            ours, theirs = _record(document, row, 1), _record(document, other, 1)
            if other is None or ours is None or theirs is None:
                continue
            robust = None not in (ours["validation_robust"], theirs["validation_robust"])
            key, word = ("validation_robust", "robust") if robust else ("validation_natural", "")
            interval = difference(ours[key], images, theirs[key], images)
            outcome, span = _judge(interval)
            text = (
                f"After epoch 1 {phrase(document, row)} is at {formats.percent(ours[key])} % "
                f"{word + ' ' if word else ''}validation accuracy, {phrase(document, other)} "
                f"at {formats.percent(theirs[key])} % ({_points(interval[0])}, {span})"
            )
            yield Finding(FIRST, outcome, f"{text}{_claim(outcome)}.")


def _final_accuracy(document: Document) -> Iterator[Finding]:
    attack = headline_attack(document)
    pairs = [(row, "dense") for row in _of_kind(document, *TICKETS)]
    pairs += [(row, kind) for row in _of_kind(document, "boosting") for kind in _CONTROLS]
    for row, kind in pairs:
        other = partner(document, row, kind)
        if other is None:
            continue
        yield _compare(row, other, attack or "natural", "last")
        # The last epoch shows what robust overfitting leaves; the best one was
        # chosen on validation images. Where they coincide, once is enough.
        if kind == "dense" and any(r["best_epoch"] != r["epochs"] for r in (row, other)):
            yield _compare(row, other, attack or "natural", "best")
        if kind == "dense" and attack:
            yield _compare(row, other, "natural", "last")


def _compare(row: dict, other: dict, name: str, which: str) -> Finding:
    interval = difference(
        row[name][which], row["test_examples"], other[name][which], other["test_examples"]
    )
    outcome, span = _judge(interval)
    when = "At the end" if which == "last" else "At the best validation epoch"
    what = "natural" if name == "natural" else f"robust ({name})"
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
        name, reached = phrase(document, row), row["epochs_to_dense"]
        if reached is None:
            text = (
                f"{_upper(name)} never reached the dense run's best validation accuracy "
                f"in its {_count(row['epochs'], 'epoch')}."
            )
            yield Finding(SPEED, "behind", text)
            continue
        text = (
            f"{_upper(name)} reached the dense run's best validation accuracy after "
            f"{formats.epochs(reached)} of {_count(row['epochs'], 'epoch')}"
        )
        share = row["seconds_to_dense_over_dense"]
        if share is None:
            yield Finding(SPEED, "note", f"{text}.")
            continue
        search = "search included" if row["search_seconds"] > 0 else "without any search"
        text += (
            f" (the dense run in epoch {dense['best_epoch']}); {search} that is "
            f"{formats.ratio(share)} of the dense run's time to its own best."
        )
        yield Finding(SPEED, _faster(share), text)


def _cost(document: Document) -> Iterator[Finding]:
    for row in _of_kind(document, *TICKETS):
        dense = partner(document, row, "dense")
        share = row["total_over_dense"]
        if dense is None or share is None:
            continue
        equal = row["epochs"] == dense["epochs"]
        epochs = (
            "equal epochs"
            if equal
            else f"{row['epochs']} against {_count(dense['epochs'], 'epoch')}"
        )
        outcome = _faster(share)
        claim = {
            "ahead": f"{100 * (1 - share):.0f} % of the time is saved at {epochs}",
            "behind": f"no time is saved at {epochs}",
            "even": f"no time is saved at {epochs}",
        }[outcome]
        if row["search_seconds"] > 0:
            start = f"If search is included, the full {row['name']} run took"
        else:
            start = f"The full {row['name']} run, which needed no search here, took"
        flops = row["total_flops_over_dense"]
        work = "" if flops is None else f" and {formats.ratio(flops)}x its FLOPs"
        text = f"{start} {formats.ratio(share)}x the dense run's seconds{work}: {claim}"
        if outcome == "ahead" and _worse(document, row, dense):
            outcome = "note"
            text += ", but its accuracy is lower (above), so the two do not buy the same"
        yield Finding(SPEED, outcome, f"{text}.")


def _limits(document: Document) -> Iterator[Finding]:
    rows = document["rows"]
    if not _of_kind(document, "dense"):
        text = (
            "There is no dense run here, so nothing can be said about accuracy or time against it."
        )
        yield Finding(LIMITS, "note", text)
    if len(rows) == 1:
        yield Finding(LIMITS, "note", "A single model: nothing is compared.")
    seeds = sorted({row["seed"] for row in rows})
    if len(seeds) == 1:
        seed = f"One seed ({seeds[0]}); seed noise not measured."
    else:
        seed = f"{len(seeds)} seeds; models are compared within a seed."
    yield Finding(
        LIMITS,
        "note",
        f"{seed} The intervals cover the draw of the images alone: 95 %, Newcombe's for two "
        "independent samples. Both models saw the same images, which makes them if anything "
        "too wide; they are not corrected for the number of comparisons.",
    )
    if not document["attacks"]:
        text = "No attack was run, so nothing is known about robustness."
        yield Finding(LIMITS, "note", text)
    if any(row["density"] < 1 for row in rows):
        yield Finding(
            LIMITS,
            "note",
            "Unstructured masks save no arithmetic: a pruned weight is still multiplied, as a "
            "zero, so an epoch of a sparse network costs what a dense one costs. Whatever is "
            "saved is epochs.",
        )


_CONTROLS = ("reinit", "random_mask")


def _of_kind(document: Document, *kinds: str) -> list[dict]:
    return [row for row in document["rows"] if row["kind"] in kinds]


def _record(document: Document, row: dict | None, epoch: int) -> dict | None:
    curve = document["curves"].get(row["name"], []) if row else []
    return next((record for record in curve if record["epoch"] == epoch), None)


def _worse(document: Document, row: dict, dense: dict) -> bool:
    names = ("natural", headline_attack(document))
    return any(_compare(row, dense, name, "last").outcome == "behind" for name in names if name)


def _judge(interval: tuple[float, float, float]) -> tuple[Outcome, str]:
    _, low, high = interval
    outcome: Outcome = "ahead" if low > 0 else "behind" if high < 0 else "even"
    return outcome, f"95 % interval [{_bound(low)}, {_bound(high)}]"


def _faster(share: float) -> Outcome:
    rounded = round(share, 2)  # what the sentence shows
    return "ahead" if rounded < 1 else "behind" if rounded > 1 else "even"


def _claim(outcome: Outcome) -> str:
    return ": no difference can be claimed" if outcome == "even" else ""


def _points(gap: float) -> str:
    value = round(100 * gap, 1) + 0.0  # + 0.0 turns -0.0 into 0.0
    return f"{value:+.1f} points"


def _bound(bound: float) -> str:
    return f"{round(100 * bound, 1) + 0.0:.1f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _upper(words: str) -> str:
    return words[:1].upper() + words[1:]
