"""Inference-mode logits of whatever a user calls a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_lottery.evaluation.description import Description, describe
from tf_lottery.keras import tf
from tf_lottery.models.frozen import frozen_logits
from tf_lottery.models.frozen_check import check_frozen
from tf_lottery.type_aliases import LogitsFn


def logits_function(model: Any) -> LogitsFn:
    """An inference-mode ``images -> float32 logits`` function of a model, see ``describe``.

    Raises:
      ValueError: as ``describe``.
    """
    return describe(model).logits


class Freezer:
    """Makes the function that attacks differentiate, for a graph being traced.

    Of a ``tf_keras`` model it is the frozen one (see ``models.frozen``), of anything else
    ``logits_function``. Verdicts are always the latter's. ``check`` has to come first.
    """

    def __init__(self, described: Description):
        self._described = described
        self._checked = False

    def check(self, images: np.ndarray) -> None:
        """Compares the function with the network, with the weights that this has now.

        Args:
          images: float32 (n, height, width, channels) in [0, 1].

        Raises:
          FrozenError: they are two functions.
        """
        if self._described.network is not None:
            check_frozen(self._described.network, images)
        self._checked = True

    def __call__(self) -> LogitsFn:
        if not self._checked:
            raise AssertionError("a frozen network that was not compared with its own")
        network = self._described.network
        if network is None:
            return self._described.logits
        return self._described.adapted(frozen_logits(network))


def right_images(
    examples: Mapping[str, np.ndarray], attacks: Sequence[str]
) -> dict[str, np.ndarray]:
    """Which images a model gets right, bool (n,): clean, under each attack, under all of them.

    Args:
      examples: of an evaluation, as ``examples.npz`` holds them.
      attacks: names.

    Returns:
      ``natural``, each attack and, where there are attacks, ``worst``.
    """
    label = examples["label"]
    clean = examples["clean_prediction"] == label
    right = {"natural": clean}
    for name in attacks:
        right[name] = clean & (examples[f"prediction_{name}"] == label)
    if attacks:
        right["worst"] = np.logical_and.reduce(list(right.values()))
    return right


def predicted_classes(logits: Any) -> np.ndarray:
    """int32 (batch,): the class of the largest logit; -1, no class, where one is not finite.

    Raises:
      ValueError: not one row of logits an image.
    """
    logits = np.asarray(logits)
    if logits.ndim != 2:
        raise ValueError(
            f"the model gives outputs of shape {logits.shape}; (batch, classes) logits are needed"
        )
    unknown = ~np.isfinite(logits).all(axis=-1)
    return np.where(unknown, -1, np.argmax(logits, axis=-1)).astype(np.int32)


def half_precision_operations(logits_fn: LogitsFn, image_shape: tuple[int, ...]) -> list[str]:
    """Names of the operations of a network's graph that give half-precision tensors.

    Looks into functions that the graph calls, so it sees SavedModels through.

    Args:
      logits_fn: a ``tf.function`` that is traced on such images is not traced again.
      image_shape: (height, width, channels).
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
