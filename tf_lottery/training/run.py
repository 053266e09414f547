"""One training run, from starting weights to ``final.npz``, ``best.npz`` and a history."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tf_lottery import files, weights
from tf_lottery.data import ImageData, device_images
from tf_lottery.errors import CollapseError, NonFiniteError, UsageError
from tf_lottery.interruption import Terminated
from tf_lottery.keras import keras, pinned, refuse_scopes
from tf_lottery.options.settings import TrainConfig
from tf_lottery.pruning.masks import MaskedNetwork
from tf_lottery.training import callbacks, checkpoints, guards
from tf_lottery.training.averaging import WeightAverage
from tf_lottery.training.checkpoints import Position
from tf_lottery.training.distance import RelativeDistance
from tf_lottery.training.mask_updates import UpdateMasks
from tf_lottery.training.model import make_training_model, objective_parts
from tf_lottery.training.optimizer import make_optimizer
from tf_lottery.training.schedules import RateTable, rate_factor
from tf_lottery.training.settling import MaskDistance
from tf_lottery.training.task import Task
from tf_lottery.training.tensorboard import TensorBoardLog


def train(
    masked: MaskedNetwork, data: ImageData, config: TrainConfig, **options: Any
) -> list[dict]:
    """Trains ``masked`` in place and leaves the results in ``directory``.

    Called again on a directory in which it was interrupted, it goes on after the
    newest whole checkpoint, and ends as if it had not been interrupted. An interruption
    (``KeyboardInterrupt``, ``Terminated``) within an epoch saves where it stands. Files
    left: ``final.npz`` (of the last epoch trained, which ``config.patience`` or
    ``config.settling`` may put before the last planned; with ``config.ema_decay`` the averaged
    weights, which ``masked`` has then too), ``best.npz`` (by validation accuracy; averaged or
    raw, see ``callbacks.best_weights``), ``epoch-<k>.npz`` for ``config.keep_epochs``,
    ``history.json``, and ``checkpoints/``, which the caller may remove once it has noted
    the end. Where masks change, those of the best epoch and of ``config.keep_epochs`` too
    (``best-masks.npz``, ``epoch-<k>-masks.npz``, see ``tickets.read_masks``); ``masked`` has the
    last ones.

    Args:
      masked, data, config, **options: the fields of ``Task``.

    Returns:
      The history, a row for each epoch trained: see ``callbacks.History``.

    Keras' and TensorFlow's ambient state has no part in it, see ``tf_lottery.keras.pinned``.

    Raises:
      NonFiniteError: the loss or a gradient became NaN or infinite, also at the rates that
        ``config.on_nan`` lowered.
      CollapseError: likewise of catastrophic overfitting and ``config.on_overfit``.
      FrozenError: attacks would differentiate another function than the network.
      PrecisionError: half precision lost the attack's gradients.
      UsageError: called in the scope of another ``tf.distribute`` strategy or of a graph, the
        batch is larger than the training set, the device has no room for
        the images, nothing is pruned that ``config.sparsity_update`` could change, or the run
        stopped early, before an epoch of ``config.keep_epochs``.
      LostWorkerError: another process ended.
      ValueError: ``reporting.distance_from`` does not fit the network.
    """
    refuse_scopes()
    with pinned():
        return Training(Task(masked, data, config, **options)).run()


class Training:
    """Where a training stands: its model, all that has a state, and the position of both.

    Attributes:
      task: what is to be done.
      update: how masks change; ``None``: they do not.
      position: what was done when it was last restored, or since when it fits.
      placed: the network and masks on the devices.
      average: of the weights; ``None``: they are not averaged.
      model: compiled.
      objective: its own, or what goes on after catastrophic overfitting.
      history: its rows, so far.
      used: callbacks of every ``fit``.
      resumed: what has a state beside the variables, and goes on from a position.
      saved, saving: checkpoints, and the callback that makes them; ``None`` without a directory.
    """

    def __init__(self, task: Task):
        self.task = task
        self.update = task.mask_update
        chosen = task.config.sparsity_update
        if chosen is not None and task.masked.is_dense():
            raise UsageError.bad_value("sparsity_update", chosen.name, "none: nothing is pruned")
        config, distribution, reporting = task.config, task.distribution, task.reporting
        directory = task.files
        found = checkpoints.newest(directory, reporting.announce) if directory else None
        gradients, collapse = task.gradient_guard(), task.collapse_guard()
        self.objective = config.objective
        measures: dict[str, Callable[[], Any]] = {"attack": self._attack_name}
        if gradients:
            measures["input_gradients"] = lambda: gradients.measured
        if collapse:
            measures["collapsed"] = lambda: collapse.collapsed
        if reporting.distance_from is not None:
            measures["distance"] = RelativeDistance(
                reporting.distance_from, task.masked.kernels, reporting.compaction
            )
        self.kept: dict[str, Any] = {}  # further variables of checkpoints
        if config.settling:
            watch = MaskDistance(task.masked, config.settling, task.seed)
            measures["mask_distance"] = lambda: distribution.tell(
                watch() if distribution.chief else None
            )
            self.kept = watch.state
        path = directory / "history.json" if directory else None
        self.history = callbacks.History(path, task.rates, task.steps, measures)
        with distribution.failures():
            told = distribution.tell(dataclasses.asdict(found or Position()))
            self.position = Position(**told)
            self.placed = distribution.place(task.masked, config.batch_norm_groups)
            twin = task.validation_network and distribution.twin(task.validation_network)
            self.average = self._average()
            with distribution.scope():
                self._compile(twin)
        finite = guards.NonFiniteGuard(
            reporting.stage,
            task.masked.network,
            reporting.rate_flag,
            scaled=config.dtype_policy == "mixed_float16",
        )
        watching = [guard for guard in (finite, gradients, collapse) if guard]
        stop = callbacks.StopEarly(self.history, config)
        self.used = [*self._copies(twin), *watching, self.history, stop]
        self.resumed: list[Any] = [guard for guard in (finite, collapse) if guard]
        self.resumed.append(self.history)
        self.log: TensorBoardLog | None = None
        self.saved: checkpoints.Checkpoints | None = None
        self.saving: callbacks.Checkpoint | None = None
        if directory:
            self._save_to(directory)
        self.changing: UpdateMasks | None = None
        if self.update:
            if self.placed is not task.masked:
                raise ValueError("masks change without --distribute alone")
            self.changing = UpdateMasks(
                self.update, task.masked, task.steps, self._next_batch, lambda: self.history.rows
            )
            self.used.append(self.changing)
            self.resumed.append(self.changing)

    def _average(self) -> WeightAverage | None:
        task, masked = self.task, self.task.masked
        if not task.config.ema_decay:
            return None
        return WeightAverage(
            task.config.ema_decay,
            masked,
            self.placed,
            task.validation_network or masked.network,
            task.distribution,
            self.update is not None,
        )

    def _compile(self, twin: keras.Model | None) -> None:
        task, config = self.task, self.task.config
        images = device_images(
            task.data.train_images, task.distribution.data_on_device(config.data_on_device)
        )
        self.with_images = images is None
        self.model = make_training_model(
            self.placed,
            config,
            task.seed,
            twin,
            images,
            self.update is not None,
            self.update is not None and self.update.history,
            self.average,
            task.steps * config.epochs,
        )
        self.table = RateTable(task.rates)
        self.optimizer = make_optimizer(config, task.steps, self.table)
        self.optimizer.build(self.placed.network.trainable_variables)
        self.model.compile(optimizer=self.optimizer, jit_compile=config.jit_compile)

    def _copies(self, twin: keras.Model | None) -> list[keras.callbacks.Callback]:
        """What copies the weights before each validation, from where they are trained."""
        task, masked, placed = self.task, self.task.masked, self.placed
        found = []
        if placed is not masked:
            found.append(callbacks.CopyWeights(placed.network, masked.network))
        others = [task.validation_network, twin] if task.validation_network else []
        if task.config.batch_norm_groups > 1:
            # Replicas with BatchNorm averages of their own go on from the mean of them, which
            # is what is validated and kept.
            others.append(placed.network)
        if others:
            found.append(callbacks.CopyWeights(masked.network, *others))
        if self.average and placed is not masked:
            # And back, for the same reason.
            average = self.average
            found.append(callbacks.CopyWeights(average.network, average.plain, average.network))
        return found

    def _save_to(self, directory: Path) -> None:
        task, masked, config = self.task, self.task.masked, self.task.config
        keep, logs = config.keep_epochs, task.reporting.log_directory
        average = self.average and self.average.plain
        self.used.append(
            callbacks.KeepWeights(
                directory,
                masked.network,
                self.history,
                keep,
                average,
                masked if self.update else None,
            )
        )
        if logs is not None:
            if not self.position.begun:  # what lies there is of another run
                shutil.rmtree(logs, ignore_errors=True)
            self.log = TensorBoardLog(
                logs,
                self.history,
                masked,
                task.validation_network or masked.network,
                task.data.validation_images,
                task.data.validation_labels,
                dict(task.reporting.log_settings),
                config.epochs,
            )
            self.used.append(self.log)
        carried = {"average": average, "perturbation": self.model.perturbation}
        others = {name: one for name, one in carried.items() if one is not None} | self.kept
        self.saved = checkpoints.Checkpoints(directory, masked, self.optimizer, **others)
        self.saving = callbacks.Checkpoint(
            directory,
            self.saved,
            masked.network,
            self.history,
            keep,
            task.steps,
            config.checkpoint_minutes if self.placed is masked else 0.0,
        )
        self.used.append(self.saving)
        self.resumed.append(self.saving)

    def _next_batch(self, epoch: int, step: int) -> dict:
        return next(iter(self._batches(epoch, step, epoch + 1)))

    def _batches(self, epoch: int, step: int, end: int) -> Any:
        replays = self.objective.batch_replays
        return self.task.batches(epoch, step, end, self.with_images, replays)

    def _attack_name(self) -> str | None:
        return self.objective.attack.name if self.objective.attack else None

    def run(self) -> list[dict]:
        """Trains from where it stands; an interruption within an epoch saves first."""
        self.task.check_frozen()
        try:
            with self.task.distribution.failures():
                self._go_on(self.position)
                while not self._done():
                    try:
                        self._fit()
                    except (NonFiniteError, CollapseError) as error:
                        self._go_back(error)
        except (KeyboardInterrupt, Terminated):
            if self.saving and not (self.changing and self.changing.under_way):
                self.saving.save_within_epoch()
            raise
        finally:
            if self.log is not None:
                self.log.close()
        return self._finish()

    def _go_on(self, position: Position) -> None:
        """Brings all that has a state to a position."""
        self.position = position
        if position.begun or position.rollbacks:
            if self.saved is not None:
                self.saved.restore(position)
            self.task.distribution.resume(self.task.masked, self.placed, self.optimizer)
            if self.average:
                self.average.resume(self.task.distribution)
        elif self.saving and "rollback" in (self.task.config.on_nan, self.task.config.on_overfit):
            self.saving.save(0)  # to go back to
        for part in self.resumed:
            part.go_on(position)
        self.table.factor.assign(rate_factor(position.rollbacks - position.overfit_rollbacks))

    def _done(self) -> bool:
        # A process may have died right after the epoch that decided to stop.
        config = self.task.config
        return self.position.epoch >= config.epochs or callbacks.ended(self.history.rows, config)

    def _fit(self) -> None:
        """To the end of an epoch that is under way, or else of its phase."""
        task, epoch, step = self.task, self.position.epoch, self.position.step
        objective, end = task.config.part(epoch)
        objective = objective.hardened(self.position.overfit_rollbacks)
        end = epoch + 1 if step else end
        if objective != self.objective:
            self.objective = objective
            self.model.minimise(*objective_parts(task.config, objective))
            self.history.starts_up()
        verbose = task.reporting.verbose
        self.model.fit(
            self._batches(epoch, step, end),
            epochs=end,
            initial_epoch=epoch,
            steps_per_epoch=task.steps - step,
            **task.validation(),
            callbacks=list(self.used),
            verbose=(1 if sys.stdout.isatty() else 2) if verbose is None else verbose,
        )
        self.position = dataclasses.replace(self.position, epoch=end, step=0, rows=[], spent={})

    def _go_back(self, error: NonFiniteError | CollapseError) -> None:
        """To the last checkpoint between two epochs, and on with a remedy.

        At half the rate where numbers were not finite; against more steps, see
        ``ObjectiveConfig.hardened``, where the network had overfitted.

        Raises:
          NonFiniteError, CollapseError: there is none, or it is not to, or did not help.
        """
        overfit, rollbacks = isinstance(error, CollapseError), self.position.rollbacks
        chosen = self.task.config.on_overfit if overfit else self.task.config.on_nan
        directory = self.task.files
        found = checkpoints.between_epochs(directory) if directory else None
        if found is None or self.saving is None:
            raise error
        overfits = self.position.overfit_rollbacks + overfit
        attack = self.task.config.part(found.epoch)[0].hardened(overfits).attack
        remedy = "against more steps" if overfit else "at half the rate"
        # The attack of a phase of several steps is not hardened, and would end there again.
        helps = chosen == "rollback" and not (overfit and attack == self.objective.attack)
        if not helps or rollbacks >= guards.MOST_ROLLBACKS:
            flag = f"; --on_{'overfit' if overfit else 'nan'}=rollback goes on from there {remedy}"
            if chosen == "rollback":
                flag = f", after {rollbacks} rollbacks"
            raise type(error)(f"{error}; the checkpoint of {found.words()} is kept{flag}") from None
        found = dataclasses.replace(
            found,
            rollbacks=rollbacks + 1,
            overfit_rollbacks=overfits,
            # What is undone took its time; its gradients are of no epoch.
            spent=self.history.spent() | {"gradient_norm": 0.0},
        )
        if overfit and attack:
            remedy = f"against {attack.name} from random starts, steps of {attack.step_size:.3g}"
        self.task.reporting.announce(
            f"{error}; going back to {found.words()} and on {remedy} "
            f"(rollback {found.rollbacks} of {guards.MOST_ROLLBACKS})"
        )
        self._go_on(found)
        self.saving.save(found.epoch)  # a process that takes over knows of it

    def _finish(self) -> list[dict]:
        rows, keep, directory = self.history.rows, self.task.config.keep_epochs, self.task.files
        if len(rows) < max(keep, default=0):
            early = callbacks.settled(rows, self.task.config.settling)
            cause = "--search=early" if early else f"--patience={self.task.config.patience}"
            raise UsageError.bad_value(
                "rewind_epoch",
                max(keep),
                f"at most {len(rows)}: {self.task.reporting.stage} ended there by {cause}",
            )
        network = self.task.masked.network
        if self.average:
            weights.set_weights(network, weights.get_weights(self.average.plain))
        if self.task.config.settling and directory:
            self.task.reporting.announce(f"{self.task.reporting.stage}: {self._settled(rows)}")
        if directory:
            self.history.write()  # a checkpoint may have told more than the file
            weights.write_arrays(directory / "final.npz", weights.get_weights(network))
            kept = callbacks.best_file(directory, rows)
            rewound = {callbacks.epoch_file(directory, k) for k in keep}
            _place(kept, directory / "best.npz", copy=kept in rewound)
            if self.update:
                best = callbacks.best_epoch(rows)
                kept = callbacks.masks_file(directory, best)
                _place(kept, directory / "best-masks.npz", copy=best in keep)
        return rows

    def _settled(self, rows: list[dict]) -> str:
        config = self.task.config
        assert config.settling is not None
        if callbacks.settled(rows, config.settling):
            saved = config.epochs - len(rows)
            return f"the mask has settled after epoch {len(rows)}, {saved} epochs saved"
        last = rows[-1]["mask_distance"]
        by = "too few epochs to tell" if last is None else f"{last:.3g} in the last of them"
        return (
            f"the mask has not settled in {len(rows)} epochs ({by}, --mask_distance="
            f"{config.settling.distance:g})"
        )


def _place(source: Path, target: Path, copy: bool) -> None:
    """Gives ``source`` its final name; a repeated call after a crash finds it done."""
    if not source.exists() and target.exists():
        return
    if copy:
        files.write_atomically(target, source.read_bytes())
    else:
        os.replace(source, target)
