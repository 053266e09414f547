"""How a prune stage is carried out: a ticket from a search, or a control made from one."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tf_lottery import files, pruning, weights
from tf_lottery.experiments.ledger import Cost
from tf_lottery.experiments.stage import Stage, ancestors
from tf_lottery.pruning.masks import prunable_kernels
from tf_lottery.tickets import Ticket

if TYPE_CHECKING:
    from tf_lottery.experiments.work import Workshop


def prune(shop: Workshop, stage: Stage, directory: Path) -> None:
    """Leaves ``ticket``."""
    began = time.perf_counter()
    if "given" in stage.settings:
        ticket = stage.runtime["ticket"]
    elif "control" in stage.settings:
        ticket = _control_ticket(shop, stage)
    else:
        ticket = _searched_ticket(shop, stage)
    ticket.save(directory / "ticket")
    cost = Cost(seconds=time.perf_counter() - began)
    files.write_json(directory / "ledger.json", cost.to_json())


def searched_kernels(shop: Workshop, stage: Stage) -> dict | None:
    """The trained kernels that a ticket was cut from, by layer.

    Args:
      shop: has the stages' results.
      stage: the prune stage of a ticket or, for a control, of one made from it.

    Returns:
      Layer name -> kernel; ``None`` for a ticket that was given, not searched.
    """
    while "control" in stage.settings:
        stage = stage.parents["ticket"]
    if "trained" not in stage.parents:
        return None
    trained = weights.read_arrays(shop.store.file(stage.parents["trained"], "final.npz"))
    names = prunable_kernels(shop.network(stage.runtime["config"]))
    return {name: trained[f"{name}/kernel"] for name in names}


def _searched_ticket(shop: Workshop, stage: Stage) -> Ticket:
    config, chosen, parents = stage.runtime["config"], stage.settings, stage.parents
    parent = shop.ticket(parents["ticket"]) if "ticket" in parents else None
    kernels = searched_kernels(shop, stage)
    assert kernels is not None  # a search is a parent
    masks = pruning.prune(
        kernels,
        parent.masks if parent else None,
        chosen["sparsity"],
        score=chosen["score"],
        scope=chosen["scope"],
        seed=chosen.get("seed", 0),
    )
    init = json.loads(shop.store.file(parents["start"], "network.json").read_text())
    epoch = chosen["rewind_epoch"]
    rewind = None
    if epoch:
        path = shop.store.file(parents["rewind"], f"epoch-{epoch}.npz")
        rewind = weights.read_arrays(path)
    return Ticket(
        spec=shop.spec(config),
        dataset=config.data.name,
        init_seed=init["seed"],
        init_digest=init["digest"],
        masks=masks,
        rewind_epoch=epoch,
        rewind_weights=rewind,
        found=_provenance(shop, stage),
        parent=parent.digest if parent else None,
    )


def _control_ticket(shop: Workshop, stage: Stage) -> Ticket:
    parent = shop.ticket(stage.parents["ticket"])
    found = {**parent.found, "control": stage.settings["control"], "label": stage.label}
    if stage.settings["control"] == "random_mask":
        masks = pruning.random_masks(parent.masks, stage.settings["seed"])
        return dataclasses.replace(parent, masks=masks, found=found, parent=parent.digest)
    init = json.loads(shop.store.file(stage.parents["start"], "network.json").read_text())
    return dataclasses.replace(
        parent,
        init_seed=init["seed"],
        init_digest=init["digest"],
        rewind_epoch=0,
        rewind_weights=None,
        found=found,
        parent=parent.digest,
    )


def _provenance(shop: Workshop, stage: Stage) -> dict:
    """How a ticket was found: settings of search and pruning, cost, stages."""
    searches = [s for s in ancestors(stage) if s.kind == "train"]
    ledgers = [shop.store.manifest(s)["ledger"] for s in searches]
    last = stage.parents["trained"]
    troubles = {
        "collapsed_epochs": [ledger.get("collapsed_epochs", []) for ledger in ledgers],
        "rollbacks": [ledger.get("rollbacks", 0) for ledger in ledgers],
    }
    return {
        "label": stage.label,
        "control": None,
        "search": last.settings["train"],
        "data": last.settings["data"],
        "seed": last.settings["seed"],
        "pruning": dict(stage.settings),
        "rounds": len(searches),
        "cost": {
            column: sum(ledger[column] for ledger in ledgers)
            for column in ("seconds", "examples", "forward_passes", "flops")
        },
        "stages": [s.name for s in searches],
        # Of each search; left out where there were none.
        **{name: values for name, values in troubles.items() if any(values)},
    }
