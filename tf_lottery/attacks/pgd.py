"""Projected gradient ascent on the pixels, with or without momentum."""

from __future__ import annotations

from collections.abc import Callable

from tf_lottery.attacks.losses import LOSSES
from tf_lottery.attacks.norms import direction, project
from tf_lottery.attacks.procedure import (
    Procedure,
    State,
    better,
    checked,
    is_wrong,
    value_and_gradient,
)
from tf_lottery.attacks.seeds import random_bits, random_direction, uniform_in_ball
from tf_lottery.keras import tf
from tf_lottery.options.settings import AttackConfig
from tf_lottery.type_aliases import LogitsFn, Tensor

_TINY = 1e-12


class ProjectedGradient(Procedure):
    """PGD and MIM; the verdict is on the last iterate alone, as published numbers are."""

    end_cost = (1, 0)

    def __init__(
        self,
        config: AttackConfig,
        stop_when_broken: bool = True,
        gradient_scale: float | None = 1.0,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        super().__init__(config, stop_when_broken)
        self._scale = gradient_scale
        self._loss = loss or LOSSES[config.loss]

    def stop_after(self, first: int) -> int:
        """Nothing is known to be broken before the end; stops serve to save work."""
        return min(self.length, first + 5)

    def start(self, logits_fn, x, y, seeds, attempt):
        """See ``Procedure``."""
        state = {
            "x_adv": self._first(x, seeds, attempt),
            "broken": tf.zeros_like(y, tf.bool),
            "score": tf.fill(tf.shape(y), -float("inf")),
        }
        if self.config.method == "mim":
            state["momentum"] = tf.zeros_like(x)
        return state

    def _first(self, x: Tensor, seeds: Tensor, attempt: Tensor | int) -> Tensor:
        """The first image: random, but clean in the first attempt unless ``random_start``."""
        config = self.config
        if not config.random_start and isinstance(attempt, int) and attempt == 0:
            return x
        noise = self._noise(seeds, self.salt(attempt), tf.shape(x)[1:])
        if not config.random_start:
            noise = tf.where(attempt == 0, 0.0, noise)
        start = self._allowed(x + noise, x)
        start.set_shape(x.shape)  # map_fn loses it, and a loop's variables must keep theirs
        return start

    def _noise(self, seeds: Tensor, salt: Tensor | int, shape: Tensor) -> Tensor:
        """float32 (batch, *shape)."""
        config = self.config
        size = config.noise or config.eps
        if config.noise_kind == "uniform":
            return uniform_in_ball(seeds, salt, shape, size, config.norm)
        if config.noise_kind == "normal":
            return size * random_direction(seeds, salt, shape, "l2")
        return tf.where(random_bits(seeds, salt, shape) < 0, -size, size)

    def _allowed(self, moved: Tensor, x: Tensor) -> Tensor:
        """The nearest image that may be used: of the ball and [0, 1], or of [0, 1] alone."""
        if not self.config.projected:
            return tf.clip_by_value(moved, 0.0, 1.0)
        return project(moved, x, self.config.eps, self.config.norm)

    def step(self, logits_fn, x, y, seeds, attempt, state, i):
        """See ``Procedure``."""
        config = self.config
        _, _, gradient = value_and_gradient(
            lambda logits: self._loss(logits, y), logits_fn, state["x_adv"], self._scale
        )
        state = dict(state)
        if config.method == "mim":
            gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
            mean = tf.reduce_mean(tf.abs(gradient), axis=(1, 2, 3), keepdims=True)
            gradient = config.decay * state["momentum"] + gradient / tf.maximum(mean, _TINY)
            state["momentum"] = gradient
        moved = state["x_adv"] + config.step_size * direction(gradient, config.norm)
        if config.norm == "l2" and config.method == "pgd":
            # A step is an FGM step, into the box, and then brought back to the ball, as in
            # cleverhans. (In l_inf both are boxes, and their order does not matter.)
            moved = tf.clip_by_value(moved, 0.0, 1.0)
        state["x_adv"] = self._allowed(moved, x)
        return state

    def end(self, logits_fn, x, y, state):
        """See ``Procedure``."""
        logits = logits_fn(state["x_adv"])
        return {
            **state,
            "broken": is_wrong(logits, y),
            "score": self._loss(logits, y),
        }

    def attack(self, logits_fn: LogitsFn, x: Tensor, y: Tensor, seed: Tensor | int) -> Tensor:
        """See ``tf_lottery.attacks.make_attack``.

        Raises:
          ValueError: ``x``, ``y`` or ``seed`` of a wrong rank or type.
        """
        x, y, seeds = checked(x, y, seed)
        if self.config.eps == 0:
            return x

        def ascend(restart) -> State:
            state = self.start(logits_fn, x, y, seeds, restart)
            return self.advance(logits_fn, x, y, seeds, restart, state, 0, self.length)[1]

        if self.config.restarts == 1:  # no judging: training wants the last iterate alone
            return tf.stop_gradient(ascend(0)["x_adv"])

        def attempt(restart, best):
            return restart + 1, better(
                self.end(logits_fn, x, y, ascend(restart)), best, restart == 0
            )

        none = {
            "x_adv": x,
            "broken": tf.zeros_like(y, tf.bool),
            "score": tf.fill(tf.shape(y), -float("inf")),
        }
        _, best = tf.while_loop(
            lambda restart, _: restart < self.config.restarts, attempt, (0, none)
        )
        return tf.stop_gradient(best["x_adv"])
