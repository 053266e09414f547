"""How much a weight matters: the higher its score, the longer it stays.

A score is a function ``ScoreContext -> {layer: array of its kernel's shape}``, found by its
name in ``options.registries.SCORES`` or as ``package.module:function``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tf_lottery.errors import NonFiniteError, UsageError
from tf_lottery.options.registries import SCORES
from tf_lottery.options.settings import derive_seed
from tf_lottery.type_aliases import NamedArrays


@dataclass(frozen=True)
class ScoreContext:
    """What a score may see. This one has weights alone; ``lottery.scoring`` has the rest.

    Attributes:
      weights: layer name -> kernel.
      masks: layer name -> bool, True where a weight is still there; an empty one is
        filled: all are.
      seed: of whatever the score draws, the same from round to round.
      sparsity, scope: that the network is pruned to with this score, as of ``selection.select``;
        for scores that prune in steps.

    Raises:
      ValueError: the masks are not for these weights.
    """

    weights: NamedArrays
    masks: NamedArrays = field(default_factory=dict)
    seed: int = 0
    sparsity: float = 0.0
    scope: str = "global"

    def __post_init__(self):
        object.__setattr__(self, "masks", _alive(self.weights, self.masks))

    @property
    def network(self) -> Any:
        """The bare network, float pixels -> logits, with the weights and masks; its own copy."""
        raise self._missing("a network")

    def batch(self, images: int) -> tuple[np.ndarray, np.ndarray]:
        """Training images, float32 (images, height, width, channels) in [0, 1], and their int32
        labels: ``images`` of them, drawn by the seed. Fewer are the first of more."""
        raise self._missing("images")

    def attacked(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The images as the search's objective attacks them, or as they are if it does not.

        The attack sees the network in inference mode, as in training; its passes are counted.
        For built-in scores: a stage's key holds the objective for them alone.
        """
        raise self._missing("attacked images")

    def gradients(self, images: np.ndarray, labels: np.ndarray, loss: Any = None) -> NamedArrays:
        """Layer name -> gradient of the mean loss in inference mode with respect to the kernel.

        Args:
          images, labels: as of ``batch``.
          loss: ``(logits, labels) -> (batch,)`` of tensors; ``None``: cross-entropy.
        """
        raise self._missing("gradients")

    def count(self, images: int, forward: int = 1, gradients: int = 1) -> None:
        """Notes in the ledger what a score did with ``network`` itself; ``gradients`` has noted
        its own.

        Args:
          images: that each pass was of.
          forward: forward passes.
          gradients: backward passes to the kernels.
        """
        raise self._missing("a network")

    def _missing(self, what: str) -> UsageError:
        return UsageError(
            f"--score: the function asks for {what}, there are only weights here: use it in a run",
            "score",
        )


def score(name: str, context: ScoreContext) -> NamedArrays:
    """A score for every weight; those at pruned positions mean nothing.

    Args:
      name: in ``SCORES``, or ``package.module:function``.
      context: what the score may see.

    Returns:
      Layer name -> float64 array of the kernel's shape.

    Raises:
      UsageError: unknown score, or one that gives something else.
      NonFiniteError: a weight is NaN or infinite, or a score NaN.
    """
    function = SCORES.find("score", name)
    bad = [layer for layer, kernel in context.weights.items() if not np.isfinite(kernel).all()]
    if bad:
        raise NonFiniteError(f"weights of {', '.join(bad)} are NaN or infinite: nothing to prune")
    found = function(context)
    result = {}
    for layer, kernel in context.weights.items():
        value = np.asarray(found.get(layer, ()), np.float64)
        if value.shape != np.shape(kernel):
            shapes = f"{layer} has {np.shape(kernel)}, its scores {value.shape}"
            raise UsageError.bad_value(
                "score", name, f"a function that gives arrays of the kernels' shapes ({shapes})"
            )
        if np.isnan(value[context.masks[layer]]).any():
            raise NonFiniteError(f"--score: {name} gives NaN in {layer}: nothing to prune by")
        result[layer] = value
    return result


def magnitude(context: ScoreContext) -> NamedArrays:
    """|w|."""
    return {layer: np.abs(kernel, dtype=np.float64) for layer, kernel in context.weights.items()}


def normalized_magnitude(context: ScoreContext) -> NamedArrays:
    """|w| over the mean |w| of the layer's weights that are left.

    The code of arXiv 2003.05733 divides by the mean over the whole layer, which is the same
    when pruning once; over several rounds the zeros in that mean would favour what is already
    sparse.
    """
    result = magnitude(context)
    for layer, sizes in result.items():
        left = sizes[context.masks[layer]]
        mean = left.mean() if left.size else 0.0
        if mean > 0:  # a layer of zeros keeps its zeros
            sizes /= mean
    return result


def random(context: ScoreContext) -> NamedArrays:
    """Uniform in [0, 1), keyed by seed and layer name: the same from round to round."""
    return {
        layer: np.random.default_rng(derive_seed(context.seed, "random score", layer)).random(
            np.shape(kernel)
        )
        for layer, kernel in context.weights.items()
    }


def _alive(weights: NamedArrays, masks: NamedArrays) -> NamedArrays:
    """Bool masks in the order of ``weights``."""
    if not weights:
        raise ValueError("no weights to prune")
    if not masks:
        return {layer: np.ones(np.shape(kernel), bool) for layer, kernel in weights.items()}
    if set(masks) != set(weights):
        raise ValueError(
            f"masks and weights are not of the same layers: {sorted(set(masks) ^ set(weights))}"
        )
    for layer, kernel in weights.items():
        if np.shape(masks[layer]) != np.shape(kernel):
            raise ValueError(
                f"{layer}: mask of shape {np.shape(masks[layer])} for a kernel of "
                f"shape {np.shape(kernel)}"
            )
    return {layer: np.asarray(masks[layer], bool) for layer in weights}
