"""Published curves in a study's document."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec.structs import replace

from tf_lottery.report.asked import Figure
from tf_lottery.report.results import Arm, Point, Reference, Results

_AT_AN_EPOCH = re.compile(r"validation_(natural|robust)@(\d+)")


def lay_over(document: Results, reference: Reference | None) -> Results:
    """The document with other published curves, or none; it is not changed."""
    arms = with_curves(document.arms, document.figures, reference)
    return replace(document, arms=arms, reference=reference)


def with_curves(
    arms: Sequence[Arm], figures: Sequence[Figure], reference: Reference | None
) -> list[Arm]:
    """Arms with what published curves say of them.

    The curves are drawn beside the arms whose runs they are. What a sweep's figure shows at an
    epoch is read from them too, as the arms' ``published`` values: those at an epoch come from
    curves alone, never from the paper's tables, so that old ones can be told and taken away.

    Args:
      arms: are not changed.
      figures: that draw them.
      reference: of ``report.reference.read_reference``; ``None`` takes old curves away.
    """
    wanted = [
        measure
        for figure in figures
        if figure.form == "sweep"
        for measure in figure.measures
        if _AT_AN_EPOCH.fullmatch(measure)
    ]
    curves = {} if reference is None else reference.runs
    result = []
    for arm in arms:
        found = _values(curves.get(arm.reference or "", []), wanted)
        kept = {
            measure: number
            for measure, number in arm.published.items()
            if not _AT_AN_EPOCH.fullmatch(measure)
        }
        result.append(replace(arm, published={**found, **kept}))
    return result


def _values(curve: list[Point], wanted: list[str]) -> dict[str, float]:
    """Measure -> what the curve says, where it says anything."""
    found = {}
    for measure in wanted:
        kind, epoch = _AT_AN_EPOCH.fullmatch(measure).groups()  # type: ignore[union-attr]
        number = next((getattr(p, kind) for p in curve if p.epoch == int(epoch)), None)
        if number is not None:
            found[measure] = number
    return found
