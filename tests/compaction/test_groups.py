"""Which channels come and go together, and that masks without them are cut to them."""

import numpy as np
import pytest

from tf_lottery.compaction import (
    channel_groups,
    compact_for_training,
    group_masks,
    left_channels,
)
from tf_lottery.errors import UsageError
from tf_lottery.keras import keras
from tf_lottery.models import build_model
from tf_lottery.pruning.masks import prunable_kernels

L = keras.layers


def as_tuples(groups):
    return [(group.width, group.makers, group.readers, group.norms) for group in groups]


def test_a_chain_has_a_group_a_layer_but_for_the_logits():
    network = build_model("vgg", (16, 16, 3), 10, 0, depth=7, width_multiplier=0.1)
    names = [*prunable_kernels(network)]
    found = channel_groups(network)
    assert [group.makers for group in found] == [(name,) for name in names[:-1]]
    assert [group.readers for group in found] == [(name,) for name in names[1:]]
    assert all(len(group.norms) == 1 for group in found)
    assert [group.width for group in found] == [6, 13, 26, 51, 51, 51]


def test_what_is_summed_up_goes_together():
    network = build_model("resnet18", (8, 8, 3), 10, 0, width_multiplier=0.125)
    found = {group.makers[0]: group for group in channel_groups(network)}
    first = found["stem_conv"]
    assert first.makers == ("stem_conv", "block1_1_conv2", "block1_2_conv2")
    assert set(first.readers) == {
        "block1_1_conv1", "block1_2_conv1", "block2_1_shortcut_conv", "block2_1_conv1",
    }  # fmt: skip
    assert first.norms == ("stem_bn", "block1_1_bn2", "block1_2_bn2")
    (second,) = (group for group in found.values() if "block2_2_conv2" in group.makers)
    assert set(second.makers) == {"block2_1_shortcut_conv", "block2_1_conv2", "block2_2_conv2"}
    assert set(second.norms) == {"block2_1_shortcut_bn", "block2_1_bn2", "block2_2_bn2"}
    inside = found["block3_2_conv1"]
    assert (inside.makers, inside.readers) == (("block3_2_conv1",), ("block3_2_conv2",))
    # Four stages and the inside of eight blocks.
    assert len(found) == 4 + 8
    assert sum(group.width for group in found.values()) == 3 * (8 + 16 + 32 + 64)


def test_pre_activation_norms_are_those_behind_the_sum():
    network = build_model("wide_resnet", (8, 8, 3), 10, 0, depth=10, width=2)
    found = {maker: group for group in channel_groups(network) for maker in group.makers}
    assert found["stem_conv"].norms == ("block1_1_bn1",)
    last = found["block3_1_conv2"]
    assert set(last.makers) == {"block3_1_shortcut_conv", "block3_1_conv2"}
    assert (last.readers, last.norms) == (("logits",), ("final_bn",))


def flat(*inner):
    x = pixels = L.Input((4, 4, 2))
    for layer in inner:
        x = layer(x)
    return keras.Model(pixels, L.Dense(3, name="logits")(L.Flatten()(x)), name="flat")


def test_masks_behind_a_flatten():
    network = flat(L.Conv2D(3, 2, name="conv"))
    (group,) = channel_groups(network)
    assert (group.width, group.makers, group.readers, group.norms) == (
        3,
        ("conv",),
        ("logits",),
        (),
    )
    shapes = {"conv": (2, 2, 2, 3), "logits": (27, 3)}
    masks = group_masks([group], [np.array([True, False, True])], shapes)
    np.testing.assert_array_equal(masks["conv"][..., 1], np.zeros((2, 2, 2)))
    assert masks["conv"][..., [0, 2]].all()
    removed = [position for position in range(27) if position % 3 == 1]
    assert not masks["logits"][removed].any()
    assert masks["logits"].sum() == 18 * 3


@pytest.mark.parametrize("name", ["vgg", "resnet18", "wide_resnet", "convnet", "lenet"])
def test_masks_without_channels_are_cut_to_what_was_kept(name):
    options = {"vgg": {"depth": 7}, "wide_resnet": {"depth": 10, "width": 2}}.get(name, {})
    shape = (16, 16, 3) if name == "vgg" else (8, 8, 3)
    network = build_model(name, shape, 4, 0, width_multiplier=0.2, **options)
    groups = channel_groups(network)
    rng = np.random.default_rng(0)
    kept = [rng.permutation(np.arange(g.width) <= rng.integers(g.width)) for g in groups]
    shapes = {layer: kernel.shape for layer, kernel in prunable_kernels(network).items()}
    masks = group_masks(groups, kept, shapes)
    for expected, found in zip(kept, left_channels(groups, masks), strict=True):
        np.testing.assert_array_equal(found, expected)
    compaction = compact_for_training(network, masks, {})
    for group, keep in zip(groups, kept, strict=True):
        for maker in group.makers:
            np.testing.assert_array_equal(compaction.kept[maker][1], np.flatnonzero(keep))
    assert compaction.widths["logits"] == (4, 4)


def complaint(network):
    with pytest.raises(UsageError) as caught:
        channel_groups(network)
    assert caught.value.flag == "structure"
    return str(caught.value)


def test_what_cannot_be_cut_is_named():
    depthwise = flat(L.Conv2D(3, 2, name="conv"), L.DepthwiseConv2D(2, name="each"))
    assert complaint(depthwise) == (
        "--structure=channels: the channels of conv cannot be cut: each (DepthwiseConv2D) needs "
        "all of them"
    )
    pixels = L.Input((4, 4, 2))
    added = L.Add()([pixels, L.Conv2D(2, 3, padding="same", name="conv")(pixels)])
    network = keras.Model(pixels, L.Dense(2, name="logits")(L.Flatten()(added)))
    assert "the channels of conv cannot be cut: they are added to those of" in complaint(network)


def test_nothing_to_cut():
    assert "flat has no channels to cut" in complaint(flat())
