"""Functions that somebody's package could have, named ``outside_training:function`` in settings."""

import numpy as np

from tf_lottery.keras import tf
from tf_lottery.objectives import cross_entropy, passes

BETA = 6.0
SMOOTHING = 0.1


def divergence(p, logits):
    """KL(p || softmax(logits)), (batch,)."""
    log_q = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    return tf.reduce_sum(p * (tf.math.log(p) - log_q), -1)


@passes(forward=3, input_gradient=2, weight_gradient=2)
def trades(step):
    """Zhang et al. 2019, arXiv 1901.08573, equation 5."""
    frozen = tf.nn.softmax(tf.cast(step.frozen(step.x), tf.float32))
    attacked = step.attack(lambda logits, y: divergence(frozen, logits))
    clean, logits = step.logits(step.x), step.logits(attacked)
    p = tf.nn.softmax(tf.cast(clean, tf.float32))
    apart = tf.reduce_mean(divergence(p, logits))
    return cross_entropy(clean, step.y) + BETA * apart, logits


@passes(attacks=0)
def smoothed(step):
    """Cross-entropy on clean images, the labels smoothed."""
    logits = step.logits(step.x)
    classes = logits.shape[-1]
    target = (1 - SMOOTHING) * tf.one_hot(step.y, classes) + SMOOTHING / classes
    log_p = tf.nn.log_softmax(tf.cast(logits, tf.float32))
    return -tf.reduce_mean(tf.reduce_sum(target * log_p, -1)), logits


def drop_and_grow(step, kernels, masks, gradients):
    """In each layer the smallest fifth of what is left, for as many at random."""
    del gradients
    rng = np.random.default_rng(step)
    new = {}
    for name, mask in masks.items():
        left, free = np.flatnonzero(mask), np.flatnonzero(~mask)
        count = min(len(left) // 5, len(free))
        smallest = np.argsort(np.abs(kernels[name].ravel()[left]), kind="stable")[:count]
        flat = mask.ravel().copy()
        flat[left[smallest]] = False
        flat[rng.choice(free, count, replace=False)] = True
        new[name] = flat.reshape(mask.shape)
    return new
