"""Which values of a network are the same for every image, and which weights are read.

A channel's value is a float64 number where it is the same for every image and, but for
rounding, at every position, else NaN. Two sets of rules give the same answers to
``channels``: ``InInference`` from the weights as they are, ``ThroughoutTraining`` from the
masks alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from tf_lottery.keras import keras, tf


class Rules(Protocol):
    """What ``channels`` asks about layers. ``values`` has an entry for each input channel."""

    def reads(self, layer: Any) -> np.ndarray:
        """bool (inputs, outputs): the output of a Conv2D or Dense may depend on the input."""

    def folds(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """bool (inputs,): a Conv2D or Dense can do without the input, at most by another bias."""

    def read(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """Values behind a Conv2D or Dense."""

    def normalized(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """Values behind a BatchNormalization."""

    def activated(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """Values behind an activation layer."""


class InInference:
    """The rules for weights that stay as they are, BatchNorm using its moving averages."""

    def reads(self, layer: Any) -> np.ndarray:
        """See ``Rules``."""
        return _any_weight(layer.kernel.numpy() != 0)

    def folds(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """Constants that the bias can take over exactly.

        A border of zeros is no part of a constant other than zero, so that one stays in front
        of a convolution that pads.
        """
        return np.isfinite(values) & ((values == 0) | (not pads(layer)))

    def read(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """See ``Rules``."""
        varying = self.reads(layer) & ~self.folds(layer, values)[:, None]
        result = folded_bias(layer, values)
        if layer.use_bias:
            result = result + layer.bias.numpy()
        return _elementwise(layer.activation, np.where(varying.any(axis=0), np.nan, result))

    def normalized(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """See ``Rules``; a channel of scale 0 is constant whatever it is made of."""
        scale = np.ones_like(values) if layer.gamma is None else layer.gamma.numpy()
        shift = np.zeros_like(values) if layer.beta is None else layer.beta.numpy()
        deviation = np.sqrt(layer.moving_variance.numpy().astype(np.float64) + layer.epsilon)
        scaled = scale * ((values - layer.moving_mean.numpy()) / deviation)
        return np.where(scale == 0, shift, scaled + shift)

    def activated(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """See ``Rules``."""
        return _elementwise(layer, values)


class ThroughoutTraining:
    """The rules for masked weights that are still to be trained: only zeros are constant.

    Args:
      masks: layer name -> bool, of its kernel's shape.
      held: BatchNorm layer name -> bool (channels,), True where its scale and shift are
        held at 0.
    """

    def __init__(self, masks: Mapping[str, np.ndarray], held: Mapping[str, np.ndarray]):
        self._masks = masks
        self._held = held

    def reads(self, layer: Any) -> np.ndarray:
        """See ``Rules``."""
        return _any_weight(np.asarray(self._masks[layer.name], bool))

    def folds(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """See ``Rules``; a zero adds nothing, and there are no other constants."""
        return values == 0

    def read(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """Zero without a bias, which would be trained."""
        varying = (self.reads(layer) & ~self.folds(layer, values)[:, None]).any(axis=0)
        zeros = np.where(varying | layer.use_bias, np.nan, 0.0)
        return _only_zeros(_elementwise(layer.activation, zeros))

    def normalized(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """Zero where scale and shift are held at zero."""
        held = self._held.get(layer.name, np.zeros(len(values), bool))
        return np.where(held, 0.0, np.nan)

    def activated(self, layer: Any, values: np.ndarray) -> np.ndarray:
        """See ``Rules``."""
        return _only_zeros(_elementwise(layer, values))


def pads(layer: Any) -> bool:
    """True for a convolution whose windows may reach over the border."""
    return (
        isinstance(layer, keras.layers.Conv2D)
        and layer.padding != "valid"
        and max(layer.kernel_size) > 1
    )


def folded_bias(layer: Any, values: np.ndarray) -> np.ndarray:
    """What constant inputs add to each output of a Conv2D or Dense: float64 (outputs,).

    Args:
      values: as above; those that are not constant add nothing here.
    """
    kernel = layer.kernel.numpy().astype(np.float64)
    return np.nan_to_num(values) @ kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0)


def _any_weight(kept: np.ndarray) -> np.ndarray:
    """(..., inputs, outputs) -> (inputs, outputs), True where any position is."""
    return np.any(kept.reshape(-1, *kept.shape[-2:]), axis=0)


def _elementwise(function: Any, values: np.ndarray) -> np.ndarray:
    """The function on the constants alone: some functions make a number of NaN."""
    constant = ~np.isnan(values)
    given = tf.constant(np.where(constant, values, 0.0)[None], tf.float32)
    return np.where(constant, np.asarray(function(given))[0].astype(np.float64), np.nan)


def _only_zeros(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, 0.0, np.nan)
