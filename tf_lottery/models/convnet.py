"""A small network for 8x8 digits: trains in seconds on a CPU, for examples and tests."""

from __future__ import annotations

from tf_lottery.models.layers import Layers
from tf_lottery.type_aliases import Tensor

WIDTHS = (32, 64, 64)


def features(layers: Layers, x: Tensor, depth: int, width: int) -> Tensor:
    """(batch, height, width, channels) -> (batch, n). ``depth``, ``width`` are not used."""
    del depth, width
    for i, filters in enumerate(WIDTHS, 1):
        x = layers.bn_relu(layers.conv(x, filters, 3, f"conv{i}"), str(i))
        if i == 2:
            x = layers.average_pool(x, "pool")
    return layers.flatten(x)
