"""What an attack maximises: per example, in float32 whatever the network computes in."""

from __future__ import annotations

from collections.abc import Callable

from tf_lottery.keras import tf
from tf_lottery.type_aliases import Tensor

_TINY = 1e-12


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(logits)[y]: logits (batch, classes), y (batch,) -> (batch,)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float32))


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit minus true logit, above 0 where misclassified; shapes as above.

    Its gradient does not vanish with confidence, as that of the cross-entropy does.
    """
    logits = tf.cast(logits, tf.float32)
    return tf.reduce_max(wrong_logits(logits, y), axis=-1) - _logit(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, eq. 6): the margin over z_1 - z_3.

    z_i are the logits in descending order. Like the margin it survives a shift of the
    logits, and a scaling too. With fewer than 3 classes there is no z_3: the margin
    itself is taken.
    """
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] < 3:
        return margin(logits, y)
    top = tf.math.top_k(logits, 3).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """(z_target - z_y) over z_1 - (z_3 + z_4) / 2 (Croce & Hein 2020, eq. 7).

    With fewer than 4 classes there is no z_4: the plain difference is taken.
    """
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] < 4:
        return logit_difference(logits, y, target)
    top = tf.math.top_k(logits, 4).values
    scale = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return logit_difference(logits, y, target) / (scale + _TINY)


def logit_difference(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """z_target - z_y, above 0 where the target is likelier than the true class."""
    logits = tf.cast(logits, tf.float32)
    return _logit(logits, target) - _logit(logits, y)


def wrong_logits(logits: Tensor, y: Tensor) -> Tensor:
    """The logits, the true one replaced by the lowest float."""
    return tf.where(_is_class(logits, y), logits.dtype.min, logits)


def ranked_target(logits: Tensor, y: Tensor, rank: Tensor | int) -> Tensor:
    """The wrong class of that rank, 0 being the likeliest: int32 (batch,)."""
    wrong = tf.cast(logits, tf.float32)
    wrong = wrong_logits(wrong, y)
    order = tf.math.top_k(wrong, wrong.shape[-1]).indices
    return tf.gather(order, rank, axis=1)


def _is_class(logits: Tensor, y: Tensor) -> Tensor:
    return tf.one_hot(y, tf.shape(logits)[-1], on_value=True, off_value=False, dtype=tf.bool)


def _logit(logits: Tensor, y: Tensor) -> Tensor:
    return tf.reduce_sum(tf.where(_is_class(logits, y), logits, 0.0), axis=-1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}
