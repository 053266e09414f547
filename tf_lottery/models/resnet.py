"""ResNet-18 (He et al. 2016) in its CIFAR variant: 3x3 stem of stride 1, no max pooling.

Four stages of two basic blocks with 64, 128, 256 and 512 channels; each stage
but the first halves the sides. Where the shape changes the shortcut is a 1x1
convolution and BatchNorm.
"""

from __future__ import annotations

from tf_lottery.models.layers import Layers
from tf_lottery.type_aliases import Tensor

WIDTHS = (64, 128, 256, 512)
BLOCKS = 2  # per stage


def features(layers: Layers, x: Tensor, depth: int, width: int) -> Tensor:
    """(batch, height, width, channels) -> (batch, 512). ``depth`` is 18, ``width`` not used."""
    del depth, width
    x = layers.conv(x, WIDTHS[0], 3, "stem_conv")
    x = layers.relu(layers.batch_norm(x, "stem_bn"), "stem_relu")
    for stage, filters in enumerate(WIDTHS, 1):
        for block in range(1, BLOCKS + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _basic_block(layers, x, filters, strides, f"block{stage}_{block}")
    return layers.global_average_pool(x)


def _basic_block(layers: Layers, x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    shortcut = x
    if strides != 1:  # the only blocks that change their number of channels
        shortcut = layers.conv(x, filters, 1, f"{name}_shortcut_conv", strides=strides)
        shortcut = layers.batch_norm(shortcut, f"{name}_shortcut_bn")
    x = layers.conv(x, filters, 3, f"{name}_conv1", strides=strides)
    x = layers.relu(layers.batch_norm(x, f"{name}_bn1"), f"{name}_relu1")
    x = layers.conv(x, filters, 3, f"{name}_conv2")
    x = layers.batch_norm(x, f"{name}_bn2")
    x = layers.add(x, shortcut, f"{name}_add")
    return layers.relu(x, f"{name}_relu2")
