"""From a network to a ticket: pruned by a score, given, or a control made from another one."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from pathlib import Path
from typing import Any

from tf_lottery import files, pruning, weights
from tf_lottery.channels import choose_channels, random_channel_masks
from tf_lottery.engine.stage import Stage, ancestors
from tf_lottery.lottery.costs import Cost
from tf_lottery.lottery.graph import training_data, way_of
from tf_lottery.lottery.resources import Resources
from tf_lottery.lottery.scoring import network_context
from tf_lottery.options.searches import CURRENT
from tf_lottery.options.settings import several
from tf_lottery.pruning.channels import select_within
from tf_lottery.pruning.masks import prunable_kernels
from tf_lottery.tickets import Ticket
from tf_lottery.type_aliases import NamedArrays


def prune(shop: Resources, stage: Stage, directory: Path) -> None:
    """Leaves ``ticket``."""
    began = time.perf_counter()
    cost = Cost()
    if "given" in stage.settings:
        ticket = stage.runtime["ticket"]
    elif "control" in stage.settings:
        ticket = _control_ticket(shop, stage)
    else:
        ticket, cost = _scored_ticket(shop, stage)
    leave_ticket(directory, ticket, dataclasses.replace(cost, seconds=time.perf_counter() - began))


def leave_ticket(directory: Path, ticket: Ticket, cost: Cost) -> None:
    """Writes what every stage that finds a ticket leaves: ``ticket`` and ``ledger.json``."""
    ticket.save(directory / "ticket")
    files.write_json(directory / "ledger.json", cost.to_json())


def new_ticket(
    shop: Resources,
    stage: Stage,
    masks: NamedArrays,
    found: dict,
    parent: Ticket | None = None,
    rewind_epoch: int | str = 0,
) -> Ticket:
    """A ticket on the initialisation of the stage's parent ``start``.

    Args:
      shop: has the parents' results.
      stage: that finds it.
      masks: layer name -> bool, as long as the network has such layers.
      found: how, JSON.
      parent: the ticket it was made from.
      rewind_epoch: of the parent ``rewind``, a training that kept it, or ``current``, its last;
        0: the initialisation.
    """
    config = stage.runtime["config"]
    init = json.loads(shop.store.file(stage.parents["start"], "network.json").read_bytes())
    rewind, epoch, file = None, rewind_epoch, f"epoch-{rewind_epoch}.npz"
    if rewind_epoch == CURRENT:
        epoch, file = len(shop.history(stage.parents["rewind"])), "final.npz"
    if epoch:
        rewind = weights.read_arrays(shop.store.file(stage.parents["rewind"], file))
    return Ticket(
        spec=shop.spec(config),
        dataset=config.data.name,
        init_seed=init["seed"],
        init_digest=init["digest"],
        masks=masks,
        rewind_epoch=int(epoch),
        rewind_weights=rewind,
        found=found,
        parent=parent.digest if parent else None,
    )


def searched_kernels(shop: Resources, stage: Stage) -> NamedArrays | None:
    """The trained kernels that a ticket was cut from, by layer.

    Args:
      shop: has the stages' results.
      stage: that found a ticket or, for a control, one made from it.

    Returns:
      Layer name -> kernel; ``None`` for a ticket that no training was spent on.
    """
    while "control" in stage.settings:
        stage = stage.parents["ticket"]
    if "trained" not in stage.parents:
        return None
    trained = weights.read_arrays(shop.store.file(stage.parents["trained"], "final.npz"))
    names = prunable_kernels(shop.network(stage.runtime["config"]))
    return {name: trained[f"{name}/kernel"] for name in names}


def _scored_ticket(shop: Resources, stage: Stage) -> tuple[Ticket, Cost]:
    """Of the parent ``trained`` or, without one, of the initialisation."""
    began = time.perf_counter()
    config, chosen, parents = stage.runtime["config"], stage.settings, stage.parents
    parent = shop.ticket(parents["ticket"]) if "ticket" in parents else None
    if "trained" in parents:
        path = shop.store.file(parents["trained"], "final.npz")
    else:
        path = shop.store.file(parents["start"], "weights.npz")
    masks = parent.masks if parent else None
    variables, select, told = weights.read_arrays(path), pruning.select, dict[str, Any]()
    if chosen.get("structure") == "channels":
        channels = choose_channels(shop.network(config), variables, chosen)
        masks, select = channels.masks, select_within
        told = {"structure": "channels", "channels": channels.to_json()}
        if channels.bound:
            names = several(channels.bound)
            warnings.warn(f"{stage.label}: --channel_floor kept channels of {names}", stacklevel=1)
    context = network_context(
        shop,
        config,
        variables,
        masks,
        seed=chosen.get("seed", 0),
        sparsity=chosen["sparsity"],
        scope=chosen["scope"],
        objective=config.search.objective if "objective" in chosen else None,
    )
    masks = context.masks
    if chosen["sparsity"] or not told:
        scores = pruning.score(chosen["score"], context)
        masks = select(scores, masks, chosen["sparsity"], chosen["scope"])
    cost = context.cost(time.perf_counter() - began if context.passes else 0.0)
    found = {**_provenance(shop, stage, cost), **told}
    ticket = new_ticket(shop, stage, masks, found, parent, chosen["rewind_epoch"])
    return ticket, cost


def _control_ticket(shop: Resources, stage: Stage) -> Ticket:
    parent = shop.ticket(stage.parents["ticket"])
    found = {**parent.found, "control": stage.settings["control"], "label": stage.label}
    if stage.settings["control"] == "random_mask":
        seed = stage.settings["seed"]
        if parent.structure == "channels":
            network = shop.network(stage.runtime["config"])
            masks = random_channel_masks(network, parent.masks, seed)
        else:
            masks = pruning.random_masks(parent.masks, seed)
        return dataclasses.replace(parent, masks=masks, found=found, parent=parent.digest)
    init = json.loads(shop.store.file(stage.parents["start"], "network.json").read_bytes())
    return dataclasses.replace(
        parent,
        init_seed=init["seed"],
        init_digest=init["digest"],
        rewind_epoch=0,
        rewind_weights=None,
        found=found,
        parent=parent.digest,
    )


def _provenance(shop: Resources, stage: Stage, own: Cost) -> dict:
    """How a ticket was found: settings of search and pruning, cost, stages."""
    spent = shop.spent(ancestors(stage))
    searches = [s for s in spent if s.kind == "train"]
    ledgers = [shop.ledger(s) for s in searches]
    last = stage.parents["trained"].settings if "trained" in stage.parents else {}
    data = stage.parents["start"].settings["data"]  # without a training: the shape of its images
    size = last["data"].get("image_size", 0) if last else 0
    if last:  # the run's, whose size a search may change
        data = training_data(stage.runtime["config"])
    troubles = {
        "collapsed_epochs": [ledger.get("collapsed_epochs", []) for ledger in ledgers],
        **{
            name: [ledger.get(name, 0) for ledger in ledgers]
            for name in ("rollbacks", "overfit_rollbacks")
        },
    }
    costs = [*map(shop.ledger, spent), own.to_json()]
    return {
        "label": stage.label,
        "control": None,
        "way": way_of(stage),
        "search": last.get("train"),
        "data": data,
        **({"search_image_size": size} if size != data.get("image_size", 0) and last else {}),
        "seed": last.get("seed"),
        "pruning": dict(stage.settings),
        "rounds": len(searches),
        "cost": {
            column: sum(cost[column] for cost in costs)
            for column in (
                "seconds",
                "examples",
                "forward_passes",
                "input_gradient_passes",
                "weight_gradient_passes",
                "flops",
            )
        },
        "stages": [s.name for s in searches],
        # Of each search that may end early: epochs that it took, of how many.
        **_settled(shop, searches),
        # Of each search; left out where there were none.
        **{name: values for name, values in troubles.items() if any(values)},
    }


def _settled(shop: Resources, searches: list[Stage]) -> dict[str, list[str]]:
    watched = [s for s in searches if "settling" in s.settings["train"]]
    told = [f"{len(shop.history(s))} of {s.settings['train']['epochs']}" for s in watched]
    return {"searched_epochs": told} if told else {}
