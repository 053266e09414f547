"""A comparison of kinds, ``--compare``: a study with one arm a kind."""

from __future__ import annotations

from collections.abc import Sequence

from tf_lottery.report import comparison
from tf_lottery.studies.definition import Arm, Experiment


def compare(kinds: Sequence[str], attacks: bool, priced: bool = True) -> Experiment:
    """The study that trains and compares each kind.

    Args:
      kinds: of ``--compare``.
      attacks: whether the networks are attacked on test images.
      priced: whether it is known what the search of each ticket costs; a given ticket may not
        say, and then nothing is claimed of it.
    """
    claims = comparison.claims(kinds, attacks)
    if not priced:
        claims = [claim for claim in claims if not claim.measure.startswith("run:")]
    return Experiment(
        id=comparison.ABOUT.id,
        source="",
        title=f"Comparison of {', '.join(kinds)}",
        question="",
        paper="",
        arms=lambda base: [Arm(kind, kind) for kind in kinds],
        claims=lambda base: claims,
        figures=comparison.FIGURES,
        full={},
        models=(),
        baseline=comparison.DENSE if comparison.DENSE in kinds else None,
        keeps=True,
    )
