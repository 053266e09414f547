"""Padding, cropping, flipping."""

import numpy as np
import pytest

from tf_lottery.data.augmentation import crop_and_flip, draw, padding
from tf_lottery.keras import tf


def oracle(image, top, left, flip):
    """One image by the book."""
    height, width, channels = image.shape
    pad_y, pad_x = height // 8, width // 8
    padded = np.zeros((height + 2 * pad_y, width + 2 * pad_x, channels), image.dtype)
    padded[pad_y : pad_y + height, pad_x : pad_x + width] = image
    crop = padded[top : top + height, left : left + width]
    return crop[:, ::-1] if flip else crop


def pictures(number, shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (number, *shape)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (16, 24, 2), (4, 8, 1)])
def test_every_crop_and_flip_matches_numpy(shape, dtype):
    pads = shape[0] // 8, shape[1] // 8
    draws = np.array(
        [
            (top, left, flip)
            for top in range(2 * pads[0] + 1)
            for left in range(2 * pads[1] + 1)
            for flip in (0, 1)
        ],
        np.int32,
    )
    images = pictures(len(draws), shape, dtype)
    got = crop_and_flip(tf.constant(images), tf.constant(draws)).numpy()
    expected = np.stack([oracle(i, *d) for i, d in zip(images, draws, strict=True)])
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, expected)


def test_padding_is_the_papers():
    assert [padding(side) for side in (32, 28, 8, 7)] == [4, 3, 1, 0]


def test_epoch_and_seed_matter_and_nothing_else():
    tables = [draw(seed, epoch, 50, (32, 32, 3)).numpy() for seed in (0, 1) for epoch in (0, 1)]
    for i, table in enumerate(tables):
        np.testing.assert_array_equal(table, draw(i // 2, i % 2, 50, (32, 32, 3)).numpy())
        for other in tables[:i]:
            assert np.mean(table == other) < 0.5


def test_eager_graph_and_tensor_seeds_agree():
    compiled = tf.function(draw)
    np.testing.assert_array_equal(
        compiled(tf.constant(3, tf.int64), tf.constant(4), 30, (32, 32, 3)),
        draw(3, 4, 30, (32, 32, 3)),
    )
    images = pictures(4, (8, 8, 1))
    function = tf.function(
        crop_and_flip,
        input_signature=[
            tf.TensorSpec((None, 8, 8, 1), tf.uint8),
            tf.TensorSpec((None, 3), tf.int32),
        ],
    )
    draws = np.array([[0, 2, 1], [1, 1, 0], [2, 0, 0], [2, 2, 1]], np.int32)
    np.testing.assert_array_equal(function(images, draws), crop_and_flip(images, draws))


def test_offsets_and_flips_are_uniform():
    number = 81 * 2 * 200
    table = draw(0, 0, number, (32, 32, 3)).numpy()
    assert table.dtype == np.int32
    assert table.min() == 0
    assert table.max(axis=0).tolist() == [8, 8, 1]
    cells = np.bincount((table[:, 0] * 9 + table[:, 1]) * 2 + table[:, 2], minlength=162)
    assert cells.shape == (162,)
    # Chi-square with 161 degrees of freedom: mean 161, deviation 18.
    assert 161 - 5 * 18 < np.sum((cells - 200) ** 2) / 200 < 161 + 5 * 18
