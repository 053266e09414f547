"""Which weights stay: scores, selection and schedules in NumPy.

Masks are dicts from layer name to bool array of the kernel's shape, True where the
weight is kept. Putting them on a Keras model is the business of ``pruning.masks``,
which is not imported here.
"""

from tf_lottery.pruning.schedule import sparsities
from tf_lottery.pruning.scores import ScoreContext, score
from tf_lottery.pruning.selection import (
    density,
    highest,
    kept_count,
    layer_densities,
    prune,
    random_masks,
    select,
)

__all__ = [
    "ScoreContext",
    "density",
    "highest",
    "kept_count",
    "layer_densities",
    "prune",
    "random_masks",
    "score",
    "select",
    "sparsities",
]
