"""The set of images an attack may choose from."""

from __future__ import annotations

from tf_lottery.keras import tf
from tf_lottery.types import Tensor


def project(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """The point nearest to ``x_adv`` in the l_inf ball around ``x``, then in the [0, 1] box.

    Both are boxes and ``x`` lies in the second, so that is a point of both. With
    ``eps`` 0 it is ``x`` exactly.
    """
    return tf.clip_by_value(tf.clip_by_value(x_adv, x - eps, x + eps), 0.0, 1.0)
