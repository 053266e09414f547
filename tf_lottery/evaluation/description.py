"""What a model takes and gives, of whatever kind it is: read once, checked before anything runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tf_lottery.keras import keras, tf
from tf_lottery.type_aliases import LogitsFn, Tensor

_HALF = ("float16", "bfloat16")
_WRAP = "pass a function of images instead, such as lambda images: "


@dataclasses.dataclass(frozen=True)
class Description:
    """A model as a function of images, and what is known of its input.

    Attributes:
      kind: for people.
      run: its input, as it takes it -> its outputs, as it gives them, in inference mode.
      name: of the input; empty where nothing is known of it.
      dtype: of the input.
      shape: of the input, the batch first; ``None`` where unknown.
      network: the model, if it is one of ``tf_keras``.
    """

    kind: str
    run: Callable[[Tensor], Any]
    name: str = ""
    dtype: str = "float32"
    shape: tuple[int | None, ...] | None = None
    network: keras.Model | None = None

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """(height, width, channels), ``None`` where unknown."""
        shape = (self.shape or (None,) * 4)[1:]
        if len(shape) == 3:
            return shape
        return (*shape, 1) if len(shape) == 2 else (None, None, 1)

    def logits(self, images: Tensor) -> Tensor:
        """float32 (batch, h, w, c) in [0, 1] -> float32 (batch, classes)."""
        return self.adapted(self.run)(images)

    def adapted(self, run: Callable[[Tensor], Any]) -> LogitsFn:
        """``run`` behind the conversions of the model's input, before those of its output."""

        def logits_fn(images: Tensor) -> Tensor:
            return tf.cast(_one_output(run(self._input(images))), tf.float32)

        return logits_fn if self._batch is None else _in_parts(logits_fn, self._batch)

    @property
    def _batch(self) -> int | None:
        """The only size of a batch that is taken; Keras says one, but takes any."""
        return self.shape[0] if self.shape is not None and self.kind == "SavedModel" else None

    def _input(self, images: Tensor) -> Tensor:
        if self.shape is not None and len(self.shape) < 4:  # of one channel, see _checked
            images = tf.reshape(images, (-1, *self.shape[1:]))
        return images if self.dtype == "float32" else tf.cast(images, self.dtype)

    def check(self, image_shape: tuple[int, ...]) -> int | None:
        """Traces the model on images of a shape; gives its number of classes, if it says so.

        Raises:
          ValueError: it takes other images, cannot be traced, or gives no row of float
            logits an image.
        """
        self._check_shape(tuple(image_shape))
        spec = tf.TensorSpec([self._batch, *image_shape], tf.float32)
        run, give = self.run, self._input
        try:
            traced = tf.function(lambda images: run(give(images))).get_concrete_function(spec)
        except Exception as error:  # whatever the model raises
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = f"{type(error).__name__}: {lines[-1][:300]}" if lines else type(error).__name__
            raise ValueError(
                f"the {self.kind} cannot be run by TensorFlow on images of shape "
                f"{tuple(spec.shape)}: {why}"
            ) from error
        return _check_outputs(traced.structured_outputs, self._batch)

    def _check_shape(self, image_shape: tuple[int, ...]) -> None:
        ours = self.shape[1:] if self.shape is not None else None
        if ours is None:
            return
        if len(ours) == 3:
            fits = all(a in (None, b) for a, b in zip(ours, image_shape, strict=True))
        else:  # (height, width) or all pixels in a row
            fits = image_shape[-1] == 1 and (
                ours == image_shape[:-1] or ours == (math.prod(image_shape),)
            )
        if not fits:
            raise ValueError(
                f"the {self.kind} takes images of shape {ours}, these are {image_shape}"
            )


def describe(model: Any) -> Description:
    """Reads what a model takes.

    Args:
      model: a ``tf_keras`` model or one of Keras 3 on TensorFlow, a model loaded by
        ``tf.saved_model.load`` (with a ``logits`` function as this package exports it, or
        one float image input in its ``serving_default`` signature), or any function
        made of TensorFlow operations (attacks differentiate it).

    Raises:
      ValueError: none of these; it takes anything but one batch of float images; a layer
        computes in half precision, in which gradients of confident networks vanish and
        robustness is overstated.
    """
    layers = _keras_layers(model)
    if layers is not None:
        half = [layer.name for layer in layers if _compute_dtype(layer) in _HALF]
        if half:
            raise ValueError(
                f"layer {half[0]} computes in half precision; evaluate a float32 copy of the model"
            )
        ours = isinstance(model, keras.Model)
        return _described(
            "Keras model",
            lambda images: model(images, training=False),
            {tensor.name: tensor for tensor in getattr(model, "inputs", None) or ()},
            model if ours else None,
        )
    if hasattr(model, "signatures"):
        return _saved_model(model)
    if not callable(model):
        raise ValueError(f"{type(model).__name__} is neither a model nor a function of images")
    return Description("function", lambda images: model(images))


def image_shape(model: Any) -> tuple[int | None, ...]:
    """(height, width, channels) that a model takes, ``None`` where it does not say."""
    try:
        return describe(model).image_shape
    except ValueError:  # told where it is evaluated
        return (None, None, None)


def _described(
    kind: str,
    run: Callable[[Tensor], Any],
    inputs: Mapping[str, Any],
    network: keras.Model | None = None,
) -> Description:
    """Of symbolic inputs by name, none where they are not known."""
    if not inputs:
        return Description(kind, run, network=network)
    if len(inputs) > 1:
        raise ValueError(
            f"the {kind} takes {len(inputs)} inputs ({', '.join(sorted(inputs))}), one batch of "
            f"images is needed; {_WRAP}model([images, other])"
        )
    ((name, spec),) = inputs.items()
    dtype = tf.as_dtype(spec.dtype)
    if dtype not in (tf.float32, tf.float64):
        raise ValueError(
            f"the {kind} takes {dtype.name} images, float32 in [0, 1] is needed, for gradients "
            f"with respect to the pixels; give it a float input and {_WRAP}model(255 * images)"
        )
    shape = None if spec.shape is None else tuple(spec.shape)
    if shape is not None and len(shape) not in (2, 3, 4):
        raise ValueError(
            f"the {kind} takes inputs of shape {shape}, images (batch, height, width, channels) "
            f"are needed; {_WRAP}model(tf.reshape(images, ...))"
        )
    # Keras casts by itself, and its frozen network wants float32.
    return Description(kind, run, name, "float32" if network else dtype.name, shape, network)


def _saved_model(model: Any) -> Description:
    logits = getattr(model, "logits", None)
    if callable(logits):
        traced: Any = getattr(logits, "concrete_functions", ())
        inputs = traced[0].structured_input_signature[0] if len(traced) == 1 else ()
        return _described("SavedModel", logits, {spec.name: spec for spec in inputs})
    if "serving_default" in model.signatures:
        signature = model.signatures["serving_default"]
        inputs = signature.structured_input_signature[1]
        name = next(iter(inputs), "")
        return _described("SavedModel", lambda images: signature(**{name: images}), inputs)
    if callable(model):
        return Description("SavedModel", lambda images: model(images))
    raise ValueError("the SavedModel has no serving_default signature and no logits function")


def _one_output(outputs: Any) -> Any:
    """The logits among what a model gives; of outputs that ``check`` refuses, anything."""
    while isinstance(outputs, (Mapping, list, tuple)):
        outputs = _first(outputs)
    return outputs


def _first(outputs: Any) -> Any:
    """What is named logits, or comes first."""
    if isinstance(outputs, Mapping):
        return outputs["logits"] if "logits" in outputs else next(iter(outputs.values()))
    return outputs[0]


def _check_outputs(outputs: Any, batch: int | None) -> int | None:
    """The number of classes; see ``Description.check``."""
    one = outputs
    while isinstance(one, (Mapping, list, tuple)):
        found = dict(one) if isinstance(one, Mapping) else dict(enumerate(one))
        if len(found) != 1 and "logits" not in found:
            first = next(iter(found), 0)
            raise ValueError(
                f"the model gives {len(found)} outputs ({', '.join(map(repr, found))}), one or one "
                f"named logits is needed; {_WRAP}model(images)[{first!r}]"
            )
        one = _first(one)
    if not hasattr(one, "dtype") or not one.dtype.is_floating:
        what = getattr(getattr(one, "dtype", None), "name", type(one).__name__)
        raise ValueError(f"the model gives {what}; (batch, classes) float logits are needed")
    shape = one.shape
    if shape.rank is None:
        return None
    if shape.rank != 2 or shape[0] not in (None, batch):
        raise ValueError(
            f"the model gives outputs of shape {tuple(shape)} for a batch of images; "
            "(batch, classes) logits are needed"
        )
    if shape[1] == 1:
        raise ValueError(
            "the model gives one output an image, (batch, classes) logits are needed; of one that "
            f"tells two classes apart {_WRAP}tf.pad(model(images), [[0, 0], [1, 0]])"
        )
    return shape[1]


def _in_parts(logits_fn: LogitsFn, size: int) -> LogitsFn:
    """A function of exactly ``size`` images as one of any number."""

    def any_number(images: Tensor) -> Tensor:
        count = tf.shape(images)[0]
        parts = -(-count // size)
        filled = tf.pad(images, [[0, parts * size - count], [0, 0], [0, 0], [0, 0]])
        batches = tf.reshape(filled, (-1, size, *images.shape[1:]))
        logits = tf.map_fn(logits_fn, batches, fn_output_signature=tf.float32)
        classes = logits.shape[-1]
        flat = tf.reshape(logits, (-1, tf.shape(logits)[-1] if classes is None else classes))
        return flat[:count]

    return any_number


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
