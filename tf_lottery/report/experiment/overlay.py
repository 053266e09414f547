"""Published curves in an experiment's document."""

from __future__ import annotations

import re

from tf_lottery.report.experiment.document import Document

_AT_AN_EPOCH = re.compile(r"validation_(natural|robust)@(\d+)")


def lay_over(document: Document, reference: dict | None) -> Document:
    """The document with other published curves, or none.

    The curves are drawn beside the arms whose runs they are. What a sweep's figure shows at an
    epoch is read from them too, as the arms' ``published`` values: those at an epoch come from
    curves alone, never from the paper's tables, so that old ones can be told and taken away.

    Args:
      document: is not changed.
      reference: of ``report.reference.read_reference``.
    """
    wanted = [
        measure
        for figure in document["figures"]
        if figure["form"] == "sweep"
        for measure in figure["measures"]
        if _AT_AN_EPOCH.fullmatch(measure)
    ]
    curves = {} if reference is None else reference["runs"]
    arms = []
    for arm in document["arms"]:
        found = _values(curves.get(arm["reference"], []), wanted)
        kept = {
            measure: number
            for measure, number in arm["published"].items()
            if not _AT_AN_EPOCH.fullmatch(measure)
        }
        arms.append({**arm, "published": {**found, **kept}})
    return {**document, "arms": arms, "reference": reference}


def _values(curve: list[dict], wanted: list[str]) -> dict[str, float]:
    """Measure -> what the curve says, where it says anything."""
    found = {}
    for measure in wanted:
        kind, epoch = _AT_AN_EPOCH.fullmatch(measure).groups()  # type: ignore[union-attr]
        number = next((row[kind] for row in curve if row["epoch"] == int(epoch)), None)
        if number is not None:
            found[measure] = number
    return found
