"""``--budget``, ``--budget_minutes``: what of a ticket's training and search fits a cost.

The budget is a share of the FLOPs of the dense training, for search and retraining together; the
minutes are turned into such a share by this machine's speed, which a store keeps as it was first
measured. Of the ticket's training the epochs are fitted, and of its search those that nobody gave,
so that the costliest of the kinds that are compared keeps the budget; what nobody said at all is
taken from ``CHEAP``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_lottery import files
from tf_lottery.data import steps_per_epoch
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.stage import Stage
from tf_lottery.errors import UsageError
from tf_lottery.lottery.costs import training_cost
from tf_lottery.lottery.graph import make_entry
from tf_lottery.lottery.plan import measure_speed
from tf_lottery.lottery.resources import Resources
from tf_lottery.lottery.work import Kind, Workshop
from tf_lottery.options.build import lottery_config
from tf_lottery.options.settings import LotteryConfig, TrainConfig, settings
from tf_lottery.pruning.schedule import sparsities
from tf_lottery.tickets import Ticket

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
      share: of the dense training's FLOPs that search and retraining are expected to take, of
        the costliest kind; channels that are cut count as if they stayed, and images of
        ``search_image_size`` as if of full size.
      words: what was chosen and why, a line.
    """

    options: dict[str, Any]
    share: float
    words: str


def fit(
    options: Mapping[str, Any],
    given: Collection[str],
    budget: float,
    images: int,
    ticket: Ticket | None = None,
    minutes: float | None = None,
) -> Fit:
    """Fits the training of tickets to a budget.

    Args:
      options: of ``lottery_config``, all of them, no ``dtype_policy`` left to measure.
      given: names of those that somebody gave, which stay.
      budget: share of the dense training's FLOPs, above 0.
      images: to train on.
      ticket: takes the place of the boosting ticket's search, which is not counted then.
      minutes: that the budget was said in.

    Raises:
      UsageError: not even one epoch fits, or not what was given; or nothing but the dense
        network is compared.
    """
    asked = ("budget", budget) if minutes is None else ("budget_minutes", minutes)
    said = set(given)
    if any(name.startswith("search_") for name in said):
        said.add("search")  # who says how to search wants one
    chosen = dict(options) | _cheap(options, said, ticket)
    config = lottery_config(**chosen)
    dense = _flops(config.train, images)
    if not {"search_epochs", "search_phases"} & said and _trains(config, ticket):
        once = dataclasses.replace(config.search, epochs=1)
        per_epoch = len(sparsities(config.prune)) * _flops(once, images)
        chosen["search_epochs"] = max(1, int(SEARCH_SHARE * budget * dense / per_epoch))
    if {"ticket_epochs", "ticket_phases"} & said:
        config = lottery_config(**chosen)
        costs = _costs(config, ticket, images)
    else:
        train = config.ticket_train
        once = dataclasses.replace(train, epochs=1, phases=(), sparsity_update=None)
        epochs = max(1, int(budget * dense / _flops(once, images)))  # or fewer
        while True:
            config = lottery_config(**{**chosen, "ticket_epochs": epochs})
            costs = _costs(config, ticket, images)
            over = max(costs.values()) - budget * dense
            if over <= 0 or epochs == 1:
                break
            epochs = max(1, epochs - max(1, int(over / (2 * _flops(once, images)))))
        chosen["ticket_epochs"] = epochs
    costliest = max(costs, key=costs.__getitem__)
    share = costs[costliest] / dense
    words = _words(config, ticket)
    whose = f" which for {costliest}" if len(set(costs.values())) > 1 else ""
    if share > budget:
        flag, value = asked
        verb = "takes" if whose else "take"
        raise UsageError(
            f"--{flag}: got {value:g}, must be {value * share / budget:.3g} or more: "
            f"{words}{whose} {verb} {share:.3g} of the dense training's FLOPs",
            flag,
        )
    return Fit(chosen, share, _told(config, asked, words + (whose or " which"), share))


def _cheap(
    options: Mapping[str, Any], said: Collection[str], ticket: Ticket | None
) -> dict[str, Any]:
    """What of ``CHEAP`` nobody said otherwise, and goes with what was said."""
    cheap = dict(CHEAP)
    if options["structure"] == "channels":  # which a training finds
        cheap["search"] = "train"
    if ticket is not None:
        del cheap["search"]
    own = {"ticket_recipe", "ticket_objective", "ticket_phases"} & set(said)
    # Without an attack in the baseline there is none to save.
    if own or {part.objective.name for part in lottery_config(**options).train.parts} == {
        "natural"
    }:
        cheap = {name: value for name, value in cheap.items() if not name.startswith("ticket_")}
    return {name: value for name, value in cheap.items() if name not in said}


def _costs(config: LotteryConfig, ticket: Ticket | None, images: int) -> dict[str, int]:
    """FLOPs of searches and retraining by kind, at most, as if a pass took one."""
    kinds = [kind for kind in config.compare if kind != "dense"]
    if not kinds:
        raise UsageError.bad_value(
            "compare", ",".join(config.compare), "more than the dense network, which has no budget"
        )
    entries = {kind: make_entry(config, kind, ticket) for kind in kinds}
    return {
        kind: sum(_flops(s.runtime["train"], images) for s in (*entry.searches, entry.train))
        for kind, entry in entries.items()
    }


def _trains(config: LotteryConfig, ticket: Ticket | None) -> bool:
    """Whether a training is spent on a search."""
    kinds = (kind for kind in config.compare if kind != "dense")
    return any(make_entry(config, kind, ticket).searches for kind in kinds)


def _flops(training: TrainConfig, images: int) -> int:
    """As if a pass of an image took one; raises ``UsageError`` where not a batch is full."""
    steps_per_epoch(images, training.batch_size)
    return training_cost(training, images, 1).flops


def _words(config: LotteryConfig, ticket: Ticket | None) -> str:
    """``n_fgsm for 40 epochs on a triangular rate, masks by --search=random,``."""
    train, search = config.ticket_train, config.search
    kinds = set(config.compare)
    words = [
        ", then ".join(f"{part.objective.name} for {part.epochs} epochs" for part in train.parts)
        + f" on a {train.schedule.name} rate"
    ]
    if kinds & {"boosting", "reinit", "random_mask"}:
        found = f"by --search={config.prune.search}" if ticket is None else "of --ticket"
        words.append(f"masks {found}")
    if ticket is not None:
        words.append("whose own search is not counted")
    if _trains(config, ticket):
        rounds = len(sparsities(config.prune))
        times = f", {rounds} rounds" if rounds > 1 else ""
        objectives = ", then ".join(part.objective.name for part in search.parts)
        small = config.prune.search_image_size
        size = f" on images of {small}x{small}, counted as if of full size" if small else ""
        words.append(f"searches by {objectives} for {search.epochs} epochs{times}{size}")
    if "channels" in (config.prune.structure, ticket and ticket.structure):
        words.append("counted as if no channel were cut")
    return ", ".join(words) + ","


def _told(config: LotteryConfig, asked: tuple[str, float], words: str, share: float) -> str:
    each, dense = (
        _flops(dataclasses.replace(part, batch_size=1, sparsity_update=None), 1) / part.epochs
        for part in (config.ticket_train, config.train)
    )
    objectives = ", then ".join(part.objective.name for part in config.train.parts)
    flag, value = asked
    return (
        f"--{flag}={value:.3g}: {words} is expected to take {share:.3f} of the "
        f"dense training's FLOPs: {each:.3g} passes an image and epoch against {dense:.3g} of "
        f"{objectives}"
    )


def speed_stage(config: LotteryConfig) -> Stage:
    """The measurement of this machine's speed that a run's minutes go by."""
    data = settings(config.data)
    chosen = {
        "model": settings(config.model),
        "data": {name: data[name] for name in ("name", "image_size") if name in data},
        "batch_size": config.train.batch_size,
    }
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
