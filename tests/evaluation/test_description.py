"""One network, built and kept in every way: the same logits, the same robust accuracy."""

import dataclasses

import numpy as np
import pytest

from tf_lottery.errors import FrozenError, StoreError, UsageError
from tf_lottery.evaluation import evaluate, logits_function
from tf_lottery.evaluation.description import describe, image_shape
from tf_lottery.evaluation.loading import _keras_3, load_model
from tf_lottery.export import export_saved_model
from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import attack_from_name

SHAPE = (8, 8, 1)
EPS = 0.25


def stack(layers):
    """The layers of the network, of either Keras."""
    return [
        layers.Conv2D(6, 3, strides=2),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dropout(0.5),
        layers.Flatten(),
        layers.Dense(4),
    ]


def through(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def functional(kind=keras):
    pixels = kind.Input(SHAPE)
    return kind.Model(pixels, through(stack(kind.layers), pixels))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = stack(keras.layers)

    def call(self, x, training=False):
        for part in self.parts:
            x = part(x, training=training) if isinstance(part, keras.layers.Dropout) else part(x)
        return x


def weights():
    rng = np.random.default_rng(3)
    shapes = [(3, 3, 1, 6), (6,), (6,), (6,), (6,), (6,), (54, 4), (4,)]
    values = [rng.normal(size=shape).astype("float32") for shape in shapes]
    values[5] = np.abs(values[5]) + 0.3  # variances
    return values


def with_weights(model):
    model(np.zeros((1, *SHAPE), "float32"))
    values = weights()
    if isinstance(model, Subclassed):  # what is trained comes first
        values = [values[i] for i in (0, 1, 2, 3, 6, 7, 4, 5)]
    model.set_weights(values)
    return model


def reference():
    return with_weights(functional())


def sequential(*first):
    return with_weights(keras.Sequential([*first, *stack(keras.layers)]))


def time_distributed():
    pixels = keras.Input(SHAPE)
    x = keras.layers.TimeDistributed(reference())(keras.layers.Reshape((1, *SHAPE))(pixels))
    return keras.Model(pixels, keras.layers.Flatten()(x))


def kept(tmp_path, name, **options):
    path = tmp_path / name
    reference().save(path, **options)
    return path


def saved(tmp_path, batch=None, give=lambda logits: {"scores": logits}, dtype=tf.float32):
    """A SavedModel with one signature."""
    network, module = reference(), tf.Module()
    module.network = network
    serve = tf.function(
        lambda pixels: give(network(tf.cast(pixels, tf.float32), training=False)),
        input_signature=[tf.TensorSpec([batch, *SHAPE], dtype, "pixels")],
    )
    signatures = {"serving_default": serve.get_concrete_function()}
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=signatures)
    return tf.saved_model.load(str(tmp_path / "m"))


def exported(tmp_path):
    export_saved_model(reference(), tmp_path / "ours")
    return tf.saved_model.load(str(tmp_path / "ours"))


def named(tmp_path):
    network = reference()
    return keras.Model(network.inputs, {"logits": network.output, "rest": network.inputs[0]})


KINDS = {
    "functional": lambda tmp: reference(),
    "sequential": lambda tmp: sequential(keras.Input(SHAPE)),
    "sequential, no input": lambda tmp: sequential(),
    "nested": lambda tmp: keras.Sequential([keras.Input(SHAPE), reference()]),
    "subclassed": lambda tmp: with_weights(Subclassed()),
    "cloned": lambda tmp: with_weights(keras.models.clone_model(functional())),
    "time distributed": lambda tmp: time_distributed(),
    "dictionary": named,
    ".keras": lambda tmp: load_model(kept(tmp, "m.keras")).model,
    ".h5": lambda tmp: load_model(kept(tmp, "m.h5")).model,
    "SavedModel of Keras": lambda tmp: load_model(kept(tmp, "m", save_format="tf")).model,
    "revived": lambda tmp: keras.models.load_model(kept(tmp, "m", save_format="tf")),
    "SavedModel of one signature": saved,
    "SavedModel of single images": lambda tmp: saved(tmp, 1),
    "SavedModel of three images": lambda tmp: saved(tmp, 3),
    "SavedModel of float64": lambda tmp: saved(tmp, dtype=tf.float64),
    "our SavedModel": exported,
    "Keras 3": lambda tmp: with_weights(functional(_keras_3())),
    "Keras 3, sequential": lambda tmp: with_weights(
        _keras_3().Sequential(stack(_keras_3().layers))
    ),
}


@pytest.fixture(scope="module")
def examples():
    network = reference()
    x = np.random.default_rng(0).uniform(0, 1, (19, *SHAPE)).astype("float32")
    return x, network(x, training=False).numpy()


def attacks():
    steps = {"pgd5": 5, "apgd_t": 6, "fab_t": 3, "square": 40}
    return [
        dataclasses.replace(attack_from_name(name, EPS), steps=count, random_start=True)
        for name, count in steps.items()
    ]


@pytest.fixture(scope="module")
def expected(examples):
    x, logits = examples
    network = reference()
    return evaluate(
        lambda images: network(images, training=False), x, logits.argmax(1), attacks(),
        batch_size=8,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_one_network_in_every_form(kind, tmp_path, examples, expected):
    x, logits = examples
    model = KINDS[kind](tmp_path)
    np.testing.assert_allclose(logits_function(model)(x), logits, rtol=1e-4, atol=1e-4)
    found = evaluate(model, x, logits.argmax(1), attacks(), batch_size=8)
    assert found.natural == 1
    assert found.warnings == ()
    for name, standing in expected.survived.items():
        assert 0 < standing.mean() < 1
        np.testing.assert_array_equal(found.survived[name], standing, name)
    assert set(image_shape(model)) <= {8, 1, None}


def test_bidirectional_layers_are_attacked_as_they_are():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Reshape((8, 8)),
            layers.Bidirectional(layers.LSTM(5)),
            layers.Dense(3),
        ]
    )
    x = np.random.default_rng(0).uniform(0, 1, (9, *SHAPE)).astype("float32")
    y = model(x).numpy().argmax(1)
    found = [
        evaluate(kind, x, y, ["pgd3"], eps=0.2).survived["pgd3"]
        for kind in (model, lambda images: model(images, training=False))
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(("flat", "shape"), [(False, (8, 8)), (True, (64,))])
def test_a_network_of_one_channel_may_leave_it_out(flat, shape):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(3)])
    x = np.random.default_rng(0).uniform(0, 1, (9, *SHAPE)).astype("float32")
    expected = x.reshape(9, -1) @ model.weights[0].numpy()
    np.testing.assert_allclose(logits_function(model)(x), expected, atol=1e-5)
    assert evaluate(model, x, expected.argmax(1), ["fgsm"], eps=0.2).robust["fgsm"] < 1
    with pytest.raises(ValueError, match=r"takes images of shape .* these are \(8, 8, 3\)"):
        evaluate(model, np.zeros((2, 8, 8, 3)), np.zeros(2, int), ["fgsm"])


def two_inputs():
    pixels, other = keras.Input(SHAPE, name="pixels"), keras.Input((3,), name="age")
    x = keras.layers.Concatenate()([keras.layers.Flatten()(pixels), other])
    return keras.Model([pixels, other], keras.layers.Dense(4)(x))


def uint8(kind=keras):
    pixels = kind.Input(SHAPE, dtype="uint8")
    x = kind.layers.Rescaling(1 / 255)(pixels)
    return kind.Model(pixels, kind.layers.Dense(4)(kind.layers.Flatten()(x)))


def several(x):
    x = tf.reshape(x, (-1, 64))
    return x[:, :4], x[:, 4:8]


REFUSED = {
    "two inputs": (two_inputs, "takes 2 inputs .age, pixels.*lambda images: model"),
    "uint8": (uint8, "takes uint8 images, float32 in .0, 1. is needed.*lambda images: model.255"),
    "uint8, Keras 3": (lambda: uint8(_keras_3()), "takes uint8 images"),
    "several outputs": (lambda: several, r"gives 2 outputs \(0, 1\).*model\(images\)\[0\]"),
    "named outputs": (
        lambda: lambda x: dict(zip("ab", several(x), strict=True)),
        r"gives 2 outputs \('a', 'b'\).*model\(images\)\['a'\]",
    ),
    "one row": (
        lambda: lambda x: tf.reduce_mean(several(x)[0], 0, keepdims=True),
        r"gives outputs of shape \(1, 4\)",
    ),
    "one row, found late": (
        lambda: lambda x: tf.reshape(several(x)[0][:1], (-1, tf.shape(x)[-1] * 4)),
        r"gives 1 rows of logits for \d+ images",
    ),
    "no rows": (lambda: lambda x: several(x)[0][0], r"gives outputs of shape \(4,\)"),
    "classes": (lambda: lambda x: tf.argmax(several(x)[0], 1), "gives int64; .* float logits"),
    "one output": (lambda: lambda x: several(x)[0][:, :1], "one output an image.*tf.pad"),
    "NumPy": (lambda: lambda x: np.asarray(x)[:, :4], "cannot be run by TensorFlow on images"),
    "nothing": (lambda: lambda x: None, "gives NoneType"),
    "other images": (
        lambda: keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()]),
        r"takes images of shape \(4, 4, 3\), these are \(8, 8, 1\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_evaluated_is_one_line(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as raised:
        evaluate(make(), np.zeros((8, *SHAPE), np.uint8), np.zeros(8, int), [])
    assert "\n" not in str(raised.value)


def test_a_saved_model_of_uint8_or_many_outputs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="takes uint8 images"):
        describe(saved(tmp_path, dtype=tf.uint8))
    both = saved(tmp_path / "both", give=lambda z: {"a": z, "b": z})
    with pytest.raises(ValueError, match="gives 2 outputs"):
        describe(both).check(SHAPE)
    logits = saved(tmp_path / "logits", give=lambda z: {"a": z + 1, "logits": z})
    assert describe(logits).check(SHAPE) == 4


class ScalingNorm(keras.layers.BatchNormalization):
    """Another function than the layer it is made of."""

    def call(self, inputs, training=None, mask=None):
        return super().call(4 * inputs - 1.5, training=training)


def strange():
    pixels = keras.Input(SHAPE)
    layers = stack(keras.layers)
    layers[1] = ScalingNorm(name="scaling")
    return with_weights(keras.Model(pixels, through(layers, pixels)))


def test_a_subclass_of_a_known_layer_is_attacked_as_it_is(examples):
    model, x = strange(), examples[0]
    y = model(x).numpy().argmax(1)
    ours, wrapped = (
        evaluate(kind, x, y, attacks())
        for kind in (model, lambda images: model(images, training=False))
    )
    for name, standing in wrapped.survived.items():
        np.testing.assert_array_equal(ours.survived[name], standing)


def test_no_attack_runs_on_another_function_than_the_models(examples, monkeypatch):
    """Whatever makes it: here the types that count as BatchNorm, as they once were."""
    monkeypatch.setattr(
        "tf_lottery.models.frozen.is_batch_norm",
        lambda node: node is not None and isinstance(node.layer, keras.layers.BatchNormalization),
    )
    x, logits = examples
    with pytest.raises(FrozenError, match=r"layer 'scaling' \(ScalingNorm\) outputs"):
        evaluate(strange(), x, logits.argmax(1), ["pgd3"])
    assert evaluate(strange(), x, logits.argmax(1), []).robust == {}  # nothing is attacked


def test_settings_as_people_write_them(examples):
    x, logits = examples
    y, model = logits.argmax(1), reference()
    found = evaluate(model, x, y, "fgsm, pgd3", eps="8/255")
    assert found.robust == evaluate(model, x, y, ["fgsm", "pgd3"], eps=8 / 255).robust
    for wrong, message in (({"eps": "8/0"}, "^eps: got '8/0'"), ({"eps": "x"}, "8/255")):
        with pytest.raises(UsageError, match=message):
            evaluate(model, x, y, **wrong)
    with pytest.raises(UsageError, match=r"^attacks: unknown value 'autoatack'"):
        evaluate(model, x, y, "autoatack")


def test_files_of_hdf5_that_are_no_models_of_layers_alone(tmp_path):
    network = reference()
    network.save_weights(tmp_path / "w.h5")
    with pytest.raises(StoreError, match="weights alone"):
        load_model(tmp_path / "w.h5")
    keras.Sequential([keras.Input(SHAPE), keras.layers.Lambda(lambda x: 2 * x)]).save(
        tmp_path / "l.h5"
    )
    with pytest.raises(StoreError, match="Lambda"):
        load_model(tmp_path / "l.h5")
    (tmp_path / "x.h5").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="cannot be loaded"):
        load_model(tmp_path / "x.h5")
    assert load_model(kept(tmp_path, "a.b.h5")).name == "a.b"
