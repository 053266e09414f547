"""What a training run shows in TensorBoard."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.plugins.hparams import api as hparams

from tf_lottery import files
from tf_lottery.keras import keras, tf
from tf_lottery.pruning.masks import MaskedNetwork

_PICTURES = 8
_PICTURE_SIDE = 96  # pixels; small images are enlarged by a whole factor
# Epochs between histograms and pictures, besides the first and the last; more where a training
# has so many that there would be more than _MOST.
_EVERY = 10
_MOST = 20


class TensorBoardLog(keras.callbacks.Callback):
    """Scalars, density per layer, kernel histograms, adversarial images, HParams.

    Args:
      directory: of the event files; ``<workdir>/tensorboard/<stage>``.
      history: the run's ``History``; its last row becomes the scalars.
      masked: the network as trained so far.
      validation_network: its float32 twin, or the network itself.
      images: uint8 (n, h, w, c), the first few are attacked and shown.
      labels: int (n,).
      settings: flat mapping for the HParams table; values str, bool, int or float.
      epochs: of the whole run, if it does not end early.
    """

    def __init__(
        self,
        directory: Path,
        history,
        masked: MaskedNetwork,
        validation_network: keras.Model,
        images,
        labels,
        settings: dict,
        epochs: int,
    ):
        super().__init__()
        self._directory = Path(directory)
        self._history = history
        self._masked = masked
        self._validation_network = validation_network
        self._images = images[:_PICTURES].astype(np.float32) / 255
        self._labels = labels[:_PICTURES].astype(np.int32)
        self._settings = settings
        self._epochs = epochs
        self._writer: Any = None  # made when training begins

    def on_train_begin(self, logs=None):
        if self._writer is not None:  # fit is called again
            return
        self._writer = _event_writer(self._directory)
        with self._writer.as_default(step=0):
            hparams.hparams(self._settings, trial_id=self._directory.name)
            for name, mask in self._masked.masks.items():
                tf.summary.scalar(f"density/{name}", tf.reduce_mean(mask))

    def on_epoch_end(self, epoch, logs=None):
        row = self._history.rows[-1]
        with self._writer.as_default(step=epoch + 1):
            tf.summary.scalar("accuracy/train", row["train_accuracy"])
            tf.summary.scalar("accuracy/validation_natural", row["validation_natural"])
            if row["validation_robust"] is not None:
                tf.summary.scalar("accuracy/validation_robust", row["validation_robust"])
            for name in ("raw_natural", "raw_robust"):
                if row[name] is not None:
                    tf.summary.scalar(f"accuracy/{name}", row[name])
            if row["validation_fgsm"] is not None:
                tf.summary.scalar("accuracy/validation_fgsm", row["validation_fgsm"])
                tf.summary.scalar("collapsed", float(row["collapsed"]))
            tf.summary.scalar("loss/train", row["loss"])
            tf.summary.scalar("gradient_norm", row["gradient_norm"])
            tf.summary.scalar("rollbacks", row["rollbacks"])
            tf.summary.scalar("learning_rate", row["learning_rate"])
            tf.summary.scalar("seconds/train", row["seconds"])
            for name in ("distance", "mask_distance"):
                if row[name] is not None:
                    tf.summary.scalar(name, row[name])
            for name, share in (row["input_gradients"] or {}).items():
                if share is not None:
                    tf.summary.scalar(f"input_gradients/{name}", share)
            last = epoch + 1 == self._epochs or self.model.stop_training
            if epoch == 0 or last or (epoch + 1) % max(_EVERY, -(-self._epochs // _MOST)) == 0:
                self._kernels()
                self._pictures()
        self._writer.flush()

    def close(self) -> None:
        """Ends the event file."""
        if self._writer is not None:
            self._writer.close()

    def _kernels(self):
        for name, kernel in self._masked.kernels.items():
            mask = self._masked.masks[name] > 0.5
            tf.summary.histogram(f"kernel/{name}", tf.boolean_mask(kernel, mask))

    def _pictures(self):
        if self.model.validation_attack is None:
            return
        clean = tf.constant(self._images)
        attacked = self.model.validation_attack(
            lambda x: self._validation_network(x, training=False), clean, self._labels, 0
        )
        tf.summary.image("images/clean_above_adversarial", _strip(clean, attacked))


def log_pictures(directory: Path, pictures: Sequence[Path]) -> None:
    """PNG files as images, each under its file name; replaces what lies in ``directory``."""
    shutil.rmtree(directory, ignore_errors=True)
    writer = _event_writer(directory)
    with writer.as_default(step=0):
        for path in pictures:
            image = tf.io.decode_png(path.read_bytes(), channels=3)
            tf.summary.image(path.stem, image[None])
    writer.close()


def _event_writer(directory: Path) -> Any:
    directory.mkdir(parents=True, exist_ok=True)
    return tf.summary.create_file_writer(files.plain_name(directory))


def _strip(clean, attacked):
    """One picture (1, 2 * height, n * width, channels): a column an example, enlarged."""
    pairs = tf.concat([clean, attacked], axis=1)
    strip = tf.concat(tf.unstack(pairs), axis=1)[None]
    factor = max(1, _PICTURE_SIDE // clean.shape[1])
    return tf.repeat(tf.repeat(strip, factor, axis=1), factor, axis=2)
