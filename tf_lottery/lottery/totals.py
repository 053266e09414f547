"""What the finished stages of one network add up to: accuracies, costs, time to a goal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tf_lottery import weights
from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.engine.store import Store
from tf_lottery.evaluation.models import right_images
from tf_lottery.lottery.costs import training_cost
from tf_lottery.lottery.graph import Entry
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.settings import LotteryConfig
from tf_lottery.training.callbacks import judged_by
from tf_lottery.training.guards import trained_epochs

COST_COLUMNS = (
    "seconds",
    "startup_seconds",
    "validation_seconds",
    "examples",
    "forward_passes",
    "input_gradient_passes",
    "weight_gradient_passes",
    "flops",
)
_PASSES = ("forward_passes", "input_gradient_passes", "weight_gradient_passes")


@dataclass(frozen=True)
class Costs:
    """Of one network.

    Attributes:
      search, train: column -> sum over the stages; ``passes`` are images through the
        network, forward and both kinds of gradients together.
      source: ``run``: the search is a stage here; ``ticket``: as a given ticket recorded
        it, besides what was run here; ``unknown``: that does not say; ``none``: there was none.
      course: shares of the training's FLOPs that were spent by the end of each of its epochs.
        Those of some phases, or that were trained twice, took more than others.
    """

    search: dict[str, float | None]
    train: dict[str, float]
    source: str
    course: tuple[float, ...]

    def total(self, column: str) -> float:
        """Search and training together."""
        return (self.search[column] or 0) + self.train[column]

    def train_flops_until(self, epochs: float) -> float:
        """Of the first epochs of training, in parts too."""
        spent = np.interp(epochs, range(len(self.course) + 1), (0.0, *self.course))
        return float(spent) * self.train["flops"]

    def columns(self, *names: str) -> dict[str, float | None]:
        """``search_<name>`` and ``train_<name>``."""
        return {
            f"{part}_{name}": getattr(self, part)[name]
            for name in names
            for part in ("search", "train")
        }


def costs(entry: Entry, workshop: Workshop) -> Costs:
    """From the ledgers of what took passes through a network."""
    train, course = _total([entry.train], workshop), _course(entry.train, workshop)
    if entry.ticket is None:
        return Costs(_total([], workshop), train, "none", course)
    finding = in_order([entry.ticket])
    search = _total(workshop.spent(finding), workshop)
    given = [s.runtime["ticket"] for s in finding if s.kind == "prune" and "given" in s.settings]
    if not given:
        return Costs(search, train, "run", course)
    # As the ticket at hand records it, not a copy of it that the store has seen before.
    known = all("flops" in ticket.found.get("cost", {}) for ticket in given)
    for ticket in given:
        recorded = ticket.found.get("cost", {})
        search["seconds"] = search["seconds"] + recorded.get("seconds", 0)
        search["flops"] = search["flops"] + recorded.get("flops", 0)
        if not all(column in recorded for column in _PASSES):  # tickets of 0.1.0
            search["passes"] = None
        elif search["passes"] is not None:
            search["passes"] += sum(recorded[column] for column in _PASSES)
    return Costs(search, train, "ticket" if known else "unknown", course)


def _course(stage: Stage, workshop: Workshop) -> tuple[float, ...]:
    """See ``Costs.course``."""
    rows, training = workshop.history(stage), stage.runtime["train"]
    images = len(workshop.data(stage.runtime["config"]).train_labels)
    spent = np.zeros(len(rows))
    for epoch, times in trained_epochs(rows):
        spent[epoch] += training_cost(training, images, 1, [(epoch, times)]).flops
    return tuple((np.cumsum(spent) / spent.sum()).tolist())


def _total(stages: Sequence[Stage], workshop: Workshop) -> dict[str, Any]:
    ledgers = [workshop.ledger(stage) for stage in stages]
    total = {column: sum(ledger[column] for ledger in ledgers) for column in ("seconds", "flops")}
    total["passes"] = sum(ledger[column] for ledger in ledgers for column in _PASSES)
    return total


def accuracies(entry: Entry, config: LotteryConfig, store: Store) -> dict[str, dict[str, float]]:
    """``natural``, every attack and (with attacks) ``worst``: ``{"best": ..., "last": ...}``."""
    found = {which: right(stage, config, store)[0] for which, stage in entry.evaluations.items()}
    return {
        name: {which: float(flags[name].mean()) for which, flags in found.items()}
        for name in found["best"]
    }


def right(
    stage: Stage, config: LotteryConfig, store: Store
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Which test images a network gets right, and which images of the data set they are.

    Args:
      stage: a finished evaluation.
      config: that it is of.
      store: where it lies.

    Returns:
      As of ``right_images``; their index, int (n,).
    """
    examples = weights.read_arrays(store.file(stage, "examples.npz"))
    names = [attack.name for attack in config.attacks]
    return right_images(examples, names), examples["index"]


def density(entry: Entry, workshop: Workshop) -> float:
    """Share of the prunable weights that is left at the end of training."""
    return workshop.ticket(entry.last_ticket).density if entry.last_ticket else 1.0


def against_baseline(
    own: Costs, history: list[dict], baseline: Costs, baseline_history: list[dict]
) -> dict[str, float | None]:
    """Costs of a network as ratios to the dense baseline's.

    Returns:
      ``seconds`` and ``flops`` (search and training over the baseline's training);
      ``epochs_to_dense``, the epochs until the baseline's best validation accuracy, with
      ``seconds_to_dense`` and ``flops_to_dense``: search and those epochs over what the
      baseline itself took to get there. ``None``: never.
    """
    result: dict[str, float | None] = {
        column: None if own.source == "unknown" else own.total(column) / baseline.train[column]
        for column in ("seconds", "flops")
    }
    goal = accuracy_goal(baseline_history)
    epochs, seconds = epochs_to_reach(history, goal)
    their_epochs, their_seconds = epochs_to_reach(baseline_history, goal)
    result |= {"epochs_to_dense": epochs, "seconds_to_dense": None, "flops_to_dense": None}
    if epochs is not None and seconds is not None and own.source != "unknown":
        assert their_epochs is not None  # it is the baseline's own best
        assert their_seconds is not None
        flops = own.train_flops_until(epochs)
        their_flops = baseline.train_flops_until(their_epochs)
        result["seconds_to_dense"] = ((own.search["seconds"] or 0) + seconds) / their_seconds
        result["flops_to_dense"] = ((own.search["flops"] or 0) + flops) / their_flops
    return result


def against_counted(own: Costs, dense_flops: float) -> dict[str, float | None]:
    """``flops`` as of ``against_baseline``, where no dense network was trained.

    Args:
      own: costs of a network.
      dense_flops: that a dense training would take.
    """
    if own.source == "unknown":
        return {"flops": None}
    return {"flops": own.total("flops") / dense_flops}


def break_even(
    own: Costs, history: list[dict], baseline: Costs, baseline_history: list[dict]
) -> int | None:
    """How often a ticket has to be retrained for its one search to have paid, in FLOPs.

    A retraining counts until it reaches the baseline's best validation accuracy, the dense
    training until it does so itself. The smallest n for which the search and n retrainings
    cost no more than n dense trainings; ``None`` if no number is large enough, or the
    accuracy is not reached.
    """
    goal = accuracy_goal(baseline_history)
    epochs, _ = epochs_to_reach(history, goal)
    their_epochs, _ = epochs_to_reach(baseline_history, goal)
    if epochs is None or their_epochs is None or own.source == "unknown":
        return None
    saved = baseline.train_flops_until(their_epochs) - own.train_flops_until(epochs)
    if saved <= 0:
        return None
    return max(1, math.ceil((own.search["flops"] or 0) / saved - 1e-9))


def accuracy_goal(history: list[dict]) -> float:
    """The best validation accuracy of a run (robust if it was measured)."""
    return max(row[judged_by(history)] for row in history)


def epochs_to_reach(history: list[dict], goal: float) -> tuple[float | None, float | None]:
    """When a run's validation accuracy first reached ``goal``.

    Interpolates linearly between the last epoch below and the first not below.

    Returns:
      Epochs (from the start, fractional) and training seconds until then, or
      ``(None, None)`` if it never did.
    """
    column = judged_by(history)
    seconds = 0.0
    previous = None
    for row in history:
        if row[column] >= goal:
            share = 1.0
            if previous is not None:
                share = (goal - previous) / (row[column] - previous)
            return row["epoch"] - 1 + share, seconds + share * row["seconds"]
        previous = row[column]
        seconds += row["seconds"]
    return None, None


def ledger_entry(
    stage: Stage, workshop: Workshop, models: Sequence[str], seed: int, cached: bool
) -> dict:
    """A finished stage as ``results.json`` states it."""
    return {
        "stage": stage.name,
        "kind": stage.kind,
        "label": stage.label,
        "models": list(models),
        **dict.fromkeys(COST_COLUMNS, 0),
        **workshop.ledger(stage),
        "cached": cached,
        "seed": seed,
    }
