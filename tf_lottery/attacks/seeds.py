"""Stateless seeds for random starts, one per example."""

from __future__ import annotations

import math
from numbers import Integral

from tf_lottery.attacks.norms import onto_sphere
from tf_lottery.keras import tf
from tf_lottery.type_aliases import Tensor

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


def random_bits(seeds: Tensor, salt: Tensor | int, shape: Tensor) -> Tensor:
    """Independent full-range integers; an example's depend on its own seed alone.

    Args:
      seeds: int32 (batch, 2).
      salt: scalar integer, folded into each seed: other numbers for another purpose.
      shape: of the numbers of one example.

    Returns:
      int32 (batch, *shape).
    """

    def draw(seed):
        seed = tf.random.experimental.stateless_fold_in(seed, salt, alg=ALGORITHM)
        return tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg=ALGORITHM)

    # Integers, to be scaled: XLA makes other floats than the plain kernels of the same
    # random bits.
    return tf.map_fn(draw, seeds, fn_output_signature=tf.int32)


def uniform(bits: Tensor) -> Tensor:
    """Full-range int32 -> float32 in [-1, 1]."""
    return tf.cast(bits, tf.float32) * (1 / 2**31)


def normal(bits: Tensor, more_bits: Tensor) -> Tensor:
    """Two independent sets of full-range int32 -> standard normal float32 (Box-Muller)."""
    unit = (uniform(bits) + (1 + 2**-24)) / 2  # in (0, 1]
    radius = tf.sqrt(-2 * tf.math.log(tf.clip_by_value(unit, 2**-32, 1.0)))
    return radius * tf.cos(math.pi * uniform(more_bits))


def random_direction(seeds: Tensor, salt: Tensor | int, shape: Tensor, norm: str) -> Tensor:
    """Random perturbations to be scaled to a sphere: uniform (l_inf), normal (l_2)."""
    if norm == "linf":
        return uniform(random_bits(seeds, salt, shape))
    bits = random_bits(seeds, salt, tf.concat([[2], shape], 0))
    return normal(bits[:, 0], bits[:, 1])


def uniform_in_ball(
    seeds: Tensor, restart: Tensor | int, shape: Tensor, eps: float, norm: str = "linf"
) -> Tensor:
    """Uniform perturbations of the ball of radius ``eps``.

    Args:
      seeds: int32 (batch, 2); an example's numbers depend on its own seed alone.
      restart: folded into each seed.
      shape: (height, width, channels).
      eps: above 0.
      norm: ``linf`` or ``l2``.

    Returns:
      float32 (batch, height, width, channels).
    """
    if norm == "linf":
        return tf.cast(random_bits(seeds, restart, shape), tf.float32) * (eps / 2**31)
    size = tf.reduce_prod(shape)
    bits = random_bits(seeds, restart, [2 * size + 1])
    plane = tf.concat([[tf.shape(seeds)[0]], shape], 0)
    delta = normal(tf.reshape(bits[:, :size], plane), tf.reshape(bits[:, size:-1], plane))
    share = (uniform(bits[:, -1]) + 1) / 2
    radius = tf.pow(share, 1 / tf.cast(size, tf.float32))
    return onto_sphere(delta, eps, norm) * radius[:, None, None, None]
