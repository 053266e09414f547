"""How far a network is from another one, over the kernels that pruning can touch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_lottery.compaction import Compaction


class RelativeDistance:
    """Relative l_2 distance ``||reference - kernels|| / ||reference||``, over all layers at once.

    Fig. 3 of arXiv 2003.05733. A pruned weight counts as the 0 it is. Computed in
    float64: in float32 the squares of millions of small weights are no longer summed
    to full precision.

    Args:
      reference: layer name -> kernel, as ``pruning.masks.prunable_kernels`` names them.
      kernels: the variables (or arrays) to compare with it, now and later.
      compaction: what was cut out of the reference's network before these were made, whose weights
        count as 0 too; ``None``: nothing.

    Raises:
      ValueError: a layer is in one of the two only, a shape differs, or ``reference``
        is zero everywhere or not finite.

    Example:
      >>> distance = RelativeDistance({"conv1": np.array([3.0, 4.0])}, {"conv1": np.zeros(2)})
      >>> distance()
      1.0
    """

    def __init__(
        self,
        reference: Mapping[str, np.ndarray],
        kernels: Mapping[str, Any],
        compaction: Compaction | None = None,
    ):
        self._norm, self._gone = math.sqrt(_squares(reference.values())), 0.0
        if compaction is not None:
            whole = {f"{name}/kernel": kernel for name, kernel in reference.items()}
            left = compaction.cut(whole)
            zeros = {name: np.zeros_like(kernel) for name, kernel in left.items()}
            self._gone = _squares(compaction.embed(zeros, whole).values())
            reference = {name: left[f"{name}/kernel"] for name in reference}
        if set(reference) != set(kernels):
            odd = ", ".join(sorted(set(reference) ^ set(kernels))[:4])
            raise ValueError(f"distance to another network: {odd} in one of the two only")
        for name, kernel in kernels.items():
            if np.shape(reference[name]) != tuple(kernel.shape):
                raise ValueError(
                    f"distance: kernel of {name} has shape {tuple(kernel.shape)}, "
                    f"the reference {np.shape(reference[name])}"
                )
        self._reference = dict(reference)
        self._kernels = dict(kernels)
        if not 0 < self._norm < math.inf:
            raise ValueError(f"distance: the reference kernels have norm {self._norm}")

    def __call__(self) -> float:
        """The distance of the kernels as they are now."""
        differences = (
            np.asarray(self._reference[name], np.float64) - np.asarray(kernel, np.float64)
            for name, kernel in self._kernels.items()
        )
        return math.sqrt(_squares(differences) + self._gone) / self._norm


def _squares(arrays) -> float:
    """Sum of the squares of all numbers of all arrays."""
    return sum(float(np.sum(np.square(array, dtype=np.float64))) for array in arrays)
