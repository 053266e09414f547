"""TFLite files: what they compute, and what is said about them."""

import gzip

import numpy as np
import pytest

from tf_lottery.errors import LotteryError
from tf_lottery.export import export_saved_model
from tf_lottery.export.artefacts import SavedModelArtefact, TFLiteArtefact, predictions
from tf_lottery.export.tflite import TFLITE_FORMATS, convert
from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import EXPORT_FORMATS

# Weights of the network below: kernels of 3x3x1x16, 3x3x16x32, 3x3x32x32 and (4*4*32)x4.
KERNELS = {"conv1": 144, "conv2": 4608, "conv3": 9216, "logits": 2048}
CHANNELS = 16 + 32 + 32


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (70, 8, 8, 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def network(tiny_network, images):
    """A tenth of the weights, statistics as after training, every class as likely."""
    made = tiny_network(width_multiplier=0.5)
    rng = np.random.default_rng(0)
    for layer in made.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            layer.kernel.assign(3 * kernel * (rng.random(kernel.shape) < 0.1))
        if hasattr(layer, "moving_mean"):
            layer.moving_mean.assign(rng.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, layer.moving_mean.shape))
            layer.beta.assign(rng.normal(0, 0.2, layer.beta.shape))
    typical = np.mean(made(images / np.float32(255), training=False), axis=0)
    made.get_layer("logits").bias.assign(-typical)
    return made


@pytest.fixture(scope="module")
def contents(network, images):
    pixels = images[:20].astype(np.float32) / 255
    return {name: convert(network, found, pixels) for name, found in TFLITE_FORMATS.items()}


@pytest.fixture(scope="module")
def files(contents, tmp_path_factory):
    directory = tmp_path_factory.mktemp("tflite")
    for name, content in contents.items():
        (directory / TFLITE_FORMATS[name].file).write_bytes(content)
    return {name: TFLiteArtefact(directory / TFLITE_FORMATS[name].file) for name in contents}


def nonzero(network):
    """Of the kernels; of the biases, which are BatchNorm's shifts and those of the logits."""
    kernels = sum(
        np.count_nonzero(layer.kernel) for layer in network.layers if hasattr(layer, "kernel")
    )
    return kernels, CHANNELS + 4


def test_every_format_has_a_file_of_its_own():
    assert ("saved_model", *TFLITE_FORMATS) == EXPORT_FORMATS
    assert len({found.file for found in TFLITE_FORMATS.values()}) == 6
    assert len({found.label for found in TFLITE_FORMATS.values()}) == 6


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("tflite", 1e-5),
        ("tflite_sparse", 1e-5),
        ("tflite_float16", 2e-3),
        ("tflite_sparse_float16", 2e-3),
        ("tflite_int8", 0.08),
        ("tflite_sparse_int8", 0.08),
    ],
)
def test_the_logits_are_the_network_s(files, network, images, name, tolerance):
    expected = network(images / np.float32(255), training=False).numpy()
    size = np.abs(expected).max()
    assert expected.std() > 0.2 * size
    for batch in (1, 5, 64):
        logits = files[name].runner(batch)(images[:batch].astype(np.float32) / 255)
        assert logits.shape == (batch, 4)
        np.testing.assert_allclose(logits, expected[:batch], rtol=0, atol=tolerance * size)
    if tolerance > 1e-4:  # it is another arithmetic, not the same file again
        assert np.abs(logits - expected[:64]).max() > 1e-6 * size


def test_predictions_of_more_images_than_a_batch(files, network, images):
    expected = network(images / np.float32(255), training=False).numpy().argmax(1)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(predictions(files["tflite"], images), expected)
    np.testing.assert_array_equal(predictions(files["tflite"], images / np.float32(255)), expected)
    assert (predictions(files["tflite_int8"], images) == expected).mean() > 0.9


def test_a_reader_without_this_package(files, images, network):
    interpreter = tf.lite.Interpreter(str(files["tflite"].path))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["images"], "outputs": ["logits"]}
    }
    run = interpreter.get_signature_runner("serving_default")
    pixels = images[:3].astype(np.float32) / 255
    np.testing.assert_allclose(
        run(images=pixels)["logits"], network(pixels, training=False), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["tflite_int8", "tflite_sparse_int8"])
def test_int8_all_through(files, name):
    interpreter = tf.lite.Interpreter(str(files[name].path))
    assert interpreter.get_input_details()[0]["dtype"] == np.int8
    assert interpreter.get_output_details()[0]["dtype"] == np.int8
    scale, zero = interpreter.get_input_details()[0]["quantization"]
    # The images it was calibrated on reach from 0 to 1.
    assert scale == pytest.approx(1 / 255, rel=0.01)
    assert zero == -128
    floats = [d["name"] for d in interpreter.get_tensor_details() if d["dtype"] == np.float32]
    assert floats == []


@pytest.mark.parametrize("name", TFLITE_FORMATS)
def test_what_is_stored(files, network, name):
    stored, kept = files[name].counts()
    kernels, biases = nonzero(network)
    assert stored == sum(KERNELS.values()) + CHANNELS + 4
    if "int8" in name:  # small weights of a kernel may round to nothing
        assert 0.8 * kernels < kept <= kernels + biases
    else:
        assert kept == kernels + biases


def test_sizes(files, contents):
    size = {}
    for name, file in files.items():
        size[name], packed = file.sizes()
        assert size[name] == len(contents[name])
        assert packed == len(gzip.compress(contents[name], mtime=0))
        assert packed < size[name]
    weights = sum(KERNELS.values())
    assert 4 * weights < size["tflite"] < 4 * weights + 8000
    assert 2 * weights < size["tflite_float16"] < 2 * weights + 8000
    assert weights < size["tflite_int8"] < weights + 12000
    # A tenth of the weights, with positions, is less than all of them.
    assert size["tflite_sparse"] < 0.5 * size["tflite"]
    assert size["tflite_sparse_int8"] < size["tflite_int8"]


def test_int8_needs_images(network):
    with pytest.raises(ValueError, match="representative"):
        convert(network, TFLITE_FORMATS["tflite_int8"])


def test_a_network_the_converter_refuses():
    pixels = keras.Input((8, 8, 1))
    odd = keras.layers.Lambda(lambda x: tf.raw_ops.Betainc(a=x, b=x + 1, x=x))(pixels)
    network = keras.Model(pixels, keras.layers.Flatten()(odd), name="odd")
    with pytest.raises(LotteryError, match=r"--formats: .*tflite of odd") as caught:
        convert(network, TFLITE_FORMATS["tflite"])
    assert "\n" not in str(caught.value)


# SavedModels --------------------------------------------------------------------------


def test_a_saved_model(network, images, tmp_path):
    artefact = SavedModelArtefact(export_saved_model(network, tmp_path / "m"))
    expected = network(images / np.float32(255), training=False).numpy()
    np.testing.assert_allclose(
        artefact.runner(64)(images[:64].astype(np.float32) / 255), expected[:64], atol=1e-5
    )
    np.testing.assert_array_equal(predictions(artefact, images), expected.argmax(1))
    values = [variable.numpy() for variable in network.variables]
    assert artefact.counts() == (
        sum(value.size for value in values),
        sum(np.count_nonzero(value) for value in values),
    )
    size, packed = artefact.sizes()
    # What lies beside the SavedModel does not count.
    (tmp_path / "m" / "model.tflite").write_bytes(b"x" * 1000)
    parts = [p for p in (tmp_path / "m").rglob("*") if p.is_file()]
    other = {"metadata.json", "model.tflite"}
    assert size == sum(p.stat().st_size for p in parts if p.name not in other)
    assert artefact.sizes() == (size, packed)
    assert packed < size
