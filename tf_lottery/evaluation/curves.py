"""Robust accuracy against eps and against the number of PGD steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_lottery.attacks import make_procedure
from tf_lottery.attacks.procedure import is_wrong
from tf_lottery.evaluation.cautions import more_than_chance
from tf_lottery.evaluation.evaluator import Evaluator
from tf_lottery.evaluation.packing import packed, unit_pixels
from tf_lottery.keras import tf
from tf_lottery.options.settings import AttackConfig

MULTIPLES = (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 4)  # of the reference eps
STEPS = (1, 2, 5, 10, 20, 50, 100)
_TOLERANCE = 0.01  # a rise of more than this share of the images is no rounding


def eps_curve(
    model: Any,
    x: np.ndarray,
    y: np.ndarray,
    attack: AttackConfig,
    seed: int = 0,
    batch_size: int = 250,
) -> tuple[list[float], list[float]]:
    """Robust accuracy at multiples of the attack's eps, its step scaled along.

    Returns:
      Radii, and the share of images that are right clean and attacked.
    """
    radii = [attack.eps * multiple for multiple in MULTIPLES]
    if attack.norm == "linf":
        radii = [radius for radius in radii if radius <= 1]
    configs = [
        dataclasses.replace(
            attack,
            name=f"eps{number}",
            eps=radius,
            step_size=attack.step_size * radius / attack.eps,
        )
        for number, radius in enumerate(radii)
    ]
    found = Evaluator(model, configs, batch_size)(x, y, seed)
    return radii, [found.robust[config.name] for config in configs]


def steps_curve(
    logits_fn: Any,
    x: np.ndarray,
    y: np.ndarray,
    attack: AttackConfig,
    seed: int = 0,
    batch_size: int = 250,
) -> tuple[list[int], list[float]]:
    """Robust accuracy after 1, 2, 5 ... 100 steps of one and the same run of PGD.

    With a fixed step size, PGD-20 is the first 20 steps of PGD-100.

    Returns:
      Numbers of steps, and the share of images that are right clean and attacked.
    """
    attack = dataclasses.replace(attack, steps=STEPS[-1], restarts=1)
    procedure = make_procedure(attack)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *x.shape[1:]], tf.float32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, 2], tf.int32),
        ]
    )
    def right_after(images, labels, seeds):
        def right(at):
            return ~is_wrong(logits_fn(at), labels)

        state = procedure.start(logits_fn, images, labels, seeds, 0)
        flags, before = [right(images)], 0
        for steps in STEPS:
            _, state = procedure.advance(logits_fn, images, labels, seeds, 0, state, before, steps)
            flags.append(right(state["x_adv"]))
            before = steps
        return tf.stack(flags)

    found = []
    for rows, size in packed(len(y), batch_size):
        index = np.minimum(np.arange(rows.start, rows.start + size), rows.stop - 1)
        seeds = np.stack([np.full(size, seed), index], axis=1).astype(np.int32)
        flags = right_after(unit_pixels(x[index]), y[index].astype(np.int32), seeds).numpy()
        found.append(flags[:, : rows.stop - rows.start])
    flags = np.concatenate(found, axis=1)
    return list(STEPS), [float(share) for share in (flags[1:] & flags[0]).mean(axis=1)]


def rises(values: Sequence[float], accuracy: Sequence[float], images: int) -> list[list[float]]:
    """Where accuracy rises though the attack became stronger, by more than rounding.

    Args:
      values: radii or steps, growing.
      accuracy: robust accuracy at each.
      images: that these are shares of. More than 1 % of them, and than two, have to rise.

    Returns:
      ``[from, to, share gained]`` for each value whose accuracy exceeds the lowest
      before it.

    Example:
      >>> rises([1, 2, 5, 10], [0.5, 0.3, 0.35, 0.2], images=1000)
      [[2, 5, 0.05]]
    """
    found = []
    for i in range(1, len(values)):
        lowest = min(range(i), key=lambda j: accuracy[j])
        gain = accuracy[i] - accuracy[lowest]
        if gain > more_than_chance(_TOLERANCE, images):
            found.append([values[lowest], values[i], round(gain, 12)])
    return found
