"""Lengths, directions and balls in l_inf and l_2, per example, on [0, 1] pixels."""

from __future__ import annotations

from tf_lottery.keras import tf
from tf_lottery.type_aliases import Tensor

_TINY = 1e-12


def length(delta: Tensor, norm: str) -> Tensor:
    """The norm of each perturbation: (batch, height, width, channels) -> (batch,)."""
    if norm == "linf":
        return tf.reduce_max(tf.abs(delta), axis=(1, 2, 3))
    return tf.sqrt(tf.reduce_sum(tf.square(delta), axis=(1, 2, 3)))


def direction(gradient: Tensor, norm: str) -> Tensor:
    """The perturbation of length 1 along which a linear loss rises most.

    The sign for l_inf, the normalised gradient for l_2; 0 where the gradient is 0 or
    is no number.
    """
    gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
    if norm == "linf":
        return tf.sign(gradient)
    # By the largest entry first: squares of very large or small ones leave float32.
    largest = tf.reduce_max(tf.abs(gradient), axis=(1, 2, 3), keepdims=True)
    scaled = tf.math.divide_no_nan(gradient, largest)
    size = tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=(1, 2, 3), keepdims=True))
    return tf.math.divide_no_nan(scaled, size)


def project(x_adv: Tensor, x: Tensor, eps: float, norm: str = "linf") -> Tensor:
    """The point nearest to ``x_adv`` in the ball around ``x``, then in the [0, 1] box.

    ``x`` lies in the box, so clipping to it only shortens the perturbation: the result
    is in both. With ``eps`` 0 it is ``x`` exactly.
    """
    if norm == "linf":
        return tf.clip_by_value(tf.clip_by_value(x_adv, x - eps, x + eps), 0.0, 1.0)
    delta = x_adv - x
    size = length(delta, norm)[:, None, None, None]
    shrunk = delta * tf.minimum(1.0, eps / tf.maximum(size, _TINY))
    return tf.clip_by_value(x + shrunk, 0.0, 1.0)


def onto_sphere(delta: Tensor, eps: float, norm: str) -> Tensor:
    """``delta`` scaled to the length ``eps``; 0 stays 0."""
    if norm == "linf":
        size = tf.reduce_max(tf.abs(delta), axis=(1, 2, 3), keepdims=True)
        return eps * tf.math.divide_no_nan(delta, size)
    return eps * direction(delta, norm)
