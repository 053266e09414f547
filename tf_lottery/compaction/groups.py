"""Which channels of a network can be cut out at all, and the masks that cut them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tf_lottery.compaction import graph
from tf_lottery.compaction.channels import Channels
from tf_lottery.compaction.constants import ThroughoutTraining
from tf_lottery.compaction.graph import Node, read_graph
from tf_lottery.errors import UsageError
from tf_lottery.flattening import flattened


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that come and go together: of one layer, or of all that are summed up.

    Attributes:
      width: number of channels.
      makers: the Conv2D and Dense layers whose filters or units they are.
      readers: the layers whose kernels have inputs for them, as often as each channel has
        positions there: more than once behind a Flatten.
      norms: the BatchNorm layers they pass through, behind a maker or behind a sum.
    """

    width: int
    makers: tuple[str, ...]
    readers: tuple[str, ...]
    norms: tuple[str, ...]


def channel_groups(network: Any) -> list[ChannelGroup]:
    """All channels of a network but those of its pixels and logits.

    Args:
      network: functional ``tf_keras`` model; of models used as layers the layers' paths are given.

    Returns:
      In layer order.

    Raises:
      UsageError: what layers make cannot be cut, or nothing can.
    """
    nodes = read_graph(flattened(network))
    whole = {n.name: np.ones(n.layer.kernel.shape, bool) for n in nodes if n.sort == graph.READER}
    channels = Channels(nodes, ThroughoutTraining(whole, {}))
    *inner, end = nodes
    found = []
    for width, fixed, tensors in channels.classes():
        members = [node for node in inner if node.name in tensors]
        makers = [node.name for node in members if node.sort == graph.READER]
        if not makers or set(end.sources) & set(tensors):
            continue
        if fixed:
            raise UsageError(
                f"--structure=channels: the channels of {makers[0]} cannot be cut: "
                f"{_hindrance(inner, tensors)}",
                "structure",
            )
        readers = [n.name for n in inner if n.sort == graph.READER and n.sources[0] in tensors]
        norms = [node.name for node in members if node.sort == graph.NORM]
        found.append(ChannelGroup(width, tuple(makers), tuple(readers), tuple(norms)))
    if not found:
        raise UsageError(
            f"--structure=channels: {network.name} has no channels to cut, only pixels and logits",
            "structure",
        )
    return found


def _hindrance(nodes: Sequence[Node], tensors: Sequence[str]) -> str:
    for node in nodes:
        if node.sort == graph.BARRIER:
            kind = type(node.layer).__name__
            if node.name in tensors:
                return f"they are added to those of {node.name} ({kind}), which all stay"
            if set(node.sources) & set(tensors):
                return f"{node.name} ({kind}) needs all of them"
    return "they are added to others that lie in another order"


def group_masks(
    groups: Sequence[ChannelGroup],
    kept: Sequence[np.ndarray],
    shapes: Mapping[str, Sequence[int]],
) -> dict[str, np.ndarray]:
    """Masks without the filters of removed channels and without what would read them.

    Args:
      groups: of ``channel_groups``.
      kept: bool (width,) for each group.
      shapes: of all prunable kernels, by layer.

    Returns:
      Layer -> bool array of its kernel's shape, all True but for the removed channels.
    """
    masks = {name: np.ones(tuple(shape), bool) for name, shape in shapes.items()}
    for group, keep in zip(groups, kept, strict=True):
        for name in group.makers:
            masks[name][..., ~keep] = False
        for name in group.readers:
            # Behind a Flatten the channel varies fastest.
            masks[name][..., np.tile(~keep, masks[name].shape[-2] // group.width), :] = False
    return masks


def left_channels(
    groups: Sequence[ChannelGroup], masks: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """bool (width,) for each group: masks have a weight that makes or reads the channel."""
    found = []
    for group in groups:
        keep = np.zeros(group.width, bool)
        for name in group.makers:
            keep |= masks[name].reshape(-1, group.width).any(axis=0)
        for name in group.readers:
            read = np.moveaxis(masks[name], -2, -1)
            keep |= read.reshape(-1, group.width).any(axis=0)
        found.append(keep)
    return found
