"""The network families and what the paper sets for each."""

from __future__ import annotations

from dataclasses import dataclass

from tf_lottery.errors import UsageError


@dataclass(frozen=True)
class Architecture:
    """What the paper (or, for the small nets, a sweep of ours) sets per network family."""

    features: str  # where its function is
    depth: int = 0  # 0: the family has no choice of depth
    depths: str = "none"  # the valid depths, in words
    width: int = 0  # 0: no choice of width
    batch_size: int = 64
    search_learning_rate: float = 0.01
    learning_rate: float = 0.1
    warmup_epochs: int = 9  # epochs below the peak rate, out of 100


# Rates, batch sizes and warm-ups of vgg, resnet18 and wide_resnet: arXiv 2003.05733
# and its authors' code. VGG-16 climbs 0.01, 0.02, ... and is at 0.1 in its tenth
# epoch, that is after nine epochs below the peak; the ResNets need ten.
ARCHITECTURES = {
    "convnet": Architecture("tf_lottery.models.convnet:features"),
    "lenet": Architecture("tf_lottery.models.lenet:features"),
    "resnet18": Architecture("tf_lottery.models.resnet:features", 18, "18", 0, 128, 0.05, 0.1, 10),
    "vgg": Architecture("tf_lottery.models.vgg:features", 16, "7, 8, 11, 16"),
    "wide_resnet": Architecture(
        "tf_lottery.models.wide_resnet:features",
        depth=34,
        depths="6n + 4: 10, 16, 22, 28, 34, ...",
        width=10,
        batch_size=128,
        search_learning_rate=0.05,
        warmup_epochs=10,
    ),
}


def architecture(model: str) -> Architecture:
    """What is set for a family; for one from outside, ``package.module:function``, as for vgg."""
    return ARCHITECTURES.get(model) or Architecture(model)


def check_depth(model: str, depth: int) -> None:
    """Raises ``UsageError`` unless ``depth`` (0: default) is valid for ``model``."""
    if not depth or model not in ARCHITECTURES:
        return
    depths = ARCHITECTURES[model].depths
    if model == "wide_resnet":
        valid = depth >= 10 and (depth - 4) % 6 == 0
    else:
        valid = str(depth) in depths.split(", ")
    if not valid:
        raise UsageError.bad_value("depth", depth, f"for {model} one of: {depths}")
