"""A comparison of kinds, ``--compare``: a study with one arm a kind."""

from __future__ import annotations

from collections.abc import Sequence

from tf_lottery.report import comparison
from tf_lottery.studies.definition import Arm, Experiment


def compare(kinds: Sequence[str], attacks: bool) -> Experiment:
    """The study that trains and compares each kind.

    Args:
      kinds: of ``--compare``.
      attacks: whether the networks are attacked on test images.
    """
    claims = comparison.claims(kinds, attacks)
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
