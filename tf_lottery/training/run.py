"""One training run, from starting weights to ``final.npz``, ``best.npz`` and a history."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_lottery import files, weights
from tf_lottery.attacks import make_attack
from tf_lottery.data import (
    DeviceImages,
    ImageData,
    device_images,
    evaluation_batches,
    even_batch_size,
    steps_per_epoch,
    training_batches,
)
from tf_lottery.errors import UsageError
from tf_lottery.keras import keras, tf
from tf_lottery.objectives import make_objective
from tf_lottery.options.settings import TrainConfig, derive_seed
from tf_lottery.pruning.masks import MaskedNetwork
from tf_lottery.training import callbacks, checkpoints, guards
from tf_lottery.training.checkpoints import Position
from tf_lottery.training.distance import RelativeDistance
from tf_lottery.training.distribution import Distribution
from tf_lottery.training.fitting import Fitting, goes_back
from tf_lottery.training.input_gradients import GradientGuard
from tf_lottery.training.model import LotteryModel
from tf_lottery.training.schedules import RateTable, learning_rates, rate_factor
from tf_lottery.training.tensorboard import TensorBoardLog


class _SGD(keras.optimizers.SGD):
    """Decays the momentum of a variable when its gradient is there.

    Nothing else makes that product wait: all of them would be computed as a step begins, and
    held while it is at its peak of memory.
    """

    def update_step(self, gradient, variable):
        with tf.control_dependencies([gradient]):
            super().update_step(gradient, variable)


def make_optimizer(
    config: TrainConfig, steps: int, table: RateTable | None = None
) -> keras.optimizers.Optimizer:
    """SGD with momentum over the config's rate table; loss-scaled for ``mixed_float16``.

    Weight decay is not here: ``LotteryModel`` adds it to the gradients.

    Args:
      config: schedule and momentum.
      steps: an epoch.
      table: of the rates; made if it is not given.
    """
    if table is None:
        table = RateTable(learning_rates(config.schedule, config.epochs, steps))
    optimizer = _SGD(table, momentum=config.momentum)
    if config.dtype_policy == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def attack_scale(config: TrainConfig) -> float | None:
    """The factor on the training attack's loss; ``None``: one for each image.

    Gradients of float16 networks underflow, and the attack needs only their sign.
    bfloat16 has the range of float32.
    """
    if config.attack_loss_scale:
        return config.attack_loss_scale
    return None if config.dtype_policy == "mixed_float16" else 1.0


def make_training_model(
    masked: MaskedNetwork,
    config: TrainConfig,
    seed: int,
    validation_network: keras.Model | None = None,
    fetch: DeviceImages | None = None,
) -> LotteryModel:
    """The Keras model of a run, not yet compiled.

    Args:
      masked: starting weights and masks.
      config: objective, attack, weight decay.
      seed: the run's root seed.
      validation_network: float32 twin for mixed precision.
      fetch: the training images, if they are on the device.
    """
    attack = config.objective.attack
    return LotteryModel(
        masked,
        make_objective(
            config.objective,
            make_attack(attack, gradient_scale=attack_scale(config)) if attack else None,
        ),
        attack_seed=derive_seed(seed, "attack"),
        weight_decay=config.weight_decay,
        validation_attack=(
            make_attack(config.validation_attack) if config.validation_attack else None
        ),
        validation_network=validation_network,
        validation_fgsm=(make_attack(attack) if attack and _watches_fgsm(config) else None),
        fetch=fetch,
    )


def _watches_fgsm(config: TrainConfig) -> bool:
    return config.objective.name == "fgsm" and config.validation_attack is not None


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def train(
    masked: MaskedNetwork,
    data: ImageData,
    config: TrainConfig,
    *,
    seed: int,
    directory: Path | None,
    augment: bool = False,
    stage: str = "training",
    rate_flag: str = "learning_rate",
    log_directory: Path | None = None,
    log_settings: dict | None = None,
    validation_network: keras.Model | None = None,
    verbose: int | None = None,
    distance_from: Mapping[str, np.ndarray] | None = None,
    distribution: Distribution | None = None,
    announce: Callable[[str], None] = _tell,
) -> list[dict]:
    """Trains ``masked`` in place and leaves the results in ``directory``.

    Called again on a directory in which it was interrupted, it goes on after the
    newest whole checkpoint, and ends as if it had not been interrupted. An interruption
    (``KeyboardInterrupt``, ``Terminated``) within an epoch saves where it stands. Files
    left: ``final.npz`` (of the last epoch trained, which ``settings.patience`` may put
    before the last planned),
    ``best.npz`` (by validation accuracy), ``epoch-<k>.npz`` for ``settings.keep_epochs``,
    ``history.json``, and ``checkpoints/``, which the caller may remove once it has noted
    the end.

    Args:
      masked: starting weights and masks; pruned weights stay exactly 0.
      data: training and validation images.
      config: epochs, objective, schedule.
      seed: root seed; the order, augmentation and attack seeds derive from it.
      directory: existing directory that belongs to this run; ``None`` in the processes
        that train with the chief, see ``distribution``.
      augment: random crops and flips of the training images.
      stage: name used in error messages.
      rate_flag: the flag whose rate it runs at, likewise.
      log_directory: TensorBoard event files go here; ``None`` writes none.
      log_settings: for TensorBoard's HParams table.
      validation_network: float32 twin when ``settings.dtype_policy`` is mixed.
      verbose: as in Keras ``fit``; ``None``: a bar on a terminal, else a line an epoch.
      distance_from: kernels by layer name to which every row of the history gives the
        relative distance, see ``RelativeDistance``.
      distribution: devices that share each batch; by default one. Of several processes
        all call this at the same time; the chief's weights, masks and checkpoint count.
      announce: told, a line each, of damaged checkpoints, of catastrophic overfitting and
        of going back.

    Returns:
      The history, a row for each epoch trained: see ``callbacks.History``.

    Raises:
      NonFiniteError: the loss or a gradient became NaN or infinite, also at the rates that
        ``settings.on_nan`` lowered.
      CollapseError: likewise of catastrophic overfitting and ``settings.on_overfit``.
      PrecisionError: half precision lost the attack's gradients.
      UsageError: the batch is larger than the training set, the device has no room for
        the images, or the run stopped early, before an epoch of ``settings.keep_epochs``.
      LostWorkerError: another process ended.
      ValueError: ``distance_from`` does not fit the network.
    """
    if config.dtype_policy != "float32" and validation_network is None:
        raise ValueError("a mixed dtype policy needs a float32 validation_network")
    distribution = distribution or Distribution()
    distribution.check(config)
    if not distribution.chief:
        directory = log_directory = None
    steps = steps_per_epoch(len(data.train_labels), config.batch_size)
    position = (checkpoints.newest(directory, announce) if directory else None) or Position()
    rates = learning_rates(config.schedule, config.epochs, steps)
    distance = None if distance_from is None else RelativeDistance(distance_from, masked.kernels)
    guard = _gradient_guard(config, data, stage, masked.network, validation_network)
    overfit = _collapse_guard(config, data, stage, announce)
    path = directory / "history.json" if directory else None
    with distribution.failures():
        position = Position(**distribution.tell(dataclasses.asdict(position)))
        history = callbacks.History(
            path,
            rates,
            steps,
            position,
            distance,
            None if guard is None else lambda: guard.measured,
            None if overfit is None else lambda: overfit.collapsed,
        )
        placed = distribution.place(masked, config.batch_norm_groups)
        twin = validation_network and distribution.twin(validation_network)
        with distribution.scope():
            on_device = device_images(
                data.train_images, distribution.data_on_device(config.data_on_device)
            )
            model = make_training_model(placed, config, seed, twin, on_device)
            table = RateTable(rates)
            optimizer = make_optimizer(config, steps, table)
            optimizer.build(placed.network.trainable_variables)
            model.compile(optimizer=optimizer, jit_compile=config.jit_compile)
        table.factor.assign(rate_factor(position.rollbacks))
        begun = bool(position.epoch or position.step)
        single = placed is masked
        finite = guards.NonFiniteGuard(
            stage,
            masked.network,
            rate_flag,
            scaled=config.dtype_policy == "mixed_float16",
            first_step=position.step,
        )
        used = [
            *_copies(placed, masked, config, validation_network, twin),
            finite,
            *(found for found in (guard, overfit) if found is not None),
            history,
            callbacks.StopEarly(history, config.patience),
        ]
        saving = log = return_to = None
        if directory:
            keep = config.keep_epochs
            used.append(callbacks.KeepWeights(directory, masked.network, history, keep))
            if log_directory is not None:
                if not begun:  # what lies there is of another run
                    shutil.rmtree(log_directory, ignore_errors=True)
                log = TensorBoardLog(
                    log_directory,
                    history,
                    masked,
                    validation_network or masked.network,
                    data.validation_images,
                    data.validation_labels,
                    log_settings or {},
                    config.epochs,
                )
                used.append(log)
            kept = checkpoints.Checkpoints(directory, masked, optimizer)
            if begun:
                kept.restore(position)
            saving = callbacks.Checkpoint(
                directory,
                kept,
                masked.network,
                history,
                keep,
                steps,
                config.checkpoint_minutes if single else 0.0,
                position,
            )
            used.append(saving)
            if not begun and goes_back(config):
                saving.save(0)

            def return_to(position: Position) -> None:
                kept.restore(position)
                distribution.resume(masked, placed, optimizer)
                history.go_on(position)
                saving.go_on(position)
                finite.go_on()
                table.factor.assign(rate_factor(position.rollbacks))

        if begun:
            distribution.resume(masked, placed, optimizer)
        shown = (1 if sys.stdout.isatty() else 2) if verbose is None else verbose
        batches = functools.partial(
            _batches, data, config, seed, augment, distribution, on_device is None
        )
        try:
            Fitting(
                model, config, steps, batches, used, history, saving, return_to, directory, shown,
                announce,
            ).finish(position)  # fmt: skip
        finally:
            if log is not None:
                log.close()

    if len(history.rows) < max(config.keep_epochs, default=0):
        raise UsageError.bad_value(
            "rewind_epoch",
            max(config.keep_epochs),
            f"at most {len(history.rows)}: {stage} ended there by --patience={config.patience}",
        )
    if directory:
        history.write()  # a checkpoint may have told more than the file
        weights.write_arrays(directory / "final.npz", weights.get_weights(masked.network))
        best = callbacks.best_epoch(history.rows)
        kept_file = callbacks.epoch_file(directory, best)
        _place(kept_file, directory / "best.npz", copy=best in config.keep_epochs)
    return history.rows


def _collapse_guard(
    config: TrainConfig, data: ImageData, stage: str, announce: Callable[[str], None]
) -> guards.CollapseGuard | None:
    if not _watches_fgsm(config):
        return None
    images = config.validation_images or len(data.validation_labels)
    return guards.CollapseGuard(stage, images, config.on_overfit != "warn", announce)


def _gradient_guard(
    config: TrainConfig,
    data: ImageData,
    stage: str,
    network: keras.Model,
    twin: keras.Model | None,
) -> GradientGuard | None:
    """What watches the attack of a half-precision training; nothing else needs it."""
    attack = config.objective.attack
    if attack is None or twin is None or config.dtype_policy == "float32":
        return None
    return GradientGuard(
        network,
        twin,
        stage,
        config.dtype_policy,
        attack,
        attack_scale(config),
        data.train_images,
        data.train_labels,
        config.jit_compile,
    )


def _copies(
    placed: MaskedNetwork,
    masked: MaskedNetwork,
    config: TrainConfig,
    validation_network: keras.Model | None,
    twin: keras.Model | None,
) -> list[keras.callbacks.Callback]:
    """What copies the weights before each validation, from where they are trained."""
    found = []
    if placed is not masked:
        found.append(callbacks.CopyWeights(placed.network, masked.network))
    others = [validation_network, twin] if validation_network is not None else []
    if config.batch_norm_groups > 1:
        # Replicas with BatchNorm averages of their own go on from the mean of them, which
        # is what is validated and kept.
        others.append(placed.network)
    if others:
        found.append(callbacks.CopyWeights(masked.network, *others))
    return found


def _batches(
    data: ImageData,
    config: TrainConfig,
    seed: int,
    augment: bool,
    distribution: Distribution,
    with_images: bool,
    first_epoch: int,
    first_step: int,
    epochs: int,
) -> tuple[Any, dict[str, Any]]:
    """The training batches, and the arguments of ``fit`` that are about validation."""
    training = functools.partial(
        training_batches,
        data.train_images,
        data.train_labels,
        batch_size=config.batch_size,
        first_epoch=first_epoch,
        first_step=first_step,
        epochs=epochs,
        order_seed=derive_seed(seed, "order"),
        augmentation_seed=derive_seed(seed, "augmentation") if augment else None,
        with_images=with_images,
    )
    used = config.validation_images or len(data.validation_labels)
    size = even_batch_size(used, parts=distribution.replicas)
    validation = functools.partial(
        evaluation_batches, data.validation_images[:used], data.validation_labels[:used], size
    )
    return distribution.batches(training), {
        "validation_data": distribution.batches(validation),
        "validation_steps": -(-used // size),
    }


def _place(source: Path, target: Path, copy: bool) -> None:
    """Gives ``source`` its final name; a repeated call after a crash finds it done."""
    if not source.exists() and target.exists():
        return
    if copy:
        files.write_atomically(target, source.read_bytes())
    else:
        os.replace(source, target)
