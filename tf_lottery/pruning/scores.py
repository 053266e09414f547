"""How much a weight matters: the higher its score, the longer it stays."""

from __future__ import annotations

import numpy as np

from tf_lottery.errors import NonFiniteError, UsageError
from tf_lottery.options.settings import SCORES, derive_seed
from tf_lottery.types import NamedArrays


def score(
    name: str, weights: NamedArrays, masks: NamedArrays | None = None, seed: int = 0
) -> NamedArrays:
    """A score for every weight; those at pruned positions mean nothing.

    Args:
      name: ``magnitude``, |w|; ``normalized_magnitude``, |w| over the mean |w| of its
        layer; ``random``, uniform in [0, 1), the same from round to round.
      weights: layer name -> kernel.
      masks: layer name -> bool, True where a weight is still there; ``None``: all are.
        The mean of ``normalized_magnitude`` is over these. The paper's code divides by
        the mean over the whole layer, which is the same when pruning once; over
        several rounds the zeros in that mean would favour what is already sparse.
      seed: of ``random``, combined with the layer's name.

    Returns:
      Layer name -> float64 array of the kernel's shape.

    Raises:
      UsageError: unknown score.
      NonFiniteError: a weight is NaN or infinite.

    Reference:
      The code of arXiv 2003.05733.
    """
    if name not in SCORES:
        raise UsageError.unknown("score", name, SCORES)
    bad = [layer for layer, kernel in weights.items() if not np.isfinite(kernel).all()]
    if bad:
        raise NonFiniteError(f"weights of {', '.join(bad)} are NaN or infinite: nothing to prune")
    if name == "random":
        return {layer: _uniform(kernel.shape, seed, layer) for layer, kernel in weights.items()}
    result = {layer: np.abs(kernel, dtype=np.float64) for layer, kernel in weights.items()}
    if name == "normalized_magnitude":
        for layer, magnitude in result.items():
            left = magnitude if masks is None else magnitude[np.asarray(masks[layer], bool)]
            mean = left.mean() if left.size else 0.0
            if mean > 0:  # a layer of zeros keeps its zeros
                magnitude /= mean
    return result


def _uniform(shape: tuple[int, ...], seed: int, layer: str) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, "random score", layer)).random(shape)
