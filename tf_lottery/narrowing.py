"""A network with fewer filters and units in some of its layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tf_lottery.keras import keras
from tf_lottery.nesting import named_layers


def narrowed(network: Any, widths: Mapping[str, int], biased: Collection[str] = ()) -> Any:
    """A copy of a functional ``tf_keras`` model whose weights are for the caller to set.

    Args:
      network: without models as layers, see ``flattening``.
      widths: Conv2D or Dense layer -> number of filters or units; the others keep theirs.
      biased: of these layers some that get a bias.

    Raises:
      ValueError: there is no such layer, or it has fewer; or the widths do not go together.
    """
    layers = named_layers(network)
    for name, width in widths.items():
        there = getattr(layers.get(name), "kernel", None)
        if there is None or not 0 < width <= there.shape[-1]:
            raise ValueError(f"layer {name} cannot have {width} filters or units")

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name in widths:
            key = "units" if isinstance(layer, keras.layers.Dense) else "filters"
            config[key] = widths[layer.name]
        if layer.name in biased:
            config["use_bias"] = True
        return layer.__class__.from_config(config)

    return keras.models.clone_model(network, clone_function=clone)
