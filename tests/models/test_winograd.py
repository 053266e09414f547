"""Winograd convolutions are convolutions."""

import numpy as np
import pytest

from tf_lottery.keras import tf
from tf_lottery.models.winograd import share_of_products, winograd_convolution


def random(*shape, dtype=tf.float64):
    return tf.constant(np.random.default_rng(sum(shape)).normal(size=shape), dtype)


def images_first(convolve):
    return lambda x: tf.transpose(convolve(tf.transpose(x, (1, 2, 0, 3))), (2, 0, 1, 3))


@pytest.mark.parametrize("height", range(1, 10))
@pytest.mark.parametrize("width", [1, 2, 4, 5, 8])
def test_values_and_gradients_of_every_size(height, width):
    kernel, x = random(3, 3, 5, 7), random(2, height, width, 5)
    direct = lambda x: tf.nn.conv2d(x, kernel, 1, "SAME")  # noqa: E731
    for convolve in (direct, images_first(winograd_convolution(kernel, height, width))):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = convolve(x)
            total = tf.reduce_sum(y * random(*y.shape))
        found = y.numpy(), tape.gradient(total, x).numpy()
        if convolve is direct:
            expected = found
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * np.abs(one).max())


def test_values_by_hand():
    kernel = tf.reshape(tf.range(9.0), (3, 3, 1, 1))
    x = tf.scatter_nd([[0, 1, 2, 0]], [1.0], (1, 5, 6, 1))
    y = images_first(winograd_convolution(kernel, 5, 6))(x)
    expected = np.zeros((5, 6))
    expected[0:3, 1:4] = [[8, 7, 6], [5, 4, 3], [2, 1, 0]]  # the kernel, turned round
    np.testing.assert_allclose(y[0, ..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_rounding_in_float32_stays_small(size):
    """Ten times that of a direct convolution; bfloat16 inputs would be off by 4e-3."""
    kernel, x = random(3, 3, 256, 256), random(4, size, size, 256)
    exact = tf.nn.conv2d(x, kernel, 1, "SAME").numpy()
    convolve = images_first(winograd_convolution(tf.cast(kernel, tf.float32), size, size))
    found = convolve(tf.cast(x, tf.float32))
    error = np.abs(found.numpy() - exact)
    assert error.max() < 5e-5 * np.abs(exact).max()
    assert np.sqrt((error**2).mean()) < 1e-5 * exact.std()


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_any_batch(batch):
    convolve = winograd_convolution(random(3, 3, 2, 3), 4, 8)
    signature = tf.TensorSpec((4, 8, None, 2), tf.float64)
    assert tf.function(convolve, input_signature=[signature])(random(4, 8, batch, 2)).shape == (
        (4, 8, batch, 3)
    )


@pytest.mark.parametrize(
    ("size", "share"),
    [((2, 2), 9 / 36), ((4, 4), 36 / 144), ((8, 8), 144 / 576), ((5, 4), 72 / 180)],
)
def test_share_of_products(size, share):
    assert share_of_products(*size) == share
