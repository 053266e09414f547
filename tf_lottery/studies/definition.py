"""What an experiment of the paper is: arms that differ in a few options, and claims.

Pure data, made without TensorFlow. ``studies.study`` turns it into stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tf_lottery.errors import UsageError
from tf_lottery.options.architectures import architecture
from tf_lottery.report.asked import Claim, Figure

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Arm:
    """One network that is trained in every replicate: a curve, or a point of one.

    Attributes:
      name: unique in the experiment; stands in tables and legends.
      kind: one of ``settings.KINDS``.
      options: arguments of ``lottery_config`` that differ from the command line's.
      series: arms of one series are one line of a sweep's figure.
      x: its place on that line.
      reference: the same run among the authors' curves.
      published: measure -> what the paper says. What its curves say after an epoch is read
        from them, see ``report.overlay``.
      baseline: the arm that its costs are compared with, if not the experiment's.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    series: str = ""
    x: float | None = None
    reference: str | None = None
    published: Mapping[str, float] = field(default_factory=dict)
    baseline: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A list of values on the command line.

    Attributes:
      flag: its name.
      values: the paper's.
      whole: only whole numbers make sense.
      low, high: bounds, both allowed.
    """

    flag: str
    values: tuple[float, ...]
    whole: bool = False
    low: float = 1
    high: float = math.inf

    def check(self, values: Sequence[float]) -> tuple[float, ...]:
        """The values in ascending order, whole ones as ``int``; ``UsageError`` if unusable."""
        if not values:
            raise UsageError.bad_value(self.flag, "", "one number or more, with commas between")
        for value in values:
            inside = self.low <= value <= self.high and math.isfinite(value)
            if not inside or (self.whole and value != int(value)):
                kind = "a whole number" if self.whole else "a number"
                top = f" to {self.high:g}" if math.isfinite(self.high) else " or more"
                raise UsageError.bad_value(self.flag, f"{value:g}", f"{kind}, {self.low:g}{top}")
        if len(set(values)) != len(values):
            raise UsageError.bad_value(
                self.flag, ",".join(f"{value:g}" for value in values), "each value once"
            )
        return tuple(int(v) if self.whole else v for v in sorted(values))


@dataclass(frozen=True)
class Base:
    """What the arms of an experiment are made from.

    Attributes:
      options: arguments of ``lottery_config``, defaults included.
      sweeps: flag -> values.
    """

    options: Mapping[str, Any]
    sweeps: Mapping[str, tuple[float, ...]]

    @property
    def model(self) -> str:
        """The network family."""
        return self.options["model"]

    @property
    def epochs(self) -> int:
        """Of a full training."""
        return self.options["epochs"]

    @property
    def search_rate(self) -> float:
        """The small rate of the boosting search."""
        small = architecture(self.model).search_learning_rate
        return self.options["search_learning_rate"] or small

    def of_full(self, epochs: float, paper: Mapping[int, _Value], full: int = 100) -> _Value | None:
        """The paper's value at the same share of the full training; ``None`` if it has none.

        Args:
          epochs: of ``self.epochs``.
          paper: epochs of ``full`` -> value.
          full: of the paper.
        """
        share = epochs / self.epochs
        return next((v for e, v in paper.items() if abs(e / full - share) < 0.005), None)


@dataclass(frozen=True)
class Experiment:
    """A figure or table of the paper, another experiment, or (without a ``source``) a comparison.

    Attributes:
      id: its name on the command line; ``aliases`` are others.
      source: where it stands in the paper, or the experiment's name.
      title, question: for the report.
      paper: what the paper says of it; empty: nothing.
      arms, claims: made from the command line's options.
      figures: of the report; their ``arms`` are names of series or arms.
      full: options of ``lottery_config`` at the paper's own scale.
      models: network families of the paper; the first unless the command line says else.
      defaults: other options that the command line need not give. A run that differs in
        one of these or of ``full`` says so in its report.
      sets: options that the arms set, so that the command line may not.
      sweeps: lists that the command line may give.
      fixed: options that every arm has, and the command line may not change.
      baseline: the arm that costs are compared with. Without one (nor of the arms' own) FLOPs
        are set against those of a dense training that is counted and not run.
      transfer: whether adversarial examples are exchanged between the arms, by ``pgd20``.
      transfer_published: the paper's accuracies then, by the names of the arm that the examples
        were made on and of the arm that classifies them.
      sweep_label: of the arms' ``x``.
      keeps: whether tickets, SavedModels, search curves and adversarial examples are left in the
        work directory.
    """

    id: str
    source: str
    title: str
    question: str
    paper: str
    arms: Callable[[Base], list[Arm]]
    claims: Callable[[Base], list[Claim]]
    figures: tuple[Figure, ...]
    full: Mapping[str, Any]
    aliases: tuple[str, ...] = ()
    models: tuple[str, ...] = ("vgg", "resnet18")
    defaults: Mapping[str, Any] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    transfer: bool = False
    transfer_published: Callable[[Base], Mapping[tuple[str, str], float]] | None = None
    sweep_label: str = ""
    log_sweep: bool = False
    keeps: bool = False


def at_epoch(*epochs: int, robust: bool = False) -> tuple[str, ...]:
    """Measures: validation accuracy after these epochs."""
    kind = "robust" if robust else "natural"
    return tuple(f"validation_{kind}@{epoch}" for epoch in epochs)


def number(value: float) -> str:
    """``20``, ``0.005``: a value of a sweep in a name."""
    return f"{value:g}"


def of_epochs(value: float) -> str:
    """``1 epoch``, ``20 epochs``."""
    return f"{value:g} epoch" + ("" if value == 1 else "s")
