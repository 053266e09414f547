"""The layers of a network whose calls are known in full, and which of them are plain.

What is rewritten for speed must stay the same function, so only what is known is: layers of
exactly the classes below, with options that are listed, in a graph where each is called once.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeGuard

from tf_lottery.keras import keras, tf
from tf_lottery.type_aliases import Tensor

# Options of those layers that the fold computes, or that do nothing in inference mode. A layer
# with any other is called as it is.
_TRAINING_ONLY = {"name", "trainable", "dtype", "batch_input_shape"} | {
    f"{of}_{what}"
    for of in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "activity")
    for what in ("initializer", "regularizer", "constraint")
}
_OPTIONS = {
    keras.layers.Conv2D: {
        *("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate"),
        *("groups", "activation", "use_bias"),
    },
    keras.layers.Dense: {"units", "activation", "use_bias"},
    keras.layers.BatchNormalization: {"axis", "momentum", "epsilon", "center", "scale"},
    keras.layers.ReLU: {"max_value", "negative_slope", "threshold"},
}
# Of BatchNorm, and in no configuration.
_HIDDEN = ("renorm", "virtual_batch_size", "synchronized", "adjustment")


@dataclasses.dataclass(frozen=True)
class Node:
    """The one call of a layer, on ``inputs`` (symbolic); ``listed``: it takes them as a list."""

    layer: keras.layers.Layer
    inputs: list[Tensor]
    listed: bool
    output: Tensor

    @property
    def input_shape(self) -> tuple:
        """Of the first input; entries ``None`` where unknown. The layer may know others."""
        return tuple(self.inputs[0].shape)


def plain_nodes(network: keras.Model) -> dict[str, Node] | None:
    """The layers behind the input by name, inputs first; ``None`` where these are not all.

    Every layer is called once, on images or on the only outputs of other layers, without
    options and masks, and the network does nothing beside: it is of a class of Keras.
    """
    if not getattr(network, "_is_graph_network", False) or not is_own(network):
        return None
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        return None
    pixels = network.inputs[0]
    if pixels.shape.rank != 4 or pixels.dtype != tf.float32:  # Keras reshapes, or casts
        return None
    if not keras.backend.is_keras_tensor(network.output):  # a dictionary, or a list
        return None
    calls = network._nodes_by_depth
    found: dict[str, Node] = {}
    for depth in sorted(calls, reverse=True):
        for call in calls[depth]:
            if call.is_input:
                continue
            node = _plain_node(call)
            if node is None or call.layer.name in found:
                return None
            found[call.layer.name] = node
    return found if maker(network.outputs[0]) in found else None


def _plain_node(call: Any) -> Node | None:
    options = {name: value for name, value in call.call_kwargs.items() if value is not None}
    if options.pop("training", False) or options or len(call.call_args) != 1:
        return None
    (given,) = call.call_args
    listed = isinstance(given, (list, tuple))
    inputs, output = list(given) if listed else [given], call.outputs
    if not all(map(keras.backend.is_keras_tensor, [*inputs, output])):
        return None
    if any(tensor._keras_history.tensor_index for tensor in inputs):
        return None
    # Masks go from layer to layer beside the numbers, and what is folded would lose them.
    if any(getattr(tensor, "_keras_mask", None) is not None for tensor in [*inputs, output]):
        return None
    return Node(call.layer, inputs, listed, output)


def maker(tensor: Tensor) -> str:
    """The name of the layer that gives a symbolic tensor."""
    return tensor._keras_history.layer.name


def is_own(thing: Any) -> bool:
    """Whether the class is one of Keras, and the object no exception to it."""
    return type(thing).__module__.split(".")[0] == keras.__name__ and not any(
        callable(getattr(type(thing), name, None)) for name in vars(thing)
    )


def _is_known(node: Node | None, *kinds: type) -> TypeGuard[Node]:
    """Whether a layer is exactly of a kind, and of no option that is not in ``_OPTIONS``."""
    if node is None:
        return False
    layer = node.layer
    return (
        type(layer) in kinds
        and is_own(layer)
        and set(layer.get_config()) <= _OPTIONS[type(layer)] | _TRAINING_ONLY
        and layer.variable_dtype == "float32"
        and layer._autocast
    )


def compute_alike(node: Node, follower: Node) -> bool:
    return node.layer.compute_dtype == follower.layer.compute_dtype


def is_linear(node: Node) -> bool:
    """Conv2D or Dense without an activation, channels last."""
    layer = node.layer
    return (
        _is_known(node, keras.layers.Conv2D, keras.layers.Dense)
        and layer.activation is keras.activations.linear
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and getattr(layer, "groups", 1) == 1
        and isinstance(layer.kernel, tf.Variable)
    )


def is_batch_norm(node: Node | None) -> TypeGuard[Node]:
    """BatchNorm over the last axis."""
    return (
        _is_known(node, keras.layers.BatchNormalization)
        and not any(getattr(node.layer, option, None) for option in _HIDDEN)
        and list(node.layer.axis) == [len(node.input_shape) - 1]
    )


def is_relu(node: Node | None) -> TypeGuard[Node]:
    return (
        _is_known(node, keras.layers.ReLU)
        and node.layer.max_value is None
        and not node.layer.negative_slope
        and not node.layer.threshold
    )
