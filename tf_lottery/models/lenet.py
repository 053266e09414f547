"""The MNIST network of Madry et al. 2018: LeNet in structure, wider, with biases, no BatchNorm."""

from __future__ import annotations

from tf_lottery.models.layers import Layers
from tf_lottery.type_aliases import Tensor


def features(layers: Layers, x: Tensor, depth: int, width: int) -> Tensor:
    """(batch, height, width, channels) -> (batch, 1024). ``depth``, ``width`` are not used."""
    del depth, width
    for i, filters in enumerate((32, 64), 1):
        x = layers.relu(layers.conv(x, filters, 5, f"conv{i}", use_bias=True), f"relu{i}")
        x = layers.max_pool(x, f"pool{i}")
    x = layers.dense(layers.flatten(x), 1024, "dense")
    return layers.relu(x, "relu_dense")
