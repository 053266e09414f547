"""Settings as frozen dataclasses: validated when built, hashed by ``fingerprint``.

Nothing here imports TensorFlow. A field that a user can set is an ``option``. Rates, eps
and step sizes are on [0, 1] pixels; epochs are whole passes over the training images.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass, field

from tf_lottery.errors import UsageError
from tf_lottery.options.architectures import ARCHITECTURES, architecture, check_depth
from tf_lottery.options.attacks import AttackConfig, attack_from_name
from tf_lottery.options.channels import ChannelOptions
from tf_lottery.options.checks import at_least, positive, within
from tf_lottery.options.fingerprint import differences, fingerprint, settings, several
from tf_lottery.options.objectives import ObjectiveConfig
from tf_lottery.options.option import Options, added, option
from tf_lottery.options.registries import FINDERS, MODELS, SCORES
from tf_lottery.options.searches import SCORED_AT_INIT, UNTRAINED, SearchOptions, SettlingConfig
from tf_lottery.options.sparsity import SparsityUpdateConfig

__all__ = [
    "ARCHITECTURES", "DTYPE_POLICIES", "EXPORT_FORMATS", "KINDS", "SCOPES", "SCORES",
    "AttackConfig", "DataConfig", "LotteryConfig", "ModelConfig", "ObjectiveConfig",
    "PruneConfig", "ScheduleConfig", "SparsityUpdateConfig", "TrainConfig", "attack_from_name",
    "check_depth", "derive_seed", "differences", "fingerprint", "settings", "several",
]  # fmt: skip

KINDS = tuple(FINDERS)
SCOPES = ("global", "layer", "erk", "igq")
EXPORT_FORMATS = (
    "saved_model", "tflite", "tflite_float16", "tflite_int8", "tflite_sparse",
    "tflite_sparse_float16", "tflite_sparse_int8",
)  # fmt: skip
TRAINING_ATTACK = "Attacks in training (l_inf, on pixels in [0, 1])"
ROLES = ("search", "ticket")  # trainings that may have settings of their own
SCHEDULES = ("step", "cyclic", "triangular", "one_cycle", "cosine", "constant")
WARMED_UP = ("step", "cosine", "constant")  # the others begin low by themselves
DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
MEASURED = "auto"  # one of them takes its place before a stage is made
SMALLEST_IMAGE = 4  # pixels on a side


def _image_size(flag: str, size: int) -> None:
    if size and size < SMALLEST_IMAGE:
        allowed = f"{SMALLEST_IMAGE} or more, or 0 for the data set's own"
        raise UsageError.bad_value(flag, size, allowed)


def _shares(flag: str, shares: tuple[float, ...]) -> None:
    numbers = bool(shares) and all(isinstance(share, (int, float)) for share in shares)
    if not numbers or not all(a < b for a, b in itertools.pairwise((0.0, *shares, 1.0))):
        given = ",".join(map(str, shares))
        raise UsageError.bad_value(flag, given, "rising shares in (0, 1), such as 0.5,0.75")


def _data_set(flag: str, name: str) -> None:
    if not re.fullmatch(r"[a-z0-9_]+(/[a-z0-9_.\-]+)?(:\d+\.\d+\.\d+)?", name):
        raise UsageError.bad_value(flag, name, "a data set's name such as cifar10")


@dataclass(frozen=True)
class DataConfig(Options, topic="Data"):
    """Which images, and how they are split.

    The validation images are fixed by the data set alone, not by the seed; the test images
    are the first of them, shuffled once by a fixed permutation.
    """

    name: str = option(
        "digits",
        "digits (comes with scikit-learn) or an image classification set of tensorflow-datasets, "
        "such as cifar10.",
        _data_set,
        flag="dataset",
    )
    train_examples: int = option(
        0, "Size of a class-balanced training subset; 0: all.", at_least(0)
    )
    validation_examples: int = option(
        0, "Images held out of the training split; 0: a tenth of it (CIFAR-10: 5,000).", at_least(0)
    )
    test_examples: int = option(0, "Number of test images used; 0: all.", at_least(0))
    augment: bool = option(None, "Random crops and flips. Default: for CIFAR sets only.")
    data_dir: str | None = option(
        None,
        "Where tensorflow-datasets keeps its sets. Default: its own.",
        recorded=False,
        path="url",
    )
    image_size: int = added(
        0,
        "Height and width that square images are shrunk to, by area average, before anything sees "
        "them; 0: the set's own.",
        _image_size,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.augment is None:
            object.__setattr__(self, "augment", self.name.startswith("cifar"))


@dataclass(frozen=True)
class ModelConfig(Options, topic="Model"):
    """Which network. ``normalize`` puts the data set's mean and deviation in its first layer."""

    name: str = option("convnet", "Network family.", flag="model", choices=MODELS)
    # 0 becomes the architecture's.
    depth: int = option(0, "vgg: 7, 8, 11, 16. wide_resnet: 6n + 4. 0: 16 and 34.", at_least(0))
    width: int = option(0, "Width factor of wide_resnet; 0: 10.", at_least(0))
    width_multiplier: float = option(1.0, "Factor on every hidden layer's width.", positive)
    normalize: bool = option(
        None, "Standardise pixels in the first layer. Default: if both objectives are natural."
    )

    def __post_init__(self):
        super().__post_init__()
        check_depth(self.name, self.depth)
        arch = architecture(self.name)
        if self.width and not arch.width and self.name in MODELS:
            raise UsageError.bad_value(
                "width", self.width, f"left out for {self.name}; use --width_multiplier"
            )
        # The default and the same value spelt out are one network.
        object.__setattr__(self, "width_multiplier", float(self.width_multiplier))
        object.__setattr__(self, "depth", self.depth or arch.depth)
        object.__setattr__(self, "width", self.width or arch.width)
        object.__setattr__(self, "normalize", bool(self.normalize))

    @property
    def label(self) -> str:
        """Short name such as ``vgg16-w0.25`` or ``wide_resnet-34-10``."""
        label = self.name.replace(":", ".")
        if self.name == "wide_resnet":
            label += f"-{self.depth}-{self.width}"
        elif self.name == "vgg":
            label += str(self.depth)
        elif self.name not in MODELS:
            label += "".join(f"-{size}" for size in (self.depth, self.width) if size)
        return label if self.width_multiplier == 1 else f"{label}-w{self.width_multiplier:g}"


@dataclass(frozen=True)
class Phase:
    """Epochs of one training that share an objective."""

    objective: ObjectiveConfig
    epochs: int


@dataclass(frozen=True)
class ScheduleConfig(Options, topic="Training"):
    """Learning rate over the epochs; see ``tf_lottery.training.schedules``.

    Attributes:
      peak: the highest rate.
      warmup_start: rate of the first epoch when ``warmup_epochs`` > 0.
      warmup_epochs: epochs below the peak.
    """

    name: str = option(
        "step",
        "step: x0.1 at each of --rate_drops. cyclic: up over 40 % of the steps, down to 0. "
        "triangular: up over half of them (Fast AT). one_cycle: from peak/25 up over 30 %, down "
        "to almost 0. These three have no warm-up.",
        flag="schedule",
        choices=SCHEDULES,
        roles=ROLES,
    )
    peak: float = option(0.1, check=positive, flag="learning_rate")
    warmup_start: float = option(0.01, check=positive)
    warmup_epochs: int = option(0, check=at_least(0))
    drops: tuple[float, ...] = added(
        (0.5, 0.75),
        "Shares of the epochs after which the step schedule divides the rate by ten.",
        _shares,
        flag="rate_drops",
        roles=ROLES,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.name != "step" and self.drops != (0.5, 0.75):
            given = ",".join(map(str, self.drops))
            raise UsageError.bad_value("rate_drops", given, "left out without --schedule=step")


@dataclass(frozen=True)
class TrainConfig(Options, topic="Training"):
    """One training run of a network.

    Attributes:
      objective: of the first phase.
      phases: one after the other, ``epochs`` together; the schedule goes through. Empty: the
        one objective all along.
      validation_attack: run on the validation images after every epoch; ``None``
        validates on clean images alone. The best epoch is the one with the highest
        validation accuracy under it.
      keep_epochs: epochs (counted from 1) after which the weights are kept for rewinding.
      settling: the training ends once its mask has settled; ``None``: it does not look.
      attack_loss_scale: factor on the loss whose gradient the training attack follows; 0
        leaves it to the policy: ``mixed_float16`` gives each image its own, so that what
        reaches the logits does not underflow, and the others need none.
      batch_norm_groups: equal parts of a batch that each have BatchNorm statistics of
        their own; 1: those of the whole batch. More than 1 only where as many devices
        share the batch.
      sparsity_update: how the masks change on the way; ``None``: they do not.
    """

    objective: ObjectiveConfig
    epochs: int = option(100, check=at_least(1))
    batch_size: int = option(64, check=at_least(1))
    schedule: ScheduleConfig = ScheduleConfig()
    phases: tuple[Phase, ...] = field(default=(), metadata={"omit_default": True})
    momentum: float = option(0.9, "Of SGD, in [0, 1).", within("[0, 1)"), roles=ROLES)
    weight_decay: float = option(
        1e-4, "L2 coefficient, added to every gradient.", at_least(0), roles=ROLES
    )
    validation_attack: AttackConfig | None = None
    validation_images: int = added(
        0, "Validation images used each epoch; 0: all.", at_least(0), topic=TRAINING_ATTACK
    )
    dtype_policy: str = added(
        "float32",
        "Precision of training; evaluation is always float32. auto: mixed_bfloat16 if a second's "
        "measurement finds it faster here, which --store keeps.",
        choices=(*DTYPE_POLICIES, MEASURED),
        roles=ROLES,
    )
    keep_epochs: tuple[int, ...] = field(default=(), metadata={"omit_default": True})
    settling: SettlingConfig | None = field(default=None, metadata={"omit_default": True})
    batch_norm_l1: float = added(
        0.0,
        "L1 coefficient of the BatchNorm scales in searches, such as 1e-4 for "
        "--channel_score=batch_norm: added to their gradients with their signs.",
        at_least(0),
    )
    patience: int = added(
        0,
        "Early stopping of dense training and retraining: epochs without a new best validation "
        "accuracy; 0: never.",
        at_least(0),
        roles=("ticket",),
    )
    ema_decay: float = added(
        0.0,
        "Dense training and retraining average their weights after every step, at most with this "
        "decay (such as 0.995); the average is validated beside the weights and is what counts. "
        "0: no average.",
        within("[0, 1)"),
        roles=("ticket",),
    )
    attack_loss_scale: float = added(
        0.0,
        "Factor on the training attack's loss under --dtype_policy; 0: in float16 one for each "
        "image, else 1.",
        at_least(0),
    )
    jit_compile: bool = added(
        False, "Compile training, validation and a run's evaluation with XLA (accelerators)."
    )
    data_on_device: str = option(
        "auto",
        "Training images in the accelerator's memory; auto: on a GPU, up to 2 GiB. Changes no "
        "result.",
        choices=("auto", "on", "off"),
        recorded=False,
    )
    batch_norm_groups: int = added(1, check=at_least(1), flag="devices")
    checkpoint_minutes: float = option(
        5.0,
        "What is trained is saved at least so often, also within an epoch (on one device); 0: "
        "after each epoch alone. Changes no result.",
        at_least(0),
        recorded=False,
    )
    on_nan: str = option(
        "stop",
        "A loss or gradient that is not finite: stop, or go back to the end of the last epoch and "
        "on at half the rate, three times at most.",
        choices=("stop", "rollback"),
        fingerprint=False,  # without it there is either the same result or none
    )
    on_overfit: str = added(
        "warn",
        "One-step training that becomes robust to FGSM alone (catastrophic overfitting): warn, "
        "stop, or go back to the end of the last epoch and on against PGD of two steps, then four, "
        "then eight.",
        choices=("warn", "stop", "rollback"),
    )

    sparsity_update: SparsityUpdateConfig | None = field(
        default=None, metadata={"omit_default": True}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.sparsity_update is not None and self.sparsity_update.name == "none":
            object.__setattr__(self, "sparsity_update", None)
        if any(k > self.epochs for k in self.keep_epochs):
            raise UsageError.bad_value(
                "rewind_epoch", max(self.keep_epochs), f"at most the search's {self.epochs} epochs"
            )
        if self.phases and sum(phase.epochs for phase in self.phases) != self.epochs:
            raise ValueError("phases and epochs do not add up")
        if self.on_overfit != "warn" and self._one_step and self.probe is None:
            judge = self.validation_attack
            raise UsageError(
                f"--on_overfit={self.on_overfit}: a guard with nothing to probe, as the validation "
                f"attack is {judge.name if judge else 'none'}; must be one of several steps, such "
                "as --validation_attack=pgd10",
                "on_overfit",
            )

    @property
    def parts(self) -> tuple[Phase, ...]:
        """The phases, at least one."""
        return self.phases or (Phase(self.objective, self.epochs),)

    def part(self, epoch: int) -> tuple[ObjectiveConfig, int]:
        """The objective of an epoch, counted from 0, and the epoch in which it ends."""
        end = 0
        for phase in self.parts:
            end += phase.epochs
            if epoch < end:
                break
        return phase.objective, end

    @property
    def _one_step(self) -> AttackConfig | None:
        """The attack of the first phase that trains against a single gradient."""
        phases = (phase.objective for phase in self.parts)
        return next((objective.attack for objective in phases if objective.one_step), None)

    @property
    def probe(self) -> AttackConfig | None:
        """FGSM at the radius of training, judged beside the validation attack of a one-step
        training: catastrophic overfitting is robustness to it alone. ``None``: not looked for."""
        judge, attack = self.validation_attack, self._one_step
        if judge is None or attack is None or (judge.method == "pgd" and judge.steps == 1):
            return None
        return attack_from_name("fgsm", attack.eps, norm=attack.norm)


@dataclass(frozen=True)
class PruneConfig(ChannelOptions, SearchOptions, topic="Pruning"):
    """How a mask of the conv and dense weights is chosen."""

    sparsity: float = option(
        None,
        "Share of the weights removed, in [0, 1). Default: 0.8; with --structure=channels, where "
        "it is of the weights of the cut network, 0.",
        within("[0, 1)", "in [0, 1), such as 0.8"),
    )
    score: str = option(
        "normalized_magnitude",
        "normalized_magnitude: |w| over its layer's mean |w| (the paper's code).",
        choices=SCORES,
    )
    scope: str = option(
        "global",
        "One threshold for all layers; or one a layer, each as sparse (layer) or by its size: erk "
        "(Erdős-Rényi kernel), igq (ideal gas quotas).",
        choices=SCOPES,
    )
    schedule: str = option(
        "one_shot",
        "At once or over several search rounds. geometric: a fixed share of what is left each "
        "round. decreasing: target * [i/(i+10)] / [n/(n+10)] after round i of n (the paper's "
        "code).",
        flag="pruning_schedule",
        choices=("one_shot", "geometric", "decreasing"),
    )
    rounds: int = added(10, "Rounds of the decreasing schedule.", at_least(1))
    round_fraction: float = added(
        0.2,
        "Share of the remaining weights that a round of the geometric schedule removes, in (0, 1).",
        within("(0, 1)"),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.sparsity is None:
            object.__setattr__(self, "sparsity", 0.8 if self.structure == "weights" else 0.0)
        if self.structure == "channels" and self.schedule != "one_shot":
            raise UsageError.bad_value(
                "pruning_schedule", self.schedule, "one_shot with --structure=channels"
            )
        if self.search in UNTRAINED:
            for flag, value, only in (
                ("rewind_epoch", self.rewind_epoch, 0),
                ("pruning_schedule", self.schedule, "one_shot"),
            ):
                if value != only:
                    allowed = f"{only} with --search={self.search}, which trains nothing"
                    raise UsageError.bad_value(flag, value, allowed)


@dataclass(frozen=True)
class LotteryConfig(Options, topic="Running"):
    """One whole run: the comparison of tickets and baselines on one data set.

    Attributes:
      search: training of the dense network that yields the boosting ticket.
      winning_search: the same at the large rate, for the winning ticket.
      train: training of the dense baseline.
      ticket_train: retraining of tickets; differs from ``train`` in the epochs and what
        follows from them.
      attacks: on the test images, besides clean accuracy.
      sparsity_update: as asked for: of ``ticket_train``, and of kinds that are dynamic anyway.
      seed: see ``derive_seed``.
    """

    data: DataConfig
    model: ModelConfig
    search: TrainConfig
    winning_search: TrainConfig
    train: TrainConfig
    ticket_train: TrainConfig
    prune: PruneConfig = PruneConfig()
    attacks: tuple[AttackConfig, ...] = ()
    compare: tuple[str, ...] = option(
        ("dense", "boosting", "reinit"),
        f"Models to train and compare: {', '.join(KINDS)} or package.module:function.",
        choices=FINDERS,
        topic="What to do",
    )
    seed: int = option(
        0, "Root of all random numbers.", within("[0, 2147483648)", "0 or more, below 2**31")
    )
    deterministic: bool = added(False, "Bit-identical results on one machine, slower.")
    sparsity_update: SparsityUpdateConfig = field(
        default=SparsityUpdateConfig(), metadata={"omit_default": True}
    )

    def __post_init__(self):
        super().__post_init__()
        names = [attack.name for attack in self.attacks]
        if len(set(names)) != len(names):
            raise UsageError.bad_value("attacks", ",".join(names), "each attack once")
        update = self.ticket_train.sparsity_update
        if update is not None and not self.prune.sparsity:
            raise UsageError.bad_value(
                "sparsity_update", update.name, "none with --sparsity=0: nothing is pruned"
            )
        rewind = self.prune.rewind_epoch
        if isinstance(rewind, int) and rewind > self.search.epochs:
            raise UsageError.bad_value(
                "rewind_epoch", rewind, f"at most --search_epochs={self.search.epochs}"
            )
        if self.prune.score in SCORED_AT_INIT and "early" in (self.prune.search, *self.compare):
            raise UsageError.bad_value(
                "score", self.prune.score, "one of weights alone where the search ends early"
            )


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
