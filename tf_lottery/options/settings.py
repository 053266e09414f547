"""Settings as frozen dataclasses: validated when built, hashed by ``fingerprint``.

Nothing here imports TensorFlow. A field that a user can set is an ``option``. Rates, eps
and step sizes are on [0, 1] pixels; epochs are whole passes over the training images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass, field

from tf_lottery.errors import UsageError
from tf_lottery.options.architectures import ARCHITECTURES, architecture, check_depth
from tf_lottery.options.attacks import AttackConfig, attack_from_name
from tf_lottery.options.channels import ChannelOptions
from tf_lottery.options.checks import at_least, image_size, positive, within
from tf_lottery.options.contents import content
from tf_lottery.options.fingerprint import differences, fingerprint, settings, several
from tf_lottery.options.objectives import ObjectiveConfig
from tf_lottery.options.option import Options, added, option
from tf_lottery.options.registries import FINDERS, MODELS, SCORES
from tf_lottery.options.searches import SCORED_AT_INIT, UNTRAINED, SearchOptions
from tf_lottery.options.sparsity import SparsityUpdateConfig
from tf_lottery.options.trainings import (
    DTYPE_POLICIES,
    MEASURED,
    ROLES,
    SCHEDULES,
    TRAINING_ATTACK,
    WARMED_UP,
    Phase,
    ScheduleConfig,
    TrainConfig,
)

__all__ = [
    "ARCHITECTURES", "DTYPE_POLICIES", "EXPORT_FORMATS", "KINDS", "MEASURED", "ROLES", "SCHEDULES",
    "SCOPES", "SCORES", "TRAINING_ATTACK", "WARMED_UP", "AttackConfig", "DataConfig",
    "LotteryConfig", "ModelConfig", "ObjectiveConfig", "Phase", "PruneConfig", "ScheduleConfig",
    "SparsityUpdateConfig", "TrainConfig", "attack_from_name", "check_depth", "derive_seed",
    "differences", "fingerprint", "settings", "several",
]  # fmt: skip

KINDS = tuple(FINDERS)
SCOPES = ("global", "layer", "erk", "igq")
EXPORT_FORMATS = (
    "saved_model", "tflite", "tflite_float16", "tflite_int8", "tflite_sparse",
    "tflite_sparse_float16", "tflite_sparse_int8",
)  # fmt: skip


def _data_set(flag: str, name: str) -> None:
    if not re.fullmatch(
        r"[a-z0-9_]+(/[a-z0-9_.\-]+)?(:\d+\.\d+\.\d+)?|(npz|folder|arrays):.+", name
    ):
        allowed = "a data set's name such as cifar10, npz:FILE or folder:DIR"
        raise UsageError.bad_value(flag, name, allowed)


@dataclass(frozen=True)
class DataConfig(Options, topic="Data"):
    """Which images, and how they are split.

    The validation images are fixed by the data set alone, not by the seed; the test images
    are the first of them, shuffled once by a fixed permutation.

    Attributes:
      content: what is in the files of one's own, see ``contents``; made here.
    """

    name: str = option(
        "digits",
        "digits (comes with scikit-learn); an image classification set of tensorflow-datasets, "
        "such as cifar10; npz:FILE with x_train, y_train, x_test, y_test; folder:DIR with images "
        "in train/<class>/ and test/<class>/.",
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
        "them; of a folder, that the middle of every image is brought to. 0: the set's own.",
        image_size,
    )
    skip_broken_images: bool = added(
        False, "Leave out files of --dataset=folder:DIR that cannot be decoded."
    )

    content: str = field(default="", metadata={"omit_default": True})

    def __post_init__(self):
        super().__post_init__()
        if self.augment is None:
            object.__setattr__(self, "augment", self.name.startswith("cifar"))
        object.__setattr__(self, "content", content(self.name))


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

    @property
    def channels(self) -> ChannelOptions | None:
        """Which channels go; ``None``: single weights do."""
        return ChannelOptions.of(vars(self)) if self.structure == "channels" else None

    def __post_init__(self):
        super().__post_init__()
        if self.sparsity is None:
            object.__setattr__(self, "sparsity", 0.8 if self.structure == "weights" else 0.0)
        if self.structure == "channels" and self.schedule != "one_shot":
            raise UsageError.bad_value(
                "pruning_schedule", self.schedule, "one_shot with --structure=channels"
            )
        if self.search_image_size and self.schedule != "one_shot":
            raise UsageError.bad_value(
                "pruning_schedule", self.schedule, "one_shot with --search_image_size"
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
        if update is not None and self.prune.structure == "channels":
            raise UsageError.bad_value(
                "sparsity_update", update.name, "none with --structure=channels"
            )
        if self.prune.search_image_size == self.data.image_size:  # said twice
            prune = dataclasses.replace(self.prune, search_image_size=0)
            object.__setattr__(self, "prune", prune)
        rewind = self.prune.rewind_epoch
        if isinstance(rewind, int) and rewind > self.search.epochs:
            raise UsageError.bad_value(
                "rewind_epoch", rewind, f"at most --search_epochs={self.search.epochs}"
            )
        if self.prune.score in SCORED_AT_INIT and "early" in (self.prune.search, *self.compare):
            raise UsageError.bad_value(
                "score", self.prune.score, "one of weights alone where the search ends early"
            )

    @property
    def on_search_images(self) -> LotteryConfig:
        """With images of ``--search_image_size``."""
        size = self.prune.search_image_size
        if not size:
            return self
        return dataclasses.replace(self, data=dataclasses.replace(self.data, image_size=size))


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
