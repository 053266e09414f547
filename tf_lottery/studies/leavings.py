"""What a study leaves in a work directory for people: tickets, SavedModels, logs, pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tf_lottery import weights
from tf_lottery.attacks import make_attack
from tf_lottery.engine.stage import Stage
from tf_lottery.engine.store import Store
from tf_lottery.files import slug
from tf_lottery.keras import tf
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.settings import KINDS
from tf_lottery.report.results import PICTURES
from tf_lottery.studies.study import Study

_SHOWN = 10


def left(study: Study, workdir: Path) -> list[Path]:
    """Everything that a finished study leaves there, besides its results and report."""
    copies = [target for _, target in _copies(study, workdir)]
    return copies + [log_directory(stage, workdir) for stage in study.trainings]


def leave(study: Study, workshop: Workshop, workdir: Path, cached: Mapping[str, bool]) -> None:
    """Copies what people take away from the store into the work directory.

    Args:
      study: all of its stages are finished.
      workshop: reads them.
      workdir: existing directory.
      cached: stage key -> whether an earlier run finished it.
    """
    store = workshop.store
    _unpack_logs(study, store, workdir, cached)
    if not study.experiment.keeps:
        return
    kept = {"saved_model": set[str](), "tickets": set[str]()}
    for (stage, name), target in _copies(study, workdir):
        _copy(store.file(stage, name), target)
        kept[target.parent.name].add(target.name)
    # What an earlier comparison in this directory left must not pass for this one's.
    for folder, names in kept.items():
        for path in (workdir / folder).glob("*"):
            if path.name.split("-seed-")[0] in KINDS and path.name not in names:
                shutil.rmtree(path, ignore_errors=True)
    _pictures(study, workshop, workdir)


def log_directory(stage: Stage, workdir: Path) -> Path:
    """Where the TensorBoard logs of a training lie."""
    return workdir / "tensorboard" / slug(stage.label)


def _copies(study: Study, workdir: Path) -> Iterator[tuple[tuple[Stage, str], Path]]:
    """((stage, directory in it), where its copy belongs)."""
    if not study.experiment.keeps:
        return
    for (arm, seed), cell in study.cells.items():
        name = arm if seed == study.seeds[0] else f"{arm}-seed-{seed}"
        yield (cell.entry.export, "saved_model"), workdir / "saved_model" / slug(name)
        if cell.entry.last_ticket is not None:
            yield (cell.entry.last_ticket, "ticket"), workdir / "tickets" / slug(name)


def _copy(source: Path, target: Path) -> None:
    """Copies a directory to a place where an older copy may lie; never half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)


def _unpack_logs(study: Study, store: Store, workdir: Path, cached: Mapping[str, bool]) -> None:
    """TensorBoard logs of the stages that an earlier run finished."""
    for stage in study.trainings:
        logs = store.path(stage) / "tensorboard.tar"
        if logs.is_file() and cached[stage.key]:  # else they were written in place
            logs = store.file(stage, logs.name)
            shutil.rmtree(log_directory(stage, workdir), ignore_errors=True)
            shutil.unpack_archive(logs, log_directory(stage, workdir), filter="data")


def _pictures(study: Study, workshop: Workshop, workdir: Path) -> None:
    """``pictures.npz``: test images, clean and attacked, with the answers of a sparse network."""
    cells = {arm.name: study.cells[arm.name, study.seeds[0]] for arm in study.design.arms}
    name, cell = next(
        ((name, cell) for name, cell in cells.items() if cell.entry.ticket is not None),
        next(iter(cells.items())),
    )
    attacks = cell.config.attacks
    if not attacks:
        (workdir / PICTURES).unlink(missing_ok=True)
        return
    attack = next((a for a in attacks if a.name.startswith("pgd")), attacks[0])
    data = workshop.data(cell.config)
    network = workshop.spec(cell.config, cell.entry.train).build(0)
    trained = weights.read_arrays(workshop.store.file(cell.entry.train, "best.npz"))
    weights.set_weights(network, trained)
    clean, labels = data.test_images[:_SHOWN], data.test_labels[:_SHOWN]
    images = tf.constant(clean.astype(np.float32) / 255)

    def logits_fn(x):
        return network(x, training=False)

    attacked = make_attack(attack)(logits_fn, images, tf.constant(labels), cell.config.seed)
    weights.write_arrays(
        workdir / PICTURES,
        {
            "clean": clean,
            "adversarial": np.round(attacked.numpy() * 255).astype(np.uint8),
            "label": labels,
            "clean_prediction": np.argmax(logits_fn(images), -1),
            "adversarial_prediction": np.argmax(logits_fn(attacked), -1),
            "class_names": np.array(list(data.class_names)),
            "eps": np.array(attack.eps),
            "model": np.array(name),
            "attack": np.array(attack.name),
            "norm": np.array(attack.norm),
        },
    )
