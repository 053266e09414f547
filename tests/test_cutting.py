"""A compacted ticket takes the steps of the whole one."""

import functools

import numpy as np
import pytest

from tf_lottery import objectives, weights
from tf_lottery.attacks import make_attack
from tf_lottery.compaction import channel_groups, group_masks
from tf_lottery.cutting import cut
from tf_lottery.keras import keras, tf
from tf_lottery.models import build_model, forward_flops
from tf_lottery.options.settings import attack_from_name
from tf_lottery.pruning.channels import select_within
from tf_lottery.pruning.masks import wrap
from tf_lottery.training.model import LotteryModel

STEPS = 3
NETWORKS = {
    "convnet": ((8, 8, 1), {"width_multiplier": 0.25}, 0.85),
    "lenet": ((8, 8, 1), {"width_multiplier": 0.1}, 0.9),
    "vgg": ((8, 8, 3), {"depth": 8, "width_multiplier": 0.1}, 0.95),
    "resnet18": ((8, 8, 3), {"width_multiplier": 0.1}, 0.97),
    "wide_resnet": ((8, 8, 3), {"depth": 10, "width": 1, "width_multiplier": 0.5}, 0.95),
}


def masked_network(name):
    """With filters that are dead, filters that nobody reads, and weights all over."""
    shape, options, sparsity = NETWORKS[name]
    masked = wrap(build_model(name, shape, 4, 0, **options))
    rng = np.random.default_rng(2)
    masks = {}
    for place, (layer, kernel) in enumerate(masked.kernels.items()):
        mask = rng.random(tuple(kernel.shape)) > sparsity
        mask[..., 1 % mask.shape[-1]] = False
        if place:
            mask.reshape(-1, mask.shape[-1])[::5] = False
        mask.reshape(-1)[0] = True
        masks[layer] = mask
    masked.set_masks(masks)
    return masked


def trained(masked, objective):
    """The weights after a few steps, momentum and weight decay on."""
    attack = functools.partial(make_attack, attack_from_name("pgd3", 0.1))
    parts = (objectives.natural,) if objective == "natural" else (objectives.adversarial, attack)
    model = LotteryModel(masked, *parts, attack_seed=3, weight_decay=0.01)
    model.compile(optimizer=keras.optimizers.SGD(0.05, momentum=0.9))
    rng = np.random.default_rng(0)
    shape = masked.network.input_shape[1:]
    losses = []
    for step in range(STEPS):
        model.reset_metrics()
        result = model.train_step(
            {
                "image": tf.constant(rng.random((16, *shape)), tf.float32),
                "label": tf.constant(rng.integers(0, 4, 16), tf.int32),
                "index": tf.range(16),
                "epoch": tf.fill([16], step),
            }
        )
        losses.append(float(result["loss"]))
    return weights.get_weights(masked.network), losses


def of_channels(name, sparsity=0.0):
    """Half of the channels gone, and then a share of the weights of the others."""
    shape, options, _ = NETWORKS[name]
    masked = wrap(build_model(name, shape, 4, 0, **{**options, "width_multiplier": 0.3}))
    groups, rng = channel_groups(masked.network), np.random.default_rng(4)
    kept = [rng.permutation(np.arange(group.width) < (group.width + 1) // 2) for group in groups]
    shapes = {layer: kernel.shape for layer, kernel in masked.kernels.items()}
    masks = group_masks(groups, kept, shapes)
    if sparsity:
        scores = {layer: rng.random(mask.shape) for layer, mask in masks.items()}
        masks = select_within(scores, masks, sparsity, "layer")
    masked.set_masks(masks)
    return masked


@pytest.mark.parametrize("sparsity", [0.0, 0.8])
@pytest.mark.parametrize("name", [*NETWORKS])
def test_the_network_cut_to_its_channels_is_the_masked_one(name, sparsity):
    """At the start and after steps, in logits, and it is a small network of full layers."""
    masked = of_channels(name, sparsity)
    small, compaction = cut(masked)
    images = np.random.default_rng(5).random((6, *masked.network.input_shape[1:]))

    def same(tolerance):
        ours, theirs = small.network(images), masked.network(images)
        size = np.abs(theirs).max()
        assert size > 1e-9  # averages of BatchNorm are not trained yet
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * size)
        return theirs.numpy()

    before = same(1e-5)
    assert small.is_dense() == (sparsity == 0)
    whole, losses = trained(masked, "natural")
    part, small_losses = trained(small, "natural")
    after = same(2e-3)
    np.testing.assert_allclose(small_losses, losses, rtol=1e-4)
    assert np.abs(after - before).max() > 0.05 * np.abs(before).max()
    for variable, value in compaction.cut(whole).items():
        np.testing.assert_allclose(part[variable], value, rtol=2e-3, atol=5e-5, err_msg=variable)
    widths = {name: after for name, (_, after) in compaction.widths.items()}
    if not sparsity:
        kernels = {layer: kernel.shape for layer, kernel in small.kernels.items()}
        assert {layer: shape[-1] for layer, shape in kernels.items()} == widths
        assert all(factor.numpy().all() for factor in small.filters.values())


def test_devices_get_the_filters_that_a_cut_network_trains():
    """A filter whose weights were all on channels cut out has a BatchNorm that is trained."""
    masked = wrap(build_model("convnet", (8, 8, 1), 4, 0, width_multiplier=0.25))
    masks = {layer: np.ones(kernel.shape, bool) for layer, kernel in masked.kernels.items()}
    masks["conv1"][..., 0] = False
    masks["conv2"][..., 3] = False
    masks["conv2"][:, :, 0, 3] = True  # reads a channel that is zero
    masked.set_masks(masks)
    small, compaction = cut(masked)
    place = compaction.kept["conv2"][1].tolist().index(3)
    assert not small.get_masks()["conv2"][..., place].any()
    norm = next(layer for layer, sources in small.sources.items() if sources == ("conv2",))
    assert small.filters[norm, "gamma"].numpy()[place] == 1
    again = wrap(small.network)
    filters = {key: factor.numpy() for key, factor in small.filters.items()}
    again.set_masks(small.get_masks(), filters)
    assert again.filters[norm, "gamma"].numpy()[place] == 1
    assert again.network.get_layer(norm).gamma.numpy()[place] == 1


@pytest.mark.parametrize(
    ("name", "objective"), [*((name, "natural") for name in NETWORKS), ("convnet", "pgd")]
)
def test_the_same_steps(name, objective):
    masked = masked_network(name)
    start = weights.get_weights(masked.network)
    small, compaction = cut(masked)
    assert compaction.removed > 0
    assert sum(forward_flops(small.network).values()) < sum(forward_flops(masked.network).values())
    for layer, value in weights.get_weights(masked.network).items():
        np.testing.assert_array_equal(value, start[layer])  # left as it is
    whole, losses = trained(masked, objective)
    part, small_losses = trained(small, objective)
    np.testing.assert_allclose(small_losses, losses, rtol=1e-4)
    expected = compaction.cut(whole)
    assert set(part) == set(expected)
    moved = 0.0
    begun = compaction.cut(start)
    for variable, value in expected.items():
        np.testing.assert_allclose(part[variable], value, rtol=2e-3, atol=2e-5, err_msg=variable)
        moved = max(moved, np.abs(value - begun[variable]).max())
    assert moved > 0.01
    # And the masks went along.
    for layer, mask in small.get_masks().items():
        assert not part[f"{layer}/kernel"][~mask].any()
        rows, columns = compaction.kept[layer]
        np.testing.assert_array_equal(mask, masked.get_masks()[layer][..., rows, :][..., columns])


def test_trained_weights_go_back_into_the_whole_network():
    masked = masked_network("convnet")
    small, compaction = cut(masked)
    part, _ = trained(small, "natural")
    zeros = {
        name: np.ones_like(value) if name.endswith("variance") else np.zeros_like(value)
        for name, value in weights.get_weights(masked.network).items()
    }
    weights.set_weights(masked.network, compaction.embed(part, zeros))
    images = np.random.default_rng(1).random((6, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(
        masked.network(images, training=False),
        small.network(images, training=False),
        rtol=1e-5,
        atol=1e-5,
    )
