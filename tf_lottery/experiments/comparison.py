"""The comparison of dense network and tickets: run it, and turn it into results."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import tf_lottery
from tf_lottery import weights
from tf_lottery.attacks import make_attack
from tf_lottery.config import KINDS, LotteryConfig, settings
from tf_lottery.experiments.local import run_stages
from tf_lottery.experiments.stage import Stage, in_order
from tf_lottery.experiments.store import Store
from tf_lottery.experiments.work import Workshop, slug
from tf_lottery.keras import tf
from tf_lottery.lottery import Entry, entries
from tf_lottery.tickets import Ticket
from tf_lottery.training.callbacks import best_epoch, judged_by

_PICTURES = 10


def run_settings(config: LotteryConfig, ticket: Ticket | None = None) -> dict:
    """The JSON settings that identify a run."""
    chosen = settings(config)
    if ticket is not None:
        chosen["ticket"] = ticket.digest
    return chosen


def is_finished(workshop: Workshop, workdir: Path, ticket: Ticket | None = None) -> bool:
    """True if no stage of the run is left to do and nothing of what it leaves is missing."""
    chosen = entries(workshop.config, ticket)
    wanted = [workdir / name for name in ("results.json", "report.html", "report.md")]
    for entry in chosen:
        wanted.append(workdir / "saved_model" / entry.kind)
        if entry.ticket is not None:
            wanted.append(workdir / "tickets" / entry.kind)
    stages = in_order([stage for entry in chosen for stage in entry.stages])
    wanted += [_logs(stage, workdir) for stage in stages if stage.kind == "train"]
    return all(path.exists() for path in wanted) and all(map(workshop.store.has, stages))


def run_comparison(
    workshop: Workshop,
    workdir: Path,
    *,
    ticket: Ticket | None = None,
    command: Sequence[str] = (),
    announce: Callable[[str], None] = print,
) -> dict:
    """Finishes every stage, then collects tickets, SavedModels, logs and results.

    Args:
      workshop: config, data and store of the run.
      workdir: existing directory for what people read.
      ticket: used instead of searching the boosting ticket.
      command: arguments, recorded with the results.
      announce: told of each stage.

    Returns:
      The results document (see ``reporting.results``), not written yet.

    Raises:
      LotteryError: see ``tf_lottery.errors``.
    """
    chosen = entries(workshop.config, ticket)
    targets = [stage for entry in chosen for stage in entry.stages]
    cached = run_stages(targets, workshop, announce)
    for stage in in_order(targets):
        if stage.kind == "train" and cached[stage.key]:
            workshop.check_data(stage)
    _collect(chosen, workshop.store, workdir, cached)
    _pictures(chosen, workshop, workdir)
    return _document(chosen, workshop, cached, run_settings(workshop.config, ticket), command)


def _logs(stage: Stage, workdir: Path) -> Path:
    return workdir / "tensorboard" / slug(stage.label)


def _collect(chosen: list[Entry], store: Store, workdir: Path, cached: dict[str, bool]) -> None:
    """Copies what people take away from the store into the work directory."""
    for entry in chosen:
        _copy(store.path(entry.export) / "saved_model", workdir / "saved_model" / entry.kind)
        if entry.ticket is not None:
            _copy(store.path(entry.ticket) / "ticket", workdir / "tickets" / entry.kind)
    # What an earlier comparison in this directory left must not pass for this one's.
    for folder, kept in (
        ("saved_model", {entry.kind for entry in chosen}),
        ("tickets", {entry.kind for entry in chosen if entry.ticket is not None}),
    ):
        for kind in set(KINDS) - kept:
            shutil.rmtree(workdir / folder / kind, ignore_errors=True)
    for stage in in_order([entry.train for entry in chosen]):
        logs = store.path(stage) / "tensorboard.tar"
        if logs.is_file() and cached[stage.key]:  # else they were written in place
            shutil.rmtree(_logs(stage, workdir), ignore_errors=True)
            shutil.unpack_archive(logs, _logs(stage, workdir), filter="data")


def _copy(source: Path, target: Path) -> None:
    """Copies a directory to a place where an older copy may lie; never half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)


def _pictures(chosen: list[Entry], workshop: Workshop, workdir: Path) -> None:
    """``pictures.npz``: test images, clean and attacked, with a ticket's answers."""
    attacks = workshop.config.attacks
    if not attacks:
        return
    shown = next((entry for entry in chosen if entry.kind != "dense"), chosen[0])
    attack = next((a for a in attacks if a.name.startswith("pgd")), attacks[0])
    data, store = workshop.data, workshop.store
    network = workshop.spec.build(0)
    trained = weights.read_arrays(store.path(shown.train) / "best.npz")
    weights.set_weights(network, trained)
    clean, labels = data.test_images[:_PICTURES], data.test_labels[:_PICTURES]
    images = tf.constant(clean.astype(np.float32) / 255)

    def logits_fn(x):
        return network(x, training=False)

    attacked = make_attack(attack)(logits_fn, images, tf.constant(labels), workshop.config.seed)
    weights.write_arrays(
        workdir / "pictures.npz",
        {
            "clean": clean,
            "adversarial": np.round(attacked.numpy() * 255).astype(np.uint8),
            "label": labels,
            "clean_prediction": np.argmax(logits_fn(images), -1),
            "adversarial_prediction": np.argmax(logits_fn(attacked), -1),
            "class_names": np.array(list(data.class_names)),
            "eps": np.array(attack.eps),
            "model": np.array(shown.kind),
            "attack": np.array(attack.name),
            "norm": np.array(attack.norm),
        },
    )


def _document(
    chosen: list[Entry],
    workshop: Workshop,
    cached: dict[str, bool],
    chosen_settings: dict,
    command: Sequence[str],
) -> dict:
    config, store, data = workshop.config, workshop.store, workshop.data
    labels: dict[str, Stage] = {}
    users: dict[str, list[str]] = {}
    for entry in chosen:
        for stage in in_order(entry.stages):
            labels.setdefault(stage.key, stage)
            users.setdefault(stage.key, []).append(entry.kind)
    histories = {
        stage.key: workshop.history(stage) for stage in labels.values() if stage.kind == "train"
    }
    dense = next((entry for entry in chosen if entry.kind == "dense"), None)
    rows = [_row(entry, workshop, histories, dense) for entry in chosen]
    curves = {entry.kind: histories[entry.train.key] for entry in chosen}
    for stage in labels.values():
        if stage.kind == "train" and stage.label.startswith("search"):
            curves[stage.label] = histories[stage.key]
    return {
        "format": 1,
        "package_version": tf_lottery.__version__,
        "settings": chosen_settings,
        "command": list(command),
        "machine": machine(),
        "data": {
            "name": data.name,
            "train": len(data.train_labels),
            "validation": len(data.validation_labels),
            "validation_used": config.train.validation_images or len(data.validation_labels),
            "test": len(data.test_labels),
            "digest": data.digest,
            "classes": list(data.class_names),
        },
        "rows": rows,
        "curves": curves,
        "layers": {
            entry.kind: workshop.ticket(entry.ticket).layers for entry in chosen if entry.ticket
        },
        "ledger": [
            {
                "stage": stage.name,
                "kind": stage.kind,
                "label": stage.label,
                "models": users[stage.key],
                **dict.fromkeys(_COST_COLUMNS, 0),
                **store.manifest(stage)["ledger"],
                "cached": cached[stage.key],
            }
            for stage in labels.values()
        ],
        "attacks": [settings(attack) for attack in config.attacks],
    }


_COST_COLUMNS = (
    "seconds",
    "startup_seconds",
    "validation_seconds",
    "examples",
    "forward_passes",
    "input_gradient_passes",
    "weight_gradient_passes",
    "flops",
)


def _row(entry: Entry, workshop: Workshop, histories: dict, dense: Entry | None) -> dict:
    store, config = workshop.store, workshop.config
    history = histories[entry.train.key]
    evaluations = {
        which: json.loads((store.path(stage) / "evaluation.json").read_text())
        for which, stage in entry.evaluations.items()
    }
    search, source = _search_cost(entry, workshop)
    train = _total([entry.train], store)
    density = workshop.ticket(entry.ticket).density if entry.ticket else 1.0
    row = {
        "name": entry.kind,
        "kind": entry.kind,
        "model": config.model.label,
        "dataset": config.data.name,
        "seed": config.seed,
        "density": density,
        "natural": {which: found["natural"] for which, found in evaluations.items()},
    }
    for attack in config.attacks:
        row[attack.name] = {
            which: found["robust"][attack.name] for which, found in evaluations.items()
        }
    if config.attacks:
        row["worst"] = {
            which: _worst(store.path(stage) / "examples.npz")
            for which, stage in entry.evaluations.items()
        }
    row |= {
        "epochs": len(history),
        "best_epoch": best_epoch(history),
        "search_seconds": search["seconds"],
        "train_seconds": train["seconds"],
        "search_flops": search["flops"],
        "train_flops": train["flops"],
        "search_source": source,
        "total_over_dense": None,
        "total_flops_over_dense": None,
        "epochs_to_dense": None,
        "seconds_to_dense_over_dense": None,
        "flops_to_dense_over_dense": None,
        "test_examples": evaluations["best"]["examples"],
    }
    if dense is not None:
        dense_cost = _total([dense.train], store)
        dense_history = histories[dense.train.key]
        goal = accuracy_goal(dense_history)
        for column in ("seconds", "flops"):
            total = (search[column] + train[column]) / dense_cost[column]
            row["total_over_dense" if column == "seconds" else "total_flops_over_dense"] = total
        epochs, seconds = epochs_to_reach(history, goal)
        dense_epochs, dense_seconds = epochs_to_reach(dense_history, goal)
        row["epochs_to_dense"] = epochs
        if epochs is not None and seconds is not None:
            flops = train["flops"] * epochs / len(history)
            dense_flops = dense_cost["flops"] * dense_epochs / len(dense_history)
            row["seconds_to_dense_over_dense"] = (search["seconds"] + seconds) / dense_seconds
            row["flops_to_dense_over_dense"] = (search["flops"] + flops) / dense_flops
    return row


def _worst(path: Path) -> float:
    """Share of the test images that are right clean and under every attack."""
    found = weights.read_arrays(path)
    right = found["clean_prediction"] == found["label"]
    for name, predictions in found.items():
        if name.startswith("prediction_"):
            right = right & (predictions == found["label"])
    return float(right.mean())


def _search_cost(entry: Entry, workshop: Workshop) -> tuple[dict, str]:
    """Seconds and FLOPs of the search, and whether this run or a given ticket says so."""
    if entry.ticket is None:
        return {"seconds": 0.0, "flops": 0}, "none"
    if entry.searches:
        return _total(entry.searches, workshop.store), "run"
    recorded = workshop.ticket(entry.ticket).found.get("cost", {})
    return {column: recorded.get(column, 0) for column in ("seconds", "flops")}, "ticket"


def _total(stages: Sequence[Stage], store: Store) -> dict:
    ledgers = [store.manifest(stage)["ledger"] for stage in stages]
    return {column: sum(ledger[column] for ledger in ledgers) for column in ("seconds", "flops")}


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


def machine() -> dict:
    """Where the results come from."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
