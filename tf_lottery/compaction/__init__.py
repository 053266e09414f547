"""Smaller networks of the same function: channels that no logit depends on are cut out.

Zeros spread over a kernel save nothing on dense hardware. A channel can go altogether where
nothing reads it, or where its value is the same for every image:

- ``constants`` says which values those are, in inference or throughout training;
- ``channels`` follows them through the graph and picks what is needed;
- ``rebuild`` makes the network of what is left.

Everything here is exact up to rounding; a channel that could only be removed approximately
stays.
"""

from tf_lottery.compaction.rebuild import Compaction, compact, compact_for_training

__all__ = ["Compaction", "compact", "compact_for_training"]
