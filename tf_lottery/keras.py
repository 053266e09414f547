"""The one place that picks the Keras implementation: ``tf_keras`` (Keras 2).

The pruning wrappers of tensorflow-model-optimization accept only ``tf_keras``
objects. Import ``keras`` and ``tf`` from here, never directly.
"""

import contextlib
import functools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tensorflow.python.eager import context
from tensorflow.python.util import _pywrap_determinism
from tf_keras.src.mixed_precision import policy

from tf_lottery.errors import UsageError

__all__ = [
    "deterministic",
    "executed_as_graphs",
    "full_float32",
    "keras",
    "pinned",
    "refuse_scopes",
    "set_worker_timeouts",
    "tf",
    "tflite_schema",
]


@contextlib.contextmanager
def deterministic(seed: int | None) -> Iterator[None]:
    """Bit-identical results on one machine, or not; afterwards as it was before.

    Args:
      seed: of the global generators, which layers of somebody's own may draw from; ``None``:
        sums are made in whatever order is fastest, also where somebody has called
        ``enable_op_determinism``, which changes last bits.
    """
    before = _pywrap_determinism.is_enabled()
    states = random.getstate(), np.random.get_state(), context.global_seed()
    if seed is not None:
        keras.utils.set_random_seed(seed)
    _pywrap_determinism.enable(seed is not None)
    try:
        yield
    finally:
        _pywrap_determinism.enable(before)
        if seed is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
            context.set_global_seed(states[2])


@contextlib.contextmanager
def executed_as_graphs() -> Iterator[None]:
    """TensorFlow runs functions as it does unless told otherwise; restored afterwards.

    Functions as graphs, whatever ``tf.config.run_functions_eagerly`` was told; without XLA and
    half precision behind their back (``tf.config.optimizer``). NumPy does not raise for what
    overflows on its way to an error of ours. What a network reads of Keras' state stays.
    """
    eagerly, jit = tf.config.functions_run_eagerly(), tf.config.optimizer.get_jit()
    options = tf.config.optimizer.get_experimental_options()
    halved = options.get("auto_mixed_precision", False)
    tf.config.run_functions_eagerly(False)
    try:
        if jit:
            tf.config.optimizer.set_jit(False)
        if halved:
            tf.config.optimizer.set_experimental_options({"auto_mixed_precision": False})
        with np.errstate(all="warn", under="ignore"):
            yield
    finally:
        tf.config.run_functions_eagerly(eagerly)
        if jit:
            tf.config.optimizer.set_jit(jit)
        if halved:
            tf.config.optimizer.set_experimental_options({"auto_mixed_precision": halved})


@contextlib.contextmanager
def pinned(dtype_policy: str = "float32") -> Iterator[None]:
    """The ambient state that networks are made and trained in; restored afterwards.

    That of a fresh TensorFlow and Keras: keys of stages do not name it. ``~/.keras/keras.json``
    and calls such as ``set_floatx`` and ``set_global_policy`` change it.

    Args:
      dtype_policy: of layers that are made without one.
    """
    backend, tf32 = keras.backend, tf.config.experimental.tensor_float_32_execution_enabled
    before = (
        backend.floatx(), backend.epsilon(), backend.image_data_format(),
        policy._global_policy, tf32(),  # None follows floatx, and is to do so again
    )  # fmt: skip
    with executed_as_graphs():
        try:
            _set_keras("float32", 1e-7, "channels_last", dtype_policy, True)
            yield
        finally:
            _set_keras(*before)


def _set_keras(floatx: str, epsilon: float, images: str, dtypes: Any, tf32: bool) -> None:
    keras.backend.set_floatx(floatx)
    keras.backend.set_epsilon(epsilon)
    keras.backend.set_image_data_format(images)
    keras.mixed_precision.set_global_policy(dtypes)
    if tf.config.experimental.tensor_float_32_execution_enabled() != tf32:
        tf.config.experimental.enable_tensor_float_32_execution(tf32)


def refuse_scopes(strategies: bool = True) -> None:
    """Raises ``UsageError`` where what is called would become part of something else's.

    Args:
      strategies: in the scope of a ``tf.distribute`` strategy too.
    """
    if not tf.executing_eagerly():
        raise UsageError(
            "called where operations build a graph (in a tf.function, in a tf.Graph, or after "
            "disable_eager_execution); call it outside"
        )
    if strategies and tf.distribute.has_strategy():
        raise UsageError(
            "called in the scope of a tf.distribute strategy; call it outside: --distribute "
            "shares trainings between devices"
        )


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Products in float32 as they are written: GPUs may otherwise round to TensorFloat-32.

    Functions run as graphs, see ``executed_as_graphs``.

    Raises:
      UsageError: called where a graph is built.
    """
    refuse_scopes(strategies=False)
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        with executed_as_graphs():
            yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


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
