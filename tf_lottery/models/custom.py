"""Networks from outside the package: any function of shape, classes and seed.

``(input_shape, num_classes, seed) -> tf_keras.Model``, float32 pixels (batch, height, width,
channels) in [0, 1] in, logits (batch, classes) out, functional or sequential; models used as
layers are entered. Its initial
weights must be the seed's alone. It is called with ``depth``, ``width`` or
``width_multiplier`` as well where the user gives them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence

from tf_lottery.errors import UsageError
from tf_lottery.flattening import flattened
from tf_lottery.keras import keras, pinned
from tf_lottery.models.layers import normalization
from tf_lottery.nesting import named_layers
from tf_lottery.options.settings import ModelConfig


def custom_network(
    function: Callable[..., keras.Model],
    config: ModelConfig,
    shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype_policy: str = "float32",
    most_weights: int | None = None,
) -> keras.Model:
    """The function's network as the built-in ones are: flat, normalised, float32 logits.

    Args:
      function: see above.
      config: its name, and the sizes that were given.
      shape, num_classes, seed, mean, std, dtype_policy, most_weights: as of ``build_model``.

    Raises:
      UsageError: the function does not take a size that was given, or makes another kind of
        network.
    """
    sizes = {
        "depth": config.depth or None,
        "width": config.width or None,
        "width_multiplier": None if config.width_multiplier == 1 else config.width_multiplier,
    }
    given = {flag: size for flag, size in sizes.items() if size is not None}
    for flag, size in given.items():
        if flag not in inspect.signature(function).parameters:
            raise UsageError.bad_value(flag, size, f"left out: {config.name} does not take it")
    with pinned(dtype_policy):
        keras.backend.reset_uids()  # layers without a name are counted from the start
        network = function(shape, num_classes, seed, **given)
        _check(config.name, network, shape, num_classes)
        plain = flattened(keras.Model(network.inputs, network.outputs))
        x = pixels = keras.Input(shape, name="pixels", dtype="float32")
        if mean is not None or std is not None:
            x = normalization(mean, std, channels=shape[2])(x)
        logits = plain.call(x)  # layer by layer: called, it would be one layer
        if logits.dtype != "float32":
            logits = keras.layers.Activation("linear", dtype="float32", name="logits_float32")(
                logits
            )
        # Cloned, because each layer has been called twice by now.
        network = keras.models.clone_model(keras.Model(pixels, logits, name=config.label))
        network.set_weights(plain.get_weights())
    layers = named_layers(network).values()
    prunable = (keras.layers.Conv2D, keras.layers.Dense)
    kernels = [layer.kernel for layer in layers if isinstance(layer, prunable)]
    if not kernels:
        raise UsageError.bad_value(
            "model", config.name, "a network with Conv2D or Dense layers: no others are pruned"
        )
    if most_weights is not None and sum(math.prod(k.shape) for k in kernels) > most_weights:
        raise UsageError(f"the network has more than {most_weights:,} weights")
    return network


def _check(name: str, network: object, shape: tuple[int, ...], num_classes: int) -> None:
    problem = ""
    if not isinstance(network, keras.Model) or not getattr(network, "_is_graph_network", False):
        problem = f"got {type(network).__name__}"
    elif (network.input_shape, network.output_shape) != ((None, *shape), (None, num_classes)):
        problem = (
            f"got {network.input_shape} to {network.output_shape}, "
            f"must be {(None, *shape)} to {(None, num_classes)}"
        )
    elif any(layer.name == "normalization" for layer in network.layers):
        problem = "got a layer named normalization, which is what --normalize adds"
    if problem:
        raise UsageError.bad_value(
            "model", name, f"a function that gives a functional tf_keras model ({problem})"
        )
