"""The one place that picks the Keras implementation: ``tf_keras`` (Keras 2).

The pruning wrappers of tensorflow-model-optimization accept only ``tf_keras``
objects. Import ``keras`` and ``tf`` from here, never directly.
"""

import functools
from typing import Any

import tensorflow as tf
import tf_keras as keras
from tensorflow.python.eager import context

__all__ = ["keras", "make_deterministic", "set_worker_timeouts", "tf", "tflite_schema"]


def make_deterministic(seed: int) -> None:
    """Bit-identical results from now on, for this process, on one machine."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def set_worker_timeouts(start: int, silence: int) -> None:
    """How long processes of a ``MultiWorkerMirroredStrategy`` made later are waited for.

    TensorFlow has 10 seconds of silence, in which a machine may well stand still, and no
    public way to change that.

    Args:
      start: seconds until all have to be there.
      silence: seconds after which one counts as lost.
    """
    here = context.context()
    here.configure_coordination_service = functools.partial(
        type(here).configure_coordination_service,
        here,
        cluster_register_timeout_in_ms=1000 * start,
        heartbeat_timeout_in_ms=1000 * silence,
    )


def tflite_schema() -> Any:
    """The module of the TFLite file format's classes, imported where it is needed."""
    from tensorflow.lite.python import schema_py_generated

    return schema_py_generated
