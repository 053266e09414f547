"""``evaluation.json``: what one or several classifiers do under attacks.

Accuracies are shares in [0, 1], lengths are on [0, 1] pixels, times seconds; passes are counted
in images.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from tf_lottery.options.attacks import AttackConfig
from tf_lottery.report.document import Amount, Count, Data, Machine, Positive, Settings, Share
from tf_lottery.report.json_document import Document, read_document, write_document

FORMAT = 1
EVALUATION = "evaluation.json"
NATURAL, WORST = "natural", "worst"
# What a report calls each check.
CHECKS = {
    "zero_gradients": "Zero gradients",
    "black_box_beats_gradients": "Black box beats gradients",
    "stronger_is_weaker": "A stronger attack finds less",
    "unbounded_attack": "Unbounded attack",
    "probabilities": "Probabilities for logits",
    "randomness": "Randomness",
    "half_precision": "Half precision",
    "eps_curve": "Accuracy over eps",
}


class Cost(msgspec.Struct, kw_only=True):
    """Of one attack on all images; ``parts``: the same of each part of a suite."""

    seconds: Amount
    forward_passes: Count
    input_gradient_passes: Count
    parts: dict[str, Any] = {}


class Model(msgspec.Struct, kw_only=True):
    """One classifier.

    Attributes:
      what: where it is from.
      examples: test images.
      robust: accuracy under each attack.
      worst: share of images right when clean and under every attack.
      broken_by: attack -> part of it -> images that it broke.
      standing: attack -> images that none of its parts broke.
      cost: of ``natural`` and of each attack.
      digest: of its weights.
      training_eps: radius that it was trained at.
    """

    name: str
    what: str
    examples: Positive
    natural: Share
    robust: dict[str, Share]
    worst: Share | None
    broken_by: dict[str, dict[str, Count]]
    standing: dict[str, Count]
    cost: dict[str, Cost]
    digest: str | None = None
    training_eps: float | None = None

    def accuracy(self, measure: str) -> float | None:
        """Under ``natural``, ``worst`` or an attack; ``None`` if not measured."""
        if measure == WORST:
            return self.worst
        return self.natural if measure == NATURAL else self.robust[measure]

    def problems(self, attacks: Collection[str]) -> Iterator[str]:
        """What does not fit the attacks of the document."""
        where = f"model {self.name!r}"
        for key in ("robust", "broken_by", "standing"):
            yield from _differs(f"{where}: {key}", getattr(self, key), attacks)
        yield from _differs(f"{where}: cost", self.cost, [NATURAL, *attacks])
        if (self.worst or 0) > min(self.natural, *self.robust.values(), 1) + 0.5 / self.examples:
            yield f"{where}: worst is above the lowest of its accuracies"
        for name in attacks:
            if self.standing[name] + sum(self.broken_by[name].values()) > self.examples:
                yield f"{where}: broken_by and standing of {name} exceed {self.examples} images"


class Pair(msgspec.Struct, kw_only=True):
    """Two models on the same images under one measure (``natural``, an attack, ``worst``); see
    ``tf_lottery.statistics.compare``."""

    a: str
    b: str
    measure: str
    examples: Positive
    difference: float
    low: float
    high: float
    only_a: Count
    only_b: Count
    p: Share

    def problems(self, where: str) -> Iterator[str]:
        if self.a == self.b:
            yield f"{where} compares {self.a!r} with itself"
        gap = self.difference * self.examples - (self.only_a - self.only_b)
        if self.examples < self.only_a + self.only_b or not abs(gap) <= 0.5:
            yield f"{where}: difference and counts contradict each other"
        if not -1 <= self.low <= self.difference <= self.high <= 1:
            yield f"{where}: difference outside its interval"


class Transfer(msgspec.Struct, kw_only=True):
    """Accuracy of the column's model on images crafted on the row's."""

    attack: AttackConfig
    examples: Positive
    models: list[str]
    accuracy: list[list[Share]]

    def problems(self) -> Iterator[str]:
        side = len(self.models)
        if not side or len(set(self.models)) != side:
            yield "transfer: no models, or one of them twice"
        if len(self.accuracy) != side or any(len(row) != side for row in self.accuracy):
            yield f"transfer: accuracy is not {side} x {side}"


class Curve(msgspec.Struct, kw_only=True):
    """Accuracy of each model at growing values of something; ``rises``: (from, to, share gained)
    where it grows though the attack became stronger."""

    attack: AttackConfig
    examples: Positive
    values: list[Amount]
    accuracy: dict[str, list[Share]]
    rises: dict[str, list[tuple[float, float, float]]]

    def problems(self, where: str) -> Iterator[str]:
        if not self.values or any(b <= a for a, b in pairwise(self.values)):
            yield f"{where}: values do not increase"
        if not self.accuracy:
            yield f"{where}: accuracy of no model"
        for name, shares in self.accuracy.items():
            if len(shares) != len(self.values):
                yield f"{where}: accuracy of {name!r} is not {len(self.values)} shares"
        for name, rises in self.rises.items():
            if any(end not in self.values for _, end, _ in rises):
                yield f"{where}: rises of {name!r} are at none of its values"


class Curves(msgspec.Struct, kw_only=True):
    """Over the radius and over the number of steps."""

    eps: Curve | None
    steps: Curve | None


class Check(msgspec.Struct, kw_only=True):
    """Whether attacks work as they should, see ``tf_lottery.evaluation.diagnosis.Check``."""

    check: str
    outcome: Literal["pass", "warn", "skipped"]
    text: str
    value: float | None


class Evaluation(Document):
    """``pairs``: none with a single model; ``diagnosis``: checks of each model."""

    WHAT: ClassVar[str] = "an evaluation"
    SIGN: ClassVar[str] = "models"

    format: Literal[1]
    kind: Literal["evaluation"]
    package_version: str
    command: list[str]
    settings: Settings
    machine: Machine
    data: Data
    attacks: list[AttackConfig]
    models: list[Model]
    pairs: list[Pair]
    transfer: Transfer | None
    curves: Curves | None
    diagnosis: dict[str, list[Check]]

    @property
    def attack_names(self) -> list[str]:
        return [attack.name for attack in self.attacks]

    @property
    def measures(self) -> list[str]:
        """What to show of each model; the worst of a single attack is that attack."""
        worst = len(self.attacks) > 1 and any(model.worst is not None for model in self.models)
        return [NATURAL, *self.attack_names, *([WORST] if worst else [])]

    @property
    def strongest(self) -> str | None:
        """The measure that "robust accuracy" stands for; ``None`` without attacks.

        The worst of all attacks image by image, where every model has it; else the attack that
        leaves the lowest accuracy on average, the same for all models.
        """
        if len(self.attacks) > 1 and all(model.worst is not None for model in self.models):
            return WORST
        sums = {name: sum(m.robust[name] for m in self.models) for name in self.attack_names}
        return min(sums, key=lambda name: sums[name], default=None)

    @property
    def warned(self) -> list[str]:
        """Names of the models whose robust accuracy a check speaks against."""
        warns = {
            name for name, found in self.diagnosis.items() for c in found if c.outcome == "warn"
        }
        return [model.name for model in self.models if model.name in warns]

    def curve(self, over: Literal["eps", "steps"]) -> Curve | None:
        """``None`` if not measured."""
        if self.curves is None:
            return None
        return self.curves.eps if over == "eps" else self.curves.steps

    def problems(self) -> Iterator[str]:
        attacks, names = self.attack_names, [model.name for model in self.models]
        if not names:
            yield "has no models"
        for kind, found in (("models", names), ("attacks", attacks)):
            if len(set(found)) != len(found):
                yield f"two {kind} have the same name"
        yield from (f"an attack is called {name!r}" for name in (NATURAL, WORST) if name in attacks)
        for model in self.models:
            yield from model.problems(attacks)
        for i, pair in enumerate(self.pairs):
            yield from _unknown(f"pairs[{i}]", (pair.a, pair.b), names)
            yield from _unknown(f"pairs[{i}]", (pair.measure,), (NATURAL, *attacks, WORST))
            yield from pair.problems(f"pairs[{i}]")
        if self.transfer is not None:
            yield from _unknown("transfer", self.transfer.models, names)
            yield from self.transfer.problems()
        for where, curve in (
            ("curves.eps", self.curve("eps")),
            ("curves.steps", self.curve("steps")),
        ):
            if curve is not None:
                yield from _unknown(where, (*curve.accuracy, *curve.rises), names)
                yield from curve.problems(where)
        yield from _unknown("diagnosis", self.diagnosis, names)
        for name, checks in self.diagnosis.items():
            yield from _unknown(f"diagnosis of {name!r}", (c.check for c in checks), CHECKS)


def _differs(where: str, found: Collection[str], expected: Collection[str]) -> Iterator[str]:
    missing = [name for name in expected if name not in found]
    yield from (f"{where} lacks {name!r}" for name in missing)
    yield from _unknown(where, found, expected)


def _unknown(where: str, found, known: Collection[str]) -> Iterator[str]:
    yield from (f"{where}: unknown {name!r}" for name in found if name not in known)


def write_evaluation(path: str | os.PathLike, document: Evaluation) -> Path:
    """See ``write_document``."""
    return write_document(path, document)


def read_evaluation(path: str | os.PathLike) -> Evaluation:
    """The checked document at ``path``; raises ``StoreError``."""
    return read_document(path, "a finished --mode=evaluate", Evaluation, FORMAT)
