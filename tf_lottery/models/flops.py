"""Arithmetic of a network, for the cost ledger."""

from __future__ import annotations

import itertools
import math

from tf_lottery.keras import keras
from tf_lottery.nesting import is_graph, named_layers, unwrapped


def forward_flops(model: keras.Model) -> dict[str, int]:
    """Multiplications and additions of each conv and dense layer, for one image.

    Biases, BatchNorm, activations and pooling are left out: below 1 % of the
    paper's networks. Each output position costs two operations per kernel weight, and as often
    as the layer is called; of a transposed convolution each input position does.

    Args:
      model: built functional model, wrapped for pruning or bare: the answer is the same. Models
        used as layers are entered, and layers that hold others (``TimeDistributed``): what
        they hold is taken to work at each of their output positions, once.

    Returns:
      Layer's path (see ``nesting``) -> operations, in the model's order.
    """
    names = {id(layer): name for name, layer in named_layers(model).items()}
    flops: dict[str, int] = {}

    def add(graph: keras.Model, times: int) -> None:
        calls: dict[int, list] = {}
        for node in itertools.chain.from_iterable(graph._nodes_by_depth.values()):
            calls.setdefault(id(node.layer), []).append(node)
        for called in graph.layers:
            nodes, layer = calls.get(id(called), []), unwrapped(called)
            if is_graph(layer):
                add(layer, times * len(nodes))
                continue
            for held in (layer, *named_layers(layer).values()):
                if isinstance(held, (keras.layers.Conv2D, keras.layers.Dense)):
                    turned = isinstance(held, keras.layers.Conv2DTranspose)
                    shapes = (n.input_shapes if turned else n.output_shapes for n in nodes)
                    positions = sum(math.prod(shape[1:-1]) for shape in shapes)  # 1 of (batch, n)
                    each = 2 * math.prod(held.kernel.shape)
                    name = names[id(held)]
                    flops[name] = flops.get(name, 0) + times * positions * each

    add(model, 1)
    return flops
