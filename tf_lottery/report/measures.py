"""The words for what a study compares, draws and tabulates, and what they stand for.

* ``validation_natural@K``, ``validation_robust@K``, ``distance@K``: a curve at epoch K (from
  1), at ``best`` (the run's best epoch) or at ``last``; without ``@`` the curve itself.
* ``validation@K``: robust if every run concerned has it, else natural.
* ``test_natural@best``, ``test_<attack>@last``, ``test_worst@best``: the test accuracies;
  ``test@best``: worst if there are attacks, else natural.
* ``run:<key>``: a number of the run, such as ``run:epochs``. Where that is null because the
  run never got there, see ``NEVER``, it counts as later than any number.

Accuracies are shares in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from tf_lottery.report import formats

Unit = Literal[
    "accuracy", "share", "ratio", "distance", "epochs", "seconds", "flops", "passes", "times"
]

WORST = "worst"  # beside the attacks, among the tests
CURVES = ("validation_natural", "validation_robust", "validation", "distance")
RUN_UNITS: dict[str, Unit] = {
    "density": "share",
    "flops_left": "share",
    "epochs": "epochs",
    "best_epoch": "epochs",
    "search_seconds": "seconds",
    "train_seconds": "seconds",
    "search_flops": "flops",
    "train_flops": "flops",
    "search_passes": "passes",
    "train_passes": "passes",
    "total_over_dense": "ratio",
    "total_flops_over_dense": "ratio",
    "epochs_to_dense": "epochs",
    "seconds_to_dense_over_dense": "ratio",
    "flops_to_dense_over_dense": "ratio",
    "break_even": "times",
}
_RUN_WORDS = {
    "density": "share of weights kept",
    "flops_left": "share of a forward pass's FLOPs left by cutting",
    "epochs": "epochs trained",
    "best_epoch": "best epoch",
    "search_seconds": "seconds of search",
    "train_seconds": "seconds of training",
    "search_flops": "FLOPs of search",
    "train_flops": "FLOPs of training",
    "search_passes": "passes of search",
    "train_passes": "passes of training",
    "total_over_dense": "seconds of search and training over the baseline's",
    "total_flops_over_dense": "FLOPs of search and training over the baseline's",
    "epochs_to_dense": "epochs to the baseline's best validation accuracy",
    "seconds_to_dense_over_dense": "seconds to the baseline's best validation accuracy, "
    "search included, over the baseline's",
    "flops_to_dense_over_dense": "FLOPs to the baseline's best validation accuracy, "
    "search included, over the baseline's",
    "break_even": "retrainings after which one search has paid for itself",
}
# Null means that the run never got there.
NEVER = ("epochs_to_dense", "seconds_to_dense_over_dense", "flops_to_dense_over_dense",
         "break_even")  # fmt: skip


class Measure(NamedTuple):
    """A parsed word.

    Attributes:
      quantity: what is before the ``@``; of a run's number all of it.
      at: epoch, ``best`` or ``last``; ``None`` for a whole curve and for a run's number.
    """

    quantity: str
    at: int | str | None = None

    @property
    def word(self) -> str:
        """As it stands in the document."""
        return self.quantity if self.at is None else f"{self.quantity}@{self.at}"

    @property
    def key(self) -> str | None:
        """Of a run's number its key, else ``None``."""
        return self.quantity.removeprefix("run:") if self.quantity.startswith("run:") else None

    @property
    def unit(self) -> Unit:
        """What its numbers are."""
        if self.key is not None:
            return RUN_UNITS[self.key]
        return "distance" if self.quantity == "distance" else "accuracy"


def parse(word: str) -> Measure:
    """The measure that ``word`` stands for, whether or not anything measured it.

    Raises:
      ValueError: no such word.

    Example:
      >>> parse("validation_robust@5")
      Measure(quantity='validation_robust', at=5)
    """
    if word in CURVES:
        return Measure(word)
    if word.startswith("run:") and word[4:] in RUN_UNITS:
        return Measure(word)
    quantity, _, at = word.rpartition("@")
    if quantity in CURVES and (at in ("best", "last") or _is_epoch(at)):
        return Measure(quantity, int(at) if _is_epoch(at) else at)
    tested = quantity == "test" or (quantity.startswith("test_") and len(quantity) > 5)
    if tested and at in ("best", "last"):
        return Measure(quantity, at)
    raise ValueError(f"unknown measure {word!r}")


def _is_epoch(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def words(measure: Measure) -> str:
    """A noun phrase, such as ``robust validation accuracy after epoch 5``."""
    if measure.key is not None:
        return _RUN_WORDS[measure.key]
    if measure.quantity.startswith("test"):
        name = measure.quantity.removeprefix("test").removeprefix("_")
        kind = {"": "", "natural": "natural ", "worst": "worst-case "}.get(name)
        what = f"{kind}test accuracy" if kind is not None else f"test accuracy under {name}"
    else:
        what = {
            "validation_natural": "natural validation accuracy",
            "validation_robust": "robust validation accuracy",
            "validation": "validation accuracy",
            "distance": "relative l_2 distance to the full network's weights",
        }[measure.quantity]
    match measure.at:
        case None:
            return what
        case "best" | "last":
            return f"{what}, {measure.at} epoch"
    return f"{what} after epoch {measure.at}"


_SHOW: dict[Unit, Callable[[float], str]] = {
    "accuracy": lambda number: f"{100 * number:.1f}",
    "share": lambda number: f"{100 * number:.1f}",
    "ratio": lambda number: f"{number:.2f}",
    "distance": lambda number: f"{number:.3f}",
    "epochs": lambda number: f"{number:.1f}".removesuffix(".0"),
    "seconds": formats.seconds,
    "flops": formats.si,
    "passes": formats.si,
    "times": lambda number: f"{number:.1f}".removesuffix(".0"),
}


def number(value: float, unit: Unit) -> str:
    """``0.8234`` -> ``82.3`` of an accuracy, without its unit."""
    text = _SHOW[unit](value)
    # Nothing is below zero by less than the last digit.
    return text.removeprefix("-") if not any(digit in text for digit in "123456789") else text


def signed(value: float, unit: Unit) -> str:
    """A difference with its sign: ``+14.2``; ``0.0`` has none."""
    text = number(value, unit)
    return f"+{text}" if value > 0 and any(digit in text for digit in "123456789") else text


def quantified(text: str, unit: Unit) -> str:
    """``43.1 %`` of an accuracy, ``11 epochs``, a bare number of a ratio."""
    return f"{text}{_AFTER[unit]}"


_AFTER: dict[Unit, str] = {
    "accuracy": " %", "share": " %", "ratio": "", "distance": "", "epochs": " epochs",
    "seconds": " s", "flops": " FLOPs", "passes": " passes", "times": "",
}  # fmt: skip


def difference_unit(unit: Unit) -> str:
    """What stands after a difference: `` points`` of accuracies, else the unit."""
    return " points" if unit in ("accuracy", "share") else _AFTER[unit]


def axis(measure: Measure) -> str:
    """Label of an axis: the unit's name, or the quantity where it has none."""
    units = {"accuracy": "accuracy (%)", "share": "weights kept (%)", "epochs": "epochs",
             "seconds": "seconds", "flops": "FLOPs", "passes": "passes",
             "distance": "relative distance"}  # fmt: skip
    return units.get(measure.unit, "ratio")


def scale(measure: Measure) -> float:
    """100 for what is drawn in percent, else 1."""
    return 100.0 if measure.unit in ("accuracy", "share") else 1.0
