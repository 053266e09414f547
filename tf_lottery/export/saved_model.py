"""SavedModels that plain TensorFlow loads: no tfmot, no tf_keras, any batch size."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tf_lottery
from tf_lottery import files, weights
from tf_lottery.keras import executed_as_graphs, keras, tf
from tf_lottery.nesting import named_layers
from tf_lottery.pruning.masks import prunable_kernels


class Classifier(tf.Module):
    """A trained network with the functions that are exported.

    ``logits(images)``: float32 (batch, h, w, c) in [0, 1] -> float32 (batch, classes).
    """

    def __init__(self, network: keras.Model):
        super().__init__()
        self.network = network
        shape = [None, *network.input_shape[1:]]

        def outputs(images):
            logits = network(images, training=False)
            return {
                "logits": logits,
                "probabilities": tf.nn.softmax(logits),
                "class": tf.argmax(logits, axis=-1, output_type=tf.int32),
            }

        self.logits = tf.function(
            lambda images: network(images, training=False),
            input_signature=[tf.TensorSpec(shape, tf.float32, "images")],
        )
        self.serving_default = tf.function(
            outputs, input_signature=[tf.TensorSpec(shape, tf.float32, "images")]
        )
        self.serving_uint8 = tf.function(
            lambda images: outputs(tf.cast(images, tf.float32) / 255),
            input_signature=[tf.TensorSpec(shape, tf.uint8, "images")],
        )


def export_saved_model(
    network: keras.Model,
    path: str | Path,
    class_names: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a SavedModel with two signatures and ``metadata.json`` beside it.

    - ``serving_default``: ``images`` float32 (batch, h, w, c) in [0, 1];
    - ``serving_uint8``: ``images`` uint8 (batch, h, w, c) in [0, 255].

    Both give ``logits`` and ``probabilities`` float32 (batch, classes) and ``class``
    int32 (batch,). The loaded object has a differentiable ``logits`` function too,
    so that attacks can be run on it, and its ``kernels`` by layer name.

    Args:
      network: bare network; pruned weights are 0 in it already.
      path: directory to write; must not exist or be empty.
      class_names: in the order of the logits.
      metadata: JSON tree, the ticket's provenance for example.

    Returns:
      ``path``.

    Raises:
      FileExistsError: ``path`` is not empty.
      ValueError: the network computes in half precision, or ``class_names`` do not fit.
    """
    path = Path(path)
    if path.exists() and any(path.iterdir()):
        raise FileExistsError(f"{path} is not empty")
    half = [
        name for name, layer in named_layers(network).items() if layer.compute_dtype != "float32"
    ]
    if half:
        raise ValueError(f"layer {half[0]} computes in half precision; export a float32 copy")
    classes = network.output_shape[-1]
    if class_names and len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class names for {classes} logits")
    module = Classifier(network)
    kernels = prunable_kernels(network)
    # Lets a reader check the zeros without knowing Keras.
    module.kernels = dict(kernels)
    values = {name: kernel.numpy() for name, kernel in kernels.items()}
    with executed_as_graphs(), files.new_directory(path) as partial:
        tf.saved_model.save(
            module,
            files.plain_name(partial),
            signatures={
                "serving_default": module.serving_default.get_concrete_function(),
                "serving_uint8": module.serving_uint8.get_concrete_function(),
            },
        )
        files.write_json(
            partial / "metadata.json",
            {
                **(metadata or {}),
                "format": 1,
                "package_version": tf_lottery.__version__,
                "tensorflow": tf.__version__,
                "input": {"shape": [None, *network.input_shape[1:]], "range": [0, 1]},
                "classes": list(class_names),
                "weights": sum(value.size for value in values.values()),
                "nonzero_weights": sum(int(np.count_nonzero(v)) for v in values.values()),
                "kernels_digest": weights.digest(values),
                "graph_digest": hashlib.sha256(
                    (partial / "saved_model.pb").read_bytes()
                ).hexdigest(),
            },
        )
    return path
