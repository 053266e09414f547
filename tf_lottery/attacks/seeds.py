"""Stateless seeds for random starts, one per example."""

from __future__ import annotations

from numbers import Integral

from tf_lottery.keras import tf
from tf_lottery.types import Tensor

# Named, so that every device draws the same bits.
ALGORITHM = "philox"


def example_seeds(seed: Tensor | int, batch: Tensor | int) -> Tensor:
    """One seed per example.

    Args:
      seed: integer (its low 62 bits count), int32 (2,), or int32 (batch, 2).
      batch: number of examples.

    Returns:
      int32 (batch, 2): ``seed`` itself if it has that shape, else keyed by
      position: the first n seeds are the same for every batch of n or more.

    Raises:
      ValueError: ``seed`` of another shape or not of integers.
    """
    if isinstance(seed, Integral):
        seed = [int(seed) % 2**31, (int(seed) >> 31) % 2**31]
    seed = tf.convert_to_tensor(seed)
    if not seed.dtype.is_integer or seed.shape.rank not in (1, 2) or seed.shape[-1] != 2:
        raise ValueError(
            "attack seed: must be an integer or integers of shape (2,) or (batch, 2), got "
            f"{seed.dtype.name} {seed.shape}"
        )
    seed = tf.cast(seed, tf.int32)
    if seed.shape.rank == 2:
        return seed
    # What tf.random.experimental.stateless_fold_in does, for all positions at once.
    key = tf.random.stateless_uniform((), seed, None, None, tf.int32, alg=ALGORITHM)
    return tf.stack([tf.fill([batch], key), tf.range(batch)], axis=1)


def uniform_in_ball(seeds: Tensor, restart: Tensor | int, shape: Tensor, eps: float) -> Tensor:
    """Uniform perturbations in [-eps, eps].

    Args:
      seeds: int32 (batch, 2); an example's numbers depend on its own seed alone.
      restart: folded into each seed.
      shape: (height, width, channels).
      eps: above 0.

    Returns:
      float32 (batch, height, width, channels).
    """

    def draw(seed):
        seed = tf.random.experimental.stateless_fold_in(seed, restart, alg=ALGORITHM)
        return tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg=ALGORITHM)

    # Integers of full range, scaled: XLA makes other floats than the plain kernels
    # of the same random bits.
    bits = tf.map_fn(draw, seeds, fn_output_signature=tf.int32)
    return tf.cast(bits, tf.float32) * (eps / 2**31)
