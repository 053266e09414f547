"""Images of one's own: arrays, a file of arrays, a folder of image files.

What is wrong with them is told in one line that names the array or the file.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tf_lottery.data.resizing import area_average
from tf_lottery.data.sources import RawData, first_line
from tf_lottery.errors import DataError
from tf_lottery.options.contents import ARRAYS

NAMES = ("x_train", "y_train", "x_test", "y_test")
TEST_SPLITS = ("test", "validation", "val")
SHOWN = 3  # broken files that a message names


def from_arrays(
    x_train: Any, y_train: Any, x_test: Any, y_test: Any, class_names: tuple[str, ...] = ()
) -> RawData:
    """A data set of four arrays.

    Args:
      x_train, x_test: (n, height, width) or (n, height, width, channels), uint8, or float in
        [0, 1], which is rounded to the nearest of 256 levels.
      y_train, y_test: (n,) or (n, 1), integers from any start, or strings; those of ``x_test`` are
        among those of ``x_train``. Classes are in ascending order.
      class_names: of the classes in that order; else they are called by their labels.

    Raises:
      DataError: names the array, what it got and what it may be.
    """
    found = dict(zip(NAMES, map(np.asarray, (x_train, y_train, x_test, y_test)), strict=True))
    images = {name: _images(name, found[name]) for name in ("x_train", "x_test")}
    labels = {name: _labels(name, found[name]) for name in ("y_train", "y_test")}
    for part in ("train", "test"):
        x, y = images[f"x_{part}"], labels[f"y_{part}"]
        if len(x) != len(y):
            raise DataError(f"y_{part}: got {len(y)} labels, must be {len(x)}, as x_{part} has")
    shapes = [array.shape[1:] for array in images.values()]
    if shapes[0] != shapes[1]:
        raise DataError(f"x_test: got images of {shapes[1]}, must be {shapes[0]} as in x_train")
    classes, numbers = np.unique(labels["y_train"], return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"y_train: got the one label {classes[0].item()!r}, must be two or more")
    odd = np.setdiff1d(labels["y_test"], classes)
    if len(odd):
        raise DataError(f"y_test: got the label {odd[0].item()!r}, must be one that y_train has")
    if class_names and len(class_names) != len(classes):
        raise DataError(
            f"class_names: got {len(class_names)}, must be {len(classes)}, as y_train has labels"
        )
    return RawData(
        images["x_train"],
        numbers.astype(np.int32),
        images["x_test"],
        np.searchsorted(classes, labels["y_test"]).astype(np.int32),
        tuple(map(str, class_names or classes)),
    )


def _images(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape:
        raise DataError(
            f"{name}: got the shape {array.shape}, must be (n, height, width, channels), none of "
            "them 0"
        )
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{name}: got {array.dtype}, must be uint8, or float in [0, 1]")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise DataError(f"{name}: got values from {low:g} to {high:g}, must be in [0, 1]")
    return np.rint(array * 255).astype(np.uint8)


def _labels(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = f"; of one-hot labels give {name}.argmax(1)" if array.ndim == 2 else ""
        raise DataError(f"{name}: got the shape {array.shape}, must be (n,){hint}")
    if array.dtype.kind not in "iubU":
        raise DataError(f"{name}: got {array.dtype}, must be integers or strings")
    return array


_HELD: dict[str, RawData] = {}


def hold(data: Any) -> str:
    """The name under which ``load`` finds images of this process.

    Args:
      data: four arrays as of ``from_arrays``; or two ``tf.data.Dataset`` of (image, label), one by
        one or in batches, to train on and to test on; or a name, which is given back.

    Raises:
      DataError: it is something else, or as ``from_arrays``.
    """
    if isinstance(data, str):
        return data
    parts = list(data) if isinstance(data, (tuple, list)) else []
    if len(parts) == 2 and all(hasattr(part, "as_numpy_iterator") for part in parts):
        parts = [array for part in parts for array in _read(part)]
    if len(parts) != len(NAMES):
        raise DataError(
            "data: must be (x_train, y_train, x_test, y_test), two tf.data.Dataset of (image, "
            f"label), or a name; got {type(data).__name__} of {len(parts) or 'no'} parts"
        )
    x_train, y_train, x_test, y_test = parts
    found = from_arrays(x_train, y_train, x_test, y_test)
    digest = hashlib.sha256("\0".join(found.class_names).encode())
    for array in (
        found.train_images, found.train_labels, found.test_images, found.test_labels
    ):  # fmt: skip
        digest.update(f"{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    name = f"{ARRAYS}:{digest.hexdigest()[:16]}"
    _HELD[name] = found
    return name


def _read(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a ``tf.data.Dataset``, batched or not."""
    images, labels = [], []
    for element in dataset.as_numpy_iterator():
        if not isinstance(element, tuple) or len(element) != 2:
            raise DataError("data: the elements of a tf.data.Dataset must be (image, label)")
        image, label = map(np.asarray, element)
        several = image.ndim == 4
        images.append(image if several else image[None])
        labels.append(label if several else label[None])
    if not images:
        raise DataError("data: a tf.data.Dataset has no elements")
    return np.concatenate(images), np.concatenate(labels)


def held(name: str) -> RawData:
    """What ``hold`` gave a name to.

    Raises:
      DataError: nothing, in this process.
    """
    if name not in _HELD:
        raise DataError(
            f"{name}: these arrays are not in this process; give them as data= once more"
        )
    return _HELD[name]


def read_npz(path: str) -> RawData:
    """A NumPy file with the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``.

    Raises:
      DataError: it cannot be read, lacks one, or as ``from_arrays``.
    """
    try:
        with open(path, "rb") as stream, np.lib.npyio.NpzFile(stream) as file:
            missing = [name for name in NAMES if name not in file]
            if missing:
                raise DataError(
                    f"--dataset=npz:{path}: lacks {', '.join(missing)}, it has "
                    f"{', '.join(file) or 'nothing'}"
                )
            x_train, y_train, x_test, y_test = (_array(path, name, file) for name in NAMES)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"--dataset=npz:{path}: cannot be read ({first_line(error)})") from error
    return _told(f"--dataset=npz:{path}", lambda: from_arrays(x_train, y_train, x_test, y_test))


def _array(path: str, name: str, file: Any) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:  # NumPy refuses to unpickle
        raise DataError(
            f"--dataset=npz:{path}: {name}: holds objects, must be numbers or strings"
        ) from error


def _told(where: str, make: Callable[[], RawData]) -> RawData:
    try:
        return make()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def read_folder(path: str, image_size: int = 0, skip_broken: bool = False) -> RawData:
    """Image files in ``<path>/train/<class>/`` and ``<path>/test/<class>/``.

    As tensorflow-datasets' ``ImageFolder`` finds them; ``validation`` or ``val`` stands for a
    ``test`` that is not there. PNG, JPEG, GIF (its first image) and BMP; grey ones stay grey if all
    are, and transparency is dropped. In the order of their paths.

    Args:
      path: the folder.
      image_size: side that every image is brought to: see ``fitted``; 0: they have to be of one
        size.
      skip_broken: leaves out files that cannot be decoded.

    Raises:
      DataError: no such folders, classes or images; files that are broken or of other sizes, named.
    """
    where = f"--dataset=folder:{path}"
    builder = _folder(where, path)
    splits = list(builder.info.splits)
    test = next((name for name in TEST_SPLITS if name in splits), None)
    if "train" not in splits or test is None:
        raise DataError(
            f"{where}: has images in {', '.join(splits) or 'none of its folders'}; needed are "
            "train/<class> and test/<class>"
        )
    names = builder.info.features["label"].names
    images: dict[str, list[np.ndarray]] = {}
    labels: dict[str, list[str]] = {}
    broken: list[str] = []
    for split in ("train", test):
        images[split], labels[split] = [], []
        for file, label, image in _decoded(builder, split):
            if image is None:
                broken.append(file)
                continue
            images[split].append(fitted(image, image_size) if image_size else image)
            labels[split].append(names[label])
    if broken and not skip_broken:
        more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise DataError(
            f"{where}: cannot decode {', '.join(broken[:SHOWN])}{more}; --skip_broken_images "
            "leaves such files out"
        )
    arrays = [_stacked(where, each) for each in _of_one_kind([images["train"], images[test]])]
    return _told(where, lambda: from_arrays(arrays[0], labels["train"], arrays[1], labels[test]))


def _folder(where: str, path: str) -> Any:
    import tensorflow_datasets as tfds

    if not Path(path).is_dir():
        raise DataError(f"{where}: there is no such folder")
    try:
        return tfds.folder_dataset.ImageFolder(path)
    except Exception as error:  # whatever TFDS makes of an odd tree
        raise DataError(f"{where}: cannot be read ({first_line(error)})") from error


def _decoded(builder: Any, split: str) -> Iterator[tuple[str, int, np.ndarray | None]]:
    """File, label and image, which is ``None`` if it cannot be decoded, by path."""
    import tensorflow_datasets as tfds

    from tf_lottery.keras import tf

    decoders = {"image": tfds.decode.SkipDecoding()}
    found = [
        (each["image/filename"].decode(), int(each["label"]), each["image"])
        for each in builder.as_dataset(split=split, decoders=decoders).as_numpy_iterator()
    ]
    for file, label, content in sorted(found, key=lambda each: each[0]):
        try:
            image = tf.io.decode_image(content, expand_animations=False).numpy()
        except tf.errors.InvalidArgumentError:
            yield file, label, None
        else:
            # Of two or four channels the last is how transparent it is.
            yield file, label, image[..., : (1 if image.shape[-1] < 3 else 3)]


def _of_one_kind(parts: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Grey images in three channels where others are coloured."""
    grey = {image.shape[-1] for part in parts for image in part} <= {1}
    if grey:
        return parts
    return [
        [np.repeat(image, 3, -1) if image.shape[-1] == 1 else image for image in part]
        for part in parts
    ]


def _stacked(where: str, images: list[np.ndarray]) -> np.ndarray:
    shapes = sorted({image.shape[:2] for image in images})
    if len(shapes) > 1:
        sizes = " and ".join(f"{height}x{width}" for height, width in (shapes[0], shapes[-1]))
        raise DataError(f"{where}: has images of {sizes}; --image_size brings them to one size")
    return np.stack(images) if images else np.zeros((0, 1, 1, 1), np.uint8)


def fitted(image: np.ndarray, size: int) -> np.ndarray:
    """A square of the image's middle, brought to ``size`` x ``size`` pixels.

    Shrunk by area average, see ``resizing``; enlarged bilinearly.

    Args:
      image: uint8 (height, width, channels).
      size: pixels on a side.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side >= size:
        return area_average(square[None], size)[0]
    from tf_lottery.keras import tf

    return np.rint(tf.image.resize(square.astype(np.float32), [size, size]).numpy()).astype(
        np.uint8
    )
