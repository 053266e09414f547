"""Clean and robust accuracy of any classifier on [0, 1] images.

Attacks run on the real gradient, in float32 and inference mode. An example
counts as robust only if it is classified correctly *both* clean and attacked: the
clean image lies in the eps-ball too. (Published tables often count the attacked
image alone, which can only be higher.)
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from tf_lottery.attacks import make_attack
from tf_lottery.config import AttackConfig, attack_from_name
from tf_lottery.data import evaluation_batches
from tf_lottery.keras import keras, tf
from tf_lottery.types import LogitsFn


@dataclass(frozen=True)
class Evaluation:
    """Accuracies as fractions of 1, with the flags they are means of.

    Attributes:
      natural: clean accuracy.
      robust: accuracy by attack name.
      labels: int (n,).
      clean_predictions: int (n,).
      predictions: by attack name, int (n,): the class of the attacked image.
      correct: bool (n,): clean image classified correctly.
      survived: by attack name, bool (n,): correct clean and under that attack.
      seconds: by attack name and for ``natural``.
    """

    natural: float
    robust: dict[str, float]
    labels: np.ndarray
    clean_predictions: np.ndarray
    predictions: dict[str, np.ndarray]
    correct: np.ndarray
    survived: dict[str, np.ndarray]
    seconds: dict[str, float] = field(default_factory=dict)


def logits_function(model: Any) -> LogitsFn:
    """An inference-mode ``images -> float32 logits`` function of a model.

    Args:
      model: a ``tf_keras`` model, a model loaded by ``tf.saved_model.load`` (with a
        ``logits`` function as this package exports it, or one float image
        input in its ``serving_default`` signature), or any function made of TensorFlow
        operations (attacks differentiate it).

    Raises:
      ValueError: a layer computes in half precision, in which gradients of
        confident networks vanish and robustness is overstated; or no output fits.
    """
    if isinstance(model, keras.Model):
        half = [
            layer.name
            for layer in model._flatten_layers()
            if getattr(layer, "compute_dtype", "float32") in ("float16", "bfloat16")
        ]
        if half:
            raise ValueError(
                f"layer {half[0]} computes in half precision; evaluate a float32 copy of the model"
            )
        return lambda x: tf.cast(model(x, training=False), tf.float32)
    if hasattr(model, "logits"):
        return model.logits
    if hasattr(model, "signatures") and not callable(model):
        return _signature_function(model)
    if not callable(model):
        raise ValueError(f"{type(model).__name__} is neither a model nor a function of images")
    return lambda x: tf.cast(model(x), tf.float32)


def _signature_function(model) -> LogitsFn:
    signatures = model.signatures
    if "serving_default" not in signatures:
        raise ValueError("the SavedModel has no serving_default signature and no logits function")
    signature = signatures["serving_default"]
    inputs = signature.structured_input_signature[1]
    outputs = signature.structured_outputs
    name = "logits" if "logits" in outputs else next(iter(outputs))
    if len(inputs) != 1 or (len(outputs) != 1 and name != "logits"):
        raise ValueError(
            f"serving_default takes {sorted(inputs)} and gives {sorted(outputs)}; "
            "one image input and an output named logits are needed"
        )
    argument = next(iter(inputs))
    return lambda x: tf.cast(signature(**{argument: x})[name], tf.float32)


class Evaluator:
    """Compiled attacks on one model; call it again after changing the model's weights.

    Args:
      model: see ``logits_function``.
      attacks: configs, with distinct names.
      batch_size: fixed; the last batch is padded, so that nothing is traced twice.
      jit_compile: XLA for the attacks (for accelerators).
    """

    def __init__(
        self,
        model: Any,
        attacks: Sequence[AttackConfig] = (),
        batch_size: int = 250,
        jit_compile: bool = False,
    ):
        logits_fn = logits_function(model)
        self._batch_size = batch_size
        self._attacks = tuple(attacks)
        names = [config.name for config in self._attacks]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two attacks are named {', '.join(sorted(twice))}")
        self._logits = tf.function(logits_fn)
        self._attacked = {
            config.name: self._compile(logits_fn, make_attack(config), jit_compile)
            for config in self._attacks
        }

    @staticmethod
    def _compile(logits_fn, attack, jit_compile):
        # The attacked image is judged by the same code that judges clean ones.
        return tf.function(
            lambda x, y, seeds: attack(logits_fn, x, y, seeds), jit_compile=jit_compile
        )

    def __call__(
        self, x: np.ndarray, y: np.ndarray, seed: int = 0, progress: bool = False
    ) -> Evaluation:
        """Evaluates on images.

        Args:
          x: (n, h, w, c), uint8 in [0, 255] or float in [0, 1].
          y: int labels (n,).
          seed: of the random starts, which are keyed by (seed, position in x).
          progress: show a bar.

        Raises:
          ValueError: no images, unequal lengths, pixels outside [0, 1], or labels
            that are no class of the model.
        """
        x, y = _checked(x, y)
        batches = list(evaluation_batches(x, y, self._batch_size))
        predictions, seconds = {}, {}
        if self._attacks and _sums_to_one(self._logits(batches[0]["image"]).numpy()):
            warnings.warn(
                "the model's outputs look like probabilities: attacks need logits, "
                "after a softmax their gradients vanish and robustness is overstated",
                stacklevel=2,
            )
        names = ["natural", *(config.name for config in self._attacks)]
        bar = tqdm(
            total=len(names) * len(y),
            unit="img",
            disable=None if progress else True,  # None: only on a terminal
            leave=False,
            file=sys.stderr,
        )
        with bar:
            for name in names:
                bar.set_description(name)
                began = time.perf_counter()
                found = []
                for batch in batches:
                    images = batch["image"]
                    if name != "natural":
                        index = batch["index"]
                        seeds = tf.stack([tf.fill(tf.shape(index), seed), index], axis=1)
                        images = self._attacked[name](images, batch["label"], seeds)
                    logits = self._logits(images).numpy()
                    if y.max() >= logits.shape[-1]:
                        raise ValueError(
                            f"label {y.max()} for a model of {logits.shape[-1]} classes"
                        )
                    real = batch["weight"].numpy() > 0
                    found.append(np.argmax(logits, axis=-1)[real].astype(np.int32))
                    bar.update(len(found[-1]))
                predictions[name] = np.concatenate(found)
                seconds[name] = time.perf_counter() - began
        clean = predictions.pop("natural")
        correct = clean == y
        survived = {name: correct & (found == y) for name, found in predictions.items()}
        return Evaluation(
            natural=float(correct.mean()),
            robust={name: float(flags.mean()) for name, flags in survived.items()},
            labels=y,
            clean_predictions=clean,
            predictions=predictions,
            correct=correct,
            survived=survived,
            seconds=seconds,
        )


def evaluate(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    attacks: Sequence[str | AttackConfig] = ("pgd20",),
    *,
    eps: float = 8 / 255,
    step_size: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    batch_size: int = 250,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Clean accuracy and accuracy under each attack.

    Args:
      model: a ``tf_keras`` model, a loaded SavedModel, or ``images -> logits``.
      x: (n, h, w, c), uint8 in [0, 255] or float in [0, 1].
      y: int labels (n,).
      attacks: ``AttackConfig`` or names (``fgsm``, ``pgd20``, ``cw``, ...); the next
        four arguments fill in the names (see ``config.attack_from_name``).
      eps: l_inf radius on [0, 1] pixels.
      step_size: ``None`` means eps / 4.
      random_start: start at a random point of the ball.
      restarts: the worst of so many tries counts.
      batch_size: images a batch.
      seed: root of the random starts.
      progress: show a bar.

    Returns:
      ``Evaluation``.

    Raises:
      UsageError: unknown attack or bad setting.
      ValueError: no images, unequal lengths, pixels outside [0, 1], labels that are no
        class of the model, attacks of one name, half precision.

    Warns:
      UserWarning: the model gives probabilities instead of logits.

    Example:
      >>> import numpy as np
      >>> images = np.random.default_rng(0).random((4, 2, 2, 1)).astype("float32")
      >>> constant = lambda x: np.eye(3, dtype="float32")[[1] * len(x)]
      >>> evaluate(constant, images, np.array([1, 1, 0, 2]), attacks=[]).natural
      0.5
    """
    configs = [
        attack
        if isinstance(attack, AttackConfig)
        else attack_from_name(attack, eps, step_size, random_start, restarts)
        for attack in attacks
    ]
    return Evaluator(model, configs, batch_size)(x, y, seed, progress)


def _sums_to_one(outputs: np.ndarray) -> bool:
    return bool(np.all(outputs >= 0) and np.allclose(outputs.sum(axis=-1), 1, atol=1e-3))


def _checked(x, y) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if len(x) != len(y) or not len(x) or x.ndim != 4 or y.ndim != 1:
        raise ValueError(
            f"images of shape {x.shape} and labels of shape {y.shape}; "
            "(n, height, width, channels) and (n,) with n > 0 are needed"
        )
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise ValueError(f"labels are {y.dtype} from {y.min()}; class numbers from 0 are needed")
    if x.dtype != np.uint8:
        x = x.astype(np.float32)
        if not (x.min() >= 0 and x.max() <= 1):  # false for NaN too
            raise ValueError(f"pixels in [{x.min()}, {x.max()}]; [0, 1] is needed")
    return x, y.astype(np.int32)
