"""Attacks that an evaluation has finished, each kept as a stage of its own.

An evaluation with another attack more, or with one changed, takes the others from the store. They
are not among its parents: which attacks it has is in its key.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping

import numpy as np

from tf_lottery import files, weights
from tf_lottery.engine.stage import Stage
from tf_lottery.engine.store import Store
from tf_lottery.evaluation.packing import Passes, Verdicts
from tf_lottery.lottery.costs import Cost
from tf_lottery.lottery.graph import attack_stage
from tf_lottery.options.settings import AttackConfig

_COLUMNS = tuple(column.name for column in dataclasses.fields(Verdicts))


class FinishedAttacks:
    """Those of one evaluation; a ``FinishedAttacks`` of ``evaluation.Evaluator``.

    Args:
      store: with them.
      evaluation: a stage of kind ``evaluate``.
      forward_flops: of the network and an image.
    """

    def __init__(self, store: Store, evaluation: Stage, forward_flops: int):
        self._store = store
        self._evaluation = evaluation
        self._flops = forward_flops

    def find(
        self, attack: AttackConfig, clean: np.ndarray
    ) -> tuple[Verdicts, dict[str, Passes]] | None:
        """What the attack did, and the passes of its parts; ``None`` where it is to be run.

        Args:
          attack: of the evaluation.
          clean: int (n,), classes of the clean images, from which the attack must have begun.
        """
        stage = attack_stage(self._evaluation, attack)
        if not self._store.has(stage):
            return None
        arrays = weights.read_arrays(self._store.file(stage, "verdicts.npz"))
        if not np.array_equal(arrays["clean"], clean):
            return None
        passes = self._told(stage)["passes"]
        verdicts = Verdicts(**{column: arrays[column] for column in _COLUMNS})
        return verdicts, {part: Passes(**each) for part, each in passes.items()}

    def keep(
        self,
        attack: AttackConfig,
        clean: np.ndarray,
        verdicts: Verdicts,
        passes: Mapping[str, Passes],
    ) -> None:
        """Makes it a finished stage, unless it is one."""
        stage = attack_stage(self._evaluation, attack)
        if self._store.has(stage):
            return
        with self._store.work(stage) as directory:
            if directory is None:
                return
            arrays = {column: getattr(verdicts, column) for column in _COLUMNS}
            weights.write_arrays(directory / "verdicts.npz", {"clean": clean, **arrays})
            parts = {part: vars(each) for part, each in passes.items()}
            told = {"passes": parts, "evaluation": self._evaluation.key}
            files.write_json(directory / "attack.json", told)
            cost = spent(passes.values(), len(clean), self._flops)
            files.write_json(directory / "ledger.json", cost.to_json())

    def is_of_another(self, attack: AttackConfig) -> bool:
        """Whether another evaluation has run it, and bears its cost."""
        stage = attack_stage(self._evaluation, attack)
        known = self._store.has(stage)
        return known and self._told(stage)["evaluation"] != self._evaluation.key

    def _told(self, stage: Stage) -> dict:
        return json.loads(self._store.file(stage, "attack.json").read_bytes())


def spent(passes: Iterable[Passes], examples: int, forward_flops: int) -> Cost:
    """The cost of passes through a network, wall time of all processes it took included."""
    parts = list(passes)
    forward = sum(part.forward_passes for part in parts)
    gradient = sum(part.input_gradient_passes for part in parts)
    return Cost(
        seconds=sum(part.seconds for part in parts),
        examples=examples,
        forward_passes=forward,
        input_gradient_passes=gradient,
        flops=(forward + gradient) * forward_flops,
    )
