"""Smaller images, by the mean over the area that each of their pixels covers."""

from __future__ import annotations

import numpy as np

_AT_ONCE = 1024  # images in float64: 24 MiB of CIFAR's


def area_average(images: np.ndarray, size: int) -> np.ndarray:
    """Square images shrunk to ``size`` x ``size`` pixels.

    A pixel is the mean of the square that it covers, an input pixel of which only a part is
    in the square counting by that part. At a whole factor it is the mean of a block. The means
    are exact, and rounded to the nearest level, half to even.

    Args:
      images: uint8 (n, side, side, channels).
      size: from 1 to ``side``.

    Returns:
      uint8 (n, size, size, channels).
    """
    side = images.shape[1]
    edges, ends = np.arange(side) * size, np.arange(size)[:, None] * side
    # In units of 1 / size pixel: whole numbers, so that float64 adds them without an error.
    covered = np.minimum(edges + size, ends + side) - np.maximum(edges, ends)
    share = np.maximum(covered, 0).astype(np.float64)  # (size, side), each row's sum is side
    shrunk = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE].transpose(0, 3, 1, 2).astype(np.float64)
        means = np.rint(share @ part @ share.T / side**2)
        shrunk[start : start + _AT_ONCE] = means.transpose(0, 2, 3, 1)
    return shrunk
