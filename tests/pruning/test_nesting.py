"""Masks of networks in networks: whatever holds a Conv2D or Dense layer, it is masked."""

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.compaction import compact
from tf_lottery.errors import UsageError
from tf_lottery.evaluation.loading import sparsity
from tf_lottery.export import export_saved_model
from tf_lottery.flattening import flattened
from tf_lottery.keras import keras, tf
from tf_lottery.models import forward_flops
from tf_lottery.nesting import is_graph, named_layers
from tf_lottery.pruning import masks as masks_module
from tf_lottery.pruning.masks import mask_weights, prunable_kernels, wrap
from tf_lottery.training.batch_norm import SynchronizedBatchNorm

L = keras.layers
SHAPE = (8, 8, 2)


class Block(L.Layer):
    """Layers of its own, one in a list, one made at its first call; a weight of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = L.Dense(5)
        self.more = [L.Dense(4)]
        self.last = None

    def build(self, shape):
        self.scale = self.add_weight("scale", shape=(3,), initializer="ones")
        super().build(shape)

    def call(self, x):
        if self.last is None:
            self.last = L.Dense(3)
        return self.last(self.more[0](self.first(x))) * self.scale


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.Conv2D(4, 1)

    def call(self, x):
        return self.conv(x)

    def get_config(self):
        return {"name": self.name}


class OwnConv(L.Conv2D):
    pass


def model(*layers, shape=SHAPE, name=None):
    x = pixels = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(pixels, x, name=name)


def conv(filters, name="conv1", **options):
    return L.Conv2D(filters, 3, padding="same", name=name, **options)


def functional():
    inner = model(conv(8), L.BatchNormalization(name="bn"), L.ReLU(), shape=(8, 8, 4), name="inner")
    outer = model(inner, conv(6), shape=(8, 8, 4), name="outer")
    return model(conv(4), outer, conv(3, "head"))


def sequential():
    block = keras.Sequential([OwnConv(5, 3, name="conv1"), L.BatchNormalization()], name="block")
    return keras.Sequential([keras.Input(SHAPE), block, L.Flatten(), L.Dense(3, name="head")])


def sequential_built_by_its_first_layer():
    return keras.Sequential([L.Conv2D(3, 3, input_shape=SHAPE, name="conv1"), L.ReLU()])


def time_distributed():
    lstm = L.Bidirectional(L.LSTM(2, return_sequences=True), name="both")
    return model(L.Reshape((8, 16)), L.TimeDistributed(L.Dense(6), name="each"), lstm)


def own_layers():
    return model(Subclassed(name="own"), L.Flatten(), Block(name="block"), L.Dense(3, name="head"))


def called_twice():
    shared = model(conv(2), shape=SHAPE, name="shared")
    pixels = keras.Input(SHAPE)
    return keras.Model(pixels, conv(3, "head")(shared(shared(pixels))))


def one_layer_in_two_models():
    same = conv(2)
    return model(model(same, name="first"), model(L.ReLU(), same, name="second"))


NETWORKS = {
    functional: {"conv1": 72, "outer/inner/conv1": 288, "outer/conv1": 432, "head": 162},
    sequential: {"block/conv1": 90, "head": 540},
    sequential_built_by_its_first_layer: {"conv1": 54},
    time_distributed: {"each/layer": 96},
    own_layers: {"own/conv": 8, "block/first": 1280, "block/1": 20, "block/last": 12, "head": 9},
    called_twice: {"shared/conv1": 36, "head": 54},
    one_layer_in_two_models: {"first/conv1": 36},
}


@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_every_kernel_is_masked_under_a_name_of_its_own(make, tiny_masks):
    network = make()
    sizes = {name: int(np.prod(kernel.shape)) for name, kernel in prunable_kernels(network).items()}
    assert dict(sorted(sizes.items())) == dict(sorted(NETWORKS[make].items()))
    masked = wrap(network)
    assert list(masked.masks) == list(masked.kernels) == list(sizes)
    x = np.random.default_rng(0).random((3, *network.input_shape[1:])).astype(np.float32)
    expected = network(x, training=False).numpy()
    np.testing.assert_allclose(masked.network(x, training=False), expected, atol=1e-6)
    named = list(weights.named_variables(network))
    assert list(weights.named_variables(masked.network)) == named
    assert len(named) == len(network.variables)

    masks = tiny_masks(masked.kernels)
    masked.set_masks(masks)
    for name, kernel in masked.kernels.items():
        assert not kernel.numpy()[~masks[name]].any()
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    assert sparsity(masked.network) == pytest.approx(zeros / sum(sizes.values()))
    masked_variables = [factor for factor in masked.multipliers() if factor is not None]
    assert len(masked_variables) >= len(masks)

    # Without a wrapper it is the same network, and wrapping again starts anew.
    mask_weights(network, masks)
    np.testing.assert_allclose(
        masked.network(x, training=False), network(x, training=False), atol=1e-6
    )
    again = wrap(masked.wrapped)
    assert again.is_dense()
    np.testing.assert_allclose(
        again.network(x, training=False), network(x, training=False), atol=1e-6
    )
    assert forward_flops(masked.wrapped) == forward_flops(network)


def test_flops_of_what_is_nested_by_hand():
    assert forward_flops(functional()) == {
        name: 2 * 64 * size for name, size in NETWORKS[functional].items()
    }
    assert forward_flops(time_distributed()) == {"each/layer": 2 * 8 * 96}
    # Twice, but on other images.
    assert forward_flops(called_twice()) == {"shared/conv1": 2 * 2 * 64 * 36, "head": 2 * 64 * 54}
    # A transposed convolution multiplies at each input position.
    assert forward_flops(model(L.Conv2DTranspose(3, 2, strides=2, name="up"))) == {
        "up": 2 * 64 * 2 * 2 * 3 * 2
    }


def test_an_export_of_a_nested_network_counts_its_zeros(tmp_path):
    network = functional()
    kernel = named_layers(network)["outer/inner/conv1"].kernel
    kernel.assign(tf.zeros_like(kernel))
    assert sparsity(network) == pytest.approx(288 / 954)
    loaded = tf.saved_model.load(str(export_saved_model(network, tmp_path / "out")))
    assert not loaded.kernels["outer/inner/conv1"].numpy().any()
    assert sparsity(model(L.ReLU())) is None


def test_flattened_is_the_same_function_of_the_same_names():
    frozen = model(L.BatchNormalization(name="bn"), shape=SHAPE, name="frozen")
    pixels = keras.Input(SHAPE)
    transfer = keras.Model(pixels, conv(3)(frozen(pixels, training=False)))
    for network in (*(make() for make in NETWORKS), transfer):
        flat = flattened(network)
        x = np.random.default_rng(1).random((3, *network.input_shape[1:])).astype(np.float32)
        for training in (False, True):
            np.testing.assert_allclose(
                flat(x, training=training), network(x, training=training), atol=1e-5
            )
        assert set(weights.named_variables(flat)) == set(weights.named_variables(network))
        inside = [layer.name for layer in flat.layers if is_graph(layer)]
        assert inside == (["frozen"] if network is transfer else [])
    assert flattened(transfer.layers[-1]) is transfer.layers[-1]


def test_channels_are_cut_out_of_what_is_nested():
    network = functional()
    named_layers(network)["outer/conv1"].kernel.assign(np.zeros((3, 3, 8, 6)))
    whole = network(x := np.random.default_rng(1).random((2, *SHAPE), np.float32))
    made = compact(network)
    assert made.widths["outer/inner/conv1"] == (8, 1)
    assert made.widths["outer/conv1"] == (6, 1)
    np.testing.assert_allclose(made.network(x), whole, atol=1e-6)


def test_a_layer_that_is_not_trained_is_masked_too(tiny_masks):
    network = model(conv(3), L.Flatten(), L.Dense(3, name="head"))
    network.get_layer("conv1").trainable = False
    masked = wrap(network)
    masks = tiny_masks(masked.kernels)
    masked.set_masks(masks)
    assert not masked.kernels["conv1"].numpy()[~masks["conv1"]].any()


# --- BatchNorm ----------------------------------------------------------------------


def gone(masked, **dead):
    """Sets masks that keep all but some filters, ``layer=filter``."""
    masks = {name: np.ones(kernel.shape, bool) for name, kernel in masked.kernels.items()}
    for name, unit in dead.items():
        axis = -2 if "up" in name else -1
        np.moveaxis(masks[name], axis, -1)[..., unit] = False
    masked.set_masks(masks)
    return masks


def scales(network):
    return {
        name: layer.gamma.numpy().tolist()
        for name, layer in named_layers(network).items()
        if isinstance(layer, L.BatchNormalization)
    }


def test_behind_a_transposed_convolution():
    network = model(L.Conv2DTranspose(3, 2, name="up"), L.BatchNormalization(name="bn"))
    masked = wrap(network)
    masks = gone(masked, up=1)
    assert scales(masked.network) == {"bn": [1, 0, 1]}
    mask_weights(network, masks)
    assert scales(network) == {"bn": [1, 0, 1]}


def test_over_another_axis_than_the_filters():
    network = model(conv(8), L.BatchNormalization(axis=1, name="bn"))
    masked = wrap(network)
    masks = gone(masked, conv1=1)
    assert masked.sources == {}
    mask_weights(network, masks)
    assert scales(masked.network) == scales(network) == {"bn": [1] * 8}


def test_channels_first():
    first = model(
        conv(3, data_format="channels_first"),
        L.BatchNormalization(axis=1, name="bn"),
        shape=(2, 8, 8),
    )
    masked = wrap(first)
    gone(masked, conv1=2)
    assert scales(masked.network) == {"bn": [1, 1, 0]}


def test_one_behind_two_convolutions_goes_with_both():
    pixels = keras.Input(SHAPE)
    bn = L.BatchNormalization(name="bn")
    network = keras.Model(pixels, L.Add()([bn(conv(3, "a")(pixels)), bn(conv(3, "b")(pixels))]))
    masked = wrap(network)
    assert masked.sources == {"bn": ("a", "b")}
    masks = gone(masked, a=1)
    mask_weights(network, masks)
    assert scales(masked.network) == scales(network) == {"bn": [1, 1, 1]}
    gone(masked, a=1, b=1)
    assert scales(masked.network) == {"bn": [1, 0, 1]}


def test_one_that_reads_the_pixels_too_never_goes():
    pixels = keras.Input(SHAPE)
    bn = L.BatchNormalization(name="bn")
    masked = wrap(keras.Model(pixels, L.Add()([bn(conv(2, "a")(pixels)), bn(pixels)])))
    gone(masked, a=1)
    assert scales(masked.network) == {"bn": [1, 1]}


def test_in_another_model_than_its_convolution():
    head = model(L.BatchNormalization(name="bn"), L.ReLU(), shape=(8, 8, 3), name="head")
    tail = model(conv(3), shape=SHAPE, name="tail")
    masked = wrap(model(tail, head))
    assert masked.sources == {"head/bn": ("tail/conv1",)}
    masks = {"tail/conv1": np.ones((3, 3, 2, 3), bool)}
    masks["tail/conv1"][..., 0] = False
    masked.set_masks(masks)
    assert scales(masked.network) == {"head/bn": [0, 1, 1]}


def test_of_another_model_with_the_same_layers():
    """Inbound nodes of shared layers are of all models: only those of this one count."""
    bn, first, second = L.BatchNormalization(name="bn"), conv(3, "a"), conv(3, "b")
    model(first, bn)
    masked = wrap(model(second, bn))
    assert masked.sources == {"bn": ("b",)}


@pytest.mark.parametrize("layer", [L.BatchNormalization(axis=1), "subclass"])
def test_statistics_that_devices_cannot_share(layer):
    if layer == "subclass":
        layer = type("OwnNorm", (L.BatchNormalization,), {})()
    with pytest.raises(UsageError, match="--nosync_batch_norm"):
        wrap(model(conv(8), layer), SynchronizedBatchNorm)


# --- what cannot be wrapped, and what was ------------------------------------------


def test_a_layer_that_cannot_be_cloned_is_named():
    class Odd(L.Layer):
        def __init__(self, function):
            super().__init__(name="odd")
            self.function = function

        def call(self, x):
            return self.function(x)

    with pytest.raises(ValueError, match="layer odd cannot be cloned"):
        wrap(model(conv(2), Odd(tf.nn.relu)))


def test_a_keras_file_with_its_pruning_wrappers(tmp_path, tiny_masks):
    network = model(conv(3), L.Flatten(), L.Dense(3, name="head"))
    masked = wrap(network)
    masks = tiny_masks(masked.kernels)
    for name, mask in masks.items():
        masked.masks[name].assign(mask)  # as in the midst of an epoch: weights are there still
    masked.wrapped.save(tmp_path / "wrapped.keras")
    loaded = masks_module.load_network(tmp_path / "wrapped.keras")
    assert list(weights.named_variables(loaded)) == list(weights.named_variables(network))
    for name, kernel in prunable_kernels(network).items():
        np.testing.assert_array_equal(
            named_layers(loaded)[name].kernel, np.where(masks[name], kernel.numpy(), 0)
        )
    assert not any("prune" in layer.name for layer in loaded.layers)
