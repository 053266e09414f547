"""A stage: one piece of work, identified by what it depends on and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

# Raise a kind's number when a change of code changes its results: finished stages
# of the old code are then no longer found. 1 is left out of the key.
REVISIONS = {"init": 1, "train": 2, "prune": 1, "evaluate": 3, "export": 1, "transfer": 1}
KINDS = tuple(REVISIONS)


@dataclass(frozen=True, eq=False)
class Stage:
    """One node of a run's graph.

    Attributes:
      kind: one of ``KINDS``.
      label: for people, such as ``search: boosting``; not part of the key.
      settings: JSON tree with everything that determines the result besides parents.
      parents: stages whose results are read, by role.
      runtime: what the work needs but the result does not depend on; not in the key. A
        stage can be pickled, for another process of the same version to carry it out.
    """

    kind: str
    label: str
    settings: Mapping[str, Any]
    parents: Mapping[str, Stage] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown stage kind {self.kind}")

    @cached_property
    def key(self) -> str:
        """16 hex digits of a SHA-256 over kind, revision, settings and the parents' keys."""
        content: dict[str, Any] = {
            "kind": self.kind,
            "settings": dict(self.settings),
            "parents": {role: parent.key for role, parent in self.parents.items()},
        }
        if REVISIONS[self.kind] > 1:
            content["revision"] = REVISIONS[self.kind]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """``<kind>-<key>``, the directory in the store."""
        return f"{self.kind}-{self.key}"


def in_order(targets: Iterable[Stage]) -> list[Stage]:
    """All stages the targets need, parents first, each key once, in a stable order."""
    seen: dict[str, Stage] = {}

    def visit(stage: Stage):
        if stage.key not in seen:
            for parent in stage.parents.values():
                visit(parent)
            seen[stage.key] = stage

    for target in targets:
        visit(target)
    return list(seen.values())


def ancestors(stage: Stage) -> list[Stage]:
    """The stages ``stage`` depends on, without itself, parents first."""
    return in_order(stage.parents.values())
