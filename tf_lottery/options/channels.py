"""The options of tickets that lack whole channels."""

from __future__ import annotations

from dataclasses import dataclass

from tf_lottery.options.checks import at_least, within
from tf_lottery.options.option import Options, added

STRUCTURES = ("weights", "channels")


@dataclass(frozen=True, kw_only=True)
class ChannelOptions(Options, topic="Pruning"):
    """Whether filters and units go as a whole, and which; part of ``settings.PruneConfig``."""

    structure: str = added(
        "weights",
        "What a ticket lacks. weights: single ones, which saves no arithmetic. channels: whole "
        "filters and units, cut out of the network before it is retrained.",
        choices=STRUCTURES,
    )
    channel_sparsity: float = added(
        0.5,
        "Share of the channels removed by --structure=channels, in (0, 1).",
        within("(0, 1)", "in (0, 1), such as 0.5"),
    )
    channel_score: str = added(
        "batch_norm",
        "batch_norm: |scale| of the BatchNorm that a channel passes through. filter_norm: l_1 norm "
        "of its filter over its layer's mean.",
        choices=("batch_norm", "filter_norm"),
    )
    channel_floor: float = added(
        0.1,
        "Share of each layer's channels that --structure=channels leaves, at least one.",
        within("[0, 1]"),
    )
    channel_multiple: int = added(
        8,
        "Channels come and go by so many in layers of at least twice as many: processors work on "
        "8 or 16 at a time, so that other numbers save FLOPs and hardly time. 1: one by one.",
        at_least(1),
    )
