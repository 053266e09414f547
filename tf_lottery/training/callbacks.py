"""Keras callbacks of a training run: history, best epoch, early stop, checkpoints.

Order matters and is fixed in ``tf_lottery.training.run``: the history row of an
epoch first, then whether it is the last, the weights that may become the best, the
checkpoint last. A process that dies in between repeats that epoch from the previous
checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_lottery import files, weights
from tf_lottery.keras import keras
from tf_lottery.options.searches import SettlingConfig
from tf_lottery.options.settings import TrainConfig
from tf_lottery.pruning.masks import MaskedNetwork
from tf_lottery.tickets import write_masks
from tf_lottery.training.checkpoints import Checkpoints, Position
from tf_lottery.training.guards import all_finite
from tf_lottery.training.schedules import rate_factor


class History(keras.callbacks.Callback):
    """One row an epoch, in memory and in ``history.json`` (written atomically).

    A row: ``epoch`` (from 1), ``learning_rate`` (of the epoch's last step), ``loss``
    and ``train_accuracy`` (on the images trained on, attacked ones if adversarial),
    ``gradient_norm`` (the largest of the epoch's steps), ``validation_natural``,
    ``validation_robust`` (or ``None``), both of the averaged weights if they are averaged, and
    then ``raw_natural`` and ``raw_robust`` of the weights that are trained (else ``None``),
    ``weights`` (``raw`` or ``average``: which is better by ``judged_by``; ``average`` if equal,
    ``raw`` without one), ``validation_fgsm`` (of FGSM training, of the raw weights, else
    ``None``), ``collapsed`` (see ``CollapseGuard``, ``None`` without one), ``rollbacks``
    (how often the training had gone back until then), ``overfit_rollbacks`` (how many of them
    for catastrophic overfitting), ``attack`` (name of the one trained against, or ``None``),
    ``seconds`` (training alone; after going back, with what was undone),
    ``startup_seconds`` (the part of it until the first step of the process, or of a phase, was
    done: tracing and compiling), ``validation_seconds``, ``distance`` (see
    ``RelativeDistance``), ``input_gradients`` (see ``GradientGuard``), ``mask_distance`` (see
    ``MaskDistance``; its time counts as training's) and ``validation_loss`` (of the raw weights,
    where an update of the masks asks for it), each or ``None``. Rows written by older
    versions lack some keys.

    Args:
      path: of the file; ``None``: there is to be no file.
      rates: learning rate of every step, (epochs * steps_per_epoch,).
      steps_per_epoch: optimizer steps.
      measures: give ``attack``, ``collapsed``, ``distance``, ``input_gradients`` and
        ``mask_distance``, where they are measured: called after each epoch.
    """

    def __init__(
        self,
        path: Path | None,
        rates: np.ndarray,
        steps_per_epoch: int,
        measures: Mapping[str, Callable[[], Any]],
    ):
        super().__init__()
        self._path = path
        self._rates = rates
        self._steps_per_epoch = steps_per_epoch
        self._measures = measures
        self.starts_up()
        self.go_on(Position())

    def go_on(self, position: Position) -> None:
        """What is measured from now on comes after ``position``."""
        self.rows: list[dict] = list(position.rows)
        self._rollbacks = position.rollbacks
        self._overfit_rollbacks = position.overfit_rollbacks
        self._before = position.spent

    def starts_up(self) -> None:
        """The next step is traced and compiled first."""
        self._first_step_pending = True

    def spent(self) -> dict[str, float]:
        """Of the epoch under way: ``seconds``, ``startup_seconds``, ``gradient_norm``."""
        return {
            "seconds": time.perf_counter() - self._began,
            "startup_seconds": self._startup,
            "gradient_norm": self._norm,
        }

    def on_epoch_begin(self, epoch, logs=None):
        self._process_began = time.perf_counter()
        self._began = self._process_began - self._before.get("seconds", 0.0)
        self._startup = self._before.get("startup_seconds", 0.0)
        self._norm = self._before.get("gradient_norm", 0.0)
        self._before = {}
        self._trained = None

    def on_train_batch_end(self, batch, logs=None):
        norm = float(logs.get("gradient_norm", 0.0))
        if math.isfinite(norm):  # float16 leaves out the other steps
            self._norm = max(self._norm, norm)
        if self._first_step_pending:
            self._startup += time.perf_counter() - self._process_began
            self._first_step_pending = False

    def on_test_begin(self, logs=None):
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        trained = self._trained or now
        settling = self._measured("mask_distance")
        spent = time.perf_counter() - now
        rate = self._rates[(epoch + 1) * self._steps_per_epoch - 1]
        rate *= rate_factor(self._rollbacks - self._overfit_rollbacks)
        raw = [_number(logs.get(f"val_{name}")) for name in ("natural", "robust")]
        average = [_number(logs.get(f"val_average_{name}")) for name in ("natural", "robust")]
        averaged = average[0] is not None
        natural, robust = average if averaged else raw
        better = averaged and average[robust is not None] >= raw[robust is not None]  # type: ignore[operator]
        self.rows.append(
            {
                "epoch": epoch + 1,
                "learning_rate": float(rate),
                "loss": float(logs["loss"]),
                "train_accuracy": float(logs["accuracy"]),
                "gradient_norm": self._norm,
                "validation_natural": natural,
                "validation_robust": robust,
                "raw_natural": raw[0] if averaged else None,
                "raw_robust": raw[1] if averaged else None,
                "weights": "average" if better else "raw",
                "validation_fgsm": _number(logs.get("val_fgsm")),
                "collapsed": self._measured("collapsed"),
                "rollbacks": self._rollbacks,
                "overfit_rollbacks": self._overfit_rollbacks,
                "attack": self._measured("attack"),
                "seconds": trained - self._began + spent,
                "startup_seconds": self._startup,
                "validation_seconds": now - trained,
                "distance": self._measured("distance"),
                "input_gradients": self._measured("input_gradients"),
                "mask_distance": settling,
                "validation_loss": _number(logs.get("val_loss")),
            }
        )
        self.write()

    def _measured(self, name: str) -> Any:
        return self._measures[name]() if name in self._measures else None

    def write(self) -> None:
        """Brings the file up to date."""
        if self._path:
            files.write_json(self._path, self.rows)


def _number(value) -> float | None:
    return None if value is None else float(value)


def judged_by(rows: list[dict]) -> str:
    """The history column that picks the best epoch: robust accuracy where it was measured."""
    robust = rows[0]["validation_robust"] is not None
    return "validation_robust" if robust else "validation_natural"


def best_epoch(rows: list[dict]) -> int:
    """The epoch (from 1) with the best validation accuracy, the earliest among equals.

    Where weights are averaged, that of the averaged or of the raw weights, see ``best_weights``.
    """
    column = judged_by(rows)
    raw = column.replace("validation", "raw")
    return max(rows, key=lambda row: (max(row[column], row.get(raw) or 0), -row["epoch"]))["epoch"]


def best_weights(rows: list[dict]) -> str:
    """Which weights of the best epoch are the best: ``raw`` or ``average``."""
    return rows[best_epoch(rows) - 1].get("weights", "raw")


def averaged(rows: list[dict]) -> bool:
    """Whether the training averaged its weights."""
    return rows[0].get("raw_natural") is not None


def stopped_early(rows: list[dict], patience: int, since: int = 0) -> bool:
    """Whether the last ``patience`` epochs in a row brought no new best validation accuracy.

    A new best is strictly better, by the judgement of ``best_epoch``. True as well
    where the epochs ran out at the same time.

    Args:
      rows: of the history, from epoch 1 on; may be empty.
      patience: epochs; 0 never stops.
      since: epochs before them, that do not count.
    """
    return bool(rows) and 0 < patience <= rows[-1]["epoch"] - max(best_epoch(rows), since)


def settled(rows: list[dict], settling: SettlingConfig | None) -> bool:
    """Whether the mask has settled in the last epoch of a history, see ``MaskDistance``."""
    if settling is None or not rows or rows[-1]["mask_distance"] is None:
        return False
    return rows[-1]["mask_distance"] <= settling.distance


def ended(rows: list[dict], config: TrainConfig) -> bool:
    """Whether a run ends with the last epoch of its history, planned ones or not.

    Phases before the last are there for what it makes of them, however well they do themselves.
    """
    since = config.epochs - config.parts[-1].epochs
    return stopped_early(rows, config.patience, since) or settled(rows, config.settling)


class StopEarly(keras.callbacks.Callback):
    """Ends a run as ``ended`` says.

    Keras' ``EarlyStopping`` counts in memory, from 0 in each ``fit``: a resumed run
    would stop later than an uninterrupted one. The rows of the history survive.
    """

    def __init__(self, history: History, config: TrainConfig):
        super().__init__()
        self._history = history
        self._config = config

    def on_epoch_end(self, epoch, logs=None):
        if ended(self._history.rows, self._config):
            self.model.stop_training = True


class KeepWeights(keras.callbacks.Callback):
    """Writes the weights of the best epoch so far, averaged or raw, and those to rewind to.

    A rewind goes on training: to weights as they were trained, ``epoch-<k>.npz``.

    Args:
      directory: of the training.
      network: that is trained.
      history: the run's.
      keep: epochs to rewind to.
      average: of the weights, if they are averaged.
      masked: its masks change, and those of such epochs are written too.
    """

    def __init__(
        self,
        directory: Path,
        network: keras.Model,
        history: History,
        keep: Iterable[int] = (),
        average: keras.Model | None = None,
        masked: MaskedNetwork | None = None,
    ):
        super().__init__()
        self._masked = masked
        self._directory = Path(directory)
        self._networks = {"raw": network, "average": average}
        self._history = history
        self._keep = set(keep)

    def on_epoch_end(self, epoch, logs=None):
        wanted = {"raw"} if epoch + 1 in self._keep else set()
        if best_epoch(self._history.rows) == epoch + 1:
            wanted.add(best_weights(self._history.rows))
        for which in wanted:
            path = epoch_file(self._directory, epoch + 1, which)
            weights.write_arrays(path, weights.get_weights(self._networks[which]))
        if wanted and self._masked is not None:
            write_masks(masks_file(self._directory, epoch + 1), self._masked.get_masks())


_PREFIX = {"raw": "epoch", "average": "average"}


def epoch_file(directory: Path, epoch: int, which: str = "raw") -> Path:
    """Where the ``raw`` or ``average`` weights after ``epoch`` (from 1) are kept."""
    return Path(directory) / f"{_PREFIX[which]}-{epoch}.npz"


def masks_file(directory: Path, epoch: int) -> Path:
    """Where the masks after ``epoch`` (from 1) are kept, if they change."""
    return Path(directory) / f"epoch-{epoch}-masks.npz"


def kept_files(directory: Path) -> list[Path]:
    """All weights and masks of epochs that lie there."""
    return [path for name in _PREFIX.values() for path in Path(directory).glob(f"{name}-*.npz")]


def best_file(directory: Path, rows: list[dict]) -> Path:
    """Where the best weights so far are kept."""
    return epoch_file(directory, best_epoch(rows), best_weights(rows))


class Checkpoint(keras.callbacks.Callback):
    """Saves after every epoch, and within one every so often; drops weights no longer needed.

    Args:
      directory: of the training.
      checkpoints: does the saving.
      network: its weights are looked at before they are saved within an epoch.
      history: the run's.
      keep: epochs whose weights are needed to the end.
      steps_per_epoch: optimizer steps.
      minutes: between two checkpoints within an epoch; 0 saves between epochs alone.
    """

    def __init__(
        self,
        directory: Path,
        checkpoints: Checkpoints,
        network: keras.Model,
        history: History,
        keep: Iterable[int],
        steps_per_epoch: int,
        minutes: float,
    ):
        super().__init__()
        self._directory = Path(directory)
        self._checkpoints = checkpoints
        self._network = network
        self._history = history
        self._keep = set(keep)
        self._steps_per_epoch = steps_per_epoch
        self._seconds = 60 * minutes
        self.go_on(Position())
        self._written = time.monotonic()
        self._training = False

    def go_on(self, position: Position) -> None:
        """What is saved from now on comes after ``position``."""
        self._rollbacks = position.rollbacks
        self._overfit_rollbacks = position.overfit_rollbacks
        self._undone = {} if position.step else position.spent
        self._sums: list[float] = position.spent.get("sums", [])

    def on_epoch_begin(self, epoch, logs=None):
        if self._sums:  # Keras has just reset them
            for variable, value in zip(self.model.epoch_sums(), self._sums, strict=True):
                variable.assign(value)
            self._sums = []
        self._epoch = epoch
        self._training = True

    def on_train_batch_end(self, batch, logs=None):
        if self._seconds and time.monotonic() - self._written >= self._seconds:
            self.save_within_epoch()

    def on_test_begin(self, logs=None):
        self._training = False

    def on_epoch_end(self, epoch, logs=None):
        self._training = False
        self._undone = {}
        self.save(epoch + 1)

    def save(self, epoch: int) -> None:
        """Saves where ``epoch`` epochs are finished and no other is begun."""
        self._save(epoch, 0)

    def save_within_epoch(self) -> None:
        """Saves where the epoch under way stands, if a training could go on from there."""
        # Counted by the step itself: it was done wholly or not at all, wherever an
        # interruption struck.
        step = self.model.steps_done() if self._training else 0
        if self._seconds and 0 < step < self._steps_per_epoch and all_finite(self._network):
            self._save(self._epoch, step)

    def _save(self, epoch: int, step: int) -> None:
        rows = self._history.rows
        needed = {epoch_file(self._directory, k) for k in self._keep if k <= epoch}
        if rows:
            needed.add(best_file(self._directory, rows))
        kept = self._keep | ({best_epoch(rows)} if rows else set())
        needed |= {path for k in kept if (path := masks_file(self._directory, k)).exists()}
        self._checkpoints.save(
            Position(
                epoch=epoch,
                step=step,
                rows=rows,
                spent=self._spent() if step else self._undone,
                rollbacks=self._rollbacks,
                overfit_rollbacks=self._overfit_rollbacks,
            ),
            sorted(needed),
        )
        self._written = time.monotonic()
        self._forget()

    def _spent(self) -> dict:
        # Float32 numbers survive JSON to the bit.
        sums = [float(variable.numpy()) for variable in self.model.epoch_sums()]
        return {**self._history.spent(), "sums": sums}

    def _forget(self) -> None:
        referred = self._checkpoints.needed()
        for path in kept_files(self._directory):
            if path.name not in referred:
                path.unlink()


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
