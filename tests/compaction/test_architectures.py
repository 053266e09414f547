"""Every architecture, globally pruned: smaller, and the same logits."""

import itertools

import numpy as np
import pytest

from tf_lottery.compaction import compact, compact_for_training
from tf_lottery.keras import tf
from tf_lottery.models import build_model, forward_flops

SMALL = {
    "convnet": ((8, 8, 1), {"width_multiplier": 0.5}),
    "lenet": ((12, 12, 1), {"width_multiplier": 0.25}),
    "resnet18": ((8, 8, 3), {"width_multiplier": 0.125}),
    "vgg7": ((16, 16, 3), {"width_multiplier": 0.1, "depth": 7}),
    "vgg8": ((16, 16, 3), {"width_multiplier": 0.1, "depth": 8}),
    "vgg11": ((16, 16, 3), {"width_multiplier": 0.1, "depth": 11}),
    "vgg16": ((16, 16, 3), {"width_multiplier": 0.1, "depth": 16}),
    "wide_resnet": ((8, 8, 3), {"depth": 10, "width": 1}),
}
CHAINS = ["convnet", "lenet", "vgg7", "vgg16"]  # without a branch


@pytest.fixture(scope="module")
def networks():
    made = {}

    def get(name):
        if name not in made:
            shape, options = SMALL[name]
            family = "vgg" if name.startswith("vgg") else name
            images = np.random.default_rng(1).random((12, *shape)).astype(np.float32)
            made[name] = build_model(family, shape, 10, 0, mean=[0.5] * shape[2],
                                     std=[0.25] * shape[2], **options), images  # fmt: skip
        return made[name]

    return get


def gradient(network, images):
    images = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        total = tf.reduce_sum(network(images, training=False)[:, 3])
    return tape.gradient(total, images).numpy()


@pytest.mark.parametrize(
    ("name", "sparsity", "held"),
    [
        *((name, sparsity, True) for name in SMALL for sparsity in (0.8, 0.9, 0.95, 0.98)),
        *((name, 0.95, False) for name in ("convnet", "resnet18", "vgg16")),
    ],
)
def test_the_logits_are_the_same(networks, pruned, name, sparsity, held):
    network, images = networks(name)
    pruned(network, sparsity, images, seed=int(100 * sparsity), held=held)
    before = network(images, training=False).numpy()
    found = compact(network)
    after = found.network(images, training=False).numpy()
    size = np.abs(before).max()
    assert before.std(axis=0).max() > 1e-2 * size  # something depends on the images at all
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * size)
    if sparsity == 0.9:  # attacks find the same slopes
        slope = gradient(network, images[:4])
        np.testing.assert_allclose(
            gradient(found.network, images[:4]), slope, rtol=0, atol=1e-4 * np.abs(slope).max()
        )
    # The network given is as it was.
    np.testing.assert_array_equal(network(images, training=False).numpy(), before)
    if sparsity >= (0.98 if name in ("resnet18", "wide_resnet") else 0.9):
        assert found.removed > 0
    assert [layer.name for layer in found.network.layers] == [x.name for x in network.layers]
    kernels = [layer.kernel for layer in network.layers if hasattr(layer, "kernel")]
    smaller = [layer.kernel for layer in found.network.layers if hasattr(layer, "kernel")]
    assert found.removed == sum(k.shape[-1] for k in kernels) - sum(k.shape[-1] for k in smaller)
    assert smaller[0].shape[-2] == images.shape[-1]
    assert smaller[-1].shape[-1] == 10
    less = sum(forward_flops(found.network).values()) < sum(forward_flops(network).values())
    assert less == (found.removed > 0)


def needed_in_a_chain(network, masks, zero):
    """Which outputs each layer of a chain must keep: from the logits back, by hand."""
    needed, result = np.ones(10, bool), {}
    for layer in reversed([layer for layer in network.layers if hasattr(layer, "kernel")]):
        result[layer.name] = needed
        mask = masks[layer.name]
        read = mask.reshape(-1, *mask.shape[-2:]).any(axis=0)[:, needed].any(axis=1)
        source = result_width(network, layer)
        # Behind Flatten there are several inputs a channel, the channel varying fastest.
        needed = read.reshape(-1, source).any(axis=0) & ~zero.get(
            layer.name, np.zeros(source, bool)
        )
    return result


def result_width(network, layer):
    names = [x.name for x in network.layers if hasattr(x, "kernel")]
    place = names.index(layer.name)
    return network.input_shape[-1] if place == 0 else network.get_layer(
        names[place - 1]
    ).kernel.shape[-1]  # fmt: skip


@pytest.mark.parametrize("sparsity", [0.9, 0.98])
@pytest.mark.parametrize("name", CHAINS)
def test_for_training_a_chain_keeps_what_a_walk_by_hand_keeps(networks, pruned, name, sparsity):
    network, images = networks(name)
    masks = pruned(network, sparsity, images)
    names = list(masks)
    dead = {layer: ~mask.reshape(-1, mask.shape[-1]).any(axis=0) for layer, mask in masks.items()}
    norms = {layer.name for layer in network.layers if hasattr(layer, "moving_mean")}
    held, zero = {}, {}
    for layer, after in itertools.pairwise(names):
        norm = layer.replace("conv", "bn").replace("dense", "bn_dense")
        if norm in norms:  # lenet has none: its biases are trained, no filter stays zero
            held[norm] = dead[layer]
            zero[after] = dead[layer]
    assert len(held) == len(norms)
    expected = needed_in_a_chain(network, masks, zero)
    found = compact_for_training(network, masks, held)
    for layer, needed in expected.items():
        assert needed.any()
        np.testing.assert_array_equal(found.kept[layer][1], np.flatnonzero(needed), err_msg=layer)
    before = network(images, training=False).numpy()
    np.testing.assert_allclose(
        found.network(images, training=False).numpy(), before, atol=1e-5 * np.abs(before).max()
    )


def test_what_is_cut_out_can_be_put_back(networks, pruned):
    from tf_lottery import weights

    network, images = networks("vgg8")
    pruned(network, 0.98, images)
    found = compact(network)
    whole = weights.get_weights(network)
    part = found.cut(whole)
    small = weights.get_weights(found.network)
    assert small["conv5_1/kernel"].shape != whole["conv5_1/kernel"].shape
    for name in ("conv4_1/kernel", "bn4_1/gamma", "bn5_1/moving_mean", "conv5_1/kernel"):
        assert part[name].shape == small[name].shape
        np.testing.assert_array_equal(part[name], small[name])
    again = found.embed(part, {name: np.zeros_like(value) for name, value in whole.items()})
    rows, columns = found.kept["conv5_1"]
    expected = np.zeros_like(whole["conv5_1/kernel"])
    for row in rows:
        for column in columns:
            expected[:, :, row, column] = whole["conv5_1/kernel"][:, :, row, column]
    np.testing.assert_array_equal(again["conv5_1/kernel"], expected)
    assert expected.any()
