"""Training images held on the device, where each step gathers and augments its own batch.

The pipeline on the host then feeds 20 bytes an image instead of 4 a channel of every
pixel. The batches are the same to the last bit (``tf_lottery.data.pipeline``).
"""

from __future__ import annotations

import numpy as np

from tf_lottery.data.augmentation import crop_and_flip
from tf_lottery.errors import UsageError
from tf_lottery.keras import tf
from tf_lottery.type_aliases import Tensor

MOST_BYTES = 2 * 2**30  # that "auto" puts there; CIFAR-10's training images are 0.15e9

# What a division by 255 gives, looked up: compiled for a step, XLA and TensorFlow's graph
# optimiser multiply by 1/255 instead, which differs in the last bit for 126 of 256 levels.
_UNIT = np.arange(256, dtype=np.float32) / np.float32(255)


class DeviceImages:
    """uint8 images in a variable, and the way from a batch's indices to its pixels.

    A variable, not a tensor: GPUs have a kernel that gathers bytes from the one alone,
    and a function compiled by XLA takes it as an argument instead of copying it in.

    Args:
      images: uint8 (n, height, width, channels).

    Raises:
      UsageError: the device has no room for them.
    """

    def __init__(self, images: np.ndarray):
        try:
            self._images = tf.Variable(images, trainable=False, name="training_images")
        except tf.errors.ResourceExhaustedError as error:
            raise UsageError(
                f"--data_on_device: {images.nbytes / 2**20:,.0f} MiB of training images do not "
                "fit beside what is there already; use --data_on_device=off",
                "data_on_device",
            ) from error

    @property
    def device(self) -> str:
        """Where the images are, in TensorFlow's words."""
        return self._images.device

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch of ``training_batches`` with its ``image``.

        Args:
          batch: one of ``training_batches(..., with_images=False)``.
        """
        batch = dict(batch)
        levels = tf.cast(tf.gather(self._images, batch["index"]), tf.int32)
        pixels = tf.gather(_UNIT, levels)
        draws = batch.pop("draws", None)
        # After the look-up, as GPUs gather floats but no bytes from a tensor.
        batch["image"] = pixels if draws is None else crop_and_flip(pixels, draws)
        return batch


def device_images(images: np.ndarray, choice: str) -> DeviceImages | None:
    """The training images on the device, or ``None`` where the host is to feed them.

    Args:
      images: uint8 (n, height, width, channels).
      choice: one of ``settings.DATA_ON_DEVICE``: ``auto`` takes the device if TensorFlow
        sees a GPU and the images take up to ``MOST_BYTES``; ``on`` takes it whatever it
        is, the CPU included.

    Raises:
      UsageError: the device has no room for them.
    """
    if choice == "off":
        return None
    if choice == "auto" and not (tf.config.list_logical_devices("GPU") and fits(images)):
        return None
    return DeviceImages(images)


def fits(images: np.ndarray) -> bool:
    """Whether ``auto`` puts so many images on a GPU."""
    return images.nbytes <= MOST_BYTES
