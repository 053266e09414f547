"""A network in networks as one network."""

from __future__ import annotations

from typing import Any

from tf_lottery.keras import keras, tf
from tf_lottery.nesting import is_graph, named_layers
from tf_lottery.weights import named_variables


class _Tensors(dict):
    """Tensors by the id of what they stand for, as a Keras node asks for its arguments."""

    def put(self, key: str, tensor: Any) -> None:
        self[key] = type("Again", (list,), {"pop": lambda self: self[0]})([tensor])


def flattened(network: Any) -> Any:
    """A copy of a functional ``tf_keras`` model in which no model is a layer; else ``network``.

    Its layers are named by their paths (see ``nesting``), so variables have the same names. A
    model that is called with options, such as ``training=False``, stays one: they hold for all
    of its layers.
    """
    if not is_graph(network) or not any(is_graph(layer) for layer in network.layers):
        return network
    names = {id(layer): name for name, layer in named_layers(network).items()}
    made: dict[int, Any] = {}

    def copied(layer: Any) -> Any:
        if id(layer) not in made:
            whole = is_graph(layer)
            copy = (
                keras.models.clone_model(layer)
                if whole
                else type(layer).from_config(layer.get_config())
            )
            copy._name = names[id(layer)]
            made[id(layer)] = copy
        return made[id(layer)]

    def entered(model: Any, inputs: list[Any]) -> list[Any]:
        tensors = _Tensors()
        for old, new in zip(model.inputs, inputs, strict=True):
            tensors.put(str(id(old)), new)
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                args, options = node.map_arguments(tensors)
                given = tf.nest.flatten(args)
                plain = not any(value is not None for value in options.values())
                if is_graph(node.layer) and plain and len(given) == len(node.layer.inputs):
                    outputs = entered(node.layer, given)
                else:
                    outputs = tf.nest.flatten(copied(node.layer)(*args, **options))
                for key, output in zip(node.flat_output_ids, outputs, strict=True):
                    tensors.put(key, output)
        return [tensors[str(id(output))].pop() for output in model.outputs]

    pixels = [
        keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor._keras_history.layer.name)
        for tensor in network.inputs
    ]
    flat = keras.Model(pixels, entered(network, pixels), name=network.name)
    values = named_variables(network)
    for name, variable in named_variables(flat).items():
        variable.assign(values[name].numpy())
    return flat
