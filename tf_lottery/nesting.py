"""The layers of a network, wherever they are: in models used as layers, in wrappers, in blocks.

A layer goes by its path: ``conv1`` in a flat network, ``outer/inner/conv1`` in a model within a
model. What is behind a layer that is no model (a wrapper, a block of somebody's own) goes by
the attribute it is found under, ``time_distributed/layer``, because Keras numbers such layers
anew in each copy. A pruning wrapper has no part in a path: a network and its wrapped clone
agree on names.
"""

from __future__ import annotations

from typing import Any


def is_graph(layer: Any) -> bool:
    """True for a functional or sequential model, whose layers can be cloned one by one."""
    return bool(getattr(layer, "_is_graph_network", False))


def unwrapped(layer: Any) -> Any:
    """The layer in a pruning wrapper; any other layer itself."""
    return layer.layer if hasattr(layer, "pruning_vars") else layer


def named_layers(network: Any) -> dict[str, Any]:
    """Every layer in a ``tf_keras`` model by path, each once, those that hold others too.

    In the order of the model's layers, a layer before what it holds.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(holder: Any, prefix: str) -> None:
        for name, layer in _held(holder):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            path, number = prefix + name, 1
            while path in found:
                number += 1
                path = f"{prefix}{name}:{number}"
            found[path] = layer
            visit(layer, f"{path}/")

    visit(network, "")
    return found


def _held(holder: Any) -> list[tuple[str, Any]]:
    """The layers that a layer holds directly, and what each is called there."""
    layers = [
        layer
        for layer in holder._flatten_layers(recursive=False, include_self=False)
        if not (hasattr(layer, "update_state") and hasattr(layer, "result"))  # metrics
    ]
    if is_graph(holder):
        return [(unwrapped(layer).name, unwrapped(layer)) for layer in layers]
    attributes = {id(child): name for name, child in holder._trackable_children().items()}
    return [
        (attributes.get(id(layer), str(number)), unwrapped(layer))
        for number, layer in enumerate(layers)
    ]
