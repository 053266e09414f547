"""APGD: projected gradient ascent that sets its own step size (Croce & Hein 2020).

"Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", arXiv 2003.01690, Algorithm 1. From a random point of the
eps-sphere, steps of 2 eps with momentum; at checkpoints the step is halved and the
search returns to its best point if progress has stalled.
"""

from __future__ import annotations

import numpy as np

from tf_lottery.attacks.losses import LOSSES, ranked_target, targeted_dlr
from tf_lottery.attacks.norms import direction, onto_sphere, project
from tf_lottery.attacks.procedure import Procedure, is_wrong, value_and_gradient
from tf_lottery.attacks.seeds import random_direction
from tf_lottery.keras import tf

_MOMENTUM = 0.75  # weight of the new step; 0.25 on the one before
_RISES = 0.75  # share of the steps since the last checkpoint that must have risen
_FIRST_PERIOD, _SHRINK, _SHORTEST = 0.22, 0.03, 0.06  # shares of the iterations


def checkpoints(steps: int) -> np.ndarray:
    """int32 (steps,): the length of the period that ends with an iteration, else 0.

    Example:
      >>> [int(i) + 1 for i in np.flatnonzero(checkpoints(100))]
      [22, 41, 57, 70, 80, 87, 93, 99]
    """
    periods = np.zeros(steps, np.int32)
    period = max(int(_FIRST_PERIOD * steps), 1)
    shrink, shortest = max(int(_SHRINK * steps), 1), max(int(_SHORTEST * steps), 1)
    end = period - 1
    while end < steps:
        periods[end] = period
        period = max(period - shrink, shortest)
        end += period
    return periods


class AutoProjectedGradient(Procedure):
    """APGD on the cross-entropy or the DLR loss; with targets, on the targeted DLR loss."""

    start_cost = (1, 1)

    def __init__(self, config, stop_when_broken=True):
        super().__init__(config, stop_when_broken)
        self._periods = checkpoints(config.steps)
        if config.targets:
            self.start_cost = (2, 1)

    def stop_after(self, first: int) -> int:
        """Often at first, when most breaks."""
        return next((i for i in (2, 5, 10, 20, 40, 60, 80) if first < i < self.length), self.length)

    def _loss(self, y, target):
        if target is None:
            return lambda logits: LOSSES[self.config.loss](logits, y)
        return lambda logits: targeted_dlr(logits, y, target)

    def start(self, logits_fn, x, y, seeds, attempt):
        """See ``Procedure``."""
        config = self.config
        noise = random_direction(seeds, self.salt(attempt), tf.shape(x)[1:], config.norm)
        noise = tf.ensure_shape(noise, x.shape)
        x_adv = tf.clip_by_value(x + onto_sphere(noise, config.eps, config.norm), 0.0, 1.0)
        target = None
        state = {}
        if config.targets:
            clean = logits_fn(x)
            rank = attempt % self.targets(clean.shape[-1])
            target = state["target"] = ranked_target(clean, y, rank)
        logits, loss, gradient = value_and_gradient(self._loss(y, target), logits_fn, x_adv)
        zero = tf.zeros_like(loss)
        return state | {
            "x_adv": x_adv,
            "broken": is_wrong(logits, y),
            "score": loss,
            "point": x_adv,
            "before": x_adv,
            "gradient": gradient,
            "best_gradient": gradient,
            "step_size": tf.fill(tf.shape(loss), 2 * config.eps),
            "loss": loss,
            "rises": zero,
            "score_at_check": loss,
            # The first checkpoint never halves for want of a better point alone.
            "halved_at_check": tf.ones_like(loss, tf.bool),
        }

    def step(self, logits_fn, x, y, seeds, attempt, state, i):
        """See ``Procedure``."""
        eps, norm = self.config.eps, self.config.norm
        point = state["point"]
        size = state["step_size"][:, None, None, None]
        plain = project(point + size * direction(state["gradient"], norm), x, eps, norm)
        weight = tf.where(i > 0, _MOMENTUM, 1.0)
        moved = point + (plain - point) * weight + (point - state["before"]) * (1 - weight)
        moved = project(moved, x, eps, norm)
        logits, loss, gradient = value_and_gradient(
            self._loss(y, state.get("target")), logits_fn, moved
        )
        broken = is_wrong(logits, y)
        # Once broken an answer is kept; until then it is the point of the highest loss.
        first_break = broken & ~state["broken"]
        higher = (loss > state["score"]) & ~state["broken"]
        replaced = (first_break | higher)[:, None, None, None]
        state = state | {
            "x_adv": tf.where(replaced, moved, state["x_adv"]),
            "best_gradient": tf.where(replaced, gradient, state["best_gradient"]),
            "score": tf.where(higher, loss, state["score"]),
            "broken": broken | state["broken"],
            "point": moved,
            "before": point,
            "gradient": gradient,
            "rises": state["rises"] + tf.cast(loss > state["loss"], tf.float32),
            "loss": loss,
        }
        period = tf.constant(self._periods)[i]
        stalled = state["rises"] <= _RISES * tf.cast(period, tf.float32)
        stalled |= ~state["halved_at_check"] & (state["score"] <= state["score_at_check"])
        at_check = period > 0
        halve = at_check & stalled
        back = halve[:, None, None, None]
        return state | {
            "step_size": tf.where(halve, state["step_size"] / 2, state["step_size"]),
            "point": tf.where(back, state["x_adv"], state["point"]),
            "gradient": tf.where(back, state["best_gradient"], state["gradient"]),
            "rises": tf.where(at_check, 0.0, state["rises"]),
            "score_at_check": tf.where(at_check, state["score"], state["score_at_check"]),
            "halved_at_check": tf.where(at_check, halve, state["halved_at_check"]),
        }
