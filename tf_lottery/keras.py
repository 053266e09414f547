"""The one place that picks the Keras implementation: ``tf_keras`` (Keras 2).

The pruning wrappers of tensorflow-model-optimization accept only ``tf_keras``
objects. Import ``keras`` and ``tf`` from here, never directly.
"""

import tensorflow as tf
import tf_keras as keras

__all__ = ["keras", "tf"]
