"""A compacted ticket takes the steps of the whole one."""

import functools

import numpy as np
import pytest

from tf_lottery import objectives, weights
from tf_lottery.attacks import make_attack
from tf_lottery.cutting import cut
from tf_lottery.keras import keras, tf
from tf_lottery.models import build_model, forward_flops
from tf_lottery.options.settings import attack_from_name
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
