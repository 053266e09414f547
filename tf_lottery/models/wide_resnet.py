"""WideResNet-D-W (Zagoruyko & Komodakis 2016), without dropout.

Pre-activation blocks: a 3x3 stem of 16 channels, three stages of (D - 4) / 6
blocks with 16W, 32W and 64W channels, the second and third halving the sides,
then BatchNorm, ReLU and global average pooling.
"""

from __future__ import annotations

from tf_lottery.models.layers import Layers
from tf_lottery.type_aliases import Tensor

STEM_WIDTH = 16


def features(layers: Layers, x: Tensor, depth: int, width: int) -> Tensor:
    """(batch, height, width, channels) -> (batch, 64 * width); ``depth`` is 6n + 4."""
    x = layers.conv(x, STEM_WIDTH, 3, "stem_conv")
    for stage in (1, 2, 3):
        filters = STEM_WIDTH * width * 2 ** (stage - 1)
        for block in range(1, (depth - 4) // 6 + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _block(layers, x, filters, strides, f"block{stage}_{block}")
    x = layers.relu(layers.batch_norm(x, "final_bn"), "final_relu")
    return layers.global_average_pool(x)


def _block(layers: Layers, x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    shortcut = x
    x = layers.relu(layers.batch_norm(x, f"{name}_bn1"), f"{name}_relu1")
    if strides != 1 or shortcut.shape[-1] != layers.scaled(filters):
        # The projection sees the activated input and has no BatchNorm of its own.
        shortcut = layers.conv(x, filters, 1, f"{name}_shortcut_conv", strides=strides)
    x = layers.conv(x, filters, 3, f"{name}_conv1", strides=strides)
    x = layers.relu(layers.batch_norm(x, f"{name}_bn2"), f"{name}_relu2")
    x = layers.conv(x, filters, 3, f"{name}_conv2")
    return layers.add(x, shortcut, f"{name}_add")
