"""Small graphs in which what can go is known by hand."""

import doctest

import numpy as np
import pytest

from tf_lottery.compaction import compact, compact_for_training, rebuild
from tf_lottery.errors import LotteryError, UsageError
from tf_lottery.keras import keras, tf

L = keras.layers


def conv(filters, name, size=3, **options):
    options = {"padding": "same", "use_bias": False, **options}
    return L.Conv2D(filters, size, name=name, kernel_initializer="ones", **options)


def norm(name):
    return L.BatchNormalization(name=name, epsilon=1e-5)


def fill(model, seed=0):
    """Random weights without a zero, also in statistics."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.name else 0.2
        sign = 1 if "variance" in variable.name else rng.choice([-1, 1], variable.shape)
        variable.assign(rng.uniform(low, 1.5, variable.shape) * sign)
    return model


def clear(model, layer, *, out=(), of=()):
    """Zeroes a kernel's filters ``out``, and what it reads ``of`` its inputs."""
    kernel = model.get_layer(layer).kernel.numpy()
    kernel[..., list(out)] = 0
    kernel[..., list(of), :] = 0
    model.get_layer(layer).kernel.assign(kernel)


def hold(model, layer, channel):
    """BatchNorm of one channel at zero, as behind a dead filter."""
    for variable in (model.get_layer(layer).gamma, model.get_layer(layer).beta):
        value = variable.numpy()
        value[channel] = 0
        variable.assign(value)


def checked(model, shape=(8, 8, 2), **expected):
    """Compacts, compares outputs and gradients, and the widths of the layers named."""
    images = np.random.default_rng(3).normal(size=(5, *shape)).astype(np.float32)
    before = np.asarray(model(images, training=False))
    found = compact(model)
    after = np.asarray(found.network(images, training=False))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * max(1, np.abs(before).max()))
    for name, width in expected.items():
        assert found.network.get_layer(name).output_shape[-1] == width, name
    return found


def chain(last=L.GlobalAveragePooling2D, size=3, **options):
    """conv 4 - BatchNorm - ReLU - conv 5 - pool - dense 3."""
    x = pixels = L.Input((8, 8, 2))
    x = L.ReLU(name="relu1")(norm("bn1")(conv(4, "a")(x)))
    x = L.ReLU(name="relu2")(conv(5, "b", size, **options)(x))
    x = L.Dense(3, name="logits")(last()(x))
    return fill(keras.Model(pixels, x))


def test_nothing_to_remove():
    found = checked(chain(), a=4, b=5, logits=3)
    assert found.removed == 0
    assert found.widths == {"a": (4, 4), "b": (5, 5), "logits": (3, 3)}


def test_a_dead_filter_whose_norm_is_held():
    model = chain()
    clear(model, "a", out=[2])
    hold(model, "bn1", 2)
    found = checked(model, a=3, bn1=3, relu1=3, b=5)
    np.testing.assert_array_equal(found.kept["a"][1], [0, 1, 3])
    np.testing.assert_array_equal(found.kept["bn1"][0], [0, 1, 3])
    np.testing.assert_array_equal(found.kept["b"][0], [0, 1, 3])
    np.testing.assert_array_equal(
        found.network.get_layer("a").kernel, model.get_layer("a").kernel.numpy()[..., [0, 1, 3]]
    )
    assert not found.network.get_layer("b").use_bias


def test_a_norm_of_scale_zero_makes_any_filter_a_constant():
    model = chain()
    hold(model, "bn1", 1)
    checked(model, a=3, b=5)


def make_constant(model, channel, value):
    """A dead filter whose channel is ``value`` behind BatchNorm."""
    clear(model, "a", out=[channel])
    layer = model.get_layer("bn1")
    beta = layer.beta.numpy()
    mean, variance = layer.moving_mean.numpy()[channel], layer.moving_variance.numpy()[channel]
    beta[channel] = value + layer.gamma.numpy()[channel] * mean / np.sqrt(variance + 1e-5)
    layer.beta.assign(beta)


def test_a_constant_that_the_relu_stops():
    model = chain()
    make_constant(model, 0, -0.7)
    assert not checked(model, a=3).network.get_layer("b").use_bias


def test_a_constant_stays_in_front_of_a_border():
    model = chain()
    make_constant(model, 0, 0.7)
    # At the border a 3x3 window sees it less often: no bias can say that.
    checked(model, a=4, b=5)


@pytest.mark.parametrize(
    "options", [{"size": 1}, {"size": 1, "strides": 2}, {"size": 3, "padding": "valid"}]
)
def test_a_constant_becomes_a_bias_where_no_window_leaves_the_image(options):
    model = chain(**options)
    make_constant(model, 0, 0.7)
    found = checked(model, a=3, b=5)
    kernel = model.get_layer("b").kernel.numpy()[:, :, 0]
    np.testing.assert_allclose(
        found.network.get_layer("b").bias, 0.7 * kernel.sum((0, 1)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("last", [L.GlobalAveragePooling2D, L.Flatten, L.GlobalMaxPooling2D])
def test_a_constant_becomes_the_bias_of_a_dense_layer(last):
    model = chain(last, use_bias=True)
    clear(model, "b", out=[1])  # its bias alone is left
    bias = model.get_layer("b").bias.numpy()
    bias[1] = 0.9
    model.get_layer("b").bias.assign(bias)
    found = checked(model, a=4, b=4, logits=3)
    kernel = model.get_layer("logits").kernel.numpy().reshape(-1, 5, 3)
    old = model.get_layer("logits").bias.numpy()
    np.testing.assert_allclose(
        found.network.get_layer("logits").bias, old + 0.9 * kernel[:, 1].sum(0), rtol=1e-5
    )


def test_flatten_keeps_a_channel_of_which_one_position_is_read():
    model = chain(L.Flatten)
    kernel = model.get_layer("logits").kernel.numpy().reshape(8, 8, 5, 3)
    kernel[:, :, 1] = 0
    kernel[:, :, 4] = 0
    kernel[7, 3, 4, 2] = 1
    model.get_layer("logits").kernel.assign(kernel.reshape(-1, 3))
    found = checked(model, b=4)
    np.testing.assert_array_equal(found.kept["b"][1], [0, 2, 3, 4])


def test_what_only_unread_filters_read_is_unread():
    model = chain()
    clear(model, "logits", of=[1, 3])
    kernel = model.get_layer("b").kernel.numpy()
    kernel[:, :, 2, [0, 2, 4]] = 0  # channel 2 of a goes to the filters 1 and 3 alone
    model.get_layer("b").kernel.assign(kernel)
    found = checked(model, a=3, b=3)
    np.testing.assert_array_equal(found.kept["a"][1], [0, 1, 3])
    np.testing.assert_array_equal(found.kept["b"][1], [0, 2, 4])


def test_a_filter_that_reads_dead_ones_only():
    """It is a constant: zero here, as there is neither a bias nor a BatchNorm behind it."""
    model = chain()
    clear(model, "a", out=[0, 1])
    hold(model, "bn1", 0)
    hold(model, "bn1", 1)
    kernel = model.get_layer("b").kernel.numpy()
    kernel[:, :, 2:, 4] = 0
    model.get_layer("b").kernel.assign(kernel)
    checked(model, a=2, b=4)


@pytest.mark.parametrize("layer", ["a", "b"])
def test_a_network_of_constant_logits_keeps_one_channel_a_layer(layer):
    model = chain(use_bias=True)
    clear(model, layer, out=range(5 if layer == "b" else 4))
    if layer == "a":
        for channel in range(4):
            hold(model, "bn1", channel)
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 2)).astype(np.float32)
    assert np.asarray(model(images)).std(axis=0).max() < 1e-5
    checked(model, a=1, b=1, logits=3)


def residual(blocks=2, pre_activation=False):
    """conv 4, blocks of conv 3 - ReLU - conv 4 around identities, pool, dense."""
    x = pixels = L.Input((8, 8, 2))
    x = conv(4, "stem")(x)
    for i in range(blocks):
        shortcut = x
        if pre_activation:
            x = L.ReLU(name=f"pre{i}")(norm(f"bn{i}")(x))
        x = L.ReLU(name=f"relu{i}")(conv(3, f"a{i}")(x))
        x = L.Add(name=f"add{i}")([conv(4, f"b{i}")(x), shortcut])
    if pre_activation:
        x = L.ReLU(name="last")(norm("bn_last")(x))
    x = L.Dense(3, name="logits")(L.GlobalAveragePooling2D()(x))
    return fill(keras.Model(pixels, x))


@pytest.mark.parametrize("branch", ["stem", "b0", "b1"])
def test_dead_in_one_branch_only(branch):
    model = residual()
    clear(model, branch, out=[2])
    checked(model, stem=4, b0=4, b1=4, a0=3, a1=3)


def test_dead_in_all_branches():
    model = residual()
    for branch in ("stem", "b0", "b1"):
        clear(model, branch, out=[2])
    found = checked(model, stem=3, b0=3, b1=3, add0=3, add1=3, a0=3)
    for name in ("a0", "a1", "logits"):
        np.testing.assert_array_equal(found.kept[name][0], [0, 1, 3])


def test_unread_behind_an_identity():
    model = residual()
    for reader in ("a0", "a1", "logits"):
        clear(model, reader, of=[1])
    checked(model, stem=3, b0=3, b1=3)
    clear(model, "a1", out=[0])  # and a reader that is itself read by nobody does not count
    kernel = model.get_layer("a1").kernel.numpy()
    kernel[:, :, 1, 2] = 1
    model.get_layer("a1").kernel.assign(kernel)
    checked(model, stem=4, b0=4, b1=4, a1=2)
    clear(model, "b1", of=[2])
    checked(model, stem=3, b0=3, b1=3, a1=1)


def test_channels_of_a_stage_that_only_feed_each_other():
    """Channel 3 is read by a filter that writes to channel 3 alone, and by nobody else."""
    model = residual()
    for reader in ("a0", "a1"):
        kernel = model.get_layer(reader).kernel.numpy()
        kernel[:, :, 3, 1:] = 0
        model.get_layer(reader).kernel.assign(kernel)
    for writer in ("b0", "b1"):
        kernel = model.get_layer(writer).kernel.numpy()
        kernel[:, :, 0, :3] = 0
        model.get_layer(writer).kernel.assign(kernel)
    clear(model, "logits", of=[3])
    checked(model, stem=3, a0=2, b0=3, a1=2, b1=3)


def test_pre_activation_shifts_a_dead_channel():
    model = residual(pre_activation=True)
    for branch in ("stem", "b0", "b1"):
        clear(model, branch, out=[2])
    for layer in ("bn0", "bn1"):
        beta = model.get_layer(layer).beta.numpy()
        shift = model.get_layer(layer).gamma.numpy() * model.get_layer(layer).moving_mean.numpy()
        deviation = np.sqrt(model.get_layer(layer).moving_variance.numpy() + 1e-5)
        beta[2] = shift[2] / deviation[2] + 0.5  # the channel is 0.5 behind it
        model.get_layer(layer).beta.assign(beta)
    checked(model, stem=4, b0=4)  # in front of borders
    for layer in ("bn0", "bn1"):
        beta = model.get_layer(layer).beta.numpy()
        beta[2] -= 1
        model.get_layer(layer).beta.assign(beta)
    checked(model, stem=3, b0=3, bn0=3, bn1=3, bn_last=3)  # the ReLU stops -0.5


def test_a_projection_beside_the_block():
    x = pixels = L.Input((8, 8, 2))
    x = L.ReLU()(conv(4, "stem")(x))
    y = conv(5, "main", strides=2)(x)
    z = conv(5, "shortcut", 1, strides=2)(x)
    x = L.Add(name="add")([y, z])
    model = fill(keras.Model(pixels, L.Dense(3, name="logits")(L.Flatten()(L.ReLU()(x)))))
    clear(model, "main", out=[0, 1])
    checked(model, main=5, shortcut=5)
    clear(model, "shortcut", out=[1, 2])
    checked(model, main=4, shortcut=4, stem=4)


# Layers that keep what they touch ---------------------------------------------------


def barrier_model(middle):
    x = pixels = L.Input((8, 8, 2))
    x = middle(conv(4, "a")(x))
    model = keras.Model(pixels, L.Dense(3, name="logits")(L.Flatten()(x)))
    return fill(model)


@pytest.mark.parametrize(
    "middle",
    [
        lambda x: L.DepthwiseConv2D(3)(x),
        lambda x: L.Concatenate()([x, x]),
        lambda x: L.Activation("softmax")(x),
        lambda x: L.Softmax()(x),
        lambda x: L.Conv2D(4, 3, groups=2)(x),
        lambda x: x * 2.0,
        lambda x: L.BatchNormalization(axis=1)(x),
        lambda x: L.Conv2DTranspose(4, 3)(x),
    ],
    ids=["depthwise", "concatenate", "softmax", "softmax layer", "groups", "operator", "axis",
         "transpose"],
)  # fmt: skip
def test_other_layers_keep_their_channels(middle):
    model = barrier_model(middle)
    clear(model, "a", out=[1])
    checked(model, a=4)


def test_an_activation_across_channels_in_the_layer_itself():
    model = barrier_model(lambda x: L.Conv2D(4, 1, activation="softmax", name="b")(x))
    clear(model, "a", out=[1])
    checked(model, a=4, b=4)


def test_a_layer_used_twice_keeps_its_channels():
    x = pixels = L.Input((8, 8, 2))
    shared = conv(4, "shared")
    x = shared(L.ReLU()(shared(conv(4, "first")(x))))
    model = fill(keras.Model(pixels, L.Dense(3, name="logits")(L.Flatten()(x))))
    clear(model, "first", out=[1])
    clear(model, "shared", out=[2])
    checked(model, first=4, shared=4)


def test_adding_what_is_flattened_to_what_is_not():
    x = pixels = L.Input((2, 2, 2))
    flat = L.Flatten()(conv(4, "a")(x))
    wide = L.Dense(16, name="wide", use_bias=False)(L.Flatten()(x))
    model = fill(keras.Model(pixels, L.Dense(3, name="logits")(L.Add()([flat, wide]))))
    clear(model, "a", out=[1])
    clear(model, "wide", out=[1, 5, 9, 13])
    checked(model, shape=(2, 2, 2), a=4, wide=16)


def test_a_sequential_model():
    model = fill(keras.Sequential([
        conv(4, "a", input_shape=(8, 8, 2), activation="relu", use_bias=True),
        L.MaxPooling2D(name="pool"), L.Flatten(), L.Dense(3, name="logits"),
    ]))  # fmt: skip
    clear(model, "a", out=[1, 2])
    checked(model, a=2, pool=2)


def test_all_outputs_of_a_model_are_kept():
    x = pixels = L.Input((8, 8, 2))
    x = conv(4, "a")(x)
    end = L.Dense(3, name="logits")(L.Flatten()(conv(4, "b")(x)))
    model = fill(keras.Model(pixels, [end, x]))
    clear(model, "a", out=[1])
    found = compact(model)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype(np.float32)
    for before, after in zip(model(images), found.network(images), strict=True):
        assert before.shape == after.shape
        np.testing.assert_allclose(after, before, atol=1e-4)


def test_what_is_no_functional_model():
    class Own(keras.Model):
        def call(self, x):
            return x

    for model in (Own(), tf.Module(), keras.Sequential()):
        with pytest.raises(UsageError, match="--compact") as caught:
            compact(model)
        assert isinstance(caught.value, LotteryError)
        assert "\n" not in str(caught.value)


# Before training --------------------------------------------------------------------


def masks_of(model):
    return {
        layer.name: layer.kernel.numpy() != 0 for layer in model.layers if hasattr(layer, "kernel")
    }


def widths(model, held=()):
    found = compact_for_training(model, masks_of(model), {"bn1": np.isin(np.arange(4), list(held))})
    return {name: after for name, (_, after) in found.widths.items()}


def test_for_training_a_dead_filter_needs_a_norm_that_is_held():
    model = chain()
    clear(model, "a", out=[2])
    hold(model, "bn1", 2)  # zero now, but who says that it stays
    assert widths(model) == {"a": 4, "b": 5, "logits": 3}
    assert widths(model, held=[2]) == {"a": 3, "b": 5, "logits": 3}


def test_for_training_a_bias_will_grow():
    for use_bias, width in ((False, 4), (True, 5)):
        model = chain(use_bias=use_bias)
        clear(model, "b", out=[0])
        if use_bias:
            model.get_layer("b").bias.assign(np.zeros(5))
        assert widths(model)["b"] == width


def test_for_training_weights_that_happen_to_be_zero_count():
    model = chain()
    masks = {name: np.ones_like(mask) for name, mask in masks_of(model).items()}
    clear(model, "a", out=[2])
    hold(model, "bn1", 2)
    found = compact_for_training(model, masks, {"bn1": np.zeros(4, bool)})
    assert found.removed == 0


def test_for_training_pre_activation_keeps_what_it_may_shift():
    model = residual(pre_activation=True)
    for branch in ("stem", "b0", "b1"):
        clear(model, branch, out=[2])
    assert widths(model)["stem"] == 4
    for reader in ("a0", "a1", "logits"):
        clear(model, reader, of=[2])  # unread is another matter
    assert widths(model)["stem"] == 3


def test_for_training_every_layer_keeps_a_weight():
    """Nothing reads what layer a makes, but its mask has weights."""
    model = chain()
    clear(model, "b", of=range(4))
    masks = masks_of(model)
    masks["b"][1, 1, 2, 4] = True
    clear(model, "logits", of=[4])
    masks["logits"] = model.get_layer("logits").kernel.numpy() != 0
    found = compact_for_training(model, masks, {"bn1": np.zeros(4, bool)})
    cut = found.cut({f"{name}/kernel": mask for name, mask in masks.items()})
    assert all(mask.any() for mask in cut.values())
    np.testing.assert_array_equal(found.kept["a"][1], [2])
    assert 4 in found.kept["b"][1]


def test_examples():
    assert doctest.testmod(rebuild, extraglobs={"np": np}).failed == 0
    assert doctest.testmod(rebuild, extraglobs={"np": np}).attempted >= 3
