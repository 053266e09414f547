"""``--budget``, ``--budget_minutes``: what of a ticket's training and search fits a cost.

The budget is a share of the FLOPs of the dense training, for search and retraining together; the
minutes are turned into such a share by this machine's speed, which a store keeps as it was first
measured. Of the ticket's training the epochs are fitted, and of its search those that nobody gave;
what nobody said at all is taken from ``CHEAP``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_lottery import files
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.stage import Stage
from tf_lottery.errors import UsageError
from tf_lottery.lottery.costs import training_cost
from tf_lottery.lottery.plan import measure_speed
from tf_lottery.lottery.resources import Resources
from tf_lottery.lottery.work import Kind, Workshop
from tf_lottery.options.build import lottery_config
from tf_lottery.options.searches import UNTRAINED
from tf_lottery.options.settings import LotteryConfig, TrainConfig, settings
from tf_lottery.pruning.schedule import sparsities

# How a ticket is trained and found where the command line does not say: one step of the attack
# against the baseline's ten, on one triangle of the rate, and a mask that costs nothing.
CHEAP: dict[str, Any] = {
    "ticket_objective": "n_fgsm",
    "ticket_schedule": "triangular",
    "search": "random",
    "compare": ("dense", "dense_twin", "boosting"),
}
SEARCH_SHARE = 1 / 3  # of the budget, at most, for a search by training


@dataclass(frozen=True)
class Fit:
    """What was chosen.

    Attributes:
      options: of ``lottery_config``, all of them.
      share: of the dense training's FLOPs that search and retraining are expected to take.
      words: what was chosen and why, a line.
    """

    options: dict[str, Any]
    share: float
    words: str


def fit(options: Mapping[str, Any], given: Collection[str], budget: float) -> Fit:
    """Fits the training of tickets to a budget.

    Args:
      options: of ``lottery_config``, all of them.
      given: names of those that somebody gave, which stay.
      budget: share of the dense training's FLOPs, above 0.

    Raises:
      UsageError: not even one epoch fits, or not what was given.
    """
    said = set(given)
    own = said & {"ticket_recipe", "ticket_objective", "ticket_phases"}
    if any(name.startswith("search_") for name in said):
        said.add("search")  # who says how to search wants one
    chosen = dict(options) | {
        name: value
        for name, value in CHEAP.items()
        if name not in said and not (own and name.startswith("ticket_"))
    }
    dense = _passes(lottery_config(**chosen).train)
    if "search_epochs" not in said and chosen["search"] not in UNTRAINED:
        per_epoch = _search(lottery_config(**{**chosen, "search_epochs": 1}))
        chosen["search_epochs"] = max(1, int(SEARCH_SHARE * budget * dense / per_epoch))
    if not {"ticket_epochs", "ticket_phases"} & said:
        chosen["ticket_epochs"] = _epochs(chosen, budget * dense, dense)
    config = lottery_config(**chosen)
    share = (_search(config) + _passes(config.ticket_train)) / dense
    if share > budget:
        parts = f"{_words(config)} take {share:.3g} of the dense training's FLOPs"
        raise UsageError(
            f"--budget: got {budget:g}, must be {share:.3g} or more: {parts}", "budget"
        )
    return Fit(chosen, share, _told(config, budget, share))


def _epochs(options: dict[str, Any], left: float, dense: int) -> int:
    """The most epochs of retraining that fit, search included; 1 if none do."""
    config = lottery_config(**{**options, "ticket_epochs": 1})
    return max(1, int((left - _search(config)) / _passes(config.ticket_train)))


def _passes(config: TrainConfig) -> int:
    """Of one image, all epochs and kinds together."""
    return training_cost(dataclasses.replace(config, batch_size=1), 1, 1).flops


def _search(config: LotteryConfig) -> int:
    """Passes of an image in the search of the boosting ticket, at most."""
    if config.prune.search in UNTRAINED:
        return 0  # scores of some images, which the ledger has
    return len(sparsities(config.prune)) * _passes(config.search)


def _words(config: LotteryConfig) -> str:
    """``n_fgsm for 40 epochs on a triangular rate, masks by --search=random``."""
    train, search = config.ticket_train, config.prune.search
    phases = ", then ".join(
        f"{phase.objective.name} for {phase.epochs} epochs" for phase in train.parts
    )
    found = f"masks by --search={search}"
    if search not in UNTRAINED:
        found += f" ({config.search.objective.name} for {config.search.epochs} epochs)"
    return f"{phases} on a {train.schedule.name} rate, {found},"


def _told(config: LotteryConfig, budget: float, share: float) -> str:
    each, dense = (
        _passes(dataclasses.replace(part, epochs=1, phases=(), keep_epochs=()))
        for part in (config.ticket_train, config.train)
    )
    return (
        f"--budget={budget:.3g}: {_words(config)} which is expected to take {share:.3f} of the "
        f"dense training's FLOPs: {each} passes an image and epoch against {dense} of "
        f"{config.train.objective.name}"
    )


def speed_stage(config: LotteryConfig) -> Stage:
    """The measurement of this machine's speed that a run's minutes go by."""
    chosen = {"model": settings(config.model), "batch_size": config.train.batch_size}
    runtime = {"config": config, "work": Kind(_measure)}
    return Stage("speed", "speed of this machine", chosen, runtime=runtime)


def share_of_minutes(minutes: float, config: LotteryConfig, workshop: Workshop) -> float:
    """What share of the dense training's FLOPs this machine does in so many minutes.

    Args:
      minutes: for search and retraining, without validation and what comes after.
      config: of the run.
      workshop: measures, if its store knows nothing.
    """
    stage = speed_stage(config)
    run_stages([stage], workshop)
    speed = json.loads(workshop.store.file(stage, "speed.json").read_bytes())
    images = len(workshop.data(config).train_labels)
    dense = training_cost(config.train, images, workshop.forward_flops(config)).flops
    return minutes * 60 * speed["flops_per_second"] / dense


def _measure(shop: Resources, stage: Stage, directory: Path) -> None:
    """Leaves ``speed.json``."""
    speed = measure_speed(stage.runtime["config"], shop)
    files.write_json(directory / "speed.json", dataclasses.asdict(speed))
