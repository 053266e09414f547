"""A stage: one piece of work, identified by what it depends on and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Stage:
    """One node of a run's graph.

    Attributes:
      kind: what is done, such as ``train``; a word.
      label: for people, such as ``search: boosting``; not part of the key.
      settings: JSON tree with everything that determines the result besides parents.
      parents: stages whose results are read, by role.
      runtime: what the work needs but the result does not depend on; not in the key. A
        stage can be pickled, for another process of the same version to carry it out.
      revision: of the code behind the kind: raised when a change of it changes results, so
        that finished stages of the old code are no longer found. 1 is left out of the key.
      key: 16 hex digits of a SHA-256 over kind, revision, settings and the parents' keys.

    Raises:
      ValueError: NaN or infinity among the settings.
      TypeError: something else than JSON among the settings.
    """

    kind: str
    label: str
    settings: Mapping[str, Any]
    parents: Mapping[str, Stage] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 1
    key: str = field(init=False)

    def __post_init__(self):
        # At once and not when asked for: then a search of many rounds, a chain of stages,
        # would have to be gone down to its start.
        object.__setattr__(self, "key", self._make_key())

    def _make_key(self) -> str:
        content: dict[str, Any] = {
            "kind": self.kind,
            "settings": dict(self.settings),
            "parents": {role: parent.key for role, parent in self.parents.items()},
        }
        if self.revision > 1:
            content["revision"] = self.revision
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """``<kind>-<key>``, the directory in the store."""
        return f"{self.kind}-{self.key}"

    def __reduce__(self):
        # A list, because pickle follows a chain of parents by recursion, to an end of its own.
        listed: list[tuple] = []
        places: dict[str, int] = {}
        for place, stage in enumerate(in_order([self])):
            places[stage.key] = place
            parents = {role: places[parent.key] for role, parent in stage.parents.items()}
            made = (stage.kind, stage.label, stage.settings, parents, stage.runtime, stage.revision)
            listed.append(made)
        return _from_list, (listed,)


def _from_list(listed: list[tuple]) -> Stage:
    """The last of pickled stages, whose parents stand before them."""
    stages: list[Stage] = []
    for kind, label, settings, places, runtime, revision in listed:
        parents = {role: stages[place] for role, place in places.items()}
        stages.append(Stage(kind, label, settings, parents, runtime, revision))
    return stages[-1]


def in_order(targets: Iterable[Stage]) -> list[Stage]:
    """All stages the targets need, parents first, each key once, in a stable order."""
    seen: dict[str, Stage] = {}
    for target in targets:
        pending = [target]  # no recursion: chains may be long
        while pending:
            stage = pending[-1]
            missing = [parent for parent in stage.parents.values() if parent.key not in seen]
            if missing and stage.key not in seen:
                pending += reversed(missing)
            else:
                seen.setdefault(stage.key, stage)
                pending.pop()
    return list(seen.values())


def ancestors(stage: Stage) -> list[Stage]:
    """The stages ``stage`` depends on, without itself, parents first."""
    return in_order(stage.parents.values())
