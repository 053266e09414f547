"""Whether a frozen network is the network: its outputs and input gradients, on a few images.

Rounding differs between the two, and how much it may depends on the network: a unit so near
0 that rounding decides its sign changes a gradient visibly. So the network's own outputs and
gradients at images moved by rounding are the measure, beside a share of their size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tf_lottery.errors import FrozenError
from tf_lottery.keras import keras, tf
from tf_lottery.models.frozen import FrozenLayer, frozen_layers, frozen_logits
from tf_lottery.type_aliases import LogitsFn, Tensor

_IMAGES = 16
_MOVED = 8  # units of rounding, by which images are moved
_TIMES = 10  # the change that this makes is nothing of note
# Of the largest output and of an image's gradient; in units of rounding, where these are coarse.
_OUTPUT, _OUTPUT_UNITS = 1e-3, 32
_GRADIENT, _GRADIENT_UNITS = 0.02, 64
_NOTHING = 1e-6  # of outputs around 0
_UNITS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


class FrozenCheck:
    """Compares ``frozen_logits(network)`` with ``network``; compiled once, for any weights.

    Args:
      network: ``tf_keras`` model.
    """

    def __init__(self, network: keras.Model):
        self._network = network
        self._unit = max(
            _UNITS.get(str(layer.compute_dtype), 2.0**-23) for layer in network._flatten_layers()
        )
        self._both = None
        if frozen_layers(network) is not None:  # what is called as it is cannot differ
            self._both = self._measuring(
                lambda: lambda images: network(images, training=False),
                lambda: frozen_logits(network),
            )

    def __call__(self, images: np.ndarray) -> None:
        """Compares on the first of the images.

        Args:
          images: float32 (n, height, width, channels) in [0, 1], n > 0.

        Raises:
          FrozenError: they differ by more than rounding; names the first layer that does.
        """
        if self._both is None:
            return
        images = _some(images)
        difference = self._difference(self._both, images)
        if difference:
            raise FrozenError(self._blame(images, difference))

    def _measuring(self, own: Callable[[], LogitsFn], frozen: Callable[[], LogitsFn]) -> Callable:
        @tf.function
        def both(images, moved):
            network = own()
            return (
                _output_and_gradient(network, images),
                _output_and_gradient(network, moved),
                _output_and_gradient(frozen(), images),
            )

        return both

    def _difference(self, both: Callable, images: np.ndarray) -> str:
        """What differs by more than rounding; empty where nothing does."""
        signs = np.random.default_rng(0).choice([-1, 1], images.shape)
        moved = (images + _MOVED * self._unit * signs).astype(np.float32)
        own, near, frozen = ([t.numpy() for t in pair] for pair in both(images, moved))
        outputs = _outputs_differ(own[0], near[0], frozen[0], self._unit)
        return outputs or _gradients_differ(own[1], near[1], frozen[1], self._unit)

    def _blame(self, images: np.ndarray, difference: str) -> str:
        steps = frozen_layers(self._network)
        assert steps
        for step in steps:
            found = self._difference(self._till(step), images)
            if found:
                break
        else:
            found = difference
        return (
            f"the network that attacks differentiate is not {self._network.name!r} itself: at "
            f"layer {step.layer.name!r} ({type(step.layer).__name__}) {found}; attack a function "
            "instead, such as lambda images: model(images, training=False)"
        )

    def _till(self, step: FrozenLayer) -> Callable:
        part = keras.Model(self._network.inputs, step.output)
        name = step.layer.name

        def frozen() -> LogitsFn:
            steps = frozen_layers(self._network) or ()
            return next(other.run for other in steps if other.layer.name == name)

        return self._measuring(lambda: lambda images: part(images, training=False), frozen)


def _some(images: np.ndarray) -> np.ndarray:
    """``_IMAGES`` of them; where there are fewer, they come again with a little noise."""
    few = images[:_IMAGES].astype(np.float32)
    filled = np.resize(few, (_IMAGES, *few.shape[1:]))
    filled[len(few) :] += np.random.default_rng(1).uniform(-0.03, 0.03, filled[len(few) :].shape)
    return np.clip(filled, 0, 1)


def _output_and_gradient(function: LogitsFn, images: Tensor) -> tuple[Tensor, Tensor]:
    """In float32; the gradient of a random direction of the output."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        output = tf.cast(function(images), tf.float32)
        direction = tf.random.stateless_normal(tf.shape(output), (3, 4))
        total = tf.reduce_sum(output * direction)
    zero = tf.UnconnectedGradients.ZERO
    return output, tape.gradient(total, images, unconnected_gradients=zero)


def _outputs_differ(own, near, frozen, unit: float) -> str:
    finite = np.isfinite(own)
    if (finite != np.isfinite(frozen)).any():
        return "one of the two outputs is not finite"
    own, near, frozen = (np.where(finite, values, 0) for values in (own, near, frozen))
    largest, error = np.abs(own).max(), np.abs(frozen - own).max()
    allowed = max(_OUTPUT, _OUTPUT_UNITS * unit) * largest + _NOTHING
    allowed += _TIMES * np.abs(np.nan_to_num(near) - own).max()
    if error <= allowed:
        return ""
    return f"outputs as large as {largest:.3g} differ by {error:.3g}"


def _gradients_differ(own, near, frozen, unit: float) -> str:
    """Of most images, since one unit near 0 changes all that an image's gradient has."""
    own, near, frozen = (_rows(values) for values in (own, near, frozen))
    size, error = (np.linalg.norm(rows, axis=1) for rows in (own, frozen - own))
    allowed = max(_GRADIENT, _GRADIENT_UNITS * unit) * np.maximum(size, 1e-3 * size.max())
    allowed += _TIMES * np.linalg.norm(near - own, axis=1)
    beyond = error > allowed
    if beyond.mean() <= 0.5:
        return ""
    share = float(np.median(error / np.maximum(size, 1e-30)))
    return f"input gradients differ by {share:.3g} of their length"


def _rows(gradients: np.ndarray) -> np.ndarray:
    return np.nan_to_num(gradients.astype(np.float64), posinf=0, neginf=0).reshape(
        len(gradients), -1
    )
