"""Training, validation and test arrays, and the choice of examples for each.

Which examples go where depends on the data set's name (without its version) and on
the sizes asked for, never on a run's seed: every run and every ticket of a data set
sees the same validation images.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass, fields

import numpy as np

from tf_lottery.data import own, sources
from tf_lottery.data.resizing import area_average
from tf_lottery.errors import DataError, UsageError
from tf_lottery.options.checks import SMALLEST_IMAGE
from tf_lottery.options.contents import ARRAYS, FOLDER, NPZ, OWN
from tf_lottery.options.settings import DataConfig, derive_seed

# On [0, 1] pixels, per channel. The paper's constants, which are not those of the
# training pixels: the widely used deviations are means over images. Of images of the set's own
# size: smaller ones deviate less.
PUBLISHED_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in memory; the arrays are read-only.

    Attributes:
      name: without the version; of images of one's own as ``--dataset`` says it.
      train_images: uint8 (n, height, width, channels), in the order of the original split.
      train_labels: int32 (n,), each in [0, num_classes).
      train_index: int64 (n,), position in the original training split, ascending.
      validation_images, validation_labels: held out of the original training split, in
        an order fixed by the name.
      validation_index: int64, position in the original training split.
      test_images, test_labels: in an order fixed by the name, so that the first N of
        them are what ``test_examples=N`` gives.
      test_index: int64, position in the original test split.
      mean, std: per channel, on [0, 1] pixels.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    train_index: np.ndarray
    validation_images: np.ndarray
    validation_labels: np.ndarray
    validation_index: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    test_index: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over every array: names, types, shapes and contents."""
        result = hashlib.sha256()
        for field in fields(self):
            array = getattr(self, field.name)
            if isinstance(array, np.ndarray):
                result.update(f"{field.name} {array.dtype.str} {array.shape}\n".encode())
                result.update(np.ascontiguousarray(array).data)
        return result.hexdigest()


def load(config: DataConfig) -> ImageData:
    """Reads, shrinks and splits a data set.

    Raises:
      UsageError: unknown data set, more examples asked for than there are, or an image size
        that the images cannot be shrunk to.
      DataError: the set cannot be had, read or used here.
    """
    name = config.name.partition(":")[0]
    raw, published = _raw(config), PUBLISHED_STATISTICS.get(name)
    if config.image_size:
        raw, published = _shrunk(raw, config.image_size, name), None
    num_classes = len(raw.class_names)
    validation = validation_positions(
        len(raw.train_labels), config.validation_examples, num_classes, name
    )
    rest = np.setdiff1d(np.arange(len(raw.train_labels)), validation)
    train = rest[balanced_positions(raw.train_labels[rest], config.train_examples, name)]
    test = first_test_positions(len(raw.test_labels), config.test_examples, name)
    train_images = raw.train_images[train]
    # Of the whole training split: a subset must not change the network's first layer.
    mean, std = published or channel_statistics(raw.train_images)
    data = ImageData(
        name=config.name if name in OWN else name,
        train_images=train_images,
        train_labels=raw.train_labels[train],
        train_index=train,
        validation_images=raw.train_images[validation],
        validation_labels=raw.train_labels[validation],
        validation_index=validation,
        test_images=raw.test_images[test],
        test_labels=raw.test_labels[test],
        test_index=test,
        class_names=raw.class_names,
        mean=mean,
        std=std,
    )
    for field in fields(data):
        array = getattr(data, field.name)
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    return data


def _raw(config: DataConfig) -> sources.RawData:
    kind, _, path = config.name.partition(":")
    if kind == NPZ:
        return own.read_npz(path)
    if kind == FOLDER:
        return own.read_folder(path, config.image_size, config.skip_broken_images)
    if kind == ARRAYS:
        return own.held(config.name)
    return sources.read(config.name, config.data_dir)


def _shrunk(raw: sources.RawData, size: int, name: str) -> sources.RawData:
    """All images at ``size`` x ``size`` pixels."""
    height, width = raw.train_images.shape[1:3]
    if height != width:
        raise UsageError.bad_value(
            "image_size", size, f"0: images of {name} are {height}x{width}, not square"
        )
    if size > height:
        raise UsageError.bad_value(
            "image_size",
            size,
            f"from {SMALLEST_IMAGE} to {height}, the side of images of {name}, or 0 for that",
        )
    return dataclasses.replace(
        raw,
        train_images=area_average(raw.train_images, size),
        test_images=area_average(raw.test_images, size),
    )


def validation_positions(
    train_examples: int, examples: int, num_classes: int, name: str
) -> np.ndarray:
    """Positions, int64, of the validation images in the original training split.

    In random order, so that the first N of them are a fair sample; a smaller choice is
    the beginning of a larger one.

    Args:
      train_examples: size of the original training split.
      examples: how many to hold out; 0 is a tenth, rounded down (at least 1).
      num_classes: at least this many have to remain.
      name: the key of the random choice.
    """
    most = train_examples - num_classes
    if most < 1:
        raise DataError(
            f"--dataset={name}: {train_examples} training images of {num_classes} classes "
            "are too few to hold some out"
        )
    if examples > most:
        raise UsageError.bad_value(
            "validation_examples",
            examples,
            f"at most {most} ({train_examples} training images less one a class), or 0 for a tenth",
        )
    number = examples or min(max(train_examples // 10, 1), most)
    return _permutation("validation", name, train_examples)[:number]


def balanced_positions(labels: np.ndarray, examples: int, name: str) -> np.ndarray:
    """Ascending positions, int64, of a class-balanced choice of ``labels``.

    The classes' counts differ by at most one, except for a class that has no more
    to give. A smaller choice is contained in a larger one.

    Args:
      labels: int (n,), of the images that may be chosen.
      examples: how many; 0 is all.
      name: the key of the random choice.
    """
    if examples > len(labels):
        raise UsageError.bad_value(
            "train_examples",
            examples,
            f"at most {len(labels)} (the training images less the validation images), or 0 for all",
        )
    order = _permutation("train", name, len(labels))
    return np.sort(in_rounds(order, labels)[: examples or len(labels)])


def in_rounds(order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Positions dealt out in rounds: round r holds the r-th image of every class that has one.

    Args:
      order: int (n,), of all positions.
      labels: int (n,), by position.
    """
    round_of = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        round_of[members] = np.arange(len(members))
    return order[np.argsort(round_of[order], kind="stable")]


def first_test_positions(test_examples: int, examples: int, name: str) -> np.ndarray:
    """Positions, int64, in the original test split, in an order fixed by the name.

    Args:
      test_examples: size of the original test split.
      examples: how many of them; 0 is all.
      name: the key of the random order.
    """
    if examples > test_examples:
        raise UsageError.bad_value(
            "test_examples", examples, f"at most {test_examples}, or 0 for all"
        )
    return _permutation("test", name, test_examples)[: examples or test_examples]


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel on [0, 1] pixels, to 4 digits.

    The deviation of a constant channel is given as 1, so that one can divide by it.

    Args:
      images: uint8 (n, height, width, channels).
    """
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256)
        share = share / share.sum()
        center = float(share @ levels)
        deviation = float(np.sqrt(share @ (levels - center) ** 2))
        mean.append(round(center, 4))
        std.append(round(deviation, 4) or 1.0)
    return tuple(mean), tuple(std)


def _permutation(purpose: str, name: str, size: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(0, purpose, name)).permutation(size)
