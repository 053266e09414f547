"""Bytes of a training step, by hand."""

import pytest

from tf_lottery.keras import keras
from tf_lottery.models import build_model, footprint

layers = keras.layers


def small():
    """(6, 6, 2) pixels -> conv 3, BatchNorm, ReLU, max pooling -> dense 5."""
    x = pixels = keras.Input((6, 6, 2))
    x = layers.Rescaling(2.0)(x)
    x = layers.Conv2D(3, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D(2)(x)
    return keras.Model(pixels, layers.Dense(5)(layers.Flatten()(x)))


def test_a_chain_of_layers():
    found = footprint(small())
    kernels = 3 * 3 * 2 * 3 + 27 * 5
    assert found.masks == 4 * kernels
    assert found.trained == 4 * (kernels + 5 + 2 * 3)  # bias, scale and shift
    assert found.weights == found.trained + 4 * 2 * 3  # mean and variance
    # Rescaled pixels for the kernel, its output for BatchNorm, ReLU's, which max pooling
    # shares, the pooled for max pooling, and once more, flat, for the dense kernel.
    assert found.kept == 4 * (72 + 108 + 108 + 27 + 27)
    assert found.widest == 4 * (108 + 108)
    assert found.state == found.weights + found.trained + found.masks
    assert found.image == found.kept + found.widest
    assert found.step(7) == found.state + found.trained + 7 * found.image
    assert found.step(0) == found.weights + 2 * found.trained + found.masks


def test_what_two_layers_read_is_kept_once():
    x = pixels = keras.Input((4, 4, 2))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    both = layers.Conv2D(2, 3, padding="same")(x), layers.Conv2D(2, 1)(x)
    found = footprint(keras.Model(pixels, layers.Add()(both)))
    assert found.kept == 4 * (32 + 32)  # before BatchNorm, after ReLU; a sum needs nothing
    assert found.widest == 4 * 3 * 32  # the sum and both it is made of


def test_half_precision_halves_activations_alone():
    options = {"name": "convnet", "input_shape": (8, 8, 1), "num_classes": 4, "seed": 0}
    full, half = (
        footprint(build_model(**options, dtype_policy=policy))
        for policy in ("float32", "mixed_bfloat16")
    )
    assert (half.weights, half.trained, half.masks) == (full.weights, full.trained, full.masks)
    # The pixels stay float32, and so does what the float32 logits read.
    assert full.kept / 2 <= half.kept < 0.6 * full.kept


@pytest.mark.parametrize(
    ("name", "options", "floats"),
    [
        # Stem (16 channels), then three stages of 5 blocks; a block keeps what its two
        # BatchNorms read and its two ReLUs give. The first block of each reads another shape.
        (
            "wide_resnet",
            {"depth": 34, "width": 2, "width_multiplier": 1.0},
            1024 * 3  # pixels, for the stem
            + 1024 * 16 * 2 + 1024 * 32 * 2  # block 1 of stage 1
            + 4 * 4 * 1024 * 32
            + 1024 * 32 * 2 + 256 * 64 * 2  # block 1 of stage 2
            + 4 * 4 * 256 * 64
            + 256 * 64 * 2 + 64 * 128 * 2
            + 4 * 4 * 64 * 128
            + 64 * 128 * 2  # the last BatchNorm and ReLU
            + 128,  # pooled, for the logits
        ),
        (
            "vgg",
            {"depth": 7},
            1024 * 3
            + sum(side * side * 2 * channels for side, channels in
                  ((32, 64), (16, 128), (8, 256), (4, 512), (2, 512)))
            # what the next group's convolution reads: pooled
            + sum(side * side * channels for side, channels in
                  ((16, 64), (8, 128), (4, 256), (2, 512)))
            + 512 * 3,  # pooled; before BatchNorm and after ReLU of the dense layer
        ),
    ],
)  # fmt: skip
def test_networks_of_the_paper(name, options, floats):
    found = footprint(build_model(name, (32, 32, 3), 10, 0, **options))
    assert found.kept == 4 * floats
