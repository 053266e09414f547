"""Smaller networks of the same function: channels that no logit depends on are cut out.

Zeros spread over a kernel save nothing on dense hardware. A channel can go altogether where
nothing reads it, or where its value is the same for every image:

- ``constants`` says which values those are, in inference or throughout training;
- ``channels`` follows them through the graph and picks what is needed;
- ``rebuild`` makes the network of what is left;
- ``groups`` says which channels of a network could go at all, for those who choose.

Everything here is exact up to rounding; a channel that could only be removed approximately
stays.
"""

from tf_lottery.compaction.groups import ChannelGroup, channel_groups, group_masks, left_channels
from tf_lottery.compaction.rebuild import Compaction, compact, compact_for_training

__all__ = [
    "ChannelGroup",
    "Compaction",
    "channel_groups",
    "compact",
    "compact_for_training",
    "group_masks",
    "left_channels",
]
