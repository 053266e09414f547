"""Masks of an exact size from scores."""

from __future__ import annotations

import numpy as np

from tf_lottery.errors import DeadLayerError, LotteryError, UsageError
from tf_lottery.options.settings import SCOPES, derive_seed
from tf_lottery.pruning import quotas
from tf_lottery.pruning.scores import ScoreContext
from tf_lottery.pruning.scores import score as score_weights
from tf_lottery.type_aliases import NamedArrays


def prune(
    weights: NamedArrays,
    masks: NamedArrays | None,
    sparsity: float,
    score: str = "normalized_magnitude",
    scope: str = "global",
    seed: int = 0,
) -> NamedArrays:
    """Keeps the best-scored weights that are still there.

    Args:
      weights: layer name -> kernel. The order of the layers breaks ties.
      masks: layer name -> bool, True where a weight is still there; ``None``: all are.
      score: name of a score that needs weights alone, see ``tf_lottery.pruning.scores``.
      sparsity, scope: see ``select``.
      seed: of the score.

    Returns:
      As ``select``.

    Raises:
      UsageError: invalid sparsity, score or scope.
      LotteryError: fewer weights are left than are to be kept.
      NonFiniteError: a weight is NaN or infinite.
      DeadLayerError: a layer would be left without a weight.
      ValueError: the masks are not for these weights.

    Example:
      >>> prune({"a": np.array([3.0, 1.0]), "b": np.array([2.0, 2.0])}, None, 0.5, "magnitude")
      {'a': array([ True, False]), 'b': array([ True, False])}
    """
    context = ScoreContext(weights, masks or {}, seed, sparsity, scope)
    return select(score_weights(score, context), context.masks, sparsity, scope)


def select(
    scores: NamedArrays, masks: NamedArrays, sparsity: float, scope: str = "global"
) -> NamedArrays:
    """Keeps the weights of the highest scores among those that are still there.

    Args:
      scores: layer name -> array of its kernel's shape. The order of the layers breaks ties.
      masks: layer name -> bool, True where a weight is still there.
      sparsity: share of *all* weights that are removed afterwards, those removed before
        included, in [0, 1).
      scope: ``global``, one threshold over all layers; ``layer``, the same sparsity in
        each layer, ``erk`` and ``igq`` as ``pruning.quotas`` says, rounded so that the total
        is the same as of ``global``. These two leave every layer a weight.

    Returns:
      Layer name -> bool array with ``kept_count(total, sparsity)`` True in all. Nothing
      comes back that ``masks`` had removed. Of equal scores the earlier position stays:
      earlier layer, then earlier in C order.

    Raises:
      UsageError, LotteryError, DeadLayerError: as ``prune``.
    """
    result = highest(scores, masks, sparsity, scope)
    dead = [f"{layer} ({mask.size} weights)" for layer, mask in result.items() if not mask.any()]
    if dead:
        remedy = "" if scope == "layer" else " or give --scope=layer"
        raise DeadLayerError(
            f"sparsity {sparsity:g} leaves no weight in {', '.join(dead)}: lower --sparsity{remedy}"
        )
    return result


def highest(
    scores: NamedArrays, masks: NamedArrays, sparsity: float, scope: str = "global"
) -> NamedArrays:
    """As ``select``, but layers may be left without a weight: no mask of a ticket."""
    if not 0 <= sparsity < 1:
        raise UsageError.bad_value("sparsity", sparsity, "in [0, 1), such as 0.8")
    if scope not in SCOPES:
        raise UsageError.unknown("scope", scope, SCOPES)
    alive = {layer: masks[layer] for layer in scores}
    sizes = np.array([mask.size for mask in alive.values()])
    left = np.array([np.count_nonzero(mask) for mask in alive.values()])
    keep = kept_count(int(sizes.sum()), sparsity)
    if left.sum() < keep:
        raise LotteryError(
            f"--sparsity: got {sparsity:g}, lower than the current sparsity "
            f"{1 - left.sum() / sizes.sum():g}: {left.sum()} of {sizes.sum()} weights are left, "
            f"{keep} are to be kept; give a higher one or prune a denser network"
        )
    if scope == "global":
        flat_alive = np.concatenate([mask.ravel() for mask in alive.values()])
        flat = np.concatenate([scores[layer].ravel() for layer in alive])
        flat_kept = _top(flat, flat_alive, keep)
        parts = np.split(flat_kept, np.cumsum(sizes)[:-1])
    else:
        counts = _layer_counts(alive, left, sparsity, keep, scope)
        parts = [
            _top(scores[layer].ravel(), mask.ravel(), count)
            for (layer, mask), count in zip(alive.items(), counts, strict=True)
        ]
    return {
        layer: part.reshape(mask.shape)
        for (layer, mask), part in zip(alive.items(), parts, strict=True)
    }


def kept_count(total: int, sparsity: float) -> int:
    """How many of ``total`` weights stay at ``sparsity``."""
    return round((1 - sparsity) * total)


def random_masks(masks: NamedArrays, seed: int) -> NamedArrays:
    """As many weights in every layer as in ``masks``, at random positions.

    Args:
      masks: layer name -> bool.
      seed: combined with the layer's name.
    """
    result = {}
    for layer, mask in masks.items():
        rng = np.random.default_rng(derive_seed(seed, "random mask", layer))
        mask = np.asarray(mask, bool)
        result[layer] = rng.permutation(mask.ravel()).reshape(mask.shape)
    return result


def density(masks: NamedArrays) -> float:
    """Share of all weights that is kept, in [0, 1]."""
    kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    return kept / sum(np.size(mask) for mask in masks.values())


def layer_densities(masks: NamedArrays) -> dict[str, float]:
    """Share of each layer's weights that is kept, in [0, 1]."""
    return {layer: float(np.count_nonzero(mask) / np.size(mask)) for layer, mask in masks.items()}


def _top(scores: np.ndarray, alive: np.ndarray, keep: int) -> np.ndarray:
    """The ``keep`` highest of the scores that are alive, as a bool array; all are 1-D."""
    if not keep:
        return np.zeros_like(alive)
    candidates = scores[alive]
    cut = len(candidates) - keep
    threshold = np.partition(candidates, cut)[cut]
    kept = alive & (scores > threshold)
    ties = np.flatnonzero(alive & (scores == threshold))
    kept[ties[: keep - np.count_nonzero(kept)]] = True
    return kept


def _layer_counts(
    alive: NamedArrays, left: np.ndarray, sparsity: float, keep: int, scope: str
) -> list[int]:
    """Weights to keep in each layer: its density's share, by largest remainder.

    A layer never gets more than it has left. That matters from the second round on:
    a remainder may then go to another layer than the round before.
    """
    sizes = np.array([mask.size for mask in alive.values()])
    densities = quotas.DENSITIES[scope]([mask.shape for mask in alive.values()], 1 - sparsity)
    wanted = densities * sizes
    short = [
        layer
        for layer, have, want in zip(alive, left, np.floor(wanted), strict=True)
        if have < want
    ]
    if short:
        raise LotteryError(
            f"--sparsity: got {sparsity:g}, lower than the current sparsity of "
            f"{', '.join(short)}; give a higher one or --scope=global"
        )
    return quotas.counts(wanted, keep, 0 if scope == "layer" else 1, left).tolist()
