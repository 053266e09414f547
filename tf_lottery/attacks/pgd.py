"""Projected gradient ascent on the pixels: the one loop behind every attack."""

from __future__ import annotations

from tf_lottery.attacks.losses import LOSSES
from tf_lottery.attacks.projection import project
from tf_lottery.attacks.seeds import example_seeds, uniform_in_ball
from tf_lottery.config import AttackConfig
from tf_lottery.keras import tf
from tf_lottery.types import LogitsFn, Tensor


def projected_gradient_ascent(
    config: AttackConfig,
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    seed: Tensor | int,
    *,
    gradient_scale: float = 1.0,
) -> Tensor:
    """See ``tf_lottery.attacks.make_attack``, which binds the first argument.

    Raises:
      ValueError: ``x``, ``y`` or ``seed`` of a wrong rank or type.
    """
    x = tf.stop_gradient(tf.convert_to_tensor(x))
    y = tf.convert_to_tensor(y)
    if x.dtype != tf.float32 or x.shape.rank != 4:
        raise ValueError(f"x: must be float32 of rank 4, got {x.dtype.name} {x.shape}")
    if not y.dtype.is_integer or y.shape.rank != 1:
        raise ValueError(f"y: must be integers of shape (batch,), got {y.dtype.name} {y.shape}")
    y = tf.cast(y, tf.int32)  # losses and argmax know no narrower type
    seeds = example_seeds(seed, tf.shape(x)[0])
    if config.eps == 0:
        return x

    if config.restarts == 1:
        start = _start(config, x, seeds, 0)
        return _ascend(config, logits_fn, x, y, start, gradient_scale)

    def attempt(restart, best, best_is_wrong, best_loss):
        start = _start(config, x, seeds, restart)
        x_adv = _ascend(config, logits_fn, x, y, start, gradient_scale)
        logits = logits_fn(x_adv)
        is_wrong = tf.argmax(logits, axis=-1, output_type=tf.int32) != y
        loss = LOSSES[config.loss](logits, y)
        # The worst for the network: misclassified first, then the higher loss.
        # The first attempt always counts, also where its loss is not a number.
        better = (is_wrong & ~best_is_wrong) | ((is_wrong == best_is_wrong) & (loss > best_loss))
        better |= restart == 0
        best = tf.where(better[:, None, None, None], x_adv, best)
        return (
            restart + 1,
            best,
            tf.where(better, is_wrong, best_is_wrong),
            tf.where(better, loss, best_loss),
        )

    none_wrong = tf.zeros_like(y, tf.bool)
    no_loss = tf.fill(tf.shape(y), -float("inf"))
    _, best, _, _ = tf.while_loop(
        lambda restart, *_: restart < config.restarts, attempt, (0, x, none_wrong, no_loss)
    )
    return tf.stop_gradient(best)


def _start(config: AttackConfig, x: Tensor, seeds: Tensor, restart: Tensor | int) -> Tensor:
    """The first image: random, but clean in the first attempt unless ``random_start``."""
    if not config.random_start and isinstance(restart, int) and restart == 0:
        return x
    noise = uniform_in_ball(seeds, restart, tf.shape(x)[1:], config.eps)
    if not config.random_start:
        noise = tf.where(restart == 0, 0.0, noise)
    start = project(x + noise, x, config.eps)
    start.set_shape(x.shape)  # map_fn loses it, and a loop's variables must keep theirs
    return start


def _ascend(
    config: AttackConfig,
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    gradient_scale: float,
) -> Tensor:
    """``config.steps`` signed steps from ``start``, each projected."""
    loss_fn = LOSSES[config.loss]

    def step(i, x_adv):
        # Variables are not watched: only the pixels' gradient is wanted. The sum
        # keeps an example's gradient independent of the batch and, in float16, large.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x_adv)
            loss = gradient_scale * tf.reduce_sum(loss_fn(logits_fn(x_adv), y))
        gradient = tape.gradient(loss, x_adv, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        x_adv = project(x_adv + config.step_size * tf.sign(gradient), x, config.eps)
        x_adv.set_shape(x.shape)
        return i + 1, tf.stop_gradient(x_adv)

    _, x_adv = tf.while_loop(lambda i, _: i < config.steps, step, (0, start))
    return tf.stop_gradient(x_adv)
