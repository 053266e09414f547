"""What an attack maximises: per example, in float32 whatever the network computes in."""

from __future__ import annotations

from collections.abc import Callable

from tf_lottery.keras import tf
from tf_lottery.types import Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(logits)[y]: logits (batch, classes), y (batch,) -> (batch,)."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, tf.cast(logits, tf.float32))


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit minus true logit, above 0 where misclassified; shapes as above.

    Its gradient does not vanish with confidence, as that of the cross-entropy does.
    """
    logits = tf.cast(logits, tf.float32)
    is_true = tf.one_hot(y, tf.shape(logits)[-1], on_value=True, off_value=False, dtype=tf.bool)
    true = tf.reduce_sum(tf.where(is_true, logits, 0.0), axis=-1)
    wrong = tf.reduce_max(tf.where(is_true, logits.dtype.min, logits), axis=-1)
    return wrong - true


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
}
