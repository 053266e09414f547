"""Tickets of whole channels: which stay by a score, and at random for the control."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tf_lottery.compaction import ChannelGroup, channel_groups, group_masks, left_channels
from tf_lottery.errors import UsageError
from tf_lottery.pruning import channels as choice
from tf_lottery.pruning.masks import prunable_kernels
from tf_lottery.type_aliases import NamedArrays
from tf_lottery.weights import named_variables


@dataclass(frozen=True)
class ChosenChannels:
    """What stays of a network.

    Attributes:
      masks: layer -> bool, without the channels that go and all that reads them.
      total, kept: channels; those that are summed up count once.
      bound: layers that keep more channels than their scores alone would have kept.
    """

    masks: NamedArrays
    total: int
    kept: int
    bound: tuple[str, ...]

    def to_json(self) -> dict:
        """For the ticket's ``found``."""
        told = {"total": self.total, "kept": self.kept}
        return {**told, "kept_by_floor": list(self.bound)} if self.bound else told


def choose_channels(
    network: Any, variables: NamedArrays, chosen: Mapping[str, Any]
) -> ChosenChannels:
    """The channels of the highest scores.

    Args:
      network: bare; its weights do not matter.
      variables: the weights that are scored, by name.
      chosen: the options of ``ChannelOptions``, by name.

    Raises:
      UsageError: as ``check_channels``; or the floors leave nothing to cut.
      NonFiniteError: a score is NaN or infinite.
    """
    groups = check_channels(network, chosen["channel_score"])
    kept, bound = select(groups, variables, chosen)
    total, left = (sum(map(count, kept)) for count in (len, np.count_nonzero))
    if left == total:
        raise UsageError(
            f"--channel_sparsity: got {chosen['channel_sparsity']:g}, which with "
            f"--channel_floor={chosen['channel_floor']:g} and --channel_multiple="
            f"{chosen['channel_multiple']} removes none of the {total} channels of {network.name}",
            "channel_sparsity",
        )
    shapes = {name: kernel.shape for name, kernel in prunable_kernels(network).items()}
    names = tuple(name for number in bound for name in groups[number].makers)
    return ChosenChannels(group_masks(groups, kept, shapes), total, int(left), names)


def select(
    groups: Sequence[ChannelGroup], variables: NamedArrays, chosen: Mapping[str, Any]
) -> tuple[list[np.ndarray], list[int]]:
    """``pruning.channels.select_channels`` of a network's groups; arguments as above."""
    if chosen["channel_score"] == "batch_norm":
        scores = [
            choice.batch_norm([variables[f"{name}/gamma"] for name in group.norms])
            for group in groups
        ]
    else:
        scores = [
            choice.filter_norm([variables[f"{name}/kernel"] for name in group.makers])
            for group in groups
        ]
    names = ("channel_sparsity", "channel_floor", "channel_multiple")
    return choice.select_channels(scores, *(chosen[name] for name in names))


def check_channels(network: Any, score: str) -> list[ChannelGroup]:
    """The groups that a network's channels are in.

    Raises:
      UsageError: a layer whose channels cannot be cut, nothing to cut, or ``batch_norm`` where
        channels pass through no BatchNorm with a scale.
    """
    groups = channel_groups(network)
    scaled = {name for name in named_variables(network) if name.endswith("/gamma")}
    for group in groups:
        norms = [name for name in group.norms if f"{name}/gamma" in scaled]
        if score == "batch_norm" and len(norms) != max(1, len(group.norms)):
            raise UsageError.bad_value(
                "channel_score",
                score,
                f"filter_norm for {network.name}: no BatchNorm with a scale is behind "
                f"{group.makers[0]}",
            )
    return groups


def planned_widths(network: Any, chosen: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Widths of a network that loses the same share of each layer's channels: a forecast.

    Args:
      network: bare.
      chosen: as of ``choose_channels``.
    """
    share, floor = 1 - chosen["channel_sparsity"], chosen["channel_floor"]
    widths = []
    for group in channel_groups(network):
        least = choice.least_kept(group.width, floor)
        step = choice.block_of(group.width, chosen["channel_multiple"])
        blocks = max(math.ceil(least / step), round(share * group.width / step))
        widths += [(name, min(group.width, blocks * step)) for name in group.makers]
    return tuple(widths)


def random_channel_masks(network: Any, masks: NamedArrays, seed: int) -> NamedArrays:
    """As many channels a group and weights a layer as in ``masks``, at random.

    Args:
      network: bare; its weights do not matter.
      masks: of a ticket of channels.
      seed: of the choice.
    """
    groups = channel_groups(network)
    names = [group.makers[0] for group in groups]
    left = left_channels(groups, masks)
    drawn = choice.random_channels(dict(zip(names, left, strict=True)), seed)
    shapes = {name: mask.shape for name, mask in masks.items()}
    whole = group_masks(groups, [drawn[name] for name in names], shapes)
    counts = {name: int(np.count_nonzero(mask)) for name, mask in masks.items()}
    return choice.random_within(whole, counts, seed)
