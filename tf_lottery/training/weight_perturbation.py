"""Adversarial weight perturbation: the gradient is taken where the weights are worse.

Wu et al. 2020 (arXiv 2004.05884, equations 7 to 10): every kernel w is moved along the gradient g
of the loss at the attacked images, by gamma |w| g / |g|, the step's gradient is taken there, and
the kernel put back. Biases and BatchNorm's parameters stay, as in the authors' code; so do pruned
weights, which are no weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from tf_lottery.keras import tf
from tf_lottery.type_aliases import Tensor


@contextlib.contextmanager
def perturbed(
    variables: Sequence[tf.Variable],
    gradients: Sequence[Tensor | None],
    factors: Sequence[tf.Variable | None],
    gamma: float,
) -> Iterator[None]:
    """Kernels are moved inside, and as they were, to the bit, afterwards.

    Args:
      variables: trainable ones of a network; those of rank 2 and more are moved.
      gradients: of the loss, with any positive factor; ``None``: it does not depend on it. Where
        one is not finite, the kernel stays.
      factors: 0 where a weight is pruned and 1 elsewhere; ``None``: none is.
      gamma: length of the perturbation over that of the kernel.
    """
    before = []
    for variable, gradient, factor in zip(variables, gradients, factors, strict=True):
        if gradient is None or variable.shape.rank < 2:
            continue
        value = tf.convert_to_tensor(variable)
        upward = tf.cast(gradient, value.dtype) * (1.0 if factor is None else factor)
        length = tf.norm(upward)
        moved = value + gamma * tf.math.divide_no_nan(tf.norm(value), length) * upward
        before.append((variable, tf.identity(value)))
        # In float16 a gradient may be infinite. Such a step is left out, but not what its forward
        # pass does to BatchNorm's averages.
        variable.assign(tf.where(tf.math.is_finite(length), moved, value))
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


@contextlib.contextmanager
def unmoved(variables: Sequence[tf.Variable]) -> Iterator[None]:
    """What a pass inside does to variables, such as BatchNorm's averages, is undone."""
    before = [(variable, tf.identity(variable)) for variable in variables]
    yield
    for variable, value in before:
        variable.assign(value)
