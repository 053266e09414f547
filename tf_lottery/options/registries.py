"""What ``--score``, ``--objective`` and ``--model`` may name, and where the functions are."""

from __future__ import annotations

from tf_lottery.options.architectures import ARCHITECTURES
from tf_lottery.options.registry import Registry

SCORES = Registry(
    "a score",
    {
        "magnitude": "tf_lottery.pruning.scores:magnitude",
        "normalized_magnitude": "tf_lottery.pruning.scores:normalized_magnitude",
        "random": "tf_lottery.pruning.scores:random",
    },
)
OBJECTIVES = Registry(
    "an objective",
    {
        "natural": "tf_lottery.objectives:natural",
        "fgsm": "tf_lottery.objectives:fgsm",
        "pgd": "tf_lottery.objectives:pgd",
    },
)
# (layers, pixels, depth, width) -> features (batch, n) before the logits.
MODELS = Registry("a network", {name: arch.features for name, arch in ARCHITECTURES.items()})
