"""The comparison of dense network and tickets: run it, and turn it into results."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

import tf_lottery
from tf_lottery import machine, weights
from tf_lottery.attacks import make_attack
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.engine.store import Store
from tf_lottery.keras import tf
from tf_lottery.lottery import totals
from tf_lottery.lottery.graph import Entry, entries
from tf_lottery.lottery.work import Workshop, slug
from tf_lottery.options.settings import KINDS, LotteryConfig, settings
from tf_lottery.studies.images import described
from tf_lottery.tickets import Ticket
from tf_lottery.training.callbacks import best_epoch

_PICTURES = 10


def run_settings(config: LotteryConfig, ticket: Ticket | None = None) -> dict:
    """The JSON settings that identify a run."""
    chosen = settings(config)
    if ticket is not None:
        chosen["ticket"] = ticket.digest
    return chosen


def is_finished(
    config: LotteryConfig, store: Store, workdir: Path, ticket: Ticket | None = None
) -> bool:
    """True if no stage of the run is left to do and nothing of what it leaves is missing."""
    chosen = entries(config, ticket)
    wanted = [workdir / name for name in ("results.json", "report.html", "report.md")]
    for entry in chosen:
        wanted.append(workdir / "saved_model" / entry.kind)
        if entry.ticket is not None:
            wanted.append(workdir / "tickets" / entry.kind)
    stages = in_order([stage for entry in chosen for stage in entry.stages])
    wanted += [log_directory(stage, workdir) for stage in stages if stage.kind == "train"]
    return all(path.exists() for path in wanted) and all(map(store.has, stages))


def run_comparison(
    config: LotteryConfig,
    workshop: Workshop,
    workdir: Path,
    *,
    ticket: Ticket | None = None,
    command: Sequence[str] = (),
    finish: Callable[[Sequence[Stage]], dict[str, bool]] | None = None,
) -> dict:
    """Finishes every stage, then collects tickets, SavedModels, logs and results.

    Args:
      config: the run.
      workshop: carries out its stages.
      workdir: existing directory for what people read.
      ticket: used instead of searching the boosting ticket.
      command: arguments, recorded with the results.
      finish: finishes stages and tells which were finished before; ``None``: one by
        one, by ``workshop``.

    Returns:
      The results document (see ``report.results``), not written yet.

    Raises:
      LotteryError: see ``tf_lottery.errors``.
    """
    chosen = entries(config, ticket)
    targets = [stage for entry in chosen for stage in entry.stages]
    cached = run_stages(targets, workshop) if finish is None else finish(targets)
    trainings = [stage for stage in in_order(targets) if stage.kind == "train"]
    for stage in trainings:
        if cached[stage.key]:
            workshop.check_data(stage)
    _collect(chosen, workshop.store, workdir)
    unpack_logs(trainings, workshop.store, workdir, cached)
    _pictures(chosen, config, workshop, workdir)
    return _document(chosen, config, workshop, cached, run_settings(config, ticket), command)


def log_directory(stage: Stage, workdir: Path) -> Path:
    """Where the TensorBoard logs of a training lie."""
    return workdir / "tensorboard" / slug(stage.label)


def unpack_logs(
    trainings: Sequence[Stage], store: Store, workdir: Path, cached: Mapping[str, bool]
) -> None:
    """TensorBoard logs of the stages that an earlier run finished, into ``workdir``."""
    for stage in trainings:
        logs = store.path(stage) / "tensorboard.tar"
        if logs.is_file() and cached[stage.key]:  # else they were written in place
            logs = store.file(stage, logs.name)
            shutil.rmtree(log_directory(stage, workdir), ignore_errors=True)
            shutil.unpack_archive(logs, log_directory(stage, workdir), filter="data")


def _collect(chosen: list[Entry], store: Store, workdir: Path) -> None:
    """Copies what people take away from the store into the work directory."""
    for entry in chosen:
        _copy(store.file(entry.export, "saved_model"), workdir / "saved_model" / entry.kind)
        if entry.ticket is not None:
            _copy(store.file(entry.ticket, "ticket"), workdir / "tickets" / entry.kind)
    # What an earlier comparison in this directory left must not pass for this one's.
    for folder, kept in (
        ("saved_model", {entry.kind for entry in chosen}),
        ("tickets", {entry.kind for entry in chosen if entry.ticket is not None}),
    ):
        for kind in set(KINDS) - kept:
            shutil.rmtree(workdir / folder / kind, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copies a directory to a place where an older copy may lie; never half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)


def _pictures(
    chosen: list[Entry], config: LotteryConfig, workshop: Workshop, workdir: Path
) -> None:
    """``pictures.npz``: test images, clean and attacked, with a ticket's answers."""
    attacks = config.attacks
    if not attacks:
        return
    shown = next((entry for entry in chosen if entry.kind != "dense"), chosen[0])
    attack = next((a for a in attacks if a.name.startswith("pgd")), attacks[0])
    data, store = workshop.data(config), workshop.store
    network = workshop.spec(config).build(0)
    trained = weights.read_arrays(store.file(shown.train, "best.npz"))
    weights.set_weights(network, trained)
    clean, labels = data.test_images[:_PICTURES], data.test_labels[:_PICTURES]
    images = tf.constant(clean.astype(np.float32) / 255)

    def logits_fn(x):
        return network(x, training=False)

    attacked = make_attack(attack)(logits_fn, images, tf.constant(labels), config.seed)
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
    config: LotteryConfig,
    workshop: Workshop,
    cached: dict[str, bool],
    chosen_settings: dict,
    command: Sequence[str],
) -> dict:
    data = workshop.data(config)
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
    curves = {entry.kind: histories[entry.train.key] for entry in chosen}
    for stage in labels.values():
        if stage.kind == "train" and stage.label.startswith("search"):
            curves[stage.label] = histories[stage.key]
    return {
        "format": 1,
        "package_version": tf_lottery.__version__,
        "settings": chosen_settings,
        "command": list(command),
        "machine": machine.machine(),
        "data": described(data, config.train.validation_images),
        "rows": [_row(entry, config, workshop, histories, dense) for entry in chosen],
        "curves": curves,
        "layers": {
            entry.kind: workshop.ticket(entry.ticket).layers for entry in chosen if entry.ticket
        },
        "ledger": [
            totals.ledger_entry(stage, workshop, users[stage.key], cached[stage.key])
            for stage in labels.values()
        ],
        "attacks": [settings(attack) for attack in config.attacks],
    }


def _row(
    entry: Entry,
    config: LotteryConfig,
    workshop: Workshop,
    histories: dict[str, list[dict]],
    dense: Entry | None,
) -> dict:
    history = histories[entry.train.key]
    found = totals.accuracies(entry, config, workshop.store)
    own = totals.costs(entry, workshop)
    ratios: dict[str, float | None] = {}
    if dense is not None:
        baseline = totals.costs(dense, workshop)
        ratios = totals.against_baseline(own, history, baseline, histories[dense.train.key])
    return {
        "name": entry.kind,
        "kind": entry.kind,
        "model": config.model.label,
        "dataset": config.data.name,
        "seed": config.seed,
        "density": totals.density(entry, workshop),
        "test_examples": found.pop("examples"),
        **found,
        "epochs": len(history),
        "best_epoch": best_epoch(history),
        **own.columns("seconds", "flops"),
        "search_source": own.source,
        "total_over_dense": ratios.get("seconds"),
        "total_flops_over_dense": ratios.get("flops"),
        "epochs_to_dense": ratios.get("epochs_to_dense"),
        "seconds_to_dense_over_dense": ratios.get("seconds_to_dense"),
        "flops_to_dense_over_dense": ratios.get("flops_to_dense"),
    }
