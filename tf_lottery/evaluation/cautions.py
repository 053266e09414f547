"""Cheap signs that a robust accuracy is overstated: a few passes on one batch, at every evaluation.

``diagnosis`` looks closer, with attacks of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from tf_lottery.attacks.losses import cross_entropy
from tf_lottery.attacks.procedure import value_and_gradient
from tf_lottery.evaluation.models import half_precision_operations
from tf_lottery.keras import tf
from tf_lottery.options.settings import AttackConfig
from tf_lottery.type_aliases import LogitsFn, Tensor

PROBED = 32  # images looked at
_DEAD = 0.01  # share of images above which a vanishing gradient is no accident
_BLACK_BOX = 0.02  # of the images, by which attacks without gradients may be better
_SAME = 1e-4  # relative difference of two forwards that is rounding
_SAME_IN_BATCH = 1e-3  # likewise, in a batch of another size
_FEW = 2.5  # images, or standard deviations, that are chance
_ENOUGH = 20  # images, to tell an accuracy from chance
_STEPS = 10  # an attack of fewer is no match for Square
_BLIND = ("square", "noise")  # methods that use no gradient


class RobustnessWarning(UserWarning):
    """Something about a model or an evaluation makes its robust accuracy doubtful."""


class Probe:
    """Looks at a model on the first images, before it is attacked; traced once.

    Args:
      logits_fn: a ``tf.function`` that is traced on such images.
      image_shape: (height, width, channels).
    """

    def __init__(self, logits_fn: LogitsFn, image_shape: tuple[int, ...]):
        self._logits = logits_fn
        self._draws = Draws(logits_fn, image_shape)
        self._gradient = input_gradient(logits_fn, image_shape)
        self._half = half_precision_operations(logits_fn, image_shape)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Iterator[str]:
        """A sentence for each sign.

        Args:
          x: float32 (n, h, w, c) in [0, 1], n at most ``PROBED``.
          y: int32 (n,).
        """
        if self._half:
            yield (
                f"{len(self._half)} operations compute in half precision, the first is "
                f"{self._half[0]}: small gradients become zero; evaluate a float32 copy"
            )
        difference = self._draws(x)
        if not difference <= _SAME:
            yield (
                f"the model is random (two outputs for the same image differ by {difference:.2g} "
                "of the largest): one gradient says little, and an attack has to average over "
                "draws"
            )
            return
        outputs = np.asarray(self._logits(x))
        yield from _forms(outputs)
        alone = np.asarray(self._logits(x[::2]))
        apart = float(np.abs(alone - outputs[::2]).max()) / _scale(outputs)
        if not apart <= _SAME_IN_BATCH:
            yield (
                f"the outputs for an image depend on the others of its batch (by {apart:.2g} of "
                "the largest): is a BatchNorm in training mode?"
            )
        right = outputs.argmax(axis=-1) == y
        if right.any():
            dead = dead_gradients(np.asarray(self._gradient(x, y)))[right]
            if dead.mean() > more_than_chance(_DEAD, len(dead)):
                yield (
                    f"the gradient of the cross-entropy is zero or not a number for {dead.sum()} "
                    f"of {len(dead)} images: attacks that follow it cannot move them, and "
                    "robustness is overstated"
                )


class Draws:
    """How much outputs for the same images differ from call to call.

    Within one graph and between calls of it: an operation that is seeded starts over with each
    new graph, and would give the same again.
    """

    def __init__(self, logits_fn: LogitsFn, image_shape: tuple[int, ...]):
        spec = tf.TensorSpec([None, *image_shape], tf.float32)
        self._two = tf.function(
            lambda images: (logits_fn(images), logits_fn(images)), input_signature=[spec]
        )

    def __call__(self, x: np.ndarray) -> float:
        """The largest difference of four outputs, over the largest output; maybe NaN."""
        first, *others = (np.asarray(draw) for _ in range(2) for draw in self._two(x))
        return max(float(np.abs(other - first).max()) for other in others) / _scale(first)


def input_gradient(
    logits_fn: LogitsFn, image_shape: tuple[int, ...]
) -> Callable[[np.ndarray, np.ndarray], Tensor]:
    """A compiled function: images and int32 labels -> gradient of the cross-entropy."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *image_shape], tf.float32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def gradient(images, labels):
        return value_and_gradient(lambda z: cross_entropy(z, labels), logits_fn, images)[2]

    return gradient


def dead_gradients(gradients: np.ndarray) -> np.ndarray:
    """bool (n,): zero in every pixel of (n, h, w, c), or not finite in one."""
    pixels = (1, 2, 3)
    return (gradients == 0).all(axis=pixels) | ~np.isfinite(gradients).all(axis=pixels)


def sums_to_one(outputs: np.ndarray) -> bool:
    """Whether all outputs (n, classes) look like probabilities."""
    return bool(np.all(outputs >= 0) and np.allclose(outputs.sum(axis=-1), 1, atol=1e-3))


def more_than_chance(share: float, images: int) -> float:
    """``share``, or that of two and a half images if it is larger."""
    return max(share, _FEW / images)


def _scale(outputs: np.ndarray) -> float:
    return max(float(np.abs(outputs).max()), 1e-30)


def _forms(outputs: np.ndarray) -> Iterator[str]:
    """Outputs that are no logits any more."""
    if np.isin(outputs, (0, 1)).all() and (outputs.sum(axis=-1) == 1).all():
        yield (
            "the model's outputs are one-hot: attacks need the logits that they were made of, "
            "these have no gradient"
        )
    elif sums_to_one(outputs):
        yield (
            "the model's outputs look like probabilities: attacks need logits, "
            "after a softmax their gradients vanish and robustness is overstated"
        )
    if _is_rounded(outputs):
        yield (
            "the model's outputs are rounded numbers: small changes of an image do not show in "
            "them, attacks need the logits before that"
        )


def _is_rounded(outputs: np.ndarray) -> bool:
    """Whether all are multiples of 0.001, which float32 can tell from others there."""
    largest = float(np.abs(outputs).max())
    if outputs.size < 16 or len(np.unique(outputs)) <= 2 or largest > 1000:
        return False
    steps = outputs.astype(np.float64) * 1000
    return bool(np.abs(steps - np.round(steps)).max() < 1e-3 + 1.2e-4 * largest)


def at_chance(
    predictions: np.ndarray,
    labels: np.ndarray,
    classes: int,
    brighter: Callable[[], float],
) -> Iterator[str]:
    """Whether the clean accuracy is that of guessing.

    Args:
      predictions: int (n,).
      labels: int (n,).
      classes: of the model.
      brighter: the accuracy on pixels in [0, 255], asked for only then.
    """
    accuracy, images = float((predictions == labels).mean()), len(labels)
    guessing = 1 / classes
    chance = guessing + _FEW * np.sqrt(guessing * (1 - guessing) / images)
    constant = len(np.unique(predictions)) == 1 < len(np.unique(labels))
    if images < _ENOUGH or (accuracy > chance and not constant):
        return
    text = f"the clean accuracy of {accuracy:.1%} is that of guessing among {classes} classes"
    better = brighter()
    if better > max(chance, accuracy + 0.1):
        yield (
            f"{text}, and on pixels in [0, 255] it is {better:.1%}: the model expects those, pass "
            "lambda images: model(255 * images)"
        )
    else:
        yield f"{text}: are pixels in [0, 1] and these labels what the model was trained on?"


def blind_beats_gradient(
    attacks: Sequence[AttackConfig],
    survived: Mapping[str, np.ndarray],
    broken_by: Mapping[str, np.ndarray],
) -> Iterator[str]:
    """Whether attacks that use no gradient find what those that do overlook.

    Args:
      attacks: that ran.
      survived: by attack name, bool (n,).
      broken_by: by attack name, (n,) names of parts of suites.
    """
    balls: dict[tuple[str, float], dict[bool, dict[str, np.ndarray]]] = {}
    for attack in attacks:
        parts = attack.components
        if attack.eps == 0:
            continue
        if len(parts) > 1:
            blind = [part.name for part in parts if part.method in _BLIND]
            found = np.isin(broken_by[attack.name], blind)
            if found.mean() > more_than_chance(_BLACK_BOX, len(found)):
                yield _beaten(attack.name, " and ".join(blind), found)
        elif attack.method in _BLIND or attack.steps >= _STEPS:
            ball = balls.setdefault((attack.norm, attack.eps), {True: {}, False: {}})
            ball[attack.method in _BLIND][attack.name] = survived[attack.name]
    for ball in balls.values():
        if ball[True] and ball[False]:
            best = np.logical_and.reduce(list(ball[False].values()))
            for name, stands in ball[True].items():
                found = best & ~stands
                if found.mean() > more_than_chance(_BLACK_BOX, len(found)):
                    yield _beaten(" and ".join(ball[False]), name, found)


def _beaten(strong: str, blind: str, found: np.ndarray) -> str:
    return (
        f"{blind} uses no gradient, and breaks {found.sum()} of {len(found)} images that withstood "
        f"the gradients of {strong}: the gradient is masked or points the wrong way"
    )
