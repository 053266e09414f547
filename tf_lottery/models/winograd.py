"""3 x 3 convolutions on small maps with a quarter of the products.

Winograd's minimal filtering F(4 x 4, 3 x 3): four outputs of a filter of three taps need six
products instead of twelve, 36 instead of 144 in two dimensions. A map is cut into tiles of
4 x 4 outputs, each seen from 6 x 6 inputs; both are linear in the map, so that a convolution
becomes three matrix products: inputs of the tiles, the 36 products over the channels, outputs.
Exact in real numbers; in float32 some ten times the rounding of a direct convolution.

On a side of two positions, padded with zeros, two outputs need three products (Karatsuba's):
``t1 (x0 + x1)``, ``(t2 - t1) x1`` and ``(t0 - t1) x0`` for the taps ``t``.

Reference: Lavin and Gray 2015, arXiv 1509.09308.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tf_lottery.keras import tf
from tf_lottery.type_aliases import Tensor

_TILE = 4  # outputs of a tile, in each direction
_POINTS = _TILE + 2  # inputs, and products

# Of F(4, 3) in the reference, with the points 0, 1, -1, 2, -2 and infinity.
_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUT = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)

# Two positions between zeros.
_PAIR_INPUT = np.array([[1, 1], [0, 1], [1, 0]])
_PAIR_KERNEL = np.array([[0, 1, 0], [0, -1, 1], [1, -1, 0]])
_PAIR_OUTPUT = np.array([[1, 1, 0], [1, 0, 1]])


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One direction of a map: ``out_of @ ((into @ x) * (kernel @ taps))``, tile by tile."""

    into: np.ndarray  # (points, tiles, size)
    kernel: np.ndarray  # (points, 3)
    out_of: np.ndarray  # (size, points, tiles)

    @property
    def products(self) -> int:
        return math.prod(self.into.shape[:2])


def share_of_products(height: int, width: int) -> float:
    """Products of :func:`winograd_convolution` over those of a direct convolution."""
    products = _one_axis(height).products * _one_axis(width).products
    return products / (9 * height * width)


def winograd_convolution(kernel: Tensor, height: int, width: int) -> Callable[[Tensor], Tensor]:
    """What ``tf.nn.conv2d(images, kernel, 1, "SAME")`` computes, for maps of one size.

    Positions come first, images second: then each step is one matrix product, and nothing moves
    in between.

    Args:
      kernel: float (3, 3, channels, filters). It is transformed, once, to 4 times its size; to
        the same size where maps are 2 x 2.
      height: of the maps.
      width: of the maps.

    Returns:
      (height, width, batch, channels) -> (height, width, batch, filters).
    """
    channels, filters = kernel.shape[2:]
    rows, columns = _one_axis(height), _one_axis(width)
    points = len(rows.kernel) * len(columns.kernel)
    # Positions -> points of tiles, and back; points come first, tiles second.
    into = np.einsum("pth,quw->pqtuhw", rows.into, columns.into).reshape(-1, height * width)
    out_of = np.einsum("hpt,wqu->hwpqtu", rows.out_of, columns.out_of).reshape(height * width, -1)
    into, out_of, spread = (
        tf.constant(matrix, kernel.dtype)
        for matrix in (into, out_of, np.kron(rows.kernel, columns.kernel))
    )
    kernels = tf.reshape(spread @ tf.reshape(kernel, (9, -1)), (points, channels, filters))

    def convolve(x: Tensor) -> Tensor:
        points_of_x = into @ tf.reshape(x, (height * width, -1))
        products = tf.reshape(points_of_x, (points, -1, channels)) @ kernels
        y = out_of @ tf.reshape(products, (out_of.shape[1], -1))
        return tf.reshape(y, (height, width, -1, filters))

    return convolve


def _one_axis(size: int) -> _Axis:
    """Of maps of ``size`` positions in a direction.

    Tiles begin one position before their outputs. What lies outside of the map is 0, and
    outputs of the last tile beyond it are left out.
    """
    if size == 2:
        return _Axis(_PAIR_INPUT[:, None], _PAIR_KERNEL, _PAIR_OUTPUT[:, :, None])
    tiles = -(-size // _TILE)
    into = np.zeros((_POINTS, tiles, tiles * _TILE + 2))
    out_of = np.zeros((tiles * _TILE, _POINTS, tiles))
    for tile in range(tiles):
        begin = tile * _TILE
        into[:, tile, begin : begin + _POINTS] = _INPUT
        out_of[begin : begin + _TILE, :, tile] = _OUTPUT
    return _Axis(into[..., 1 : size + 1], _KERNEL, out_of[:size])
