"""BatchNorm whose statistics are of the whole batch, however many devices share it."""

from __future__ import annotations

from tf_lottery.keras import keras, tf
from tf_lottery.type_aliases import Tensor


class SynchronizedBatchNorm(keras.layers.BatchNormalization):
    """Computes on its part of a batch what ``BatchNormalization`` computes on all of it.

    For networks as ``models.layers`` makes them: normalised over the last axis, scaled
    and shifted. The layer of Keras with ``synchronized=True`` differs in two ways: its
    variance is E[x^2] - E[x]^2, which cancels, and after a convolution its moving
    variance lacks the factor n / (n - 1) that the layer has on one device, where a
    fused kernel applies it.
    """

    def call(self, inputs, training=None, mask=None):
        replica = tf.distribute.get_replica_context()
        if not training or replica is None:
            return super().call(inputs, training=training, mask=mask)
        x = tf.cast(inputs, tf.float32)
        axes = list(range(x.shape.rank - 1))

        def mean_of(values: Tensor) -> Tensor:
            # Equal parts: the mean of the means is the mean.
            return replica.all_reduce(tf.distribute.ReduceOp.MEAN, tf.reduce_mean(values, axes))

        mean = mean_of(x)
        variance = mean_of(tf.square(x - mean))
        moving = variance
        if x.shape.rank == 4:  # the fused kernel's estimate
            count = tf.cast(tf.size(x) // x.shape[-1], tf.float32) * replica.num_replicas_in_sync
            moving = variance * (count / tf.maximum(count - 1.0, 1.0))
        for average, value in ((self.moving_mean, mean), (self.moving_variance, moving)):
            average.assign(self.momentum * average + (1 - self.momentum) * value)
        normal = tf.nn.batch_normalization(x, mean, variance, self.beta, self.gamma, self.epsilon)
        return tf.cast(normal, self.compute_dtype)
