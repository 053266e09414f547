"""Whether a frozen network is the network: its outputs and input gradients, on a few images.

Rounding differs between the two, and how much it may depends on the network: a unit so near
0 that rounding decides its sign changes a gradient visibly. So the network's own outputs and
gradients at images moved by rounding are the measure, beside a share of their size.
"""

from __future__ import annotations

import functools

import numpy as np

from tf_lottery.errors import FrozenError
from tf_lottery.keras import full_float32, keras, tf
from tf_lottery.models.frozen import frozen_layers, frozen_logits
from tf_lottery.type_aliases import LogitsFn, Tensor

PROBED = 16  # images compared
_MOVED = 8  # units of rounding, by which images are moved
_TIMES = 10  # the change that this makes is nothing of note
# Of the largest output and of an image's gradient; in units of rounding, where these are coarse.
_OUTPUT, _OUTPUT_UNITS = 1e-3, 32
_GRADIENT, _GRADIENT_UNITS = 0.02, 64
_NOTHING = 1e-6  # of outputs around 0
_UNITS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def check_frozen(network: keras.Model, images: np.ndarray) -> None:
    """Compares ``frozen_logits(network)`` with ``network``, with the weights that it has now.

    Without a graph, which would cost more than the few passes.

    Args:
      network: ``tf_keras`` model.
      images: float32 (n, height, width, channels) in [0, 1], n > 0; the first are used.

    Raises:
      FrozenError: they differ by more than rounding; names the first layer that does.
    """
    steps = frozen_layers(network)
    if steps is None:  # what is called as it is cannot differ
        return
    unit = max(
        _UNITS.get(str(layer.compute_dtype), 2.0**-23) for layer in network._flatten_layers()
    )
    with full_float32():
        images = _some(images)
        own = functools.partial(network, training=False)
        difference = _difference(own, frozen_logits(network), images, unit)
        if not difference:
            return
        for step in steps:
            part = keras.Model(network.inputs, step.output)
            found = _difference(functools.partial(part, training=False), step.run, images, unit)
            if found:
                difference = found
                break
    raise FrozenError(
        f"the network that attacks differentiate is not {network.name!r} itself: at layer "
        f"{step.layer.name!r} ({type(step.layer).__name__}) {difference}; evaluate a function "
        "instead, such as lambda images: model(images, training=False)"
    )


def _difference(own: LogitsFn, frozen: LogitsFn, images: np.ndarray, unit: float) -> str:
    """What differs by more than rounding; empty where nothing does."""
    signs = np.random.default_rng(0).choice([-1, 1], images.shape)
    moved = (images + _MOVED * unit * signs).astype(np.float32)
    (expected, slope), (near, near_slope), (got, got_slope) = (
        [tensor.numpy() for tensor in _output_and_gradient(function, tf.constant(at))]
        for function, at in ((own, images), (own, moved), (frozen, images))
    )
    return _outputs_differ(expected, near, got, unit) or _gradients_differ(
        slope, near_slope, got_slope, unit
    )


def _some(images: np.ndarray) -> np.ndarray:
    """``PROBED`` of them; where there are fewer, they come again with a little noise."""
    few = images[:PROBED].astype(np.float32)
    filled = np.resize(few, (PROBED, *few.shape[1:]))
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
