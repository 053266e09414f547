"""Signs that a robust accuracy is overstated, as pass or warn with figures.

After Athalye, Carlini & Wagner 2018 (arXiv 1802.00420, section 3.1) and Carlini et al.
2019 (arXiv 1902.06705): gradients that are zero, attacks without gradients that do
better than those with, stronger attacks that do worse, an unbounded attack that fails.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tf_lottery.evaluation.cautions import (
    Draws,
    dead_gradients,
    input_gradient,
    more_than_chance,
    sums_to_one,
)
from tf_lottery.evaluation.curves import rises, steps_curve
from tf_lottery.evaluation.evaluator import Evaluator
from tf_lottery.evaluation.models import half_precision_operations, logits_function
from tf_lottery.evaluation.packing import packed, unit_pixels
from tf_lottery.evaluation.result import Evaluation
from tf_lottery.options.settings import AttackConfig, attack_from_name

_ZERO_GRADIENTS = 0.01  # share of images above which a vanishing gradient is no accident
_BLACK_BOX_ONLY = 0.02  # of the images, by which attacks without gradients may be better
_LEFT = 0.01  # share of images that may survive an unbounded attack
_SAME = 1e-4  # relative difference of two forwards that is rounding
_QUERIES = 1000


@dataclasses.dataclass(frozen=True)
class Check:
    """One sign, looked for.

    Attributes:
      check: the name of the sign, such as ``zero_gradients``.
      outcome: ``pass``, ``warn`` or ``skipped``.
      text: what was found, in a sentence or two.
      value: the figure it rests on.
    """

    check: str
    outcome: str
    text: str
    value: float | None = None


def diagnose(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    *,
    norm: str = "linf",
    eps: float = 8 / 255,
    seed: int = 0,
    batch_size: int = 250,
    eps_accuracy: tuple[list[float], list[float]] | None = None,
) -> list[Check]:
    """Looks for every sign that an accuracy under attack is too good to be true.

    Args:
      model: see ``evaluation.logits_function``.
      x: (n, h, w, c), uint8 or float in [0, 1]; a few hundred images do.
      y: int labels (n,).
      norm: ``linf`` or ``l2``.
      eps: radius at which the robust accuracy is claimed, above 0.
      seed: of random numbers.
      batch_size: images a batch.
      eps_accuracy: radii and robust accuracies of a curve, if one was measured.

    Raises:
      ValueError: as ``Evaluator``; half precision in a Keras model.
    """
    return list(_checks(model, x, y, norm, eps, seed, batch_size, eps_accuracy))


def _checks(
    model, x, y, norm: str, eps: float, seed: int, batch_size: int, eps_accuracy
) -> Iterator[Check]:
    logits_fn = logits_function(model)
    far = 1.0 if norm == "linf" else math.sqrt(math.prod(x.shape[1:]))
    attacks = {
        "pgd": attack_from_name("pgd20", eps, norm=norm),
        "margin": attack_from_name("cw20", eps, norm=norm),
        "restarts": attack_from_name("pgd20", eps, restarts=5, norm=norm),
        "square": attack_from_name(f"square{_QUERIES}", eps, norm=norm),
        "noise": attack_from_name("noise", eps, norm=norm),
        "far": attack_from_name("pgd50", far, norm=norm),
    }
    configs = [dataclasses.replace(attack, name=name) for name, attack in attacks.items()]
    found = Evaluator(lambda x: logits_fn(x), configs, batch_size)(x, y, seed)
    right = found.correct
    zero = _zero_gradients(logits_fn, x, y, right, batch_size)
    yield zero
    yield _black_box(found, zero.outcome == "warn")
    yield _stronger(logits_fn, found, x, y, attacks["pgd"], seed, batch_size)
    left = found.survived["far"].mean()
    yield Check(
        "unbounded_attack",
        "warn" if left > more_than_chance(_LEFT, len(y)) else "pass",
        f"With a radius that allows any image, PGD-50 leaves {left:.1%} of the images standing"
        + (
            ": it cannot even turn one class into another, so its gradients lead nowhere."
            if left > more_than_chance(_LEFT, len(y))
            else "."
        ),
        float(left),
    )
    first = unit_pixels(x[:batch_size])
    yield _probabilities(np.asarray(logits_fn(first)))
    yield _randomness(Draws(logits_fn, x.shape[1:])(first))
    yield _half_precision(logits_fn, x.shape[1:])
    yield _curve(eps_accuracy, len(y))


def _zero_gradients(logits_fn, x, y, right: np.ndarray, batch_size: int) -> Check:
    if not right.any():
        return Check("zero_gradients", "skipped", "No image is classified correctly.")
    x, y = x[right], y[right]
    gradient = input_gradient(logits_fn, x.shape[1:])
    dead, zeros = [], []
    for rows, size in packed(len(y), batch_size):
        index = np.minimum(np.arange(rows.start, rows.start + size), rows.stop - 1)
        found = gradient(unit_pixels(x[index]), y[index].astype(np.int32)).numpy()
        found = found[: rows.stop - rows.start]
        dead.append(dead_gradients(found))
        zeros.append(((found == 0) | ~np.isfinite(found)).mean(axis=(1, 2, 3)))
    vanished, zero = (float(np.concatenate(found).mean()) for found in (dead, zeros))
    text = (
        "The gradient of the cross-entropy is exactly zero in every pixel, or not a number, for "
        f"{vanished:.1%} of the correctly classified images, and in {zero:.1%} of all their pixels"
    )
    if vanished > more_than_chance(_ZERO_GRADIENTS, len(y)):
        return Check(
            "zero_gradients",
            "warn",
            f"{text}: attacks on the cross-entropy cannot move these images.",
            vanished,
        )
    return Check("zero_gradients", "pass", f"{text}.", vanished)


def _black_box(found: Evaluation, vanishes: bool) -> Check:
    names = ("pgd", "margin", "square", "noise")
    pgd, margin, square, noise = (found.robust[name] for name in names)
    figures = (
        f"PGD-20 leaves {pgd:.1%} standing on the cross-entropy and {margin:.1%} on the margin, "
        f"Square with {_QUERIES:,} queries {square:.1%}, noise {noise:.1%}"
    )
    # The better of the two losses counts, unless the other's gradient is known to vanish: a
    # margin does not saturate, and may well be stronger on a plain network.
    beaten = (max if vanishes else min)(pgd, margin) - min(square, noise)
    fell = ~found.survived["square"] | ~found.survived["noise"]
    only = float((found.survived["pgd"] & found.survived["margin"] & fell).mean())
    value = max(beaten, only)
    most = more_than_chance(_BLACK_BOX_ONLY, len(found.labels))
    if value <= most:
        return Check("black_box_beats_gradients", "pass", f"{figures}.", value)
    if beaten > most:
        why = "attacks that use no gradient do better than one that does"
    else:
        why = f"{only:.1%} of the images fall only to the two that use no gradient"
    return Check(
        "black_box_beats_gradients",
        "warn",
        f"{figures}: {why}, so the gradient is masked or points the wrong way.",
        value,
    )


def _stronger(logits_fn, found, x, y, attack: AttackConfig, seed, batch_size) -> Check:
    steps, accuracy = steps_curve(logits_fn, x, y, attack, seed, batch_size)
    up = rises(steps, accuracy, len(y))
    once, five = found.robust["pgd"], found.robust["restarts"]
    up_restarts = rises([1, 5], [once, five], len(y))
    figures = (
        f"From 1 to {steps[-1]} steps of PGD accuracy goes from {accuracy[0]:.1%} to "
        f"{accuracy[-1]:.1%}, from 1 to 5 restarts of PGD-20 from {once:.1%} to {five:.1%}"
    )
    gains = [gain for _, _, gain in up + up_restarts]
    if gains:
        places = [f"from {a:g} to {b:g} steps by {100 * g:.1f} points" for a, b, g in up]
        places += [
            f"from {a:g} to {b:g} restarts by {100 * g:.1f} points" for a, b, g in up_restarts
        ]
        return Check(
            "stronger_is_weaker",
            "warn",
            f"{figures}. It rises {', '.join(places)}, though the attack became stronger.",
            max(gains),
        )
    return Check("stronger_is_weaker", "pass", f"{figures}, never rising.", 0.0)


def _probabilities(outputs: np.ndarray) -> Check:
    if sums_to_one(outputs):
        return Check(
            "probabilities",
            "warn",
            "The outputs are positive and sum to 1: probabilities after a softmax, not logits. "
            "Losses that take logits then have gradients that vanish.",
            1.0,
        )
    return Check("probabilities", "pass", "The outputs are logits, not probabilities.", 0.0)


def _randomness(difference: float) -> Check:
    if not difference <= _SAME:
        return Check(
            "randomness",
            "warn",
            f"Forwards of the same images differ by {difference:.2g} of the largest output: "
            "the network is random, and one gradient of it says little; average over draws.",
            difference if math.isfinite(difference) else None,
        )
    return Check("randomness", "pass", "Forwards of the same images agree.", difference)


def _half_precision(logits_fn, image_shape) -> Check:
    names = half_precision_operations(logits_fn, image_shape)
    if names:
        return Check(
            "half_precision",
            "warn",
            f"{len(names)} operations compute in half precision, the first is {names[0]}: small "
            "gradients become zero. Evaluate a float32 copy.",
            float(len(names)),
        )
    return Check("half_precision", "pass", "All computing is in float32 or wider.", 0.0)


def _curve(eps_accuracy, images: int) -> Check:
    if eps_accuracy is None:
        return Check("eps_curve", "skipped", "No curve over eps was measured.")
    radii, accuracy = eps_accuracy
    up = rises(radii, accuracy, images)
    if up:
        places = [f"by {100 * g:.1f} points from eps {a:.4g} to {b:.4g}" for a, b, g in up]
        return Check(
            "eps_curve",
            "warn",
            f"Robust accuracy rises {', '.join(places)}, though a larger ball holds the smaller.",
            max(gain for _, _, gain in up),
        )
    return Check("eps_curve", "pass", "Robust accuracy never rises with eps.", 0.0)
