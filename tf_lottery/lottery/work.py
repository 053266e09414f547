"""How each kind of stage is carried out; each leaves its files in a directory.

A new kind is a function here and an entry in ``KINDS``, or anywhere else and a ``Kind`` in the
stage's ``runtime["work"]``: other processes find it by that.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tf_lottery import files, weights
from tf_lottery.compaction import Compaction
from tf_lottery.cutting import trained_network
from tf_lottery.engine.stage import Stage
from tf_lottery.errors import UsageError
from tf_lottery.export import export_saved_model
from tf_lottery.lottery import dynamic
from tf_lottery.lottery.attacking import (
    evaluate,
    predicted_evaluation,
    predicted_transfer,
    transfer,
)
from tf_lottery.lottery.costs import Cost, training_cost
from tf_lottery.lottery.finding import prune, searched_kernels
from tf_lottery.lottery.resources import Resources
from tf_lottery.lottery.scoring import predicted_cost
from tf_lottery.models.spec import NetworkSpec
from tf_lottery.options.registries import MODELS
from tf_lottery.options.settings import LotteryConfig, TrainConfig, settings
from tf_lottery.pruning.masks import MaskedNetwork, wrap
from tf_lottery.training import callbacks
from tf_lottery.training.guards import collapsed_epochs, trained_epochs
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

_VALIDATION = "validation.json"


def initialise(shop: Resources, stage: Stage, directory: Path) -> None:
    """Leaves ``weights.npz`` and ``network.json``."""
    spec, seed = shop.spec(stage.runtime["config"]), stage.settings["seed"]
    values = weights.get_weights(spec.build(seed))
    digest = weights.digest(values)
    if spec.model.name not in MODELS and digest != weights.digest(
        weights.get_weights(spec.build(seed))
    ):
        raise UsageError.bad_value(
            "model",
            spec.model.name,
            "a function whose initial weights are the seed's alone (give each initialiser a seed, "
            "or call tf_keras.utils.set_random_seed(seed) first)",
        )
    weights.write_arrays(directory / "weights.npz", values)
    files.write_json(
        directory / "network.json",
        {
            "network": spec.to_json(),
            "seed": seed,
            "digest": digest,
        },
    )


def _start(shop: Resources, stage: Stage, policy: str) -> tuple[MaskedNetwork, Compaction | None]:
    """The masked network a training stage starts from, and what was cut out of it."""
    config = stage.runtime["config"]
    if "ticket" in stage.parents:
        ticket = shop.ticket(stage.parents["ticket"])
        shop.check_ticket(config, ticket)
        return trained_network(ticket, policy)
    network = shop.spec(config).build(0, policy)
    path = shop.store.file(stage.parents["start"], "weights.npz")
    weights.set_weights(network, weights.read_arrays(path))
    return wrap(network), None


def train_network(shop: Resources, stage: Stage, directory: Path) -> None:
    """Leaves ``best.npz``, ``final.npz``, ``history.json``, ``network.json`` and logs; of a search
    that is validated otherwise than its key says ``validation.json`` instead of ``best.npz``.

    Where masks change, also ``ticket``, of the last ones, and ``best-masks.npz``.
    """
    training: TrainConfig = stage.runtime["train"]
    if (directory / "ledger.json").exists():  # stopped just before the end
        _forget_the_way(directory, training.keep_epochs)
        return
    _begin(stage, directory)
    config: LotteryConfig = stage.runtime["config"]
    spec, data = shop.spec(config, stage), shop.data(config)
    logs = None if shop.log_root is None else shop.log_root / files.slug(stage.label)
    ticket = stage.parents.get("ticket")
    start, compaction = _start(shop, stage, training.dtype_policy)
    if compaction is not None and training.sparsity_update is not None:
        name = training.sparsity_update.name
        raise UsageError.bad_value("sparsity_update", name, "none for a ticket of channels")
    searched = None if ticket is None else searched_kernels(shop, ticket)
    call = {"train": stage.key, **({"widths": spec.widths} if spec.widths else {})}
    with shop.distribution.calling(call):
        rows = _train(
            shop,
            stage,
            spec,
            start,
            directory,
            log_directory=logs,
            log_settings=_hparams(stage, training, config),
            verbose=None if shop.progress else 0,
            distance_from=searched,
            compaction=compaction,
        )
    if logs is not None:
        # Packed, or TensorBoard would find each run twice under the work directory. An
        # interrupted training that only had its end to make has written no logs.
        logs.mkdir(parents=True, exist_ok=True)
        shutil.make_archive(str(directory / "tensorboard"), "tar", logs)
    files.write_json(
        directory / "network.json",
        {"network": spec.to_json(), "data_digest": data.digest},
    )
    cost = dataclasses.replace(
        _training_cost(shop, stage, trained_epochs(rows)),
        **{
            column: sum(row[column] for row in rows)
            for column in ("seconds", "startup_seconds", "validation_seconds")
        },
    )
    if training.sparsity_update is not None:
        found = dynamic.last_ticket(shop, stage, start.get_masks(), len(rows), cost)
        found.save(directory / "ticket")
    told = {
        "collapsed_epochs": collapsed_epochs(rows),
        **{name: rows[-1].get(name, 0) for name in ("rollbacks", "overfit_rollbacks")},
        "weights": callbacks.best_weights(rows) if callbacks.averaged(rows) else "",
    }
    if len(rows) < training.epochs:
        planned = _training_cost(shop, stage).flops
        told |= {"epochs": len(rows), "planned_epochs": training.epochs, "planned_flops": planned}
    if training.patience and len(rows) < training.epochs:
        line = (
            f"{stage.label}: stopped after epoch {len(rows)} of {training.epochs} by "
            f"--patience={training.patience}, the best being epoch {callbacks.best_epoch(rows)}; "
            f"{max(0.0, 1 - cost.flops / planned):.1%} of its FLOPs are saved"
        )
        print(line, file=sys.stderr, flush=True)
    files.write_json(
        directory / "ledger.json",
        {**cost.to_json(), **{name: value for name, value in told.items() if value}},
    )
    _forget_the_way(directory, training.keep_epochs)


def _other_validation(stage: Stage) -> dict | None:
    """How a search is validated, if not as its key says; see ``search_keys.mask_settings``."""
    keyed, asked = stage.settings["train"], settings(stage.runtime["train"])
    names = ("validation_attack", "validation_images")
    told, ours = ({name: each.get(name) for name in names} for each in (keyed, asked))
    return None if told == ours else ours


def _begin(stage: Stage, directory: Path) -> None:
    """Notes how it is validated; what a try left that was validated otherwise is of no use."""
    ours, note = _other_validation(stage), directory / _VALIDATION
    if ours != (json.loads(note.read_bytes()) if note.exists() else None):
        for path in directory.iterdir():
            files.remove(path)
    if ours:
        files.write_json(note, ours)


def _forget_the_way(directory: Path, keep: Sequence[int]) -> None:
    """Removes what only an unfinished training needs, such as the best epoch before the best."""
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    needed = {
        name(directory, k) for k in keep for name in (callbacks.epoch_file, callbacks.masks_file)
    }
    for path in callbacks.kept_files(directory):
        if path not in needed:
            path.unlink()
    _forget_best(directory)


def _forget_best(directory: Path) -> None:
    if (directory / _VALIDATION).exists():
        (directory / "best.npz").unlink(missing_ok=True)


def validated_as_asked(shop: Resources, stage: Stage) -> bool:
    """Whether the history of a finished training is the one that this configuration asks for."""
    found = None
    if _VALIDATION in shop.store.manifest(stage)["files"]:
        found = json.loads(shop.store.file(stage, _VALIDATION).read_bytes())
    return found == _other_validation(stage)


def train_along(shop: Resources, stage: Stage, widths: Sequence[Sequence] = ()) -> None:
    """What ``train_network`` is in a process that trains with the chief: it leaves nothing.

    ``widths``: of the chief's ``NetworkSpec``.
    """
    whole = shop.spec(stage.runtime["config"])
    spec = dataclasses.replace(whole, widths=tuple((name, width) for name, width in widths))
    network = spec.build(0, stage.runtime["train"].dtype_policy)
    _train(shop, stage, spec, wrap(network), None, verbose=0)


def _train(
    shop: Resources,
    stage: Stage,
    spec: NetworkSpec,
    start: MaskedNetwork,
    directory: Path | None,
    **telling,
) -> list[dict]:
    config, training = stage.runtime["config"], stage.runtime["train"]
    data = shop.data(config)
    shop.distribution.agree_on(f"the data set {data.name}", data.digest)
    mixed = training.dtype_policy != "float32"
    # Of its searches, the boosting ticket's alone runs at the small rate.
    small = training.schedule == config.search.schedule != config.winning_search.schedule
    rate_flag = "search_learning_rate" if small else "learning_rate"
    return train(
        start,
        data,
        training,
        seed=stage.settings["seed"],
        directory=directory,
        augment=config.data.augment,
        validation_network=spec.build(0) if mixed else None,
        distribution=shop.distribution,
        reporting=Reporting(stage.label, rate_flag, **telling),
    )


def export(shop: Resources, stage: Stage, directory: Path) -> None:
    """Leaves ``saved_model``, of the best epoch's weights, averaged or raw."""
    began = time.perf_counter()
    config: LotteryConfig = stage.runtime["config"]
    training = stage.parents["trained"]
    spec, data = shop.spec(config, training), shop.data(config)
    rows = shop.history(training)
    network = spec.build(0)
    weights.set_weights(network, weights.read_arrays(shop.store.file(training, "best.npz")))
    ticket = shop.ticket(stage.parents["ticket"]) if "ticket" in stage.parents else None
    if stage.parents["trained"].runtime["train"].sparsity_update is not None:
        ticket = dynamic.best_ticket(shop, stage.parents["trained"])
    files.remove(directory / "saved_model")  # of a try that could not note its cost
    export_saved_model(
        network,
        directory / "saved_model",
        class_names=data.class_names,
        metadata={
            "dataset": data.name,
            "network": spec.to_json(),
            "training": dict(training.settings),
            "epoch": "best",
            "averaged": callbacks.best_weights(rows) == "average",
            "ticket": None if ticket is None else ticket.to_json(),
            "structure": None if ticket is None else ticket.structure,
            "density": 1.0 if ticket is None else ticket.density,
            "forward_flops": [shop.forward_flops(config, training), shop.forward_flops(config)],
        },
    )
    cost = Cost(seconds=time.perf_counter() - began)
    files.write_json(directory / "ledger.json", cost.to_json())


def _hparams(stage: Stage, train: TrainConfig, config: LotteryConfig) -> dict:
    attack = train.objective.attack
    return {
        "stage": stage.label,
        "model": config.model.label,
        "dataset": config.data.name,
        "objective": ",".join(dict.fromkeys(phase.objective.name for phase in train.parts)),
        "eps": attack.eps if attack else 0.0,
        "attack_steps": attack.steps if attack else 0,
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "learning_rate": train.schedule.peak,
        "sparsity": 0.0 if "start" in stage.parents else config.prune.sparsity,
        "seed": config.seed,
    }


def _no_cost(shop: Resources, stage: Stage) -> Cost:
    del shop, stage
    return Cost()


def _training_cost(
    shop: Resources, stage: Stage, epochs: Sequence[tuple[int, int]] | None = None
) -> Cost:
    """``epochs``: that it took, see ``training_cost``; ``None``: as planned."""
    training, config = stage.runtime["train"], stage.runtime["config"]
    images = len(shop.data(config).train_labels)
    return training_cost(training, images, shop.forward_flops(config, stage), epochs)


@dataclass(frozen=True)
class Kind:
    """What can be done with the stages of a kind.

    Attributes:
      perform: does the work in a directory, the parents being finished; leaves what it cost in
        ``ledger.json``.
      cost: the passes and FLOPs it will take, at most; times 0.
    """

    perform: Callable[[Resources, Stage, Path], None]
    cost: Callable[[Resources, Stage], Cost] = _no_cost


KINDS: dict[str, Kind] = {
    "init": Kind(initialise),
    "train": Kind(train_network, _training_cost),
    "prune": Kind(prune, predicted_cost),
    "evaluate": Kind(evaluate, predicted_evaluation),
    "export": Kind(export),
    "transfer": Kind(transfer, predicted_transfer),
}


def kind_of(stage: Stage) -> Kind:
    """What the stage brings along, or the built-in kind of its name."""
    return stage.runtime.get("work") or KINDS[stage.kind]


class Workshop(Resources):
    """Carries out stages, each under the configuration in its ``runtime["config"]``."""

    def perform(self, stage: Stage, directory: Path) -> None:
        """Does the stage's work in ``directory``, the parents being finished.

        Raises:
          LotteryError: as the work does.
        """
        with self.prepared(stage):
            kind_of(stage).perform(self, stage, directory)

    def train_along(self, stage: Stage, widths: Sequence[Sequence] = ()) -> None:
        """Takes part in a training that another process, the chief, performs.

        Args:
          stage: the training.
          widths: of the chief's ``NetworkSpec``.

        Raises:
          LotteryError: as the work does.
        """
        with self.prepared(stage):
            train_along(self, stage, widths)

    def predicted_cost(self, stage: Stage) -> Cost:
        """Passes and FLOPs the stage will take, at most; times 0."""
        return kind_of(stage).cost(self, stage)
