"""How much channels matter, and which of them stay.

Channels come and go in groups: those of one layer, or of all layers that are summed up. Every
function takes one array a group, or one a layer of a group, and knows no network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tf_lottery.errors import NonFiniteError
from tf_lottery.options.settings import derive_seed
from tf_lottery.pruning.selection import kept_count, select
from tf_lottery.type_aliases import NamedArrays


def batch_norm(scales: Sequence[np.ndarray]) -> np.ndarray:
    """Mean |scale| of the BatchNorm layers that a group's channels pass through.

    Comparable between layers, as each scale is of a value of variance 1: Network Slimming (Liu
    et al. 2017, arXiv 1708.06519) has one threshold for all of them.

    Args:
      scales: (channels,) each.
    """
    return np.mean([np.abs(scale, dtype=np.float64) for scale in scales], axis=0)


def filter_norm(kernels: Sequence[np.ndarray]) -> np.ndarray:
    """l_1 norm of a channel's filter over the mean of its layer's, averaged over the layers.

    The norm is that of Li et al. 2017 (arXiv 1608.08710), who prune each layer by itself;
    divided by its layer's mean it can be compared between layers.

    Args:
      kernels: (..., inputs, channels) each.
    """
    result = []
    for kernel in kernels:
        norms = np.abs(kernel, dtype=np.float64).reshape(-1, kernel.shape[-1]).sum(axis=0)
        mean = norms.mean()
        result.append(norms / mean if mean > 0 else norms)
    return np.mean(result, axis=0)


def least_kept(width: int, floor: float) -> int:
    """How many of a group's channels stay whatever their scores."""
    return max(1, math.ceil(floor * width - 1e-9))


def select_channels(
    scores: Sequence[np.ndarray], sparsity: float, floor: float = 0.0, multiple: int = 1
) -> tuple[list[np.ndarray], list[int]]:
    """Keeps the channels of the highest scores of all groups together.

    Within a group they go in blocks of ``multiple``, the lowest first; a block is worth its mean.

    Args:
      scores: (channels,) each. The order of the groups breaks ties, then that of the channels.
      sparsity: share of all channels that is removed, in [0, 1); those that are summed up count
        once.
      floor: share of each group's channels that stays, in [0, 1]; at least one does.
      multiple: of which each group keeps one, or all its channels; see ``block_of``.

    Returns:
      bool (channels,) each, in all True in ``kept_count(channels, sparsity)`` to within half a
      block, as blocks are taken by their worth; more if the floors ask for it. And the numbers of
      the groups of which a floor kept more than the scores alone would have.

    Raises:
      NonFiniteError: a score is NaN or infinite.

    Example:
      >>> select_channels([np.array([3.0, 1.0]), np.array([0.5, 0.4])], 0.5)
      ([array([ True, False]), array([ True, False])], [1])
    """
    if not all(np.isfinite(each).all() for each in scores):
        raise NonFiniteError("scores of channels are NaN or infinite: nothing to prune by")
    keep = kept_count(sum(map(len, scores)), sparsity)
    worth, of, sizes, protected = [], [], [], []
    for number, each in enumerate(scores):
        least, step = least_kept(len(each), floor), block_of(len(each), multiple)
        ordered = -np.sort(-each)
        for start in range(0, len(each), step):
            block = ordered[start : start + step]
            worth.append(block.mean())
            of.append(number)
            sizes.append(len(block))
            protected.append(start < least)
    order = np.argsort(-np.array(worth), kind="stable")
    free = _fill(order, sizes, keep)
    rest = keep - sum(size for size, ours in zip(sizes, protected, strict=True) if ours)
    kept = [i for i, ours in enumerate(protected) if ours]
    kept += _fill([i for i in order if not protected[i]], sizes, rest)
    counts, without = np.zeros(len(scores), int), np.zeros(len(scores), int)
    for found, blocks in ((counts, kept), (without, free)):
        for i in blocks:
            found[of[i]] += sizes[i]
    masks = []
    for each, count in zip(scores, counts, strict=True):
        mask = np.zeros(len(each), bool)
        mask[np.argsort(-each, kind="stable")[:count]] = True
        masks.append(mask)
    return masks, np.flatnonzero(counts > without).tolist()


def block_of(width: int, multiple: int) -> int:
    """Channels that come and go together: one by one in groups narrower than two blocks."""
    return multiple if width >= 2 * multiple else 1


def _fill(order: Iterable[int], sizes: Sequence[int], total: int) -> list[int]:
    """The first blocks that come nearest to a total."""
    found, room = list[int](), total
    for i in order:
        if 2 * room < sizes[i]:
            break
        found.append(i)
        room -= sizes[i]
    return found


def random_channels(kept: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """As many channels of every group as in ``kept``, at random.

    Args:
      kept: name of the group -> bool (channels,).
      seed: combined with the name.
    """
    return {
        name: np.random.default_rng(derive_seed(seed, "random channels", name)).permutation(keep)
        for name, keep in kept.items()
    }


def select_within(
    scores: NamedArrays, masks: NamedArrays, sparsity: float, scope: str = "global"
) -> NamedArrays:
    """As ``select``, of a network that has no other weights than those of ``masks``.

    Args:
      scores: by layer, of its kernel's shape.
      masks: likewise, True where an input and an output that are left meet.
      sparsity: share of the weights in ``masks`` that is removed.
      scope: of ``select``; sparsity in each layer is of what it has in ``masks``.
    """
    left = {layer: scores[layer][mask].reshape(_left(mask)) for layer, mask in masks.items()}
    there = {layer: np.ones(each.shape, bool) for layer, each in left.items()}
    found = select(left, there, sparsity, scope)
    result = {}
    for layer, mask in masks.items():
        result[layer] = mask.copy()
        result[layer][mask] = found[layer].ravel()
    return result


def _left(mask: np.ndarray) -> tuple[int, ...]:
    """Shape of a kernel without the inputs and outputs that its mask has none of."""
    positions = tuple(range(mask.ndim - 2))
    inputs, outputs = (mask.any(axis=(*positions, axis)).sum() for axis in (-1, -2))
    return (*mask.shape[:-2], int(inputs), int(outputs))


def random_within(masks: NamedArrays, counts: Mapping[str, int], seed: int) -> NamedArrays:
    """Of each layer's weights in ``masks`` so many, at random.

    Args:
      masks: layer -> bool.
      counts: layer -> at most as many as it has in ``masks``.
      seed: combined with the layer's name.
    """
    result = {}
    for layer, mask in masks.items():
        there = np.flatnonzero(mask)
        rng = np.random.default_rng(derive_seed(seed, "random mask", layer))
        chosen = np.zeros(mask.size, bool)
        chosen[rng.permutation(there)[: counts[layer]]] = True
        result[layer] = chosen.reshape(mask.shape)
    return result
