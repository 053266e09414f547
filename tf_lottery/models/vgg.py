"""VGG (Simonyan & Zisserman 2015) as the paper uses it on 32x32 images.

3x3 convolutions without bias, BatchNorm and ReLU in five groups of 64, 128, 256,
512 and 512 channels, a 2x2 average pooling after each; then dense 512, BatchNorm,
ReLU and the logits.
"""

from __future__ import annotations

from tf_lottery.models.layers import Layers
from tf_lottery.type_aliases import Tensor

WIDTHS = (64, 128, 256, 512, 512)

# Depth -> convolutions per group. 7 and 8 count their two dense layers; 11 and 16
# keep the names of networks that had three.
CONVS = {
    7: (1, 1, 1, 1, 1),
    8: (1, 1, 1, 1, 2),
    11: (1, 1, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
}


def features(layers: Layers, x: Tensor, depth: int, width: int) -> Tensor:
    """(batch, height, width, channels) -> (batch, 512). ``width`` is not used."""
    del width
    for group, (filters, count) in enumerate(zip(WIDTHS, CONVS[depth], strict=True), 1):
        for i in range(1, count + 1):
            x = layers.conv(x, filters, 3, f"conv{group}_{i}")
            x = layers.bn_relu(x, f"{group}_{i}")
        x = layers.average_pool(x, f"pool{group}")
    x = layers.global_average_pool(x)
    x = layers.dense(x, 512, "dense")
    return layers.bn_relu(x, "_dense")
