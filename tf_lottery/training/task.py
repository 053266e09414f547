"""What one training run is to do, and what follows from that alone."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_lottery.compaction import Compaction
from tf_lottery.data import (
    ImageData,
    evaluation_batches,
    even_batch_size,
    steps_per_epoch,
    training_batches,
)
from tf_lottery.keras import keras
from tf_lottery.models.frozen_check import PROBED, check_frozen
from tf_lottery.options.settings import AttackConfig, TrainConfig, derive_seed
from tf_lottery.pruning.masks import MaskedNetwork
from tf_lottery.training import flying_bird, guards
from tf_lottery.training.distribution import Distribution
from tf_lottery.training.input_gradients import GradientGuard
from tf_lottery.training.mask_updates import MaskUpdate
from tf_lottery.training.model import attack_scale
from tf_lottery.training.schedules import learning_rates


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Reporting:
    """What a training tells of itself, besides its files.

    Attributes:
      stage: its name in messages.
      rate_flag: the flag whose rate it runs at, likewise.
      announce: told, a line each, of damaged checkpoints, of catastrophic overfitting and of
        going back.
      verbose: as in Keras ``fit``; ``None``: a bar on a terminal, else a line an epoch.
      log_directory: TensorBoard event files go here; ``None`` writes none.
      log_settings: for TensorBoard's HParams table.
      distance_from: kernels by layer name to which every row of the history gives the
        relative distance, see ``RelativeDistance``.
      compaction: what the network is of the one that these kernels are of; ``None``: all.
    """

    stage: str = "training"
    rate_flag: str = "learning_rate"
    announce: Callable[[str], None] = _tell
    verbose: int | None = None
    log_directory: Path | None = None
    log_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    distance_from: Mapping[str, np.ndarray] | None = None
    compaction: Compaction | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """What a training is to do.

    Attributes:
      masked: starting weights and masks, trained in place; pruned weights stay exactly 0.
      data: training and validation images.
      config: epochs, objective, schedule.
      seed: root seed; the order, augmentation and attack seeds derive from it.
      directory: existing directory that belongs to this run; ``None`` in the processes
        that train with the chief, see ``distribution``.
      augment: random crops and flips of the training images.
      validation_network: float32 twin when ``config.dtype_policy`` is mixed.
      distribution: devices that share each batch; by default one. Of several processes
        all call this at the same time; the chief's weights, masks and checkpoint count.
      masks_change: how the masks change on the way, on one device; ``None``: as
        ``config.sparsity_update`` says.
      reporting: what it tells of itself.
    """

    masked: MaskedNetwork
    data: ImageData
    config: TrainConfig
    _: dataclasses.KW_ONLY
    seed: int
    directory: Path | None
    augment: bool = False
    validation_network: keras.Model | None = None
    distribution: Distribution = dataclasses.field(default_factory=Distribution)
    masks_change: MaskUpdate | None = None
    reporting: Reporting = Reporting()

    def __post_init__(self):
        if self.config.dtype_policy != "float32" and self.validation_network is None:
            raise ValueError("a mixed dtype policy needs a float32 validation_network")
        self.distribution.check(self.config)

    @property
    def steps(self) -> int:
        """Optimizer steps an epoch."""
        return steps_per_epoch(len(self.data.train_labels), self.config.batch_size)

    @property
    def mask_update(self) -> MaskUpdate | None:
        """How the masks change on the way; ``None``: they do not."""
        return self.masks_change or flying_bird.mask_update(self.config, self.steps, self.seed)

    @property
    def files(self) -> Path | None:
        """Where this process leaves files."""
        return self.directory if self.distribution.chief else None

    @property
    def attack(self) -> AttackConfig | None:
        """What it trains against, in the last of its phases that has an attack."""
        attacks = [phase.objective.attack for phase in self.config.parts]
        return next((attack for attack in reversed(attacks) if attack), None)

    @property
    def rates(self) -> np.ndarray:
        """The learning rate of every step."""
        return learning_rates(self.config.schedule, self.config.epochs, self.steps)

    def batches(
        self, first_epoch: int, first_step: int, epochs: int, with_images: bool, replays: int = 1
    ) -> Any:
        """The training batches from a step of an epoch to the end of ``epochs``."""
        make = functools.partial(
            training_batches,
            self.data.train_images,
            self.data.train_labels,
            batch_size=self.config.batch_size,
            first_epoch=first_epoch,
            first_step=first_step,
            epochs=epochs,
            order_seed=derive_seed(self.seed, "order"),
            augmentation_seed=derive_seed(self.seed, "augmentation") if self.augment else None,
            with_images=with_images,
            replays=replays,
        )
        return self.distribution.batches(make)

    def validation(self) -> dict[str, Any]:
        """The arguments of ``fit`` that are about validation."""
        images, labels = self.data.validation_images, self.data.validation_labels
        used = self.config.validation_images or len(labels)
        size = even_batch_size(used, parts=self.distribution.replicas)
        make = functools.partial(evaluation_batches, images[:used], labels[:used], size)
        return {
            "validation_data": self.distribution.batches(make),
            "validation_steps": -(-used // size),
        }

    def check_frozen(self) -> None:
        """Raises ``FrozenError`` if attacks would differentiate another function."""
        if self.attack is None and self.config.validation_attack is None:
            return
        for network in (self.masked.network, self.validation_network):
            if network is not None:
                check_frozen(network, self.data.train_images[:PROBED] / np.float32(255))

    def collapse_guard(self) -> guards.CollapseGuard | None:
        """What watches one-step training; nothing else needs it."""
        if self.config.probe is None:
            return None
        images = self.config.validation_images or len(self.data.validation_labels)
        return guards.CollapseGuard(
            self.reporting.stage,
            images,
            self.config.on_overfit != "warn",
            self.reporting.announce,
            lambda epoch: self.config.part(epoch)[0].one_step,
        )

    def gradient_guard(self) -> GradientGuard | None:
        """What watches the attack of a half-precision training; nothing else needs it."""
        attack, twin = self.attack, self.validation_network
        if attack is None or twin is None or self.config.dtype_policy == "float32":
            return None
        return GradientGuard(
            self.masked.network,
            twin,
            self.reporting.stage,
            self.config.dtype_policy,
            attack,
            attack_scale(self.config),
            self.data.train_images,
            self.data.train_labels,
            self.config.jit_compile,
        )
