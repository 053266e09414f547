"""Masks on networks: sharing, zeros, BatchNorm filters, errors, rewinding."""

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.errors import DeadLayerError
from tf_lottery.keras import keras, tf
from tf_lottery.models import build_model
from tf_lottery.pruning import masks as masks_module
from tf_lottery.pruning.masks import wrap

FAMILIES = {
    "convnet": {"width_multiplier": 0.1},
    "resnet18": {"width_multiplier": 0.05},
    "wide_resnet": {"depth": 10, "width": 1, "width_multiplier": 0.25},
    "vgg": {"depth": 8, "width_multiplier": 0.05},
}


@pytest.fixture
def masked(tiny_network):
    return wrap(tiny_network())


@pytest.mark.parametrize("family", FAMILIES)
def test_wrapping_keeps_function_weights_and_order(family):
    network = build_model(family, (8, 8, 1), 4, 3, **FAMILIES[family])
    masked = wrap(network)
    ours, theirs = weights.get_weights(masked.network), weights.get_weights(network)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    x = np.random.default_rng(0).random((3, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(
        masked.network(x, training=False), network(x, training=False), atol=1e-6
    )
    # model.set_weights of one suits the other: same variables in the same order.
    shapes = [(v.name.split("/")[-1], tuple(v.shape)) for v in network.weights]
    assert [(v.name.split("/")[-1], tuple(v.shape)) for v in masked.network.weights] == shapes
    assert list(masked.kernels) == list(masked.masks)
    assert masked.is_dense()


def test_wrapped_and_bare_network_share_every_variable(masked):
    by_id = {id(v) for v in masked.wrapped.variables}
    assert all(id(v) in by_id for v in masked.network.variables)
    for wrapper in masked.wrapped.layers:
        if hasattr(wrapper, "pruning_vars"):
            name = wrapper.layer.name
            assert masked.network.get_layer(name) is wrapper.layer
            assert masked.masks[name] is wrapper.pruning_vars[0][1]
            assert masked.kernels[name] is wrapper.layer.kernel


def test_wrap_does_not_touch_the_network_it_clones(tiny_network, tiny_masks):
    network = tiny_network()
    before = weights.digest(weights.get_weights(network))
    masked = wrap(network)
    masked.set_masks(tiny_masks(masked.kernels))
    assert weights.digest(weights.get_weights(network)) == before


def test_set_masks_zeroes_exactly_what_is_pruned(masked, tiny_masks):
    before = weights.get_weights(masked.network)
    masks = tiny_masks(masked.kernels, dead={"conv2": 1})
    masked.set_masks(masks)
    assert not masked.is_dense()
    after = weights.get_weights(masked.network)
    for name, mask in masks.items():
        key = f"{name}/kernel"
        np.testing.assert_array_equal(after[key], np.where(mask, before[key], 0), err_msg=name)
        np.testing.assert_array_equal(masked.get_masks()[name], mask)
        assert masked.get_masks()[name].dtype == bool
    # Only the dead filter's BatchNorm scale and shift go; everything else stays.
    expected_gamma = np.ones(6, np.float32)
    expected_gamma[1] = 0
    np.testing.assert_array_equal(after["bn2/gamma"], expected_gamma)
    np.testing.assert_array_equal(after["bn2/beta"], np.zeros(6))
    for name in set(before) - {f"{n}/kernel" for n in masks} - {"bn2/gamma"}:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_mask_variables_are_the_truth(masked, tiny_masks):
    """``multipliers``, ``enforce``, ``get_masks`` and ``is_dense`` read them, not a copy."""
    masks = tiny_masks(masked.kernels)
    masked.set_masks(masks)
    masked.masks["conv1"].assign(np.ones(masks["conv1"].shape))
    assert masked.get_masks()["conv1"].all()
    masked.masks["logits"].assign(np.zeros(masks["logits"].shape))
    masked.enforce()
    assert not masked.kernels["logits"].numpy().any()
    for variable, factor in zip(
        masked.network.trainable_variables, masked.multipliers(), strict=True
    ):
        owner = [n for n, kernel in masked.kernels.items() if kernel is variable]
        assert (factor is masked.masks[owner[0]]) if owner else True


def test_masks_of_ones_share_memory():
    masked = wrap(build_model("vgg", (8, 8, 1), 4, 3, depth=8, width_multiplier=0.25))
    masks = list(masked.masks.values())

    def places():
        return [np.from_dlpack(mask.read_value()).ctypes.data for mask in masks]

    assert len(masks) == 8
    assert len(set(places())) == 1
    assert masked.is_dense()
    masks[0].assign(np.zeros(masks[0].shape))
    masks[1].scatter_nd_update([[0, 0, 0, 0]], [0.0])  # in place
    sums = [mask.numpy().sum() for mask in masks]
    assert sums[:2] == [0, masks[1].shape.num_elements() - 1]
    assert sums[2:] == [mask.shape.num_elements() for mask in masks[2:]]
    masked.set_masks({name: np.ones(mask.shape) for name, mask in masked.masks.items()})
    assert len(set(places())) == len(masks)


def test_what_is_never_multiplied(masked):
    free = [
        v.name
        for v, factor in zip(masked.network.trainable_variables, masked.multipliers(), strict=True)
        if factor is None
    ]
    assert [name.split("/")[-1] for name in free] == ["bias:0"]  # of the logits


def test_enforce_in_a_graph(masked, tiny_masks):
    masks = tiny_masks(masked.kernels)
    masked.set_masks(masks)
    for kernel in masked.kernels.values():
        kernel.assign(tf.ones_like(kernel))
    tf.function(masked.enforce)()
    for name, kernel in masked.kernels.items():
        np.testing.assert_array_equal(kernel.numpy(), masks[name].astype("float32"))


def test_masks_of_another_network_are_named(masked, tiny_masks):
    good = tiny_masks(masked.kernels)
    before = weights.digest(weights.get_weights(masked.network))
    with pytest.raises(ValueError, match="conv2"):
        masked.set_masks({k: v for k, v in good.items() if k != "conv2"})
    with pytest.raises(ValueError, match="fc9"):
        masked.set_masks({**good, "fc9": np.ones(3)})
    with pytest.raises(ValueError, match=r"logits.*\(2, 3\)"):
        masked.set_masks({**good, "logits": np.ones((2, 3))})
    with pytest.raises(DeadLayerError, match="conv3"):
        masked.set_masks({**good, "conv3": np.zeros_like(good["conv3"])})
    # A refused call changes nothing.
    assert masked.is_dense()
    assert weights.digest(weights.get_weights(masked.network)) == before


def test_batchnorms_right_behind_a_layer_have_it_as_source():
    # VGG and ResNet-18: convolution, then BatchNorm. Wide ResNet: BatchNorm comes first,
    # so a BatchNorm behind an addition follows no filter.
    resnet = build_model("resnet18", (8, 8, 1), 4, 0, **FAMILIES["resnet18"])
    for network in (resnet, wrap(resnet).network):
        assert sum(isinstance(x, keras.layers.Conv2D) for x in network.layers) == 20
    assert len(wrap(resnet).sources) == 20
    wide = wrap(build_model("wide_resnet", (8, 8, 1), 4, 0, **FAMILIES["wide_resnet"]))
    assert wide.sources
    for follower, sources in wide.sources.items():
        assert isinstance(wide.network.get_layer(follower), keras.layers.BatchNormalization)
        (source,) = sources
        assert isinstance(wide.network.get_layer(source), keras.layers.Conv2D)
    behind_additions = [
        layer.name
        for layer in wide.network.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.name not in wide.sources
    ]
    assert len(behind_additions) >= 2


def test_dead_filter_yields_a_channel_of_zeros(masked, tiny_masks):
    bn = masked.network.get_layer("bn2")
    bn.beta.assign(np.full(6, 0.7))
    bn.moving_mean.assign(np.full(6, -0.3))
    masked.set_masks(tiny_masks(masked.kernels, dead={"conv2": 4}))
    probe = keras.Model(masked.network.input, bn.get_output_at(-1))
    x = np.random.default_rng(0).random((2, 8, 8, 1)).astype("float32")
    channels = np.abs(probe(x, training=False).numpy()).max(axis=(0, 1, 2))
    assert channels[4] == 0
    assert (np.delete(channels, 4) > 0).all()


def test_a_denser_mask_after_a_sparse_one_frees_the_filter(masked, tiny_masks):
    masked.set_masks(tiny_masks(masked.kernels, dead={"conv2": 4}))
    masked.set_masks(tiny_masks(masked.kernels, density=1.0))
    assert all(np.all(factor.numpy() == 1) for factor in masked.filters.values())


def test_wrap_refuses_what_it_cannot_clone():
    with pytest.raises(ValueError, match="functional"):
        wrap(keras.layers.Dense(3))
    with pytest.raises(ValueError, match="functional"):
        wrap(keras.Sequential([keras.layers.Dense(3)]))
    pixels = keras.Input((4,))
    flat = keras.Model(pixels, keras.layers.ReLU()(pixels), name="relus")
    with pytest.raises(ValueError, match="relus has no"):
        wrap(flat)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_networks_keep_float32_variables(tiny_network, tiny_masks, policy):
    masked = wrap(tiny_network(dtype_policy=policy))
    masked.set_masks(tiny_masks(masked.kernels))
    for variable in (*masked.network.weights, *masked.masks.values()):
        assert variable.dtype == tf.float32
    assert masked.network.get_layer("conv1").compute_dtype == policy.removeprefix("mixed_")


def test_the_pruning_schedule_never_fires(masked):
    schedule = masks_module._schedule()
    for step in (0, 1, 10**6, 2**39):
        assert not bool(schedule(tf.constant(step, tf.int64))[0])
