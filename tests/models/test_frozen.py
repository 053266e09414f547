"""A frozen network gives the logits and pixel gradients of the network itself, in less work."""

import functools

import numpy as np
import pytest
from graphs import operations_behind

import tf_lottery.models.frozen
from tf_lottery.errors import FrozenError
from tf_lottery.keras import keras, tf
from tf_lottery.models import build_model
from tf_lottery.models.frozen import frozen_layers, frozen_logits
from tf_lottery.models.frozen_check import check_frozen

NETWORKS = {
    "vgg": {"depth": 7, "width_multiplier": 0.1},
    "resnet18": {"width_multiplier": 0.1},
    "wide_resnet": {"depth": 10, "width": 1, "width_multiplier": 0.5},
    "lenet": {"width_multiplier": 0.3},
    "convnet": {"width_multiplier": 0.3},
}
SHAPE = (13, 13, 2)


def shaken(network, seed=0):
    """Every variable moved away from its initial value; BatchNorm variances above 0."""
    rng = np.random.default_rng(seed)
    for variable in network.variables:
        noise = rng.normal(size=variable.shape) * 0.3
        if "variance" in variable.name:
            noise = np.abs(noise) + 0.2
        variable.assign(variable + noise.astype(np.float32))
    return network


def images(shape=SHAPE, count=5):
    return tf.constant(np.random.default_rng(1).random((count, *shape)), tf.float32)


def logits_and_gradient(make_logits, x):
    """Of one random direction in logit space; inside a graph, as in a training step."""

    @tf.function
    def both(x):
        logits_fn = make_logits()
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = logits_fn(x)
            total = tf.reduce_sum(logits * tf.random.stateless_normal(logits.shape, (3, 4)))
        return logits, tape.gradient(total, x)

    return [tensor.numpy() for tensor in both(x)]


def assert_same_function(network, x, tolerance=2e-5):
    plain = logits_and_gradient(lambda: functools.partial(network, training=False), x)
    frozen = logits_and_gradient(lambda: frozen_logits(network), x)
    for expected, got in zip(plain, frozen, strict=True):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_pixel_gradients_are_the_networks(name):
    normalised = name in ("vgg", "wide_resnet")
    statistics = {"mean": (0.4, 0.5), "std": (0.2, 0.3)} if normalised else {}
    network = shaken(build_model(name, SHAPE, 4, 0, **NETWORKS[name], **statistics))
    assert_same_function(network, images())


@pytest.mark.parametrize("name", NETWORKS)
def test_no_batch_norm_is_left_in_the_graph(name):
    network = build_model(name, SHAPE, 4, 0, **NETWORKS[name])

    @tf.function
    def gradient(x):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            total = tf.reduce_sum(frozen_logits(network)(x))
        return tape.gradient(total, x)

    # What the gradient is computed from; the rest of a graph is pruned before it runs.
    result = gradient.get_concrete_function(images()).outputs[0].op
    types = {op.type for op in operations_behind(result)}
    assert not [kind for kind in types if "BatchNorm" in kind]
    assert "Conv2DBackpropInput" in types
    assert not types & {"Conv2DBackpropFilter", "BiasAddGrad"}


def test_values_by_hand():
    pixels = keras.Input((1, 1, 2))
    x = keras.layers.Conv2D(1, 1, use_bias=True, name="conv")(pixels)
    x = keras.layers.BatchNormalization(epsilon=0.0, name="bn")(x)
    network = keras.Model(pixels, keras.layers.Flatten()(x))
    network.get_layer("conv").set_weights([np.array([[[[2.0], [3.0]]]]), np.array([1.0])])
    gamma, beta, mean, variance = 5.0, 7.0, 11.0, 4.0
    network.get_layer("bn").set_weights(np.reshape([gamma, beta, mean, variance], (4, 1)))
    x = tf.constant([[[[1.0, 10.0]]]])
    logits, gradient = logits_and_gradient(lambda: frozen_logits(network), x)
    # (2 * 1 + 3 * 10 + 1 - 11) * 5 / 2 + 7
    np.testing.assert_allclose(logits, [[62.0]])
    np.testing.assert_allclose(gradient[..., 1] / gradient[..., 0], [[[1.5]]])


def one_convolution(size, kernel, channels=3, filters=5, **options):
    """Maps of ``size`` through a convolution with ``kernel`` and BatchNorm.

    No ReLU: a unit so near 0 that rounding decides its sign would decide the gradient.
    """
    pixels = keras.Input((*size, channels))
    x = keras.layers.Conv2D(filters, kernel, **options, name="conv")(pixels)
    x = keras.layers.BatchNormalization(name="bn")(x)
    return shaken(keras.Model(pixels, keras.layers.Flatten()(x)))


def operations_of(network, x):
    """Their types, in a forward pass of the frozen network."""
    graph = tf.function(lambda x: frozen_logits(network)(x)).get_concrete_function(x).graph
    return [op.type for op in graph.get_operations()]


def convolutions_of(network, x):
    return operations_of(network, x).count("Conv2D")


@pytest.mark.parametrize(
    ("size", "kernel"), [((2, 2), 3), ((1, 1), 3), ((1, 2), 3), ((2, 1), (3, 1)), ((3, 2), 5)]
)
def test_a_convolution_that_sees_the_whole_map_is_one_product(size, kernel):
    network = one_convolution(size, kernel, padding="same", use_bias=False)
    x = images((*size, 3))
    assert convolutions_of(network, x) == 0
    assert_same_function(network, x)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((3, 2), {"padding": "same"}),
        ((2, 3), {"padding": "same"}),
        ((2, 2), {"padding": "same", "strides": 2}),
        ((2, 2), {"padding": "same", "dilation_rate": 2}),
        ((3, 3), {"padding": "valid"}),
        ((None, None), {"padding": "same"}),
    ],
)
def test_other_convolutions_stay(size, options):
    if size[0] is None:  # Flatten wants a size
        pixels = keras.Input((*size, 3))
        x = keras.layers.Conv2D(5, 3, **options)(pixels)
        x = keras.layers.BatchNormalization()(x)
        network = shaken(keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(x)))
        size = (2, 2)
    else:
        network = one_convolution(size, 3, **options)
    x = images((*size, 3))
    assert convolutions_of(network, x) == 1
    assert_same_function(network, x)


@pytest.mark.parametrize("size", [(2, 2), (2, 4), (4, 4), (8, 8), (3, 3), (6, 8), (7, 4)])
def test_a_wide_convolution_on_a_small_map_takes_fewer_products(size):
    network = one_convolution(size, 3, 96, 100, padding="same", use_bias=True)
    x = images((*size, 96))
    assert convolutions_of(network, x) == 0
    assert_same_function(network, x)


@pytest.mark.parametrize("use_bias", [False, True])
def test_a_convolution_that_no_batch_norm_follows_takes_fewer_products_too(use_bias):
    pixels = keras.Input((4, 4, 96))
    x = keras.layers.Conv2D(96, 3, padding="same", use_bias=use_bias)(pixels)
    x = keras.layers.Add()([x, pixels])
    network = shaken(keras.Model(pixels, keras.layers.Flatten()(x)))
    x = images((4, 4, 96))
    assert convolutions_of(network, x) == 0
    assert_same_function(network, x)


def test_between_wide_convolutions_nothing_is_transposed():
    keras.utils.set_random_seed(0)  # a ReLU whose input is 0 but for rounding has two gradients

    def convolved(x):
        x = keras.layers.Conv2D(96, 3, padding="same")(x)
        return keras.layers.BatchNormalization()(x)

    pixels = keras.Input((4, 4, 96))
    x = convolved(keras.layers.ReLU()(convolved(pixels)))
    x = keras.layers.ReLU()(keras.layers.Add()([pixels, x]))
    normalised = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Add()([convolved(normalised), x])
    network = shaken(keras.Model(pixels, keras.layers.AveragePooling2D(4)(x)))
    x = images((4, 4, 96))
    assert operations_of(network, x).count("Transpose") == 2  # pixels, and what is pooled
    assert_same_function(network, x)


def test_vectors_are_added_to_maps_of_wide_convolutions():
    pixels = keras.Input((4, 4, 96))
    maps = keras.layers.Conv2D(96, 3, padding="same")(pixels)
    vectors = keras.layers.GlobalAveragePooling2D()(pixels)
    x = keras.layers.Add()([maps, vectors])
    network = shaken(keras.Model(pixels, keras.layers.Flatten()(x)))
    assert_same_function(network, images((4, 4, 96), 4))


@pytest.mark.parametrize(
    ("size", "channels", "options"),
    [
        ((8, 8), 95, {"padding": "same"}),
        ((8, 9), 96, {"padding": "same"}),
        ((5, 5), 96, {"padding": "same"}),  # four tiles for little more than one
        ((8, 8), 96, {"padding": "valid"}),
        ((8, 8), 96, {"padding": "same", "strides": 2}),
        ((8, 8), 96, {"padding": "same", "dilation_rate": 2}),
        ((8, 8), 96, {"padding": "same", "dtype": "mixed_bfloat16"}),
    ],
)
def test_where_fewer_products_do_not_pay_the_convolution_stays(size, channels, options):
    network = one_convolution(size, 3, channels, 96, **options)
    assert convolutions_of(network, images((*size, channels))) == 1


def test_accelerators_keep_their_convolutions(monkeypatch):
    network = one_convolution((8, 8), 3, 96, 96, padding="same")
    devices = [
        tf.config.LogicalDevice("/device:CPU:0", "CPU"),
        tf.config.LogicalDevice("/device:GPU:0", "GPU"),
    ]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: devices)
    assert convolutions_of(network, images((8, 8, 96))) == 1


@pytest.mark.parametrize("name", ["vgg", "resnet18", "wide_resnet"])
def test_networks_of_full_width_are_the_same_function(name):
    options = {"wide_resnet": {"depth": 10, "width": 2}, "vgg": {"depth": 11}}.get(name, {})
    network = build_model(name, (32, 32, 3), 10, 0, **options)
    kept = sum(isinstance(layer, keras.layers.Conv2D) for layer in network.layers)
    x = images((32, 32, 3), 2)
    assert 0 < convolutions_of(network, x) < kept
    assert_same_function(network, x, tolerance=1e-4)


def test_weights_are_read_when_it_is_made():
    network = shaken(build_model("convnet", SHAPE, 4, 0, width_multiplier=0.3))
    x = images()
    before = network(x, training=False).numpy()
    logits_fn = frozen_logits(network)
    for variable in network.get_layer("bn1").trainable_variables:
        variable.assign(variable * 2)
    np.testing.assert_allclose(logits_fn(x), before, atol=2e-5 * np.abs(before).max())
    after = network(x, training=False).numpy()
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(frozen_logits(network)(x), after, atol=2e-5 * np.abs(after).max())


def branched():
    """BatchNorm whose input and output others read too, one as output, and a dense one."""
    pixels = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(3, 3, padding="same", name="conv")(pixels)
    y = keras.layers.BatchNormalization(name="bn_of_a_shared_conv")(x)
    z = keras.layers.Add()([x, y])
    z = keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="active")(z)
    z = keras.layers.BatchNormalization(scale=False, name="bn_after_relu")(z)
    z = keras.layers.ReLU(max_value=2.0)(z)
    z = keras.layers.Conv2D(5, 3, padding="same", dilation_rate=2, use_bias=False)(z)
    z = keras.layers.BatchNormalization(center=False)(z)
    z = keras.layers.Flatten()(z)
    z = keras.layers.Dense(3)(z)
    return keras.Model(pixels, keras.layers.BatchNormalization(name="last")(z))


def test_what_may_not_be_folded_is_not():
    assert_same_function(shaken(branched()), images((6, 6, 2)))


@pytest.mark.parametrize("axis", [1, 2])
def test_batch_norm_over_another_axis(axis):
    pixels = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(3, 3, name="conv")(pixels)
    x = keras.layers.BatchNormalization(axis=axis)(x)
    assert_same_function(shaken(keras.Model(pixels, keras.layers.Flatten()(x))), images((6, 6, 2)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten, self.norm = keras.layers.Flatten(), keras.layers.BatchNormalization()
        self.dense = keras.layers.Dense(3)

    def call(self, x, training=False):
        return self.dense(self.norm(self.flatten(x), training=training))


def twice():
    pixels = keras.Input((6, 6, 2))
    conv = keras.layers.Conv2D(2, 3, padding="same")
    x = keras.layers.BatchNormalization()(conv(conv(pixels)))
    return keras.Model(pixels, keras.layers.Flatten()(x))


@pytest.mark.parametrize("make", [Subclassed, twice])
def test_a_network_that_is_no_plain_graph_is_called_as_it_is(make):
    network = make()
    network(images((6, 6, 2)))
    assert_same_function(shaken(network), images((6, 6, 2)), tolerance=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["vgg", "wide_resnet"])
def test_half_precision_is_as_near_to_float32_as_the_networks(name, policy):
    full = shaken(build_model(name, SHAPE, 4, 0, **NETWORKS[name]))
    half = build_model(name, SHAPE, 4, 0, dtype_policy=policy, **NETWORKS[name])
    half.set_weights(full.get_weights())
    x = images()
    truth = full(x, training=False).numpy()
    error = np.abs(half(x, training=False).numpy() - truth).max()
    frozen = frozen_logits(half)(x)
    assert frozen.dtype == tf.float32
    assert np.abs(frozen.numpy() - truth).max() < 2 * error + 1e-3 * np.abs(truth).max()
    assert error > 0


def test_dead_filters_stay_exactly_zero():
    network = shaken(build_model("vgg", SHAPE, 4, 0, **NETWORKS["vgg"]))
    conv, norm = network.get_layer("conv1_1"), network.get_layer("bn1_1")
    alive = np.array([0, 1, 1, 0, 1, 1])  # of six filters
    conv.kernel.assign(conv.kernel * alive)
    norm.gamma.assign(norm.gamma * alive)
    norm.beta.assign(norm.beta * alive)
    till_there = keras.Model(network.input, network.get_layer("relu1_1").output)
    features = frozen_logits(till_there)(images()).numpy()
    assert not features[..., [0, 3]].any()
    assert features[..., [1, 2, 4, 5]].any(axis=(0, 1, 2)).any()


# --- what is not exactly known ----------------------------------------------------------


class ScalingNorm(keras.layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(3 * inputs, training=training)


class Absolute(keras.layers.ReLU):
    def call(self, inputs):
        return tf.abs(inputs)


class HalvingConv(keras.layers.Conv2D):
    def call(self, inputs):
        return super().call(inputs) / 2


class Doubling(keras.Model):
    """Functional, with a call of its own."""

    def call(self, x, training=None, mask=None):
        return 2 * super().call(x, training=training)


def patched(layer, call):
    layer.call = lambda x, **options: call(x)
    return layer


def sandwich(conv=None, norm=None, relu=None, model=keras.Model):
    """Convolution, BatchNorm, ReLU, and BatchNorm before a ReLU; each may be another."""
    layers = keras.layers
    pixels = keras.Input((6, 6, 2))
    x = (conv or layers.Conv2D(3, 3, name="conv"))(pixels)
    x = (norm or layers.BatchNormalization(name="norm"))(x)
    x = layers.Add()([x, x])
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()((relu or layers.ReLU(name="relu"))(x))
    return shaken(model(pixels, layers.Dense(3, name="logits")(x)))


STRANGE = {
    "norm subclass": lambda: sandwich(norm=ScalingNorm()),
    "relu subclass": lambda: sandwich(relu=Absolute()),
    "conv subclass": lambda: sandwich(conv=HalvingConv(3, 3)),
    "call of the model": lambda: sandwich(model=Doubling),
    "call of an instance": lambda: sandwich(
        norm=patched(keras.layers.BatchNormalization(), tf.sin)
    ),
    "relu instance": lambda: sandwich(relu=patched(keras.layers.ReLU(), tf.abs)),
    "synchronized": lambda: sandwich(norm=keras.layers.BatchNormalization(synchronized=True)),
    "leaky": lambda: sandwich(relu=keras.layers.ReLU(negative_slope=0.2, threshold=0.1)),
    "activation": lambda: sandwich(conv=keras.layers.Conv2D(3, 3, activation="tanh")),
    "float64": lambda: sandwich(conv=keras.layers.Conv2D(3, 3, dtype="float64")),
    "regularised": lambda: sandwich(
        conv=keras.layers.Conv2D(3, 3, kernel_constraint="max_norm", activity_regularizer="l2")
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_exactly_known_is_called_as_it_is(name):
    network = STRANGE[name]()
    assert_same_function(network, images((6, 6, 2)))
    check_frozen(network, images((6, 6, 2)).numpy())


def masked():
    """What is 0 at the start of a sequence counts in no mean."""
    layers = keras.layers
    pixels = keras.Input((6, 6, 2))
    x = layers.Reshape((6, 12))(pixels)
    x = layers.Dense(4)(layers.Masking()(x))
    return shaken(keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling1D()(x))))


def dropped():
    pixels = keras.Input((6, 6, 2))
    x = keras.layers.Flatten()(keras.layers.BatchNormalization()(pixels, training=False))
    return shaken(keras.Model(pixels, keras.layers.Dense(3)(x)))


def shared():
    """Layers that another model uses on images of another size."""
    conv, norm = keras.layers.Conv2D(3, 3, padding="same"), keras.layers.BatchNormalization()
    networks = []
    for side in (2, 6):
        pixels = keras.Input((side, side, 2))
        x = keras.layers.GlobalAveragePooling2D()(norm(conv(pixels)))
        networks.append(keras.Model(pixels, x))
    return shaken(networks[1])


@pytest.mark.parametrize("make", [masked, dropped, shared])
def test_what_goes_beside_the_numbers_is_kept(make):
    x = images((6, 6, 2)).numpy()
    x[:, :2] = 0
    assert_same_function(make(), tf.constant(x))


def test_a_sequential_and_a_fitted_network_are_frozen_too():
    layers = [
        keras.layers.Conv2D(3, 3),
        keras.layers.BatchNormalization(),
        keras.layers.Flatten(),
        keras.layers.Dense(2),
    ]
    network = keras.Sequential(layers)
    assert frozen_layers(network) is None  # it knows no shape yet
    network.compile("sgd", "mse")
    network.fit(images((6, 6, 2)), tf.zeros((5, 2)), verbose=0)
    assert_same_function(shaken(network), images((6, 6, 2)))
    assert len(frozen_layers(network)) == 3


# --- the guard --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_rounding_passes_the_check(name, policy):
    network = shaken(build_model(name, SHAPE, 4, 0, dtype_policy=policy, **NETWORKS[name]))
    check_frozen(network, images().numpy())
    check_frozen(network, np.zeros((1, *SHAPE), np.float32))


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_saturated_and_tiny_networks_pass_the_check(scale):
    pixels = keras.Input((6, 6, 2))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, name="conv")(pixels))
    x = keras.layers.Flatten()(keras.layers.Activation("tanh")(x))
    network = shaken(keras.Model(pixels, keras.layers.Dense(3)(x)))
    conv = network.get_layer("conv")
    conv.kernel.assign(conv.kernel * scale)
    check_frozen(network, images((6, 6, 2)).numpy())


@pytest.mark.parametrize(
    ("fold", "wrong", "layer"),
    [
        ("is_batch_norm", ScalingNorm, "odd"),
        ("is_relu", Absolute, "odd"),
    ],
)
def test_a_wrong_fold_stops_and_names_the_layer(monkeypatch, fold, wrong, layer):
    """As it was before types were exact."""
    parts = {"is_batch_norm": "norm", "is_relu": "relu"}
    network = sandwich(**{parts[fold]: wrong(name=layer)})
    exact = getattr(tf_lottery.models.frozen, fold)
    monkeypatch.setattr(
        tf_lottery.models.frozen,
        fold,
        lambda node: exact(node) or (node is not None and isinstance(node.layer, wrong)),
    )
    with pytest.raises(
        FrozenError, match=f"layer '{layer}' \\({wrong.__name__}\\) outputs"
    ) as raised:
        check_frozen(network, images((6, 6, 2)).numpy())
    assert "\n" not in str(raised.value)


def test_another_gradient_of_the_same_outputs_stops_too(monkeypatch):
    """A straight-through estimator, taken for what it looks like from the front."""

    class Straight(keras.layers.ReLU):
        def call(self, inputs):
            return inputs + tf.stop_gradient(tf.nn.relu(inputs) - inputs)

    network = sandwich(relu=Straight(name="straight"))
    exact = tf_lottery.models.frozen.is_relu
    monkeypatch.setattr(
        tf_lottery.models.frozen,
        "is_relu",
        lambda node: exact(node) or (node is not None and isinstance(node.layer, Straight)),
    )
    with pytest.raises(FrozenError, match=r"'straight' \(Straight\) input gradients differ"):
        check_frozen(network, images((6, 6, 2)).numpy())
