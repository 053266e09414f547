"""The one place that picks the Keras implementation: ``tf_keras`` (Keras 2).

The pruning wrappers of tensorflow-model-optimization accept only ``tf_keras``
objects. Import ``keras`` and ``tf`` from here, never directly.
"""

import functools
from typing import Any

import tensorflow as tf
import tf_keras as keras
from tensorflow.python.eager import context

__all__ = ["keras", "make_deterministic", "set_heartbeat_timeout", "tf", "tflite_schema"]


def make_deterministic(seed: int) -> None:
    """Bit-identical results from now on, for this process, on one machine."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def set_heartbeat_timeout(seconds: int) -> None:
    """How long a process of a ``MultiWorkerMirroredStrategy`` may be silent.

    The strategies made from now on hold it for dead then. TensorFlow has 10 seconds, in
    which a machine may well stand still, and no public way to change that.
    """
    here = context.context()
    here.configure_coordination_service = functools.partial(
        type(here).configure_coordination_service, here, heartbeat_timeout_in_ms=1000 * seconds
    )


def tflite_schema() -> Any:
    """The module of the TFLite file format's classes, imported where it is needed."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated
