"""Area averages, against sums over every pixel of a finer grid."""

import numpy as np
import pytest

from tf_lottery.data import resizing
from tf_lottery.data.resizing import area_average


def pictures(number, side, channels=3, seed=0):
    shape = (number, side, side, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def oracle(images, size):
    """Each pixel repeated ``size`` times along both sides; then whole blocks of side x side."""
    number, side, _, channels = images.shape
    fine = images.astype(object).repeat(size, 1).repeat(size, 2)
    sums = fine.reshape(number, size, side, size, side, channels).sum((2, 4))
    # In integers: the quotient, and one more from above a half, or from a half if odd.
    whole, rest = sums // side**2, sums % side**2 * 2
    return (whole + (rest > side**2) + ((rest == side**2) & (whole % 2 == 1))).astype(np.uint8)


@pytest.mark.parametrize(
    ("side", "size"), [(8, 4), (8, 8), (8, 5), (8, 7), (9, 4), (12, 8), (28, 14), (10, 1)]
)
def test_every_pixel_is_the_mean_of_its_area(side, size):
    images = pictures(5, side)
    got = area_average(images, size)
    assert (got.dtype, got.shape) == (np.uint8, (5, size, size, 3))
    np.testing.assert_array_equal(got, oracle(images, size))


def test_whole_factors_are_block_means():
    images = pictures(3, 32)
    blocks = images.reshape(3, 16, 2, 16, 2, 3).mean((2, 4))
    np.testing.assert_array_equal(area_average(images, 16), np.rint(blocks))


def test_by_hand():
    """3 pixels to 2: each takes one whole and half of the middle one."""
    row = np.array([30, 60, 120], np.uint8)
    image = np.broadcast_to(row[None, None, :, None], (1, 3, 3, 1))
    assert area_average(image, 2)[0, :, :, 0].tolist() == [[40, 100], [40, 100]]


def test_halves_go_to_the_even_level():
    image = np.array([[1, 2], [1, 2]], np.uint8)[None, :, :, None]  # 1.5
    assert area_average(image, 1).item() == 2
    assert area_average(image + 1, 1).item() == 2  # 2.5


def test_an_even_image_stays_even_and_a_full_size_stays_as_it_is():
    assert (area_average(np.full((2, 32, 32, 1), 255, np.uint8), 13) == 255).all()
    images = pictures(4, 9)
    np.testing.assert_array_equal(area_average(images, 9), images)


def test_images_do_not_depend_on_how_many_are_shrunk_at_once(monkeypatch):
    images = pictures(7, 8)
    whole = area_average(images, 3)
    monkeypatch.setattr(resizing, "_AT_ONCE", 2)
    np.testing.assert_array_equal(area_average(images, 3), whole)
