"""Which BatchNorm channels are left without any input when filters go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tf_lottery.keras import keras
from tf_lottery.nesting import is_graph, named_layers


def layers_behind(network: keras.Model) -> dict[str, tuple[str, ...]]:
    """BatchNorm layer -> the Conv2D and Dense layers whose outputs it reads, by path.

    Only those BatchNorm layers that read nothing else, wherever they are called, and that
    normalise over the axis of the filters. What a model used as a layer is given, and what it
    gives, is followed through.

    Args:
      network: functional or sequential, its layers' inbound nodes perhaps of other models too.
    """
    paths = {id(layer): name for name, layer in named_layers(network).items()}
    read: dict[int, tuple[Any, list[Any]]] = {}  # BatchNorm layers -> the layers they read

    def follow(model: Any, given: list[Any]) -> list[Any]:
        """What makes each output, from what makes each input."""
        inputs = [tensor._keras_history for tensor in model.inputs]
        made = dict(zip(map(_place, inputs), given, strict=True))
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                before = [made.get(_place(t._keras_history)) for t in node.keras_inputs]
                layer, after = node.layer, _flat(node.outputs)
                if is_graph(layer) and len(before) == len(layer.inputs):
                    makers = follow(layer, before)
                else:
                    makers = [layer] * len(after)
                if isinstance(layer, keras.layers.BatchNormalization):
                    read.setdefault(id(layer), (layer, []))[1].extend(before)
                if not node.is_input:
                    histories = (tensor._keras_history for tensor in after)
                    made.update(zip(map(_place, histories), makers, strict=True))
        return [made.get(_place(tensor._keras_history)) for tensor in model.outputs]

    follow(network, [None] * len(network.inputs))
    # In layer order, a layer that reads one source twice has it once.
    return {
        paths[id(norm)]: tuple(dict.fromkeys(paths[id(source)] for source in sources))
        for norm, sources in read.values()
        if sources and all(_normalises_filters(norm, source) for source in sources)
    }


def _place(history: Any) -> tuple[int, int, int]:
    return id(history.layer), history.node_index, history.tensor_index


def _flat(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _normalises_filters(norm: Any, source: Any) -> bool:
    """Whether each channel of a BatchNorm is one filter of the layer it reads."""
    if not isinstance(source, (keras.layers.Conv2D, keras.layers.Dense)):
        return False
    last = norm.input_spec.ndim - 1
    first = getattr(source, "data_format", "channels_last") == "channels_first"
    filters = source.kernel.shape[_filter_axis(source)]
    return list(norm.axis) == [1 if first else last] and norm.moving_mean.shape == [filters]


def _filter_axis(layer: Any) -> int:
    """Of a kernel: Conv2DTranspose has its filters before its inputs."""
    return -2 if isinstance(layer, keras.layers.Conv2DTranspose) else -1


def alive_filters(
    layers: Mapping[str, Any], sources: Iterable[str], masks: Mapping[str, np.ndarray]
) -> np.ndarray:
    """1.0 for each filter that has a weight left in one of the layers, else 0.0.

    Args:
      layers: by path.
      sources: some of them, with as many filters each.
      masks: by path.
    """
    alive = []
    for name in sources:
        mask = np.moveaxis(np.asarray(masks[name]), _filter_axis(layers[name]), -1)
        alive.append(np.any(mask.reshape(-1, mask.shape[-1]), axis=0))
    return np.any(alive, axis=0).astype(np.float32)
