"""How each kind of stage is carried out."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from functools import cached_property
from pathlib import Path

from tf_lottery import files, pruning, weights
from tf_lottery.config import LotteryConfig, TrainConfig
from tf_lottery.data import ImageData, even_batch_size, load, steps_per_epoch
from tf_lottery.errors import StoreError, TicketError, UsageError
from tf_lottery.evaluation import Checkpoint, Evaluator
from tf_lottery.experiments.ledger import Cost, evaluation_cost, training_cost
from tf_lottery.experiments.stage import Stage, ancestors
from tf_lottery.experiments.store import Store
from tf_lottery.export import export_saved_model
from tf_lottery.keras import make_deterministic
from tf_lottery.models import forward_flops
from tf_lottery.pruning.masks import MaskedNetwork, prunable_kernels, wrap
from tf_lottery.tickets import NetworkSpec, Ticket
from tf_lottery.training.run import train


class Workshop:
    """What the stages of one run share: data, network, compiled attacks.

    Args:
      config: the run.
      store: where results of parents are read.
      log_root: TensorBoard logs go to ``<log_root>/<label>``; ``None`` writes none.
      progress: show bars.
    """

    def __init__(
        self,
        config: LotteryConfig,
        store: Store,
        log_root: Path | None = None,
        progress: bool = False,
    ):
        if config.deterministic:
            make_deterministic(config.seed)
        self.config = config
        self.store = store
        self.log_root = log_root
        self.progress = progress

    @cached_property
    def data(self) -> ImageData:
        """The images, loaded once."""
        return load(self.config.data)

    @cached_property
    def spec(self) -> NetworkSpec:
        """The network every stage of the run uses."""
        normalize = self.config.model.normalize
        return NetworkSpec(
            self.config.model,
            self.data.input_shape,
            self.data.num_classes,
            self.data.mean if normalize else None,
            self.data.std if normalize else None,
        )

    @cached_property
    def forward_flops(self) -> int:
        """FLOPs of one forward pass of one image."""
        return sum(forward_flops(self._evaluated).values())

    @cached_property
    def _evaluated(self):
        return self.spec.build(0)

    @cached_property
    def _evaluator(self) -> Evaluator:
        # One network and one set of compiled attacks serve every evaluation;
        # only the weights are exchanged.
        jit_compile = self.config.train.jit_compile
        size = even_batch_size(len(self.data.test_labels))
        return Evaluator(self._evaluated, self.config.attacks, size, jit_compile)

    def check(self, ticket: Ticket | None = None) -> None:
        """Loads the data and tells early what would fail late.

        Raises:
          DataError, UsageError: the data cannot be had or split as asked.
          UsageError: a batch is larger than the training set.
          TicketError: ``ticket`` is for another network.
        """
        for config in (self.config.search, self.config.train, self.config.ticket_train):
            steps_per_epoch(len(self.data.train_labels), config.batch_size)
            if config.validation_images > len(self.data.validation_labels):
                raise UsageError.bad_value(
                    "validation_images",
                    config.validation_images,
                    f"at most the {len(self.data.validation_labels)} validation images",
                )
        if ticket is not None:
            self._check_ticket(ticket)

    def _check_ticket(self, ticket: Ticket) -> None:
        if ticket.spec != self.spec:
            raise TicketError(
                f"--ticket: the ticket is for {_network(ticket.spec)}, "
                f"this run for {_network(self.spec)}"
            )

    def perform(self, stage: Stage, directory: Path) -> None:
        """Does the stage's work in ``directory``, the parents being finished.

        Raises:
          LotteryError: as the work does.
        """
        getattr(self, f"_{stage.kind}")(stage, directory)

    def predicted_cost(self, stage: Stage) -> Cost:
        """Passes and FLOPs the stage will take, times 0."""
        if stage.kind == "train":
            return training_cost(
                stage.runtime["train"], len(self.data.train_labels), self.forward_flops
            )
        if stage.kind == "evaluate":
            return evaluation_cost(
                self.config.attacks,
                len(self.data.test_labels),
                self.forward_flops,
                self.data.num_classes,
            )
        return Cost()

    def check_data(self, stage: Stage) -> None:
        """Makes sure that a finished training saw the images that are loaded now.

        Keys name the data set, not its pixels, which another version or another
        ``--data_dir`` may change.

        Raises:
          StoreError: it saw others.
        """
        path = self.store.path(stage) / "network.json"
        if json.loads(path.read_text())["data_digest"] != self.data.digest:
            raise StoreError(
                f"--store: {path.parent} was trained on other images named "
                f"{self.data.name}; choose another --store"
            )

    def history(self, stage: Stage) -> list[dict]:
        """The rows of a finished training stage."""
        return json.loads((self.store.path(stage) / "history.json").read_text())

    def ticket(self, stage: Stage) -> Ticket:
        """The ticket of a finished prune stage."""
        return Ticket.load(self.store.path(stage) / "ticket")

    # One method a kind. -----------------------------------------------------

    def _init(self, stage: Stage, directory: Path) -> None:
        network = self.spec.build(stage.settings["seed"])
        values = weights.get_weights(network)
        weights.write_arrays(directory / "weights.npz", values)
        files.write_json(
            directory / "network.json",
            {
                "network": self.spec.to_json(),
                "seed": stage.settings["seed"],
                "digest": weights.digest(values),
            },
        )

    def _start(self, stage: Stage, policy: str) -> MaskedNetwork:
        """The masked network a training stage starts from."""
        if "ticket" in stage.parents:
            ticket = self.ticket(stage.parents["ticket"])
            self._check_ticket(ticket)
            return ticket.network(policy)
        network = self.spec.build(0, policy)
        path = self.store.path(stage.parents["start"]) / "weights.npz"
        weights.set_weights(network, weights.read_arrays(path))
        return wrap(network)

    def _train(self, stage: Stage, directory: Path) -> None:
        if (directory / "ledger.json").exists():  # stopped just before the end
            return
        config: TrainConfig = stage.runtime["train"]
        mixed = config.dtype_policy != "float32"
        logs = None if self.log_root is None else self.log_root / slug(stage.label)
        rows = train(
            self._start(stage, config.dtype_policy),
            self.data,
            config,
            seed=stage.settings["seed"],
            directory=directory,
            augment=self.config.data.augment,
            stage=stage.label,
            log_directory=logs,
            log_settings=_hparams(stage, config, self.config),
            validation_network=self.spec.build(0) if mixed else None,
            verbose=None if self.progress else 0,
        )
        if logs is not None:
            # Packed, or TensorBoard would find each run twice under the work directory.
            shutil.make_archive(str(directory / "tensorboard"), "tar", logs)
        files.write_json(
            directory / "network.json",
            {"network": self.spec.to_json(), "data_digest": self.data.digest},
        )
        cost = dataclasses.replace(
            self.predicted_cost(stage),
            **{
                column: sum(row[column] for row in rows)
                for column in ("seconds", "startup_seconds", "validation_seconds")
            },
        )
        files.write_json(directory / "ledger.json", cost.to_json())
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)

    def _prune(self, stage: Stage, directory: Path) -> None:
        began = time.perf_counter()
        if "given" in stage.settings:
            ticket = stage.runtime["ticket"]
        elif "control" in stage.settings:
            ticket = self._control_ticket(stage)
        else:
            ticket = self._searched_ticket(stage)
        ticket.save(directory / "ticket")
        cost = Cost(seconds=time.perf_counter() - began)
        files.write_json(directory / "ledger.json", cost.to_json())

    def _searched_ticket(self, stage: Stage) -> Ticket:
        chosen, parents = stage.settings, stage.parents
        trained = weights.read_arrays(self.store.path(parents["trained"]) / "final.npz")
        parent = self.ticket(parents["ticket"]) if "ticket" in parents else None
        kernels = {name: trained[f"{name}/kernel"] for name in prunable_kernels(self._evaluated)}
        masks = pruning.prune(
            kernels,
            parent.masks if parent else None,
            chosen["sparsity"],
            score=chosen["score"],
            scope=chosen["scope"],
            seed=chosen.get("seed", 0),
        )
        init = json.loads((self.store.path(parents["start"]) / "network.json").read_text())
        epoch = chosen["rewind_epoch"]
        rewind = None
        if epoch:
            path = self.store.path(parents["rewind"]) / f"epoch-{epoch}.npz"
            rewind = weights.read_arrays(path)
        return Ticket(
            spec=self.spec,
            dataset=self.config.data.name,
            init_seed=init["seed"],
            init_digest=init["digest"],
            masks=masks,
            rewind_epoch=epoch,
            rewind_weights=rewind,
            found=self._provenance(stage),
            parent=parent.digest if parent else None,
        )

    def _control_ticket(self, stage: Stage) -> Ticket:
        parent = self.ticket(stage.parents["ticket"])
        found = {**parent.found, "control": stage.settings["control"], "label": stage.label}
        if stage.settings["control"] == "random_mask":
            masks = pruning.random_masks(parent.masks, stage.settings["seed"])
            return dataclasses.replace(parent, masks=masks, found=found, parent=parent.digest)
        init = json.loads((self.store.path(stage.parents["start"]) / "network.json").read_text())
        return dataclasses.replace(
            parent,
            init_seed=init["seed"],
            init_digest=init["digest"],
            rewind_epoch=0,
            rewind_weights=None,
            found=found,
            parent=parent.digest,
        )

    def _provenance(self, stage: Stage) -> dict:
        """How a ticket was found: settings of search and pruning, cost, stages."""
        searches = [s for s in ancestors(stage) if s.kind == "train"]
        ledgers = [self.store.manifest(s)["ledger"] for s in searches]
        last = stage.parents["trained"]
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
        }

    def _evaluate(self, stage: Stage, directory: Path) -> None:
        trained = self.store.path(stage.parents["trained"])
        name = "best.npz" if stage.settings["weights"] == "best" else "final.npz"
        values = weights.read_arrays(trained / name)
        twin = stage.runtime.get("twin")
        if twin is not None and self.store.has(twin):
            other = weights.read_arrays(trained / "best.npz")
            if weights.digest(values) == weights.digest(other):
                for file in ("evaluation.json", "examples.npz"):
                    shutil.copyfile(self.store.path(twin) / file, directory / file)
                files.write_json(directory / "ledger.json", Cost().to_json())
                return
        weights.set_weights(self._evaluated, values)
        checkpoint = Checkpoint(directory / "progress.npz")
        found = self._evaluator(
            self.data.test_images,
            self.data.test_labels,
            self.config.seed,
            self.progress,
            checkpoint,
            {"stage": stage.key, "data": self.data.digest},
        )
        files.write_json(
            directory / "evaluation.json",
            {
                "natural": found.natural,
                "robust": found.robust,
                "examples": len(found.labels),
                "seconds": found.seconds,
            },
        )
        arrays = {"index": self.data.test_index, **found.arrays()}
        weights.write_arrays(directory / "examples.npz", arrays)
        passes = [part for parts in found.passes.values() for part in parts.values()]
        forward = sum(part.forward_passes for part in passes)
        gradient = sum(part.input_gradient_passes for part in passes)
        cost = Cost(
            seconds=sum(found.seconds.values()),  # of all processes it took
            examples=len(found.labels),
            forward_passes=forward,
            input_gradient_passes=gradient,
            flops=(forward + gradient) * self.forward_flops,
        )
        files.write_json(directory / "ledger.json", cost.to_json())
        checkpoint.remove()

    def _export(self, stage: Stage, directory: Path) -> None:
        began = time.perf_counter()
        trained = self.store.path(stage.parents["trained"])
        network = self.spec.build(0)
        weights.set_weights(network, weights.read_arrays(trained / "best.npz"))
        ticket = self.ticket(stage.parents["ticket"]) if "ticket" in stage.parents else None
        export_saved_model(
            network,
            directory / "saved_model",
            class_names=self.data.class_names,
            metadata={
                "dataset": self.data.name,
                "network": self.spec.to_json(),
                "training": dict(stage.parents["trained"].settings),
                "epoch": "best",
                "ticket": None if ticket is None else ticket.to_json(),
            },
        )
        cost = Cost(seconds=time.perf_counter() - began)
        files.write_json(directory / "ledger.json", cost.to_json())


def _network(spec: NetworkSpec) -> str:
    pixels = "normalised" if spec.mean is not None else "raw"
    return f"{spec.model.label} on {pixels} {spec.input_shape} pixels, {spec.num_classes} classes"


def slug(label: str) -> str:
    """A label as a directory name: ``search: boosting`` -> ``search-boosting``."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", label).strip("-")


def _hparams(stage: Stage, train: TrainConfig, config: LotteryConfig) -> dict:
    attack = train.objective.attack
    return {
        "stage": stage.label,
        "model": config.model.label,
        "dataset": config.data.name,
        "objective": train.objective.name,
        "eps": attack.eps if attack else 0.0,
        "attack_steps": attack.steps if attack else 0,
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "learning_rate": train.schedule.peak,
        "sparsity": 0.0 if "start" in stage.parents else config.prune.sparsity,
        "seed": config.seed,
    }
