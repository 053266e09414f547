"""Keras callbacks of a training run: history, best epoch, early stop, checkpoints, bad numbers.

Order matters and is fixed in ``tf_lottery.training.run``: the history row of an
epoch first, then whether it is the last, the weights that may become the best, the
checkpoint last. A process that dies in between repeats that epoch from the previous
checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tf_lottery import files, weights
from tf_lottery.errors import NonFiniteError
from tf_lottery.keras import keras, tf
from tf_lottery.pruning.masks import MaskedNetwork


class NonFiniteGuard(keras.callbacks.Callback):
    """Stops a run at the first step whose loss, or epoch whose weights, are not finite.

    Raises:
      NonFiniteError: names stage, epoch and step (both counted from 1).
    """

    def __init__(self, stage: str, network: keras.Model):
        super().__init__()
        self._stage = stage
        self._network = network
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        # Keras reports the running mean, which stays NaN from the bad step on.
        if not math.isfinite(logs["loss"]):
            raise NonFiniteError(
                f"{self._stage}: loss is {logs['loss']} in epoch {self._epoch + 1}, "
                f"step {batch + 1}; a lower learning rate may help"
            )

    def on_epoch_end(self, epoch, logs=None):
        # The last update of an epoch is judged by no loss before it is saved.
        for name, variable in weights.named_variables(self._network).items():
            if not np.all(np.isfinite(variable.numpy())):
                raise NonFiniteError(
                    f"{self._stage}: {name} is not finite after the last step of epoch "
                    f"{epoch + 1}; a lower learning rate may help"
                )


class History(keras.callbacks.Callback):
    """One row an epoch, in memory and in ``history.json`` (written atomically).

    A row: ``epoch`` (from 1), ``learning_rate`` (of the epoch's last step), ``loss``
    and ``train_accuracy`` (on the images trained on, attacked ones if adversarial),
    ``validation_natural``, ``validation_robust`` (or ``None``), ``seconds`` (training
    alone), ``startup_seconds`` (the part of it until the process's first step was
    done: tracing and compiling), ``validation_seconds``, ``distance`` and
    ``input_gradients`` (``None`` without the argument of that name; rows written by
    older versions have no such key).

    Args:
      path: of the file; rows of an interrupted run are read from it. ``None``: there is
        to be no file.
      rates: learning rate of every step, (epochs * steps_per_epoch,).
      steps_per_epoch: optimizer steps.
      first_epoch: how many of the file's rows stand.
      distance: measured after each epoch, outside both of its times.
      input_gradients: what a ``GradientGuard`` before this callback has measured.
    """

    def __init__(
        self,
        path: Path | None,
        rates: np.ndarray,
        steps_per_epoch: int,
        first_epoch: int,
        distance: Callable[[], float] | None = None,
        input_gradients: Callable[[], dict | None] | None = None,
    ):
        super().__init__()
        self._path = path
        self._rates = rates
        self._steps_per_epoch = steps_per_epoch
        self._distance = distance
        self._input_gradients = input_gradients
        self.rows: list[dict] = []
        if first_epoch and self._path:
            self.rows = json.loads(self._path.read_text())[:first_epoch]

    def on_train_begin(self, logs=None):
        self._first_step_pending = True

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()
        self._trained = None
        self._startup = 0.0

    def on_train_batch_end(self, batch, logs=None):
        if self._first_step_pending:
            self._startup = time.perf_counter() - self._began
            self._first_step_pending = False

    def on_test_begin(self, logs=None):
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        trained = self._trained or now
        robust = logs.get("val_robust")
        self.rows.append(
            {
                "epoch": epoch + 1,
                "learning_rate": float(self._rates[(epoch + 1) * self._steps_per_epoch - 1]),
                "loss": float(logs["loss"]),
                "train_accuracy": float(logs["accuracy"]),
                "validation_natural": float(logs["val_natural"]),
                "validation_robust": None if robust is None else float(robust),
                "seconds": trained - self._began,
                "startup_seconds": self._startup,
                "validation_seconds": now - trained,
                "distance": None if self._distance is None else self._distance(),
                "input_gradients": (
                    None if self._input_gradients is None else self._input_gradients()
                ),
            }
        )
        if self._path:
            files.write_json(self._path, self.rows)


def judged_by(rows: list[dict]) -> str:
    """The history column that picks the best epoch: robust accuracy where it was measured."""
    robust = rows[0]["validation_robust"] is not None
    return "validation_robust" if robust else "validation_natural"


def best_epoch(rows: list[dict]) -> int:
    """The epoch (from 1) with the best validation accuracy, the earliest among equals."""
    column = judged_by(rows)
    return max(rows, key=lambda row: (row[column], -row["epoch"]))["epoch"]


def stopped_early(rows: list[dict], patience: int) -> bool:
    """Whether the last ``patience`` epochs in a row brought no new best validation accuracy.

    A new best is strictly better, by the judgement of ``best_epoch``. True as well
    where the epochs ran out at the same time.

    Args:
      rows: of the history, from epoch 1 on; may be empty.
      patience: epochs; 0 never stops.
    """
    return bool(rows) and 0 < patience <= rows[-1]["epoch"] - best_epoch(rows)


class StopEarly(keras.callbacks.Callback):
    """Ends a run as ``stopped_early`` says.

    Keras' ``EarlyStopping`` counts in memory, from 0 in each ``fit``: a resumed run
    would stop later than an uninterrupted one. The rows of the history survive.
    """

    def __init__(self, history: History, patience: int):
        super().__init__()
        self._history = history
        self._patience = patience

    def on_epoch_end(self, epoch, logs=None):
        if stopped_early(self._history.rows, self._patience):
            self.model.stop_training = True


class KeepWeights(keras.callbacks.Callback):
    """Writes ``epoch-<k>.npz`` for the best epoch so far and for epochs to rewind to."""

    def __init__(self, directory: Path, network: keras.Model, history: History, keep=()):
        super().__init__()
        self._directory = Path(directory)
        self._network = network
        self._history = history
        self._keep = set(keep)

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 in self._keep or best_epoch(self._history.rows) == epoch + 1:
            path = epoch_file(self._directory, epoch + 1)
            weights.write_arrays(path, weights.get_weights(self._network))


def epoch_file(directory: Path, epoch: int) -> Path:
    """Where the weights after ``epoch`` (from 1) are kept."""
    return Path(directory) / f"epoch-{epoch}.npz"


class Checkpoint(keras.callbacks.Callback):
    """Saves everything needed to go on after every epoch, and drops what is outdated.

    Variables: kernels and masks (``masked.wrapped``), optimizer slots and step count. They
    say nothing of the devices.
    """

    def __init__(
        self, directory: Path, masked: MaskedNetwork, optimizer, history: History, keep=()
    ):
        super().__init__()
        self._directory = Path(directory)
        self._history = history
        self._keep = set(keep)
        # Not set_model's: restoring happens before fit.
        self._checkpoint = tf.train.Checkpoint(network=masked.wrapped, optimizer=optimizer)
        # Made now: during fit it would be made on all devices, of all processes.
        self._checkpoint.save_counter  # noqa: B018
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(self._directory / "checkpoints"), max_to_keep=2
        )

    def on_epoch_end(self, epoch, logs=None):
        self._manager.save(checkpoint_number=epoch + 1)
        needed = {*self._keep, best_epoch(self._history.rows)}
        for path in self._directory.glob("epoch-*.npz"):
            if int(path.stem.split("-")[1]) not in needed:
                path.unlink()

    def restore(self) -> None:
        """Restores the newest checkpoint into the model and the (built) optimizer."""
        path = self._manager.latest_checkpoint
        self._checkpoint.restore(path).assert_existing_objects_matched()


def finished_epochs(directory: Path) -> int:
    """Epochs covered by the newest checkpoint under ``directory``; 0 without one."""
    path = tf.train.latest_checkpoint(str(Path(directory) / "checkpoints"))
    return int(path.rsplit("-", 1)[1]) if path else 0


class CopyWeights(keras.callbacks.Callback):
    """Copies a network's weights into others of its architecture before each validation."""

    def __init__(self, network: keras.Model, *others: keras.Model):
        super().__init__()
        self._network = network
        self._others = others

    def on_test_begin(self, logs=None):
        values = weights.get_weights(self._network)
        for other in self._others:
            weights.set_weights(other, values)
