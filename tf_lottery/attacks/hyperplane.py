"""The nearest point of a hyperplane within [0, 1] pixels, in l_inf and l_2.

Where an attack takes the network for linear, this is its step: the smallest perturbation
that reaches the linearised decision boundary without leaving the box.
"""

from __future__ import annotations

from tf_lottery.keras import tf
from tf_lottery.type_aliases import Tensor

_STEPS = 40  # Newton steps at most; random images take 5 to 13, the worst tried 22
_SETTLED = 1e-6  # relative growth of lambda below which it counts as found
_FARTHEST = 1e30  # of lambda: finite, so that it may be multiplied by a weight of 0


def distances(normals: Tensor, gaps: Tensor, norm: str) -> Tensor:
    """How far hyperplanes are, were there no box: |gap| over the dual norm of the normal.

    Args:
      normals: w, float32 (batch, height, width, channels).
      gaps: b - <w, x>, (batch,).
      norm: ``linf`` (its dual is l_1) or ``l2``.

    Returns:
      float32 (batch,); infinite where the normal is 0.
    """
    largest, weights = _scaled(normals)
    if norm == "linf":
        dual = tf.reduce_sum(weights, axis=(1, 2, 3))
    else:
        dual = tf.sqrt(tf.reduce_sum(tf.square(weights), axis=(1, 2, 3)))
    far = tf.abs(gaps) / largest[:, 0, 0, 0] / dual
    return tf.where(dual > 0, far, float("inf"))


def to_hyperplane(points: Tensor, normals: Tensor, gaps: Tensor, norm: str) -> Tensor:
    """The smallest step that closes the gap to a hyperplane and stays in the box.

    min ||d|| so that <w, d> = gap and 0 <= x + d <= 1 (the projection of Croce & Hein
    2020, arXiv 1907.02044). Every pixel moves the way that helps, by lambda (l_inf) or
    lambda |w_i| (l_2), or by what room it has if that is less; what all of them gain,

      G(lambda) = sum_i |w_i| min(lambda m_i, room_i),  m_i = 1 or |w_i|,

    is concave, piecewise linear and rises, so Newton's steps from 0 never pass the
    lambda at which G is |gap|: no sorting of the pixels is needed.

    Args:
      points: x, float32 (batch, height, width, channels) in [0, 1].
      normals: w, of the same shape and of any scale; an entry that is no finite number
        counts as 0.
      gaps: b - <w, x> of the hyperplane <w, .> = b, (batch,). Given as a difference
        because for nearby planes b and <w, x> cancel. NaN counts as 0.
      norm: ``linf`` or ``l2``.

    Returns:
      d, shaped as ``points``. Where the box lets no step close the gap, the one that
      comes nearest: each pixel with a weight at its end. 0 where the normal is 0.
    """
    largest, weights = _scaled(normals)
    gaps = tf.where(tf.math.is_nan(gaps), 0.0, gaps)[:, None, None, None]
    wanted = tf.abs(gaps) / largest
    towards = tf.sign(gaps) * tf.sign(tf.where(weights > 0, normals, 0.0))
    room = tf.maximum(tf.where(towards > 0, 1 - points, points), 0.0)
    pace = tf.ones_like(weights) if norm == "linf" else weights

    def total(values):
        return tf.reduce_sum(values, axis=(1, 2, 3), keepdims=True)

    def climb(step, lam, active):
        missing = wanted - total(weights * tf.minimum(lam * pace, room))
        slope = total(tf.where(lam * pace < room, weights * pace, 0.0))
        further = lam + tf.maximum(tf.math.divide_no_nan(missing, slope), 0.0)
        further = tf.minimum(further, _FARTHEST)
        grown = active & (further > lam * (1 + _SETTLED))
        # An example that has settled stays as it is, whatever else is in the batch.
        return step + 1, tf.where(grown, further, lam), grown

    within_reach = wanted < total(weights * room)
    _, lam, _ = tf.while_loop(
        lambda step, lam, active: (step < _STEPS) & tf.reduce_any(active),
        climb,
        (0, tf.zeros_like(wanted), within_reach),
    )
    return towards * tf.where(within_reach, tf.minimum(lam * pace, room), room)


def _scaled(normals: Tensor) -> tuple[Tensor, Tensor]:
    """Largest magnitude (batch, 1, 1, 1), 1 where there is none, and magnitudes over it.

    Gradients may be so small or large that their squares leave float32.
    """
    size = tf.abs(tf.where(tf.math.is_finite(normals), normals, 0.0))
    largest = tf.reduce_max(size, axis=(1, 2, 3), keepdims=True)
    largest = tf.where(largest > 0, largest, 1.0)
    return largest, size / largest
