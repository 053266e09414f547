"""How the boosting ticket is found, and when a search has seen enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tf_lottery.errors import UsageError
from tf_lottery.options.channels import ChannelOptions
from tf_lottery.options.checks import image_size, within
from tf_lottery.options.option import Options, added

# How the boosting ticket is found; all but ``train`` are also kinds of ``--compare``.
SEARCHES = ("train", "early", "snip", "grasp", "synflow", "random")
SCORED_AT_INIT = ("snip", "grasp", "synflow")  # they are scores too
UNTRAINED = (*SCORED_AT_INIT, "random")  # no training is spent on these
CURRENT = "current"  # of ``--rewind_epoch``


@dataclass(frozen=True)
class SettlingConfig:
    """When the mask that a training leads to counts as settled: see ``training.settling``.

    Attributes:
      distance: share of all mask positions, at most, that one epoch's mask and each of the four
        before it differ in.
      sparsity, score, scope: of the masks, as of ``PruneConfig``.
      channels: the masks are of these channels; ``None``: of weights.
    """

    distance: float
    sparsity: float
    score: str
    scope: str
    channels: ChannelOptions | None = field(default=None, metadata={"omit_default": True})

    def __post_init__(self):
        if self.channels:  # what does not change their masks must not be in the key
            for name, nothing in (("sparsity", 0.0), ("score", ""), ("scope", "")):
                object.__setattr__(self, name, nothing)


def _epoch_or_current(flag: str, value: Any) -> None:
    if value != CURRENT and (not isinstance(value, int) or value < 0):
        raise UsageError.bad_value(flag, value, f"0, an epoch of the search, or {CURRENT}")


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Options, topic="Pruning"):
    """Of ``PruneConfig``: what the masks are cut from, and which weights the ticket has."""

    rewind_epoch: int | str = added(
        0,
        "0: rewind to the initialisation; k: to the weights after epoch k of the search; current: "
        "keep those of its end.",
        _epoch_or_current,
    )
    search: str = added(
        "train",
        "How the boosting ticket is found. train: as --search_* say. early: the same, until the "
        "mask has settled. Without a training: snip, grasp, synflow; random (--layer_density).",
        choices=SEARCHES,
    )
    search_image_size: int = added(
        0,
        "Height and width that images are shrunk to for searches by training alone, for networks "
        "whose kernels do not depend on it; 0: --image_size.",
        image_size,
    )
    mask_distance: float = added(
        0.1,
        "early: the mask has settled where it and each of the four before it, of an epoch each, "
        "differ in so small a share of all weights (channels), in [0, 1].",
        within("[0, 1]"),
    )
    layer_density: str = added(
        "erk",
        "random: the layers' densities. uniform: all the same. erk: Erdős-Rényi kernel. igq: "
        "ideal gas quotas.",
        choices=("uniform", "erk", "igq"),
    )
