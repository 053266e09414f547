"""Settings as frozen dataclasses: validated when built, hashed by ``fingerprint``.

Nothing here imports TensorFlow. Each field that a user can set carries the name
of its flag in its error messages. Rates, eps and step sizes are on [0, 1]
pixels; epochs are whole passes over the training images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from tf_lottery.errors import UsageError
from tf_lottery.options.architectures import ARCHITECTURES, check_depth
from tf_lottery.options.attacks import AttackConfig, attack_from_name
from tf_lottery.options.checks import at_least as _at_least
from tf_lottery.options.checks import choice as _choice
from tf_lottery.options.checks import positive as _positive

__all__ = [
    "ARCHITECTURES", "DATA_ON_DEVICE", "DISTRIBUTIONS", "DTYPE_POLICIES", "EXECUTORS",
    "EXPORT_FORMATS", "KINDS", "MODES", "OBJECTIVES", "ON_NAN", "ON_OVERFIT",
    "PRUNING_SCHEDULES", "RATE_SCHEDULES", "SCOPES", "SCORES", "AttackConfig", "DataConfig",
    "LotteryConfig", "ModelConfig", "ObjectiveConfig", "PruneConfig",
    "ScheduleConfig", "TrainConfig", "attack_from_name", "derive_seed", "differences",
    "fingerprint", "settings",
]  # fmt: skip

MODES = ("run", "plan", "evaluate", "export", "inspect", "report")
KINDS = ("dense", "boosting", "winning", "reinit", "random_mask")
OBJECTIVES = ("natural", "fgsm", "pgd")
SCORES = ("magnitude", "normalized_magnitude", "random")
SCOPES = ("global", "layer")
PRUNING_SCHEDULES = ("one_shot", "geometric", "decreasing")
RATE_SCHEDULES = ("step", "cyclic", "cosine", "constant")
EXECUTORS = ("local", "ray")
DISTRIBUTIONS = ("none", "mirrored", "multiworker", "tpu")
EXPORT_FORMATS = (
    "saved_model", "tflite", "tflite_float16", "tflite_int8", "tflite_sparse",
    "tflite_sparse_float16", "tflite_sparse_int8",
)  # fmt: skip
DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
DATA_ON_DEVICE = ("auto", "on", "off")
ON_NAN = ("stop", "rollback")
ON_OVERFIT = ("warn", "stop", "rollback")


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split.

    Attributes:
      name: ``digits`` or a tensorflow-datasets image classification set.
      train_examples: size of a class-balanced subset of the training split; 0 takes all.
      validation_examples: held out of the training split at random (fixed by the
        data set alone, not by the seed); 0 takes a tenth.
      test_examples: the first N test images, shuffled once by a fixed permutation; 0 takes all.
      augment: pad by an eighth of the side, random crop, horizontal flip (CIFAR only).
      data_dir: where tensorflow-datasets keeps its sets; not part of the fingerprint.
    """

    name: str = "digits"
    train_examples: int = 0
    validation_examples: int = 0
    test_examples: int = 0
    augment: bool = False
    data_dir: str | None = field(default=None, metadata={"fingerprint": False})

    def __post_init__(self):
        if not re.fullmatch(r"[a-z0-9_]+(/[a-z0-9_.\-]+)?(:\d+\.\d+\.\d+)?", self.name):
            raise UsageError.bad_value("dataset", self.name, "a data set's name such as cifar10")
        _at_least("train_examples", self.train_examples, 0)
        _at_least("validation_examples", self.validation_examples, 0)
        _at_least("test_examples", self.test_examples, 0)


@dataclass(frozen=True)
class ModelConfig:
    """Which network. ``normalize`` puts the data set's mean and deviation in its first layer."""

    name: str = "convnet"
    depth: int = 0  # 0 becomes the architecture's default
    width: int = 0  # 0 becomes the architecture's default
    width_multiplier: float = 1.0
    normalize: bool = False

    def __post_init__(self):
        _choice("model", self.name, tuple(ARCHITECTURES))
        _at_least("depth", self.depth, 0)
        _at_least("width", self.width, 0)
        _positive("width_multiplier", self.width_multiplier)
        check_depth(self.name, self.depth)
        if self.width and not ARCHITECTURES[self.name].width:
            raise UsageError.bad_value(
                "width", self.width, f"left out for {self.name}; use --width_multiplier"
            )
        # The default and the same value spelt out are one network.
        arch = ARCHITECTURES[self.name]
        object.__setattr__(self, "width_multiplier", float(self.width_multiplier))
        object.__setattr__(self, "depth", self.depth or arch.depth)
        object.__setattr__(self, "width", self.width or arch.width)

    @property
    def label(self) -> str:
        """Short name such as ``vgg16-w0.25`` or ``wide_resnet-34-10``."""
        label = self.name
        if self.name == "wide_resnet":
            label += f"-{self.depth}-{self.width}"
        elif self.name == "vgg":
            label += str(self.depth)
        return label if self.width_multiplier == 1 else f"{label}-w{self.width_multiplier:g}"


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a training step minimises: cross-entropy on clean or on attacked images."""

    name: str = "pgd"
    attack: AttackConfig | None = None  # None for ``natural``

    def __post_init__(self):
        _choice("objective", self.name, OBJECTIVES)
        if (self.attack is None) != (self.name == "natural"):
            raise ValueError("an attack goes with every objective but natural")

    @property
    def attack_steps(self) -> int:
        """Gradient steps of the attack; 0 for natural training."""
        return self.attack.steps * self.attack.restarts if self.attack else 0


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over the epochs; see ``tf_lottery.training.schedules``.

    Attributes:
      name: ``step`` (x0.1 at 50 % and 75 % of the epochs), ``cyclic``, ``cosine``, ``constant``.
      peak: the highest rate.
      warmup_start: rate of the first epoch when ``warmup_epochs`` > 0.
      warmup_epochs: epochs below the peak.
    """

    name: str = "step"
    peak: float = 0.1
    warmup_start: float = 0.01
    warmup_epochs: int = 0

    def __post_init__(self):
        _choice("schedule", self.name, RATE_SCHEDULES)
        _positive("learning_rate", self.peak)
        _positive("warmup_start", self.warmup_start)
        _at_least("warmup_epochs", self.warmup_epochs, 0)


@dataclass(frozen=True)
class TrainConfig:
    """One training run of a network.

    Attributes:
      validation_attack: run on the validation images after every epoch; ``None``
        validates on clean images alone. The best epoch is the one with the highest
        validation accuracy under it.
      validation_images: how many validation images that costs each epoch; 0 takes all.
      keep_epochs: epochs (counted from 1) after which the weights are kept for rewinding.
      patience: early stopping: end after so many epochs without a new best validation
        accuracy; 0 never stops early.
      attack_loss_scale: factor on the loss whose gradient the training attack follows; 0
        leaves it to the policy: ``mixed_float16`` gives each image its own, so that what
        reaches the logits does not underflow, and the others need none.
      data_on_device: whether the training images lie on the accelerator, see
        ``data.device_images``; the batches are the same.
      checkpoint_minutes: at most so long until what is trained is saved, also within an
        epoch; 0 saves after each epoch alone.
      on_nan: ``stop`` with an error where numbers are no longer finite, or ``rollback``, up
        to three times: go back to the last epoch's end and on at half the rates.
      on_overfit: what to do about catastrophic overfitting of FGSM training: ``warn``,
        ``stop`` or ``rollback``.
      batch_norm_groups: equal parts of a batch that each have BatchNorm statistics of
        their own; 1: those of the whole batch. More than 1 only where as many devices
        share the batch.
    """

    objective: ObjectiveConfig
    epochs: int = 100
    batch_size: int = 64
    schedule: ScheduleConfig = ScheduleConfig()
    momentum: float = 0.9
    weight_decay: float = 1e-4
    validation_attack: AttackConfig | None = None
    validation_images: int = field(default=0, metadata={"omit_default": True})
    dtype_policy: str = field(default="float32", metadata={"omit_default": True})
    jit_compile: bool = field(default=False, metadata={"omit_default": True})
    keep_epochs: tuple[int, ...] = field(default=(), metadata={"omit_default": True})
    patience: int = field(default=0, metadata={"omit_default": True})
    attack_loss_scale: float = field(default=0.0, metadata={"omit_default": True})
    data_on_device: str = field(default="auto", metadata={"fingerprint": False})
    batch_norm_groups: int = field(default=1, metadata={"omit_default": True})
    checkpoint_minutes: float = field(default=5.0, metadata={"fingerprint": False})
    # Without it there is either the same result or none.
    on_nan: str = field(default="stop", metadata={"fingerprint": False})
    on_overfit: str = field(default="warn", metadata={"omit_default": True})

    def __post_init__(self):
        if self.epochs < 1:
            raise UsageError.bad_value("epochs", self.epochs, "1 or more")
        if self.batch_size < 1:
            raise UsageError.bad_value("batch_size", self.batch_size, "1 or more")
        if not 0 <= self.momentum < 1:
            raise UsageError.bad_value("momentum", self.momentum, "in [0, 1)")
        _at_least("weight_decay", self.weight_decay, 0)
        _at_least("validation_images", self.validation_images, 0)
        _at_least("patience", self.patience, 0)
        _at_least("devices", self.batch_norm_groups, 1)
        _choice("dtype_policy", self.dtype_policy, DTYPE_POLICIES)
        _at_least("attack_loss_scale", self.attack_loss_scale, 0)
        _choice("data_on_device", self.data_on_device, DATA_ON_DEVICE)
        _at_least("checkpoint_minutes", self.checkpoint_minutes, 0)
        _choice("on_nan", self.on_nan, ON_NAN)
        _choice("on_overfit", self.on_overfit, ON_OVERFIT)
        if any(k > self.epochs for k in self.keep_epochs):
            raise UsageError.bad_value(
                "rewind_epoch", max(self.keep_epochs), f"at most the search's {self.epochs} epochs"
            )


@dataclass(frozen=True)
class PruneConfig:
    """How a mask is chosen.

    Attributes:
      sparsity: share of the conv and dense weights removed, in [0, 1).
      score: ``normalized_magnitude`` (|w| over its layer's mean |w|, the paper's
        code), ``magnitude`` or ``random``.
      scope: ``global`` (one threshold over all layers) or ``layer``.
      schedule: ``one_shot``; ``geometric`` (a fixed share of what is left each
        round); ``decreasing`` (target * [i/(i+10)] / [n/(n+10)] after round i of n,
        the paper's code).
      rounds: of ``decreasing``; the geometric schedule takes as many as it needs.
      round_fraction: share of the surviving weights a geometric round removes.
      rewind_epoch: 0 rewinds to the initialisation, k to the search's epoch k.
    """

    sparsity: float = 0.8
    score: str = "normalized_magnitude"
    scope: str = "global"
    schedule: str = "one_shot"
    rounds: int = field(default=10, metadata={"omit_default": True})
    round_fraction: float = field(default=0.2, metadata={"omit_default": True})
    rewind_epoch: int = field(default=0, metadata={"omit_default": True})

    def __post_init__(self):
        if not 0 <= self.sparsity < 1:
            raise UsageError.bad_value("sparsity", self.sparsity, "in [0, 1), such as 0.8")
        _choice("score", self.score, SCORES)
        _choice("scope", self.scope, SCOPES)
        _choice("pruning_schedule", self.schedule, PRUNING_SCHEDULES)
        if self.rounds < 1:
            raise UsageError.bad_value("rounds", self.rounds, "1 or more")
        if not 0 < self.round_fraction < 1:
            raise UsageError.bad_value("round_fraction", self.round_fraction, "in (0, 1)")
        _at_least("rewind_epoch", self.rewind_epoch, 0)


@dataclass(frozen=True)
class LotteryConfig:
    """One whole run: the comparison of tickets and baselines on one data set.

    Attributes:
      search: training of the dense network that yields the boosting ticket.
      winning_search: the same at the large rate, for the winning ticket.
      train: training of the dense baseline.
      ticket_train: retraining of tickets; differs from ``train`` in the epochs and what
        follows from them.
      compare: which of ``KINDS`` to train and evaluate.
      attacks: on the test images, besides clean accuracy.
      seed: root of every random number; see ``derive_seed``.
    """

    data: DataConfig
    model: ModelConfig
    search: TrainConfig
    winning_search: TrainConfig
    train: TrainConfig
    ticket_train: TrainConfig
    prune: PruneConfig = PruneConfig()
    attacks: tuple[AttackConfig, ...] = ()
    compare: tuple[str, ...] = ("dense", "boosting", "reinit")
    seed: int = 0
    deterministic: bool = field(default=False, metadata={"omit_default": True})

    def __post_init__(self):
        if not self.compare:
            raise UsageError.bad_value("compare", "", f"some of {', '.join(KINDS)}")
        for kind in self.compare:
            _choice("compare", kind, KINDS)
        if len(set(self.compare)) != len(self.compare):
            raise UsageError.bad_value("compare", ",".join(self.compare), "each kind once")
        names = [attack.name for attack in self.attacks]
        if len(set(names)) != len(names):
            raise UsageError.bad_value("attacks", ",".join(names), "each attack once")
        _at_least("seed", self.seed, 0)
        if self.seed >= 2**31:
            raise UsageError.bad_value("seed", self.seed, "below 2**31")
        if self.prune.rewind_epoch > self.search.epochs:
            raise UsageError.bad_value(
                "rewind_epoch",
                self.prune.rewind_epoch,
                f"at most --search_epochs={self.search.epochs}",
            )


def settings(config: Any) -> Any:
    """The JSON form of a (nested) settings dataclass, as it goes into a fingerprint.

    Fields that cannot change a result are left out, and so are later additions
    (``omit_default``) while they have their no-op default: old keys stay valid.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        result = {}
        for f in dataclasses.fields(config):
            value = getattr(config, f.name)
            if not f.metadata.get("fingerprint", True):
                continue
            if f.metadata.get("omit_default") and value == f.default:
                continue
            result[f.name] = settings(value)
        return result
    if isinstance(config, (tuple, list)):
        return [settings(value) for value in config]
    if isinstance(config, dict):
        return {str(key): settings(value) for key, value in config.items()}
    if isinstance(config, float) and config == int(config) and abs(config) < 2**53:
        return int(config)  # 1.0 and 1 are the same setting
    if config is None or isinstance(config, (str, int, float, bool)):
        return config
    raise TypeError(f"{type(config).__name__} is no setting")


def fingerprint(config: Any) -> str:
    """SHA-256 (hex, 64 digits) of the settings; equal settings, equal fingerprint."""
    text = json.dumps(settings(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    """Human-readable ``path: theirs -> ours`` lines for two JSON setting trees."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        lines = []
        for key in sorted(set(ours) | set(theirs)):
            path = f"{prefix}.{key}" if prefix else key
            lines += differences(ours.get(key), theirs.get(key), path)
        return lines
    if ours != theirs:
        return [f"{prefix}: {json.dumps(theirs)} there, {json.dumps(ours)} now"]
    return []


def derive_seed(root: int, *names: object) -> int:
    """A 31-bit seed for one named purpose, independent of the others.

    Args:
      root: the run's ``--seed``.
      *names: the purpose, such as ``"init"``, ``"order"``, ``"augmentation"``, ``"attack"``.

    Example:
      >>> derive_seed(0, "init") == derive_seed(0, "init")
      True
      >>> derive_seed(0, "init") == derive_seed(0, "order")
      False
    """
    text = "/".join(map(str, (root, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF
