"""The one place that picks the Keras implementation: ``tf_keras`` (Keras 2).

The pruning wrappers of tensorflow-model-optimization accept only ``tf_keras``
objects. Import ``keras`` and ``tf`` from here, never directly.
"""

import tensorflow as tf
import tf_keras as keras

__all__ = ["keras", "make_deterministic", "tf"]


def make_deterministic(seed: int) -> None:
    """Bit-identical results from now on, for this process, on one machine."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
