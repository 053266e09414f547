"""Arithmetic of a network, for the cost ledger."""

from __future__ import annotations

import math

from tf_lottery.keras import keras


def forward_flops(model: keras.Model) -> dict[str, int]:
    """Multiplications and additions of each conv and dense layer, for one image.

    Biases, BatchNorm, activations and pooling are left out: below 1 % of the
    paper's networks. Each output position costs two operations per kernel weight.

    Args:
      model: built functional model. A layer that wraps another in its ``layer``
        attribute (a pruning wrapper) counts as, and under the name of, the inner
        one, so the wrapped and the bare network give the same answer. Models
        used as layers are entered.

    Returns:
      Layer name -> operations, in the model's order.
    """
    flops: dict[str, int] = {}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            flops.update(forward_flops(layer))
            continue
        inner = getattr(layer, "layer", layer)
        if isinstance(inner, (keras.layers.Conv2D, keras.layers.Dense)):
            positions = math.prod(layer.output_shape[1:-1])  # 1 for dense on (batch, n)
            flops[inner.name] = 2 * positions * math.prod(inner.kernel.shape)
    return flops
