"""The raw train and test arrays of a data set.

``digits`` (8x8 grey-scale handwritten digits) comes with scikit-learn; every other
name is a set of tensorflow-datasets, which owns the download.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import shutil
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from tf_lottery.errors import DataError, UsageError
from tf_lottery.options.settings import derive_seed

DIGITS = "digits"
DIGITS_TEST_EXAMPLES = 360  # a fifth of the 1,797
CONNECT_SECONDS = 5  # TFDS itself would retry for minutes without a network
READ_BATCH = 256


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back TFDS's progress bars, its notices on stdout and its log below errors."""
    import tensorflow_datasets as tfds

    verbosity = logging.get_verbosity()
    tfds.disable_progress_bar()
    logging.set_verbosity(min(verbosity, logging.ERROR))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


@dataclass(frozen=True, eq=False)
class RawData:
    """A set as its publisher split it: images uint8 (n, h, w, c), labels int32 (n,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


def read(name: str, data_dir: str | None = None) -> RawData:
    """Reads a set into memory, downloading it first if it has to.

    Args:
      name: ``digits`` or a tensorflow-datasets name, ``<name>[/<config>][:<version>]``.
      data_dir: where tensorflow-datasets keeps its sets; ``None`` is its own default
        (``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``). Not read for ``digits``.

    Raises:
      UsageError: there is no such set, configuration or version.
      DataError: the set cannot be had, read or used here.
    """
    return _read_digits() if name == DIGITS else _read_tfds(name, data_dir)


def _read_digits() -> RawData:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    # scikit-learn has one split. The test share of each class is rounded by largest
    # remainder, so that the 360 are stratified.
    counts = np.bincount(labels)
    share = counts * DIGITS_TEST_EXAMPLES / len(labels)
    take = np.floor(share).astype(int)
    take[np.argsort(take - share, kind="stable")[: DIGITS_TEST_EXAMPLES - take.sum()]] += 1
    order = np.random.default_rng(derive_seed(0, "test split", DIGITS)).permutation(len(labels))
    is_test = np.zeros(len(labels), bool)
    for label, number in enumerate(take):
        is_test[order[labels[order] == label][:number]] = True
    return RawData(
        images[~is_test],
        labels[~is_test],
        images[is_test],
        labels[is_test],
        tuple(map(str, bunch.target_names)),
    )


def _read_tfds(name: str, data_dir: str | None) -> RawData:
    from tf_lottery.keras import tf

    builder = _builder(name, data_dir)
    class_names = _class_names(builder, name)  # first: a download may take long
    if not _is_prepared(builder):
        _download(builder, name, data_dir)
    test_split = _test_split(builder, name)
    try:
        train = _read_split(builder, "train")
        test = _read_split(builder, test_split)
    except (tf.errors.OpError, OSError, ValueError) as error:
        raise DataError(
            f"--dataset={name}: cannot read {builder.data_path} ({first_line(error)}); "
            "delete that folder to have it prepared again"
        ) from error
    for split, (_, labels) in (("train", train), (test_split, test)):
        if not len(labels) or labels.min() < 0 or labels.max() >= len(class_names):
            raise DataError(f"--dataset={name}: the {split} split has no labels to learn from")
    return RawData(*train, *test, class_names)


@_quiet()
def _builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        known = [DIGITS, *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name.split("/")[0].split(":")[0], known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UsageError(
            f"--dataset: unknown value {name!r}, may be {DIGITS} or the name of an image "
            f"classification set in tensorflow-datasets, such as cifar10 or mnist{hint}",
            "dataset",
        ) from None
    except (ValueError, AssertionError) as error:  # unknown configuration or version
        # TFDS puts 'Failed to construct dataset "...", builder_kwargs "{...}": ' in front.
        reason = first_line(error).rpartition('}": ')[2].partition(". Here are")[0]
        raise UsageError(f"--dataset: got {name!r}: {reason}", "dataset") from error


def _download(builder: Any, name: str, data_dir: str | None) -> None:
    """Has TFDS download and prepare the set; leaves nothing half-written behind."""
    root = Path(builder.data_dir_root)
    where = f"--data_dir={data_dir}" if data_dir else str(root)
    wanted = f"--dataset={name}: {builder.info.full_name} is not in {where}"
    advice = "give --data_dir a folder in which tensorflow-datasets has prepared it, or go online"
    before = _folders(root, builder.name)
    try:
        reason = _unreachable([url for url in builder.url_infos or () if url.startswith("http")])
        if reason:
            raise DataError(f"{wanted} and cannot be downloaded ({reason}); {advice}")
        logging.info("downloading and preparing %s in %s", builder.info.full_name, root)
        with _quiet():
            builder.download_and_prepare()
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"{wanted}, and preparing it needs a Python package: pip install {error.name}"
        ) from error
    except Exception as error:  # TFDS raises what its parts raise: requests, zipfile, gfile, ...
        raise DataError(
            f"{wanted} and cannot be prepared ({first_line(error)}); {advice}"
        ) from error
    finally:
        if not _is_prepared(builder):
            _remove_leftovers(root, builder.name, before)


def _unreachable(urls: list[str]) -> str:
    """Why none of the hosts of the first few URLs can be connected to; "" if one can."""
    import requests

    hosts = {urllib.parse.urlsplit(url).netloc: url for url in reversed(urls)}
    reason = ""
    for host, url in list(hosts.items())[:-4:-1]:
        try:
            requests.head(url, timeout=CONNECT_SECONDS)
            return ""
        except requests.exceptions.ConnectionError as error:
            reason = f"no connection to {host}"
            logging.debug("%s: %s", reason, error)
        except requests.exceptions.RequestException:
            return ""  # connected; what is wrong is for TFDS to say
    return reason


def _folders(root: Path, name: str) -> set[Path]:
    found = {path for path in (root, *root.parents) if path.exists()}
    for top in (root / "downloads", root / name):
        if top.is_dir():
            found |= {top, *(path for path in top.rglob("*") if path.is_dir())}
    return found


def _remove_leftovers(root: Path, name: str, before: set[Path]) -> None:
    """Removes unfinished downloads and the empty folders that were not there before."""
    for path in _folders(root, name) - before:
        if ".tmp." in path.name:
            shutil.rmtree(path, ignore_errors=True)
    for path in sorted(_folders(root, name) - before, reverse=True):  # children first
        with contextlib.suppress(OSError):  # not empty: a finished download, worth keeping
            path.rmdir()


@_quiet()
def _is_prepared(builder: Any) -> bool:
    return builder.is_prepared()


@_quiet()
def _class_names(builder: Any, name: str) -> tuple[str, ...]:
    """The classes; raises ``DataError`` unless these are labelled images of a fixed size."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    features = features if isinstance(features, tfds.features.FeaturesDict) else {}
    image = features["image"] if "image" in features else None  # noqa: SIM401 (no .get)
    label = features["label"] if "label" in features else None  # noqa: SIM401
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        had = f"it has the features {', '.join(features) or 'of one unnamed array'}"
        needed = "image and label"
        if {"image", "label"} <= set(features):
            kinds = (type(image).__name__, type(label).__name__)
            had = f"its image and label are {kinds[0]} and {kinds[1]}"
            needed = "Image and ClassLabel"
        raise DataError(
            f"--dataset={name}: not an image classification set, {had}; needed are {needed}"
        )
    if len(image.shape) != 3 or None in image.shape:
        raise DataError(
            f"--dataset={name}: its images have no fixed size (shape {image.shape}); "
            "choose a set whose images all have the same one"
        )
    if np.dtype(image.np_dtype) != np.uint8:
        raise DataError(f"--dataset={name}: its images are {image.np_dtype}, needed are uint8")
    if not label.num_classes or label.num_classes < 2:
        raise DataError(f"--dataset={name}: its label does not say two or more classes")
    return tuple(label.names)


@_quiet()
def _test_split(builder: Any, name: str) -> str:
    splits = builder.info.splits
    for split in ("test", "validation"):
        if "train" in splits and split in splits:
            return split
    raise DataError(
        f"--dataset={name}: it has the splits {', '.join(splits)}; needed are train and "
        "test (or validation)"
    )


@_quiet()
def _read_split(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    number = builder.info.splits[split].num_examples
    images = np.empty((number, *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(number, np.int32)
    batches = builder.as_dataset(
        split=split,
        batch_size=READ_BATCH,
        shuffle_files=False,  # the order is part of every split's definition
        read_config=tfds.ReadConfig(try_autocache=False),  # read once, and kept by us
        decoders=tfds.decode.PartialDecoding({"image": True, "label": True}),
    )
    start = 0
    for batch in batches.as_numpy_iterator():
        end = start + len(batch["label"])
        if end > number:
            break
        images[start:end], labels[start:end] = batch["image"], batch["label"]
        start = end
    if start != number:
        raise ValueError(f"{split}: {start} examples can be read, not {number}")
    return images, labels


def first_line(error: BaseException) -> str:
    """Of an error's text; of one without text its kind."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(" .:") if text else type(error).__name__
