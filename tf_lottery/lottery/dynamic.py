"""The tickets that trainings leave whose masks change."""

from __future__ import annotations

import dataclasses

from tf_lottery.data import steps_per_epoch
from tf_lottery.engine.stage import Stage
from tf_lottery.lottery.costs import Cost
from tf_lottery.lottery.resources import Resources
from tf_lottery.options.settings import settings
from tf_lottery.tickets import Ticket, read_masks
from tf_lottery.training.flying_bird import updates
from tf_lottery.type_aliases import NamedArrays


def last_ticket(
    shop: Resources, stage: Stage, masks: NamedArrays, epochs: int, own: Cost
) -> Ticket:
    """The ticket of the masks that a training ends with.

    It rewinds to where the training started from.

    Args:
      shop: has the parents' results.
      stage: the training.
      masks: its last ones.
      epochs: that it took.
      own: what it cost.
    """
    start = shop.ticket(stage.parents["ticket"])
    training, images = stage.runtime["train"], shop.data(stage.runtime["config"]).train_labels
    steps = steps_per_epoch(len(images), training.batch_size)
    found = {
        "label": stage.label,
        "control": start.found.get("control"),
        "search": stage.settings["train"],
        "data": stage.settings["data"],
        "seed": stage.settings["seed"],
        "pruning": {
            **settings(training.sparsity_update),
            "updates": sum(updates(training, steps, epoch) for epoch in range(epochs)),
            "start": start.found.get("pruning"),
            "start_density": start.density,
        },
        "rounds": start.found.get("rounds", 0) + 1,
        "stages": [*start.found.get("stages", []), stage.name],
    }
    spent, ours = start.found.get("cost"), own.to_json()
    if spent is not None:  # else nobody knows
        found["cost"] = {column: ours[column] + value for column, value in spent.items()}
    return dataclasses.replace(
        start,
        masks=masks,
        found=found,
        parent=start.digest,
        package_version=Ticket.package_version,
    )


def best_ticket(shop: Resources, stage: Stage) -> Ticket:
    """That of the masks which a finished training had at its best epoch."""
    last = shop.ticket(stage)
    shapes = {name: mask.shape for name, mask in last.masks.items()}
    masks = read_masks(shop.store.file(stage, "best-masks.npz"), shapes)
    return dataclasses.replace(last, masks=masks)
