"""Attacks on trained networks as stages: evaluations, and examples tried on other networks."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import time
import warnings
from pathlib import Path

import numpy as np

from tf_lottery import files, weights
from tf_lottery.engine.stage import Stage
from tf_lottery.evaluation import Checkpoint, RobustnessWarning, logits_function
from tf_lottery.evaluation.transfer import transfer_matrix
from tf_lottery.lottery.costs import Cost, evaluation_cost, transfer_cost
from tf_lottery.lottery.finished_attacks import FinishedAttacks, spent
from tf_lottery.lottery.graph import attack_stage
from tf_lottery.lottery.resources import Resources
from tf_lottery.options.settings import LotteryConfig, settings


def evaluate(shop: Resources, stage: Stage, directory: Path) -> None:
    """Leaves ``evaluation.json`` and ``examples.npz``, and each attack as a stage of its own."""
    config: LotteryConfig = stage.runtime["config"]
    trained = stage.parents["trained"]
    name = "best.npz" if stage.settings["weights"] == "best" else "final.npz"
    values = weights.read_arrays(shop.store.file(trained, name))
    twin = stage.runtime.get("twin")
    if twin is not None and shop.store.has(twin):
        other = weights.read_arrays(shop.store.file(trained, "best.npz"))
        if weights.digest(values) == weights.digest(other):
            for file in ("evaluation.json", "examples.npz"):
                shutil.copyfile(shop.store.file(twin, file), directory / file)
            files.write_json(directory / "ledger.json", Cost().to_json())
            return
    data = shop.data(config)
    weights.set_weights(shop.network(config, trained), values)
    checkpoint = Checkpoint(directory / "progress.npz")
    flops = shop.forward_flops(config, trained)
    finished = FinishedAttacks(shop.store, stage, flops)
    found = shop.evaluator(config, trained)(
        data.test_images,
        data.test_labels,
        config.seed,
        shop.progress,
        checkpoint,
        {"stage": stage.key, "data": data.digest},
        finished=finished,
    )
    files.write_json(
        directory / "evaluation.json",
        {
            "natural": found.natural,
            "robust": found.robust,
            "examples": len(found.labels),
            "seconds": found.seconds,
            **({"warnings": list(found.warnings)} if found.warnings else {}),
        },
    )
    for line in found.warnings:
        warnings.warn(f"{stage.label}: {line}", RobustnessWarning, stacklevel=1)
    arrays = {"index": data.test_index, **found.arrays()}
    weights.write_arrays(directory / "examples.npz", arrays)
    others = {attack.name for attack in config.attacks if finished.is_of_another(attack)}
    own = (parts.values() for name, parts in found.passes.items() if name not in others)
    cost = spent(itertools.chain.from_iterable(own), len(found.labels), flops)
    files.write_json(directory / "ledger.json", cost.to_json())
    checkpoint.remove()


def transfer(shop: Resources, stage: Stage, directory: Path) -> None:
    """Leaves ``transfer.json``: ``models`` (the parents' roles) and ``accuracy``, see
    ``evaluation.transfer``; of the best epochs."""
    began = time.perf_counter()
    config: LotteryConfig = stage.runtime["config"]
    data = shop.data(config)
    networks = {}
    for role, parent in stage.parents.items():
        networks[role] = shop.spec(parent.runtime["config"], parent).build(0)
        trained = weights.read_arrays(shop.store.file(parent, "best.npz"))
        weights.set_weights(networks[role], trained)
    matrix = transfer_matrix(
        {role: logits_function(network) for role, network in networks.items()},
        data.test_images,
        data.test_labels,
        stage.runtime["attack"],
        config.seed,
    )
    files.write_json(
        directory / "transfer.json",
        {
            "attack": settings(stage.runtime["attack"]),
            "examples": len(data.test_labels),
            "models": list(networks),
            "accuracy": np.asarray(matrix).tolist(),
        },
    )
    cost = dataclasses.replace(predicted_transfer(shop, stage), seconds=time.perf_counter() - began)
    files.write_json(directory / "ledger.json", cost.to_json())


def predicted_evaluation(shop: Resources, stage: Stage) -> Cost:
    """The most that is left to pay; times 0."""
    config = stage.runtime["config"]
    data, flops = shop.data(config), shop.forward_flops(config, stage.parents["trained"])
    stages = {each: attack_stage(stage, each) for each in config.attacks}
    known = shop.store.finished(stages.values())
    left = tuple(each for each, own in stages.items() if own.key not in known)
    return evaluation_cost(left, len(data.test_labels), flops, data.num_classes)


def predicted_transfer(shop: Resources, stage: Stage) -> Cost:
    """Passes and FLOPs; times 0."""
    data = shop.data(stage.runtime["config"])
    trained = stage.parents.values()
    flops = [shop.forward_flops(parent.runtime["config"], parent) for parent in trained]
    attack = stage.runtime["attack"]
    return transfer_cost(attack, len(data.test_labels), flops, data.num_classes)
