"""The cost ledger of a study, summed up: it may have hundreds of stages."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from tf_lottery.report.results import LedgerEntry, Results

SUMS = (
    "seconds", "startup_seconds", "validation_seconds", "examples", "forward_passes",
    "input_gradient_passes", "weight_gradient_passes", "flops",
)  # fmt: skip


class Group(NamedTuple):
    """Stages that belong together.

    Attributes:
      kind: of the stages, ``train``.
      arms: names of the arms that use them; of several kinds of use all of them.
      stages: how many.
      cached: how many of them an earlier run had done.
      sums: over the stages, by the keys ``SUMS``.
    """

    kind: str
    arms: list[str]
    stages: int
    cached: int
    sums: dict[str, float]


def by_kind(document: Results) -> list[Group]:
    """One group a kind of stage, in the order in which they first occur."""
    return _grouped(document, lambda entry: entry.kind)


def by_arm(document: Results) -> list[Group]:
    """One group for each kind of stage and set of arms that share it."""
    return _grouped(document, lambda entry: (entry.kind, frozenset(entry.models)))


def total(document: Results) -> Group:
    """All stages; each once, however many arms use it."""
    return _group(document.ledger)


def fresh(document: Results) -> Group:
    """The stages that this run carried out itself."""
    return _group([entry for entry in document.ledger if not entry.cached])


def _grouped(document: Results, key: Callable[[LedgerEntry], Hashable]) -> list[Group]:
    found: dict[Hashable, list[LedgerEntry]] = {}
    for entry in document.ledger:
        found.setdefault(key(entry), []).append(entry)
    return [_group(entries) for entries in found.values()]


def _group(entries: list[LedgerEntry]) -> Group:
    arms = dict.fromkeys(name for entry in entries for name in entry.models)
    return Group(
        entries[0].kind if entries else "",
        list(arms),
        len(entries),
        sum(bool(entry.cached) for entry in entries),
        {key: sum(getattr(entry, key) for entry in entries) for key in SUMS},
    )
