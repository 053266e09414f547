"""The graph of a functional Keras model: which layer reads which, and what sort each is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tf_lottery.errors import UsageError
from tf_lottery.keras import keras

READER, NORM, ACTIVATION, POOL, FLATTEN, ADD, BARRIER = (
    "reader", "norm", "activation", "pool", "flatten", "add", "barrier",
)  # fmt: skip

# Activations that act on every number by itself.
_ELEMENTWISE = (
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "sigmoid", "tanh", "swish",
    "softplus",
)  # fmt: skip
# Layers whose output channel j is made of input channel j alone, and of a constant makes the
# same constant ("same" padding of a pool is no part of it).
_POOLS = (
    keras.layers.AveragePooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
)


@dataclass(frozen=True)
class Node:
    """A layer in its place.

    Attributes:
      name: of the layer; empty for the end of the graph, which reads the model's outputs.
      layer: the Keras layer.
      sort: ``READER`` (Conv2D, Dense: new channels out of all the old ones), ``NORM``,
        ``ACTIVATION``, ``POOL``, ``FLATTEN``, ``ADD``, or ``BARRIER``: anything else, which
        keeps all channels of what it reads and of what it gives.
      sources: names of the layers it reads.
    """

    name: str
    layer: Any
    sort: str
    sources: tuple[str, ...]


def read_graph(network: Any) -> list[Node]:
    """The nodes of a model, the end last; only barriers may stand before what they read.

    Args:
      network: functional ``tf_keras`` model, or a sequential one that was built.

    Raises:
      UsageError: it is neither.
    """
    if not isinstance(network, keras.Model) or not getattr(network, "_is_graph_network", False):
        raise UsageError(
            f"--compact: {getattr(network, 'name', network)} is no functional tf_keras model, "
            "such as build_model returns",
            "compact",
        )
    # The configuration, not the layers' own inbound nodes: where models share layers, those
    # are of all of them. A sequential model has another kind of configuration.
    functional = keras.Model(network.inputs, network.outputs)
    config = functional.get_config()
    names = {entry["name"] for entry in config["layers"]}
    nodes = []
    for entry in config["layers"]:
        layer = functional.get_layer(entry["name"])
        sources = tuple(_mentioned(entry["inbound_nodes"], names))
        # A layer that is called twice has to suit both of its places.
        sort = _sort(layer) if len(entry["inbound_nodes"]) == 1 else BARRIER
        nodes.append(Node(entry["name"], layer, sort, sources))
    ends = tuple(_mentioned(config["output_layers"], names))
    return [*nodes, Node("", None, BARRIER, ends)]


def _mentioned(tree: Any, names: set[str]) -> Iterator[str]:
    """The layers in every ``[layer, node, tensor, ...]`` of a nested configuration."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if not isinstance(tree, (list, tuple)):
        return
    if len(tree) >= 3 and isinstance(tree[0], str) and tree[0] in names:
        yield tree[0]
        tree = tree[3:]  # arguments of the call
    for item in tree:
        yield from _mentioned(item, names)


def _sort(layer: Any) -> str:
    """The layer's sort; exact types, as a subclass may do anything."""
    last = len(layer.output_shape) - 1
    kind = type(layer)
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return BARRIER
    if kind is keras.layers.Conv2D:
        return READER if layer.groups == 1 and is_elementwise(layer.activation) else BARRIER
    if kind is keras.layers.Dense:
        return READER if is_elementwise(layer.activation) else BARRIER
    if kind is keras.layers.BatchNormalization:
        return NORM if list(layer.axis) == [last] else BARRIER
    if kind is keras.layers.ReLU or (
        kind is keras.layers.Activation and is_elementwise(layer.activation)
    ):
        return ACTIVATION
    if kind in _POOLS:
        return POOL
    if kind is keras.layers.Flatten:
        return FLATTEN
    if kind is keras.layers.Add:
        same = len({tuple(shape) for shape in layer.input_shape}) == 1
        return ADD if same else BARRIER
    return BARRIER


def is_elementwise(activation: Any) -> bool:
    """True for the activation functions that act on every number by itself."""
    return keras.activations.serialize(activation) in _ELEMENTWISE
