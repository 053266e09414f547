"""How many weights each layer keeps, where that is settled by the layers' sizes alone.

Densities are functions ``(shapes, density) -> densities``: kernel shapes, the share of all weights
that is kept, in (0, 1]; one density a layer, in (0, 1], so that the sizes' weighted mean is the
share asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tf_lottery.errors import DeadLayerError

Shapes = Sequence[tuple[int, ...]]


def uniform(shapes: Shapes, density: float) -> np.ndarray:
    """The same in every layer."""
    return np.full(len(shapes), density)


def erdos_renyi_kernel(shapes: Shapes, density: float) -> np.ndarray:
    """Proportional to (sum of the kernel's sides) / (their product), at most 1.

    What layers at 1 cannot take goes to the others (Evci et al. 2020, RigL, arXiv 1911.11134,
    section 3; Mocanu et al. 2018 for dense layers).
    """
    sizes = np.array([math.prod(shape) for shape in shapes], float)
    raw = np.array([sum(shape) for shape in shapes]) / sizes
    full = np.zeros(len(sizes), bool)
    result = np.ones(len(sizes))
    while not full.all():
        scale = (density * sizes.sum() - sizes[full].sum()) / (raw * sizes)[~full].sum()
        result = np.where(full, 1.0, scale * raw)
        over = result > 1
        if not over.any():
            break
        full |= over
        result = np.ones(len(sizes))
    return result


def ideal_gas(shapes: Shapes, density: float) -> np.ndarray:
    """1 / (1 + F * size), with the force F for which they add up.

    Ideal gas quotas (Vysogorets & Kempe 2023, arXiv 2107.02306, section 5): layers as cylinders
    of gas of cross-section 1 / size under one force; the larger a layer, the more it is
    compressed, and none vanishes.
    """
    sizes = np.array([math.prod(shape) for shape in shapes], float)
    if density == 1:
        return np.ones(len(sizes))
    from scipy.optimize import brentq  # takes longer to import than the rest of a command line

    def excess(log_force: float) -> float:
        return float((sizes / (1 + np.exp(log_force) * sizes)).sum() / sizes.sum()) - density

    # At F = (1/density - 1) / size a layer has the density asked for: between its values for the
    # largest and for the smallest layer lies the force of all.
    ends = np.log(1 / density - 1) - np.log([sizes.max(), sizes.min()])
    force = np.exp(ends[0] if ends[0] == ends[1] else brentq(excess, *ends, xtol=1e-14))
    return 1 / (1 + force * sizes)


DENSITIES = {"layer": uniform, "erk": erdos_renyi_kernel, "igq": ideal_gas}


def counts(wanted: np.ndarray, keep: int, least: int, most: np.ndarray) -> np.ndarray:
    """Whole numbers near ``wanted`` that add up to ``keep``, by largest remainder.

    Args:
      wanted: weights a layer, fractions too; they add up to about ``keep``.
      keep: in all.
      least: in every layer, taken from those with the smallest remainder.
      most: of each layer, at least ``wanted`` rounded down and ``least``.

    Raises:
      DeadLayerError: ``keep`` is less than ``least`` a layer.
    """
    if keep < least * len(wanted):
        raise DeadLayerError(
            f"{keep} weights are too few for {len(wanted)} layers: lower --sparsity"
        )
    result = np.maximum(np.floor(wanted).astype(int), least)
    # A layer below its share, or a remainder that its layer has no room for.
    while result.sum() != keep:
        up = result.sum() < keep
        order = np.argsort(result - wanted if up else wanted - result, kind="stable")
        free = result[order] < most[order] if up else result[order] > least
        for layer in order[free][: abs(keep - result.sum())]:
            result[layer] += 1 if up else -1
    return result
