"""Inference-mode logits of whatever a user calls a model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tf_lottery.keras import executed_as_graphs, keras, refuse_scopes, tf
from tf_lottery.models.frozen import frozen_logits
from tf_lottery.type_aliases import LogitsFn

_HALF = ("float16", "bfloat16")


def logits_function(model: Any) -> LogitsFn:
    """An inference-mode ``images -> float32 logits`` function of a model.

    Args:
      model: a ``tf_keras`` model or one of Keras 3 on TensorFlow, a model loaded by
        ``tf.saved_model.load`` (with a ``logits`` function as this package exports it, or
        one float image input in its ``serving_default`` signature), or any function
        made of TensorFlow operations (attacks differentiate it).

    Raises:
      ValueError: a layer computes in half precision, in which gradients of
        confident networks vanish and robustness is overstated; or no output fits.
    """
    layers = _keras_layers(model)
    if layers is not None:
        half = [layer.name for layer in layers if _compute_dtype(layer) in _HALF]
        if half:
            raise ValueError(
                f"layer {half[0]} computes in half precision; evaluate a float32 copy of the model"
            )
        return lambda x: tf.cast(model(x, training=False), tf.float32)
    if hasattr(model, "signatures") and not callable(model):
        return model.logits if hasattr(model, "logits") else _signature_function(model)
    if not callable(model):
        raise ValueError(f"{type(model).__name__} is neither a model nor a function of images")
    return lambda x: tf.cast(model(x), tf.float32)


def freezer(model: Any) -> Callable[[], LogitsFn]:
    """What makes the function that attacks differentiate, for a graph being traced.

    Of a ``tf_keras`` model it is the frozen one (see ``models.frozen``), of
    anything else ``logits_function``. Verdicts are always the latter's.

    Raises:
      ValueError: as ``logits_function``.
    """
    logits_fn = logits_function(model)
    if isinstance(model, keras.Model):
        return lambda: frozen_logits(model)
    return lambda: logits_fn


def predicted_classes(logits: Any) -> np.ndarray:
    """int32 (batch,): the class of the largest logit; -1, no class, where one is NaN.

    Raises:
      ValueError: not one row of logits an image.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2:
        raise ValueError(
            f"the model gives outputs of shape {logits.shape}; (batch, classes) logits are needed"
        )
    unknown = np.isnan(logits).any(axis=-1)
    return np.where(unknown, -1, np.argmax(logits, axis=-1)).astype(np.int32)


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


def _keras_layers(model: Any) -> Iterable[Any] | None:
    """All layers of a Keras model of either version, nested ones too; else ``None``."""
    if isinstance(model, keras.Model):
        return model._flatten_layers()
    # Without importing Keras 3, which few need.
    if any(kind.__module__.split(".")[0] == "keras" for kind in type(model).__mro__):
        return model._flatten_layers()
    return None


def _compute_dtype(layer: Any) -> str:
    return str(getattr(layer, "compute_dtype", "float32"))


def half_precision_operations(logits_fn: LogitsFn, image_shape: tuple[int, ...]) -> list[str]:
    """Names of the operations of a network's graph that give half-precision tensors.

    Looks into functions that the graph calls, so it sees SavedModels through.
    """
    spec = tf.TensorSpec([None, *image_shape], tf.float32)
    graph = tf.function(logits_fn).get_concrete_function(spec).graph
    half = {tf.float16, tf.bfloat16}
    found = [
        operation.name
        for operation in graph.get_operations()
        if any(output.dtype.base_dtype in half for output in operation.outputs)
    ]
    numbers = {dtype.as_datatype_enum for dtype in half}
    for function in graph.as_graph_def().library.function:
        for node in function.node_def:
            types = (node.attr[key].type for key in ("T", "dtype", "DstT") if key in node.attr)
            if numbers.intersection(types):
                found.append(f"{function.signature.name}/{node.name}")
    return found


def _signature_function(model: Any) -> LogitsFn:
    signatures = model.signatures
    if "serving_default" not in signatures:
        raise ValueError("the SavedModel has no serving_default signature and no logits function")
    signature = signatures["serving_default"]
    inputs = signature.structured_input_signature[1]
    outputs = signature.structured_outputs
    name = "logits" if "logits" in outputs else next(iter(outputs))
    if len(inputs) != 1 or (len(outputs) != 1 and name != "logits"):
        raise ValueError(
            f"serving_default takes {sorted(inputs)} and gives {sorted(outputs)}; "
            "one image input and an output named logits are needed"
        )
    argument, spec = next(iter(inputs.items()))
    if spec.dtype != tf.float32:
        raise ValueError(
            f"serving_default takes {spec.dtype.name} images; float32 in [0, 1] is needed, "
            "for gradients with respect to the pixels"
        )
    return functools.partial(_call_signature, signature, argument, name)


def _call_signature(signature: Any, argument: str, name: str, x: Any) -> Any:
    return tf.cast(signature(**{argument: x})[name], tf.float32)
