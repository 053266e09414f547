"""The one place that picks the Keras implementation: ``tf_keras`` (Keras 2).

The pruning wrappers of tensorflow-model-optimization accept only ``tf_keras``
objects. Import ``keras`` and ``tf`` from here, never directly.
"""

from typing import Any

import tensorflow as tf
import tf_keras as keras

__all__ = ["keras", "make_deterministic", "tf", "tflite_schema"]


def make_deterministic(seed: int) -> None:
    """Bit-identical results from now on, for this process, on one machine."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def tflite_schema() -> Any:
    """The module of the TFLite file format's classes, imported where it is needed."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated
