"""Stateless seeds for random starts, one per example."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

    first, second = tf.unstack(tf.cast(seeds, tf.int64), axis=1)
    # As stateless_fold_in and then stateless_uniform for each example, but for all at once: a
    # loop over the examples takes most of a small network's N-FGSM noise.
    folded = tf.bitcast(tf.cast(_words(first, second, 1)[:, 0], tf.uint32), tf.int32)
    salts = tf.fill(tf.shape(first), tf.cast(salt, tf.int64))
    size = tf.reduce_prod(shape)
    bits = _words(tf.cast(folded, tf.int64), salts, size)
    bits = tf.bitcast(tf.cast(bits, tf.uint32), tf.int32)
    return tf.reshape(bits, tf.concat([tf.shape(seeds)[:1], shape], 0))


# Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), and the key
# with which TensorFlow mixes a seed.
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MIXING_KEY = (0x3EC8F720, 0x02461E29)
_LOW = 0xFFFFFFFF
_ROUNDS = 10


def _words(first: Tensor, second: Tensor, count: Tensor | int) -> Tensor:
    """What ``tf.random.stateless_uniform`` draws under Philox, for many seeds at once.

    Args:
      first, second: int64 (batch,), the parts of each seed.
      count: numbers of each.

    Returns:
      uint64 (batch, count), below 2**32.
    """
    seed = [half for part in (first, second) for half in _halves(tf.bitcast(part, tf.uint64))]
    mixed = _philox(seed, [tf.constant(part, tf.uint64) for part in _MIXING_KEY])
    key, high = ([word[:, None] for word in pair] for pair in (mixed[:2], mixed[2:]))
    blocks = (count + 3) // 4
    block = tf.cast(tf.range(blocks), tf.uint64)[None]  # below 2**32, so its upper half is 0
    found = _philox([block, tf.zeros_like(block), *high], key)
    return tf.reshape(tf.stack(found, -1), [tf.shape(first)[0], 4 * blocks])[:, :count]


def _philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> list[Tensor]:
    """Four random words of four and a key of two; all uint64 that broadcast, below 2**32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    multipliers, weyl = (
        [tf.constant(word, tf.uint64) for word in words] for words in (_MULTIPLIERS, _WEYL)
    )
    for i in range(_ROUNDS):
        if i:
            k0, k1 = (_halves(k + w)[0] for k, w in zip((k0, k1), weyl, strict=True))
        (low0, high0), (low1, high1) = (
            _halves(c * m) for c, m in zip((c0, c2), multipliers, strict=True)
        )
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return [c0, c1, c2, c3]


def _halves(words: Tensor) -> tuple[Tensor, Tensor]:
    """The lower and the upper 32 bits of uint64."""
    return words & tf.constant(_LOW, tf.uint64), tf.bitwise.right_shift(
        words, tf.constant(32, tf.uint64)
    )


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
