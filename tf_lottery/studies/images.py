"""The images, as a results document states them."""

from __future__ import annotations

from tf_lottery.data import ImageData


def described(data: ImageData, validation_images: int) -> dict:
    """The images, as a results document states them.

    Args:
      data: the images.
      validation_images: used after each epoch; 0: all of them.
    """
    return {
        "name": data.name,
        "train": len(data.train_labels),
        "validation": len(data.validation_labels),
        "validation_used": validation_images or len(data.validation_labels),
        "test": len(data.test_labels),
        "digest": data.digest,
        "classes": list(data.class_names),
    }
