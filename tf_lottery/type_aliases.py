"""Shared type names. Import-free at run time, so that ``--help`` stays fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    from tf_lottery.keras import tf

# The stubs of TensorFlow are incomplete, so tensors are ``Any`` to the checker;
# the alias says what is meant.
Tensor: TypeAlias = "tf.Tensor | Any"

# Images (batch, height, width, channels) float32 in [0, 1] -> logits (batch, classes).
LogitsFn: TypeAlias = Callable[[Any], Any]

# (logits_fn, x, y, seed) -> x_adv; see ``tf_lottery.attacks``.
Attack: TypeAlias = Callable[[LogitsFn, Any, Any, Any], Any]

# Layer name -> array of the kernel's shape.
NamedArrays: TypeAlias = "dict[str, np.ndarray]"
