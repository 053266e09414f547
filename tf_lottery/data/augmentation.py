"""The paper's augmentation: pad by an eighth of the side, crop at random, flip at random.

What happens to an image is a function of (seed, epoch, position in the training
arrays) alone, so a resumed run, another batch size or another number of replicas
sees the same pixels.

Reference: arXiv 2003.05733, section 4, after He et al. 2016.
"""

from __future__ import annotations

from typing import Any

from tf_lottery.keras import tf
from tf_lottery.type_aliases import Tensor


def padding(side: int) -> int:
    """Pixels of zeros on each end of a side: an eighth, 4 for CIFAR's 32."""
    return side // 8


def draw(seed: Any, epoch: Any, num_examples: int, input_shape: tuple[int, int, int]) -> Tensor:
    """What to do with each image in one epoch.

    Args:
      seed: int below 2**31, the run's augmentation seed.
      epoch: int scalar, counted from 0.
      num_examples: size of the training arrays. It keys the table too: a longer
        table need not begin with the shorter one.
      input_shape: (height, width, channels).

    Returns:
      int32 (num_examples, 3): top row and left column of the crop in the padded
      image, in [0, 2 * padding], and 1 where the crop is to be flipped, else 0.
    """
    choices = [2 * padding(input_shape[0]) + 1, 2 * padding(input_shape[1]) + 1, 2]
    uniform = tf.random.stateless_uniform(
        (num_examples, 3),
        seed=tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)]),
        alg="philox",  # the default depends on the device
    )
    return tf.cast(uniform * tf.constant(choices, tf.float32), tf.int32)


def crop_and_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Shifted and flipped images.

    Args:
      images: any type, (batch, height, width, channels), height to channels static.
      draws: int32 (batch, 3), rows of ``draw``'s table.

    Returns:
      Of the type and shape of ``images``; what comes from outside an image is 0.
    """
    _, height, width, channels = images.shape
    pad_y, pad_x = padding(height), padding(width)
    padded = tf.pad(images, ((0, 0), (pad_y, pad_y), (pad_x, pad_x), (0, 0)))
    padded_height, padded_width = height + 2 * pad_y, width + 2 * pad_x
    top, left, flip = (draws[:, column, None] for column in range(3))  # (batch, 1) each
    rows = top + tf.range(height)  # (batch, height)
    x = tf.range(width)
    columns = left + tf.where(flip == 1, width - 1 - x, x)  # (batch, width)
    batch = tf.shape(images)[0]
    first_row = tf.range(batch)[:, None] * padded_height
    pixels = (first_row + rows)[:, :, None] * padded_width + columns[:, None, :]
    return tf.gather(tf.reshape(padded, (-1, channels)), pixels)
