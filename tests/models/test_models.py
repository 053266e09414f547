"""Architectures: counts of the paper, names, initialisation, dtypes, arithmetic."""

import doctest
import json

import numpy as np
import pytest

import tf_lottery.models
from tf_lottery import weights
from tf_lottery.errors import UsageError
from tf_lottery.keras import keras, tf
from tf_lottery.models import build_model, forward_flops
from tf_lottery.pruning import masks

# One small network of each family.
SMALL = {
    "convnet": {"width_multiplier": 0.1},
    "lenet": {"width_multiplier": 0.1},
    "resnet18": {"width_multiplier": 0.05},
    "vgg": {"depth": 11, "width_multiplier": 0.05},
    "wide_resnet": {"depth": 10, "width": 2, "width_multiplier": 0.25},
}

small_families = pytest.mark.parametrize("name", SMALL)


def small(name, shape=(8, 8, 1), seed=0, **options):
    return build_model(name, shape, 10, seed, **{**SMALL[name], **options})


def kernels(model):
    return {v.name: v.numpy() for v in model.trainable_variables if "kernel" in v.name}


# --- counts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "depth", "width", "count"),
    [
        ("resnet18", 18, 0, 11_173_962),
        ("wide_resnet", 34, 10, 46_160_474),
        ("wide_resnet", 28, 10, 36_479_194),
        ("wide_resnet", 22, 10, 26_797_914),
        ("wide_resnet", 16, 10, 17_116_634),
        ("wide_resnet", 10, 10, 7_435_354),
        ("wide_resnet", 34, 5, 11_554_074),
        ("wide_resnet", 34, 2, 1_855_578),
        ("wide_resnet", 34, 1, 466_714),
        ("vgg", 16, 0, 14_987_722),
    ],
)
def test_trainable_parameters_of_the_paper(name, depth, width, count):
    """arXiv 2003.05733, and per layer counts of its authors' code; 10 classes, 32x32x3."""
    with tf.Graph().as_default():  # shapes only: nothing is allocated
        model = build_model(name, (32, 32, 3), 10, 0, depth=depth, width=width)
        assert sum(v.shape.num_elements() for v in model.trainable_variables) == count


def test_defaults_are_the_paper_s_networks():
    with tf.Graph().as_default():
        for name, label in (("vgg", "vgg16"), ("wide_resnet", "wide_resnet-34-10")):
            model = build_model(name, (32, 32, 3), 10, 0)
            assert model.name == label
            assert model.count_params() > 14_000_000


@pytest.mark.parametrize(("depth", "convs"), [(7, 5), (8, 6), (11, 8), (16, 13)])
def test_vgg_depths(depth, convs):
    model = build_model("vgg", (8, 8, 3), 10, 0, depth=depth, width_multiplier=0.02)
    found = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    pools = [layer for layer in model.layers if isinstance(layer, keras.layers.AveragePooling2D)]
    assert len(found) == convs
    assert [layer.name for layer in pools] == [f"pool{i}" for i in range(1, 6)]
    assert [found[0].filters, found[-1].filters] == [1, 10]
    assert model.get_layer("dense").units == 10
    assert not any(layer.use_bias for layer in found)


def test_lenet_by_hand():
    with tf.Graph().as_default():
        model = build_model("lenet", (28, 28, 1), 10, 0)
        expected = (5 * 5 + 1) * 32 + (5 * 5 * 32 + 1) * 64
        expected += (7 * 7 * 64 + 1) * 1024 + (1024 + 1) * 10
        assert model.count_params() == expected


def test_width_multiplier_scales_every_hidden_width():
    depths = {"vgg": 16, "wide_resnet": 10}
    for name in SMALL:
        with tf.Graph().as_default():
            full, half = (
                small(name, depth=depths.get(name, 0), width_multiplier=m) for m in (1.0, 0.5)
            )
            for layer in full.layers:
                if layer.name != "logits" and hasattr(layer, "kernel"):
                    width = half.get_layer(layer.name).kernel.shape[-1]
                    assert 2 * width == layer.kernel.shape[-1]


@pytest.mark.parametrize(("name", "depth"), [(n, 16 if n == "vgg" else 0) for n in sorted(SMALL)])
def test_no_network_is_too_deep_for_the_smallest_images(name, depth):
    """Five poolings of 4 pixels: a side of 1 stays 1, and is the mean of itself."""
    with tf.Graph().as_default():
        model = build_model(name, (4, 4, 3), 10, 0, depth=depth, width_multiplier=0.1)
        assert model.output_shape == (None, 10)
        assert all(
            None not in layer.output_shape[1:] and 0 not in layer.output_shape[1:]
            for layer in model.layers
            if not isinstance(layer.output_shape, list)
        )


# --- forward ------------------------------------------------------------------------


@small_families
@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (16, 16, 3), (8, 8, 1)])
def test_forward(name, shape):
    model = small(name, shape)
    assert model.input_shape == (None, *shape)
    assert model.input.dtype == tf.float32
    for batch in (1, 3):
        x = np.random.default_rng(0).uniform(size=(batch, *shape)).astype("float32")
        logits = model(x, training=False).numpy()
        assert logits.shape == (batch, 10)
        assert logits.dtype == np.float32
        assert np.isfinite(logits).all()
        assert logits.std() > 1e-3
    assert model.layers[-1].name == "logits"
    assert model.layers[-1].activation is keras.activations.linear


def test_wide_resnet_block_against_the_definition():
    """Depth 10 is one block a stage: recompute the network from its own variables."""
    model = small("wide_resnet", width_multiplier=0.5)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    x = images = rng.uniform(size=(2, 8, 8, 1)).astype("float32")

    def conv(x, name, strides=1):
        return tf.nn.conv2d(x, model.get_layer(name).kernel, strides, "SAME")

    def bn_relu(x, name):
        gamma, beta, mean, variance = model.get_layer(name).get_weights()
        return tf.nn.relu((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta)

    x = conv(x, "stem_conv")
    for stage, strides in ((1, 1), (2, 2), (3, 2)):
        block = f"block{stage}_1_"
        active = bn_relu(x, block + "bn1")
        inner = bn_relu(conv(active, block + "conv1", strides), block + "bn2")
        x = conv(inner, block + "conv2") + conv(active, block + "shortcut_conv", strides)
    features = tf.reduce_mean(bn_relu(x, "final_bn"), (1, 2))
    kernel, bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(model(images), features @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_resnet_shortcuts():
    names = {layer.name for layer in small("resnet18").layers}
    assert {n for n in names if n.endswith("shortcut_conv")} == {
        f"block{stage}_1_shortcut_conv" for stage in (2, 3, 4)
    }
    assert "block2_1_shortcut_bn" in names


@small_families
def test_batch_norm_has_pytorch_s_defaults(name):
    model = small(name)
    norms = [n for n in model.layers if isinstance(n, keras.layers.BatchNormalization)]
    assert bool(norms) == (name != "lenet")
    assert {(n.momentum, n.epsilon) for n in norms} <= {(0.9, 1e-5)}


# --- initialisation, names ----------------------------------------------------------


@small_families
def test_initialisation_is_a_function_of_seed_and_name(name):
    first = kernels(small(name))
    tf.random.set_seed(123)
    keras.layers.Dense(3)(tf.zeros((1, 2)))  # whatever else the process builds
    again, other = kernels(small(name)), kernels(small(name, seed=1))
    assert list(first) == list(again) == list(other)
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key])
        assert (value != other[key]).any()
    values = [value.ravel()[:3].tobytes() for value in first.values() if value.size > 2]
    assert len(set(values)) == len(values)  # no two layers share their random numbers


def test_initial_deviation_is_he_normal():
    model = build_model("vgg", (8, 8, 3), 10, 0, depth=7, width_multiplier=0.5)
    for name, fan_in in (("conv3_1", 9 * 64), ("conv4_1", 9 * 128), ("dense", 256)):
        kernel = model.get_layer(name).kernel.numpy()
        assert kernel.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.02)


def test_initial_weights_are_the_same_bits_everywhere():
    """A ticket that is mailed holds this digest, not the weights."""
    model = build_model("convnet", (8, 8, 1), 10, 0)
    assert weights.digest(weights.get_weights(model)) == (
        "3a1a7815aaaad7d08d76e2f3aa93e29e3a7c9041e14f7a4a829540fdf4af8864"
    )


@small_families
def test_layer_names_are_explicit_and_stable(name):
    names = [layer.name for layer in small(name).layers]
    assert names == [layer.name for layer in small(name).layers]
    assert len(set(names)) == len(names)
    assert not any("/" in n for n in names)
    automatic = ("conv2d", "dense_", "batch_normalization", "re_lu", "add", "input_", "rescaling")
    assert not any(n.startswith(automatic) for n in names)


# --- normalisation ------------------------------------------------------------------


def test_normalization_layer():
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    model = small("convnet", (8, 8, 3), mean=mean, std=std)
    bare = small("convnet", (8, 8, 3))
    assert model.layers[1].name == "normalization"
    assert "normalization" not in [layer.name for layer in bare.layers]
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype("float32")
    normalized = (x - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(model(x), bare(normalized), rtol=1e-4, atol=1e-5)


def test_config_and_saved_model_round_trip(tmp_path):
    model = small("convnet", mean=np.array([0.3]), std=np.float32([0.5]))
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype("float32")
    clone = keras.Model.from_config(json.loads(model.to_json())["config"])
    np.testing.assert_array_equal(clone(x), model(x))  # seeds travel in the config
    tf.saved_model.save(model, str(tmp_path / "m"))
    np.testing.assert_allclose(tf.saved_model.load(str(tmp_path / "m"))(x), model(x), rtol=1e-5)


# --- dtypes -------------------------------------------------------------------------


@small_families
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(name, policy):
    model = small(name, dtype_policy=policy, mean=[0.5], std=[0.5])
    half = policy.removeprefix("mixed_")
    exempt = {"pixels", "normalization", "logits"}
    for layer in model.layers:
        expected = "float32" if layer.name in exempt else half
        assert layer.compute_dtype == expected, layer.name
    assert {v.dtype for v in model.variables} == {tf.float32}
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype("float32")
    logits = model(x)
    assert logits.dtype == tf.float32
    reference = small(name, mean=[0.5], std=[0.5])(x)
    np.testing.assert_allclose(logits, reference, atol=0.1 * float(np.std(reference)) + 0.02)


# --- arithmetic ---------------------------------------------------------------------


def profiled_flops(model, shape):
    """Float operations of Conv2D and MatMul as TensorFlow's profiler counts them."""
    function = tf.function(lambda x: model(x, training=False))
    graph = function.get_concrete_function(tf.TensorSpec((1, *shape))).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    profile = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)

    def walk(node):
        counts = {node.name: node.float_ops}
        for child in node.children:
            counts |= walk(child)
        return counts

    counts = walk(profile)
    return {op: counts.get(op, 0) for op in ("Conv2D", "MatMul")}


@small_families
def test_flops_against_tensorflow_s_profiler(name):
    shape = (9, 8, 3)  # an odd side, so that padding counts
    model = small(name, shape)
    ours = forward_flops(model)
    dense = sum(ours.get(layer, 0) for layer in ("dense", "logits"))
    theirs = profiled_flops(model, shape)
    assert theirs["MatMul"] == dense
    assert theirs["Conv2D"] == sum(ours.values()) - dense


def test_flops_by_hand():
    flops = forward_flops(build_model("convnet", (8, 8, 1), 10, 0))
    assert flops == {
        "conv1": 2 * 8 * 8 * 9 * 1 * 32,
        "conv2": 2 * 8 * 8 * 9 * 32 * 64,
        "conv3": 2 * 4 * 4 * 9 * 64 * 64,
        "logits": 2 * 4 * 4 * 64 * 10,
    }


def test_flops_of_a_wrapped_model_are_the_bare_one_s():
    model = small("resnet18")
    wrapped = masks.wrap(model).wrapped
    assert any(
        layer.name.endswith("_logits") and layer.name != "logits" for layer in wrapped.layers
    )
    assert forward_flops(wrapped) == forward_flops(model)
    outer = keras.Sequential([keras.Input((8, 8, 1)), model])
    nested = {f"{model.name}/{name}": flops for name, flops in forward_flops(model).items()}
    assert forward_flops(outer) == nested


# --- errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "alexnet"}, "--model: unknown value 'alexnet', may be one of convnet, lenet"),
        ({"name": "vgg", "depth": 19}, "--depth: got 19, must be for vgg one of: 7, 8, 11, 16"),
        ({"name": "vgg", "depth": -1}, "--depth: got -1, must be for vgg one of: 7, 8, 11, 16"),
        ({"name": "wide_resnet", "depth": 18}, "--depth: got 18, .* 6n \\+ 4"),
        ({"depth": 3}, "--depth: got 3, must be for convnet"),
        ({"width": 2}, "--width: got 2, must be left out for convnet"),
        ({"name": "wide_resnet", "width": -1}, "--width: got -1"),
        ({"width_multiplier": 0.0}, "--width_multiplier: got 0.0, must be more than 0"),
        ({"width_multiplier": float("nan")}, "--width_multiplier: got nan"),
        ({"input_shape": (8, 8)}, r"--input_shape: got \(8, 8\), must be \(height, width"),
        ({"input_shape": (8, None, 1)}, "--input_shape"),
        ({"input_shape": (8, 0, 1)}, "--input_shape"),
        ({"num_classes": 1}, "--num_classes: got 1, must be 2 or more"),
        ({"dtype_policy": "float16"}, "--dtype_policy: unknown value 'float16'"),
        ({"mean": [0.5]}, "--std: got None, must be 1 numbers above 0"),
        ({"std": [0.5]}, "--mean: got None"),
        ({"mean": [0.5] * 3, "std": [0.5] * 3}, "--mean: got .* must be 1 numbers, one per"),
        ({"mean": [0.5], "std": [0.0]}, r"--std: got \[0.0\]"),
    ],
)
def test_errors(options, message):
    arguments = {"name": "convnet", "input_shape": (8, 8, 1), "num_classes": 10, "seed": 0}
    with pytest.raises(UsageError, match=message):
        build_model(**{**arguments, **options})


def test_example():
    result = doctest.testmod(tf_lottery.models)
    assert result.attempted > 1
    assert result.failed == 0
