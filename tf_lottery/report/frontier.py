"""Accuracy against cost: which arms no cheaper one beats, and what that says.

Of studies with a figure of form ``frontier``: its first measure is an accuracy, its second a cost
over the baseline's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tf_lottery.report import measures, values
from tf_lottery.report.answers import Answer
from tf_lottery.report.comparison import CONTROLS, DENSE, MARGIN, TWIN
from tf_lottery.report.measures import Measure
from tf_lottery.report.results import Arm, Figure, Results
from tf_lottery.report.verdicts import basis_words, gap_words, verdict_of
from tf_lottery.statistics import Estimate, drawn, paired

_SLACK = 1.02  # of a budget, which whole epochs and cut channels do not meet exactly
_ROUNDING = 1e-9


class Place(NamedTuple):
    """An arm: accuracy and cost, means over the seeds that have both; what bars show."""

    arm: Arm
    cost: float
    accuracy: float
    low: float
    high: float


def places(document: Results, arms: Iterable[Arm], y: Measure, x: Measure) -> list[Place]:
    """Those of the arms that were measured, by cost."""
    found = []
    for arm in arms:
        known = [
            (accuracy, cost)
            for row in document.runs(arm.name)
            if (accuracy := values.value(row, y)) is not None
            and (cost := values.value(row, x)) is not None
        ]
        if known:
            accuracies, costs = zip(*known, strict=True)
            spread = drawn(accuracies, values.images(document, arm.name, y))
            found.append(Place(arm, sum(costs) / len(costs), *spread))
    return sorted(found, key=lambda place: (place.cost, -place.accuracy))


def unbeaten(found: Iterable[Place]) -> list[Place]:
    """Those than which none that costs as little is more accurate, by cost.

    Args:
      found: by cost, see ``places``.
    """
    kept: list[Place] = []
    for place in found:
        if not kept or place.accuracy > kept[-1].accuracy:
            kept.append(place)
    return kept


def frontier_answers(document: Results) -> list[Answer]:
    """What a study with such a figure says in a few sentences; none of another."""
    figures = [figure for figure in document.figures if figure.form == "frontier"]
    if not figures or document.baseline is None:
        return []
    y, *costs = _measures(figures)
    found = places(document, document.arms, y, costs[0])
    base = next((place for place in found if place.arm.name == document.baseline), None)
    if base is None:
        return []
    cheaper = [place for place in found if place.cost < base.cost]
    told = [
        Answer(
            "", "The cheapest as robust as the baseline?", _cheapest(document, cheaper, y, costs)
        ),
        Answer("", "And with a ticket?", _cheapest(document, _tickets(cheaper), y, costs)),
    ]
    budgets = sorted({arm.x for arm in document.arms if arm.x is not None and arm.x < 1})
    for budget in budgets:
        within = [place for place in cheaper if place.cost <= _SLACK * budget]
        if text := _at(document, within, y):
            told.append(Answer("", f"For {100 * budget:.3g} % of the FLOPs at most?", text))
    return told


def _measures(figures: Iterable[Figure]) -> list[Measure]:
    """The accuracy, then the costs, FLOPs or whatever comes first."""
    words = dict.fromkeys(word for figure in figures for word in figure.measures)
    return sorted(map(measures.parse, words), key=lambda measure: measure.unit != "accuracy")


def _tickets(found: Iterable[Place]) -> list[Place]:
    return [place for place in found if place.arm.kind not in (DENSE, TWIN, *CONTROLS)]


def _gap(document: Results, ours: str, theirs: str, y: Measure) -> Estimate | None:
    """As a verdict says it where a claim is about the two, whose images are compared then."""
    for claim in document.claims:
        if (claim.ours, claim.theirs) == (ours, theirs) and measures.parse(claim.measure) == y:
            return verdict_of(document, claim).gap
    sides = [(values.value(a, y), values.value(b, y)) for a, b in _pairs(document, ours, theirs)]
    known = [(a, b) for a, b in sides if a is not None and b is not None]
    images = [values.images(document, name, y) for name in (ours, theirs)]
    if not known or None in images:
        return None
    mine, other = zip(*known, strict=True)
    return paired(mine, other, (images[0] or 1, images[1] or 1))


def _pairs(document: Results, ours: str, theirs: str):
    return zip(document.runs(ours), document.runs(theirs), strict=True)


def _cheapest(document: Results, found: list[Place], y: Measure, costs: list[Measure]) -> str:
    """Of those that are at most ``MARGIN`` below the baseline, by their means and by all of the
    interval."""
    assert document.baseline is not None
    gaps = [(place, _gap(document, place.arm.name, document.baseline, y)) for place in found]
    known = [(place, gap) for place, gap in gaps if gap is not None]
    if not known:
        return "Not measured: no such network is cheaper than the baseline."
    least = -MARGIN - _ROUNDING
    by_mean = next(((p, gap) for p, gap in known if gap.mean >= least), None)
    by_interval = next(
        ((p, gap) for p, gap in known if gap.low is not None and gap.low >= least), None
    )
    if by_mean is None:
        margin = measures.number(MARGIN, y.unit)
        return f"None of {len(known)}: all end more than {margin} points below it."
    text = f"By the means, of {len(known)} cheaper ones, {_named(document, *by_mean, y, costs)}"
    if by_interval is None:
        return f"{text}; of none is the whole interval that good."
    if by_interval[0] is by_mean[0]:
        return f"{text}, and so says the whole interval."
    return f"{text}; by the whole interval {_named(document, *by_interval, y, costs)}."


def _named(document: Results, place: Place, gap: Estimate, y: Measure, costs: list[Measure]) -> str:
    shares = []
    for measure in costs:
        mean = values.mean(document, place.arm.name, measure)
        if mean is not None:
            what = "FLOPs" if "flops" in measure.quantity else "seconds"
            shares.append(f"{measures.number(mean.mean, measure.unit)} of its {what}")
    return (
        f"{place.arm.name}, for {' and '.join(shares)}: {gap_words(gap, y)} against "
        f"{document.baseline} ({basis_words(gap)})"
    )


def _at(document: Results, found: list[Place], y: Measure) -> str:
    """The best dense network and the best ticket; each is the best of several, which flatters it
    the more the more there are."""
    by_accuracy = sorted(found, key=lambda place: -place.accuracy)
    tickets = _tickets(by_accuracy)
    dense = [place for place in by_accuracy if place.arm.kind in (DENSE, TWIN)]
    if not dense or not tickets:
        return ""
    gap = _gap(document, tickets[0].arm.name, dense[0].arm.name, y)
    shown = f": {gap_words(gap, y)} ({basis_words(gap)})" if gap else ""
    return (
        f"The best of {len(dense)} dense networks is {_placed(dense[0])}, the best of "
        f"{len(tickets)} tickets {_placed(tickets[0])}{shown}."
    )


def _placed(place: Place) -> str:
    accuracy, cost = measures.number(place.accuracy, "accuracy"), f"{place.cost:.3g}"
    return f"{place.arm.name} ({accuracy} % for {cost})"
