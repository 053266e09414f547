"""Settings of masks that change while a ticket is trained."""

from __future__ import annotations

from dataclasses import dataclass

from tf_lottery.options.checks import at_least, within
from tf_lottery.options.option import Options, option


@dataclass(frozen=True)
class SparsityUpdateConfig(Options, topic="Dynamic sparsity (masks that change in retraining)"):
    """How masks change while a ticket is trained; see ``tf_lottery.training.flying_bird``."""

    name: str = option(
        "none",
        "Retraining of tickets replaces each layer's smallest weights again and again "
        "(flying_bird), and lets their number follow the overfitting in its second half "
        "(flying_bird_plus).",
        flag="sparsity_update",
        choices=("none", "flying_bird", "flying_bird_plus"),
    )
    interval: int = option(
        0,
        "Steps between two updates, a third more in the second half; 0: 1/87 of all steps as "
        "published (900 of 78,200), but at least 100, or a tenth of all where that is less.",
        at_least(0),
        flag="update_interval",
    )
    fraction: float = option(
        0.5,
        "Share of a layer's weights that an update replaces at the start of training, falling to "
        "0.005 along a cosine, in (0, 1).",
        within("(0, 1)"),
        flag="update_fraction",
    )
    growth: str = option(
        "random",
        "Which weights come back: at random (published), or of the largest gradients (RigL; a "
        "step's passes each update).",
        choices=("random", "gradient"),
    )
