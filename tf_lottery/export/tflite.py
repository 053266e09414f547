"""TFLite files of a network: plain, float16, int8, each with or without sparse encoding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tf_lottery.errors import LotteryError
from tf_lottery.keras import executed_as_graphs, keras, tf
from tf_lottery.terminal import silent_stderr


@dataclass(frozen=True)
class TFLiteFormat:
    """One way to write the weights.

    Attributes:
      name: of the format, as in ``--formats``.
      label: for tables.
      file: its name in the export directory.
      numbers: ``float32``; ``float16``: stored so and computed in float32 on a CPU; ``int8``:
        weights, activations, input and output.
      sparse: kernels are stored as their non-zeros with positions. Runtimes make them dense
        when they load them, unless they have a sparse kernel for the operation.
    """

    name: str
    label: str
    file: str
    numbers: str
    sparse: bool


TFLITE_FORMATS = {
    found.name: found
    for found in (
        TFLiteFormat("tflite", "TFLite float32", "model.tflite", "float32", False),
        TFLiteFormat("tflite_float16", "TFLite float16", "model_float16.tflite", "float16", False),
        TFLiteFormat("tflite_int8", "TFLite int8", "model_int8.tflite", "int8", False),
        TFLiteFormat(
            "tflite_sparse", "TFLite sparse float32", "model_sparse.tflite", "float32", True
        ),
        TFLiteFormat(
            "tflite_sparse_float16",
            "TFLite sparse float16",
            "model_sparse_float16.tflite",
            "float16",
            True,
        ),
        TFLiteFormat(
            "tflite_sparse_int8", "TFLite sparse int8", "model_sparse_int8.tflite", "int8", True
        ),
    )
}


class _Logits(tf.Module):
    """The network as the converter takes it: ``images`` in, ``logits`` out."""

    def __init__(self, network: keras.Model):
        super().__init__()
        self.network = network
        self.function = tf.function(
            lambda images: {"logits": network(images, training=False)},
            input_signature=[tf.TensorSpec([None, *network.input_shape[1:]], tf.float32, "images")],
        )


def convert(
    network: keras.Model,
    chosen: TFLiteFormat,
    representative: Iterable[np.ndarray] | None = None,
    verbose: bool = False,
) -> bytes:
    """A TFLite file's content, of the signature ``serving_default(images) -> logits``.

    The images are float32 (batch, h, w, c) in [0, 1], of any batch size once the interpreter's
    input is resized. For int8 formats they are int8 with the scale and zero point that the
    file gives for its input, and the logits likewise.

    Args:
      network: bare network.
      chosen: an entry of ``TFLITE_FORMATS``.
      representative: for int8: images (h, w, c), float32 in [0, 1], from whose activations the
        ranges are taken.
      verbose: let TensorFlow talk.

    Raises:
      LotteryError: TensorFlow's converter refuses the network.
      ValueError: an int8 format without representative images.
    """
    with executed_as_graphs():
        return _converted(network, chosen, representative, verbose)


def _converted(
    network: keras.Model,
    chosen: TFLiteFormat,
    representative: Iterable[np.ndarray] | None,
    verbose: bool,
) -> bytes:
    module = _Logits(network)
    function = module.function.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    optimizations = []
    if chosen.sparse:
        optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    if chosen.numbers != "float32":
        optimizations.append(tf.lite.Optimize.DEFAULT)
    if chosen.numbers == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if chosen.numbers == "int8":
        if representative is None:
            raise ValueError("int8 needs representative images")
        images = [np.asarray(image, np.float32)[None] for image in representative]
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    converter.optimizations = optimizations
    try:
        with silent_stderr(unless=verbose):
            content: Any = converter.convert()
    except Exception as error:  # the converter raises what its passes raise
        reason = " ".join(str(error).split())[:300]
        raise LotteryError(
            f"--formats: TensorFlow's converter cannot make {chosen.name} of {network.name}: "
            f"{reason}"
        ) from error
    return content
