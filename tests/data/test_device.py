"""Images held on the device give the batches of the pipeline, bit by bit."""

import numpy as np
import pytest

from tf_lottery.data import DeviceImages, device, device_images, training_batches
from tf_lottery.errors import UsageError
from tf_lottery.keras import tf

N, BATCH = 23, 5
# Every level from 0 to 255 occurs.
IMAGES = np.random.default_rng(0).permutation(np.arange(N * 8 * 8 * 2) % 256).reshape(N, 8, 8, 2)
IMAGES = IMAGES.astype(np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, N).astype(np.int64)


def batches(with_images, augmentation_seed):
    return training_batches(
        IMAGES,
        LABELS,
        batch_size=BATCH,
        epochs=3,
        first_epoch=1,
        order_seed=4,
        augmentation_seed=augmentation_seed,
        with_images=with_images,
    )


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("augmentation_seed", [None, 9], ids=["plain", "augmented"])
def test_batches_are_those_of_the_pipeline_to_the_last_bit(augmentation_seed, how):
    """XLA and the graph optimiser would replace a division by 255 by a multiplication."""
    fetch = DeviceImages(IMAGES)
    if how != "eager":
        fetch = tf.function(fetch, jit_compile=how == "xla")
    found = [fetch(batch) for batch in batches(False, augmentation_seed)]
    expected = list(batches(True, augmentation_seed))
    assert len(found) == len(expected) == 8
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys() == {"image", "label", "index", "epoch"}
        for key, value in theirs.items():
            assert ours[key].dtype == value.dtype, key
            np.testing.assert_array_equal(ours[key], value, err_msg=key)
    seen = np.unique(np.concatenate([batch["image"] for batch in found]))
    np.testing.assert_array_equal(seen, np.arange(256, dtype=np.float32) / np.float32(255))


def test_the_host_feeds_no_pixels():
    spec = batches(False, 9).element_spec
    assert {key: tuple(value.shape) for key, value in spec.items()} == {
        "label": (BATCH,), "index": (BATCH,), "epoch": (BATCH,), "draws": (BATCH, 3),
    }  # fmt: skip
    assert {value.dtype for value in spec.values()} == {tf.int32}
    assert set(batches(False, None).element_spec) == {"label", "index", "epoch"}


def concrete(images, jit_compile=False):
    spec = {
        "label": tf.TensorSpec((BATCH,), tf.int32),
        "index": tf.TensorSpec((BATCH,), tf.int32),
        "epoch": tf.TensorSpec((BATCH,), tf.int32),
        "draws": tf.TensorSpec((BATCH, 3), tf.int32),
    }
    fetch = DeviceImages(images)
    function = tf.function(fetch, input_signature=[spec], jit_compile=jit_compile)
    return function.get_concrete_function(), fetch


def test_a_compiled_step_holds_no_copy_of_the_images():
    images = np.zeros((2000, 16, 16, 3), np.uint8)
    function, _ = concrete(images, jit_compile=True)
    assert function.graph.as_graph_def().ByteSize() < images.nbytes / 50
    assert len(function.captured_inputs) == 1


@pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason="TensorFlow has no GPU kernels")
def test_every_operation_has_a_gpu_kernel():
    """Else, without XLA, all images would cross to the host in every step.

    TensorFlow's register of kernels is there without a GPU. A tensor of bytes has none
    that gathers: that is what the variable is for.
    """
    from tensorflow.python.framework import kernels

    def has_kernel(node):
        for kernel in kernels.get_registered_kernels_for_op(node.op).kernel:
            if kernel.device_type in ("GPU", "DEFAULT") and all(
                node.attr[constraint.name].type in constraint.allowed_values.list.type
                for constraint in kernel.constraint
            ):
                return True
        return False

    def without(function):
        nodes = function.graph.as_graph_def().node
        placed = [node for node in nodes if node.op not in ("Placeholder", "NoOp")]
        assert len(placed) > 5
        return {node.op for node in placed if not has_kernel(node)}

    function, fetch = concrete(IMAGES)
    assert without(function) == set()
    tensor = tf.constant(IMAGES)
    byte_gather = tf.function(
        lambda index: tf.cast(tf.gather(tensor, index), tf.int32) + tf.range(2)[:, None, None, None]
    ).get_concrete_function(tf.TensorSpec((2,), tf.int32))
    assert without(byte_gather) == {"GatherV2"}
    assert fetch.device.endswith("CPU:0")


def gpus(monkeypatch, number):
    original = tf.config.list_logical_devices
    monkeypatch.setattr(
        tf.config,
        "list_logical_devices",
        lambda kind=None: [object()] * number if kind == "GPU" else original(kind),
    )


def test_auto_wants_a_gpu_and_images_that_fit(monkeypatch):
    gpus(monkeypatch, 0)
    assert device_images(IMAGES, "auto") is None
    gpus(monkeypatch, 1)
    assert isinstance(device_images(IMAGES, "auto"), DeviceImages)
    monkeypatch.setattr(device, "MOST_BYTES", IMAGES.nbytes)
    assert isinstance(device_images(IMAGES, "auto"), DeviceImages)
    monkeypatch.setattr(device, "MOST_BYTES", IMAGES.nbytes - 1)
    assert device_images(IMAGES, "auto") is None
    assert device_images(IMAGES, "off") is None
    gpus(monkeypatch, 0)
    assert isinstance(device_images(IMAGES, "on"), DeviceImages)


def test_images_without_room_name_the_flag(monkeypatch):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    monkeypatch.setattr(tf, "Variable", full)
    with pytest.raises(UsageError, match=r"^--data_on_device: 3 MiB of training images do not fit"):
        DeviceImages(np.zeros((1024, 32, 32, 3), np.uint8))
