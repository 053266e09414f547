"""What --score, --objective, --model, --compare and --attacks may name, and where it is."""

from __future__ import annotations

from tf_lottery.options.architectures import ARCHITECTURES
from tf_lottery.options.registry import Registry

SCORES = Registry(
    "a score",
    {
        "magnitude": "tf_lottery.pruning.scores:magnitude",
        "normalized_magnitude": "tf_lottery.pruning.scores:normalized_magnitude",
        "random": "tf_lottery.pruning.scores:random",
        "snip": "tf_lottery.pruning.at_init:snip",
        "grasp": "tf_lottery.pruning.at_init:grasp",
        "synflow": "tf_lottery.pruning.at_init:synflow",
    },
)
OBJECTIVES = Registry(
    "an objective",
    {
        "natural": "tf_lottery.objectives:natural",
        "fgsm": "tf_lottery.objectives:fgsm",
        "fgsm_rs": "tf_lottery.objectives:fgsm_rs",
        "n_fgsm": "tf_lottery.objectives:n_fgsm",
        "nuat": "tf_lottery.objectives:nuat",
        "free": "tf_lottery.objectives:free",
        "pgd": "tf_lottery.objectives:pgd",
        "trades": "tf_lottery.objectives:trades",
        "mart": "tf_lottery.objectives:mart",
    },
    counted=("pgd",),
)
# How an attack goes about it: classes of ``attacks.procedure.Procedure``.
METHODS = Registry(
    "an attack",
    {
        "pgd": "tf_lottery.attacks.pgd:ProjectedGradient",
        "mim": "tf_lottery.attacks.pgd:ProjectedGradient",
        "apgd": "tf_lottery.attacks.apgd:AutoProjectedGradient",
        "fab": "tf_lottery.attacks.fab:FastAdaptiveBoundary",
        "square": "tf_lottery.attacks.search:Square",
        "cw_l2": "tf_lottery.attacks.carlini_wagner:CarliniWagnerL2",
        "noise": "tf_lottery.attacks.search:Noise",
        "autoattack": "tf_lottery.attacks:make_attack",  # a suite of the others
    },
)
# (layers, pixels, depth, width) -> features (batch, n) before the logits.
MODELS = Registry("a network", {name: arch.features for name, arch in ARCHITECTURES.items()})
# (config, name, given) -> stage that leaves a ticket; see ``lottery.graph``.
FINDERS = Registry(
    "a ticket finder",
    {
        kind: f"tf_lottery.lottery.graph:{kind}"
        for kind in (
            "dense", "dense_twin", "boosting", "winning", "reinit", "random_mask",
            "early", "snip", "grasp", "synflow", "random", "flying_bird",
        )
    },
)  # fmt: skip
