"""Images in memory: where they come from, how they are split, how they reach a training step.

``load(DataConfig)`` gives an ``ImageData`` of uint8 arrays; ``training_batches`` and
``evaluation_batches`` turn its arrays into ``tf.data`` pipelines of float images in [0, 1];
``device_images`` holds the training images on an accelerator instead.
"""

from tf_lottery.data.device import DeviceImages, device_images
from tf_lottery.data.pipeline import (
    evaluation_batches,
    even_batch_size,
    steps_per_epoch,
    training_batches,
)
from tf_lottery.data.splits import ImageData, in_rounds, load

__all__ = [
    "DeviceImages",
    "ImageData",
    "device_images",
    "evaluation_batches",
    "even_batch_size",
    "in_rounds",
    "load",
    "steps_per_epoch",
    "training_batches",
]
