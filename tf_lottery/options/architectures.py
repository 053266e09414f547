"""The network families and what the paper sets for each."""

from __future__ import annotations

from dataclasses import dataclass

from tf_lottery.errors import UsageError


@dataclass(frozen=True)
class Architecture:
    """What the paper (or, for the small nets, a sweep of ours) sets per network family."""

    depth: int  # 0: the family has no choice of depth
    depths: str  # the valid depths, in words
    width: int  # 0: no choice of width
    batch_size: int
    search_learning_rate: float
    learning_rate: float
    warmup_epochs: int  # epochs below the peak rate, out of 100
    features: str  # where its function is


# Rates, batch sizes and warm-ups of vgg, resnet18 and wide_resnet: arXiv 2003.05733
# and its authors' code. VGG-16 climbs 0.01, 0.02, ... and is at 0.1 in its tenth
# epoch, that is after nine epochs below the peak; the ResNets need ten.
ARCHITECTURES = {
    "convnet": Architecture(0, "none", 0, 64, 0.01, 0.1, 9, "tf_lottery.models.convnet:features"),
    "lenet": Architecture(0, "none", 0, 64, 0.01, 0.1, 9, "tf_lottery.models.lenet:features"),
    "resnet18": Architecture(18, "18", 0, 128, 0.05, 0.1, 10, "tf_lottery.models.resnet:features"),
    "vgg": Architecture(16, "7, 8, 11, 16", 0, 64, 0.01, 0.1, 9, "tf_lottery.models.vgg:features"),
    "wide_resnet": Architecture(
        34,
        "6n + 4: 10, 16, 22, 28, 34, ...",
        10,
        128,
        0.05,
        0.1,
        10,
        "tf_lottery.models.wide_resnet:features",
    ),
}


def check_depth(model: str, depth: int) -> None:
    """Raises ``UsageError`` unless ``depth`` (0: default) is valid for ``model``."""
    arch = ARCHITECTURES[model]
    if not depth:
        return
    if model == "wide_resnet":
        valid = depth >= 10 and (depth - 4) % 6 == 0
    else:
        valid = str(depth) in arch.depths.split(", ")
    if not valid:
        raise UsageError.bad_value("depth", depth, f"for {model} one of: {arch.depths}")
