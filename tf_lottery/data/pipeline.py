"""``tf.data`` pipelines over arrays in memory, with fixed batch shapes.

Every batch has the same shape, so that a compiled step is traced once. The images
stay uint8 and are held once; each batch is gathered from them.
"""

from __future__ import annotations

import numpy as np

from tf_lottery.data.augmentation import crop_and_flip, draw
from tf_lottery.keras import tf
from tf_lottery.options.checks import within
from tf_lottery.type_aliases import Tensor

# Threads that gather and augment, and batches made ahead. Fixed, see _without_autotune.
_PARALLEL_CALLS = 4
_BATCHES_AHEAD = 4


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Full batches in an epoch; the remainder is dropped.

    Raises:
      UsageError: the batch is larger than the training set, or below 1.
    """
    words = f"at most {num_examples}, the number of training images, and 1 or more"
    within(f"[1, {num_examples}]", words)("batch_size", batch_size)
    return num_examples // batch_size


def even_batch_size(num_examples: int, most: int = 250, parts: int = 1) -> int:
    """The batch size of ``evaluation_batches`` that pads least without more batches.

    Args:
      num_examples: 1 or more.
      most: the largest size of a part.
      parts: equal parts that each batch is to be cut into.

    Example:
      >>> even_batch_size(287), even_batch_size(1000), even_batch_size(9)
      (144, 250, 9)
      >>> even_batch_size(287, parts=2), even_batch_size(9, parts=4)
      (288, 12)
    """
    size = -(-num_examples // -(-num_examples // (most * parts)))
    return -(-size // parts) * parts


def training_batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    epochs: int,
    order_seed: int,
    first_epoch: int = 0,
    first_step: int = 0,
    augmentation_seed: int | None = None,
    with_images: bool = True,
    parts: int = 1,
    mine: range = range(1),
    replays: int = 1,
) -> tf.data.Dataset:
    """The batches of epochs ``first_epoch`` to ``epochs - 1``, one after the other.

    Each epoch is a fresh shuffle that depends on (``order_seed``, epoch) alone, so that
    a run resumed at epoch k sees what an uninterrupted one sees. The remainder that
    fills no batch is dropped; which images those are changes from epoch to epoch.

    Args:
      images: uint8 (n, height, width, channels).
      labels: int (n,).
      batch_size: in images.
      epochs: where to stop, counted from 0 (not how many from ``first_epoch`` on).
      order_seed: int below 2**31.
      first_epoch: counted from 0.
      first_step: batches of that epoch to leave out.
      augmentation_seed: int below 2**31; ``None`` leaves the images as they are.
      with_images: ``False`` leaves ``image`` to ``device.DeviceImages``, and gives it the
        ``draws`` of an augmentation, int32 (batch, 3).
      parts: how many equal parts each batch is cut into, one a replica; divides
        ``batch_size``.
      mine: the parts wanted. They come one after the other, each as a batch of its
        own; only their images are gathered.
      replays: how often each batch comes in a row. The numbers of epochs and steps count
        batches as they come, so that a pass over all images takes so many epochs, and
        ``epoch`` of a batch is its pass.

    Returns:
      Of known cardinality, ``steps_per_epoch * len(mine)`` dicts an epoch of: ``image``
      float32 (part, height, width, channels) in [0, 1], ``label`` int32 (part,),
      ``index`` int32 (part,), the position in ``images``, and ``epoch`` int32 (part,).

    Raises:
      UsageError: the batch is larger than the training set.
    """
    num_examples = len(images)
    steps = steps_per_epoch(num_examples, batch_size)
    all_labels = _hold(labels, tf.int32)
    all_images = _hold(images) if with_images else None

    def one_epoch(epoch: Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(num_examples), seed=tf.stack([tf.cast(order_seed, tf.int64), epoch])
        )
        order = tf.reshape(order[: steps * batch_size], (steps, batch_size))
        batches = {"index": _cut(order, parts, mine)}
        if augmentation_seed is not None:
            draws = draw(augmentation_seed, epoch, num_examples, images.shape[1:])
            batches["draws"] = tf.gather(draws, batches["index"])
        # One an example, so that a distributed batch splits like its images.
        batches["epoch"] = tf.fill(tf.shape(batches["index"]), tf.cast(epoch, tf.int32))
        return tf.data.Dataset.from_tensor_slices(batches)

    def fetch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch = {**batch, "label": tf.gather(all_labels, batch["index"])}
        if with_images:
            pixels = tf.gather(all_images, batch["index"])
            draws = batch.pop("draws", None)
            batch["image"] = _to_unit(pixels if draws is None else crop_and_flip(pixels, draws))
        return batch

    first, last = first_epoch * steps + first_step, epochs * steps
    skipped, replayed = divmod(first, replays)
    first_pass, skipped = divmod(skipped, steps)
    batches = (
        tf.data.Dataset.range(first_pass, -(-last // (steps * replays)))
        .flat_map(one_epoch)
        .skip(skipped * len(mine))
        .map(fetch, num_parallel_calls=_PARALLEL_CALLS, deterministic=True)
    )
    if replays > 1:
        batches = batches.flat_map(
            lambda batch: tf.data.Dataset.from_tensors(batch).repeat(replays)
        )
        batches = batches.skip(replayed).take(max(0, last - first))
    batches = batches.apply(
        tf.data.experimental.assert_cardinality(len(mine) * max(0, last - first))
    )
    return _without_autotune(batches.prefetch(_BATCHES_AHEAD * len(mine)))


def evaluation_batches(
    images: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    parts: int = 1,
    mine: range = range(1),
) -> tf.data.Dataset:
    """All images in order, in full batches: the last one repeats the last image.

    Args:
      images: uint8, or float in [0, 1], (n, height, width, channels), n at least 1.
      labels: int (n,).
      batch_size: in images; may exceed n.
      parts, mine: as of ``training_batches``.

    Returns:
      Dicts of ``image`` float32 (part, height, width, channels) in [0, 1], ``label``
      int32 (part,), ``index`` int32 (part,), and ``weight`` float32 (part,): 1 for
      an image, 0 for a repetition.
    """
    num_examples = len(images)
    if not num_examples:
        raise ValueError("no images to evaluate on")
    all_images, all_labels = _hold(images), _hold(labels, tf.int32)
    position = np.arange(-(-num_examples // batch_size) * batch_size, dtype=np.int32)

    def fetch(position: Tensor) -> dict[str, Tensor]:
        index = tf.minimum(position, num_examples - 1)
        return {
            "image": _to_unit(tf.gather(all_images, index)),
            "label": tf.gather(all_labels, index),
            "index": index,
            "weight": tf.cast(position < num_examples, tf.float32),
        }

    return _without_autotune(
        tf.data.Dataset.from_tensor_slices(_cut(position.reshape(-1, batch_size), parts, mine))
        .map(fetch, num_parallel_calls=_PARALLEL_CALLS, deterministic=True)
        .prefetch(_BATCHES_AHEAD * len(mine))
    )


def _cut(batches: Tensor, parts: int, mine: range) -> Tensor:
    """(n, batch) -> (n * len(mine), batch / parts): of each batch the wanted parts, in order."""
    count, size = batches.shape
    cut = tf.reshape(batches, (count, parts, size // parts))[:, mine.start : mine.stop]
    return tf.reshape(cut, (count * len(mine), size // parts))


def _without_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
    # Tuned, every iterator owns a thread that sleeps for up to a minute between two
    # looks, and destroying the iterator waits for it.
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _hold(array: np.ndarray, dtype: tf.DType | None = None) -> Tensor:
    # Eager tensors are captured by a dataset's functions by reference, not written
    # into their graphs. On the CPU, where tf.data works.
    with tf.device("/cpu:0"):
        return tf.constant(array, dtype)


def _to_unit(pixels: Tensor) -> Tensor:
    scale = 255.0 if pixels.dtype == tf.uint8 else 1.0
    return tf.cast(pixels, tf.float32) / scale
