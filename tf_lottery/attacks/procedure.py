"""An attack as a sequence of iterations that can be interrupted between any two.

A ``Procedure`` keeps all it knows in a *state*: a dictionary of tensors whose first
axis is the batch and whose entries for one example depend on that example alone. So
whoever drives it may stop after any iteration, put the surviving examples of many
batches together, write the state to disk and go on later, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from tf_lottery.attacks.seeds import example_seeds
from tf_lottery.keras import tf
from tf_lottery.options.settings import AttackConfig
from tf_lottery.type_aliases import LogitsFn, Tensor

# ``x_adv``: the answer so far, in the ball and the box. ``broken``: bool, it is
# misclassified. ``score``: float32, by which the better of two answers is kept that are
# both misclassified or both not. Other entries are the attack's own.
State: TypeAlias = dict[str, Any]

# Of an image's derivatives with respect to the logits, if the scale is its own. The layers
# of a VGG-16 have gradients of 1e-4 to 3 for 1 at the logits; float16 holds 6e-5 to 65504
# at full precision and lets go of what is below 6e-8.
LARGEST_BY_LOGIT = 16.0

_SALTS = {
    ("apgd", "cross_entropy", False): 1,
    ("apgd", "dlr", False): 2,
    ("apgd", "dlr", True): 3,
    ("fab", "margin", False): 4,
    ("fab", "margin", True): 5,
    ("noise", "margin", False): 6,
    ("mim", "cross_entropy", False): 7,
    ("square", "margin", False): 8,  # the last: its restarts are far apart
}


class Procedure:
    """Base of the attacks that are driven step by step.

    Attributes:
      config: settings.
      stop_when_broken: the verdict alone is wanted: an attack that looks for the smallest
        perturbation ends with the first inside the ball.
      start_cost, step_cost, end_cost: forward and input-gradient passes an image of
        starting a try, of an iteration, and of ending a try.
    """

    start_cost = (0, 0)
    step_cost = (1, 1)
    end_cost = (0, 0)

    def __init__(self, config: AttackConfig, stop_when_broken: bool = True):
        self.config = config
        self.stop_when_broken = stop_when_broken

    def salt(self, attempt: Tensor | int) -> Tensor | int:
        """What the random numbers of a try are keyed by, besides the example's seed.

        Other attacks have other keys, so that the parts of a suite are independent.
        """
        kind = (self.config.method, self.config.loss, self.config.targets > 0)
        return attempt + _SALTS.get(kind, 0) * 2**24

    @property
    def length(self) -> int:
        """Iterations of one try."""
        return self.config.steps

    def tries(self, classes: int) -> int:
        """Independent tries: restarts, times the targets of a targeted attack."""
        return self.config.restarts * self.targets(classes)

    def targets(self, classes: int) -> int:
        """Classes aimed at one after the other; 1 for an untargeted attack."""
        return max(1, min(self.config.targets, classes - 1))

    def stop_after(self, first: int) -> int:
        """The iteration before which it is worth sorting out what is broken."""
        return min(self.length, first + max(1, self.length // 10))

    def start(self, logits_fn: LogitsFn, x: Tensor, y: Tensor, seeds: Tensor, attempt) -> State:
        """The state before iteration 0 of try number ``attempt`` (scalar int32)."""
        raise NotImplementedError

    def step(
        self, logits_fn: LogitsFn, x: Tensor, y: Tensor, seeds: Tensor, attempt, state: State, i
    ) -> State:
        """The state after iteration ``i`` (scalar int32)."""
        raise NotImplementedError

    def end(self, logits_fn: LogitsFn, x: Tensor, y: Tensor, state: State) -> State:
        """The state after the last iteration; for attacks that judge only there."""
        return state

    def advance(
        self,
        logits_fn: LogitsFn,
        x: Tensor,
        y: Tensor,
        seeds: Tensor,
        attempt: Tensor,
        state: State,
        first: Tensor,
        last: Tensor,
    ) -> tuple[Tensor, State]:
        """Iterations ``first`` to ``last - 1``, fewer once every example is broken.

        Returns:
          The number of the next iteration, and the state before it.
        """
        shapes = {name: value.shape for name, value in state.items()}

        def go_on(i, state):
            if not self.stop_when_broken:
                return i < last
            return (i < last) & ~tf.reduce_all(state["broken"])

        def iterate(i, state):
            state = self.step(logits_fn, x, y, seeds, attempt, state, i)
            for name, value in state.items():
                value.set_shape(shapes[name])  # a loop's variables must keep theirs
            return i + 1, {name: tf.stop_gradient(value) for name, value in state.items()}

        start = (tf.convert_to_tensor(first, tf.int32), state)
        return tf.while_loop(go_on, iterate, start)


def as_attack(procedure: Procedure) -> Callable[[LogitsFn, Any, Any, Any], Any]:
    """``(logits_fn, x, y, seed) -> x_adv``, all tries in one graph; the best answer counts."""

    def attack(logits_fn: LogitsFn, x: Tensor, y: Tensor, seed: Tensor | int) -> Tensor:
        x, y, seeds = checked(x, y, seed)
        if procedure.config.eps == 0:
            return x
        # Only its static shape is used: in a graph this pass is pruned away.
        classes = logits_fn(x).shape[-1]

        def attempt(number, best):
            state = procedure.start(logits_fn, x, y, seeds, number)
            _, state = procedure.advance(logits_fn, x, y, seeds, number, state, 0, procedure.length)
            state = procedure.end(logits_fn, x, y, state)
            return number + 1, better(state, best, number == 0)

        def go_on(number, best):
            left = number < procedure.tries(classes)
            return left & ~(procedure.stop_when_broken & tf.reduce_all(best["broken"]))

        none = {
            "x_adv": x,
            "broken": tf.zeros_like(y, tf.bool),
            "score": tf.fill(tf.shape(y), -float("inf")),
        }
        _, best = tf.while_loop(go_on, attempt, (0, none))
        return tf.stop_gradient(best["x_adv"])

    return attack


def better(state: State, best: State, first: Tensor | bool = False) -> State:
    """Example by example the worse one for the network: misclassified, then by score.

    Args:
      state: of a try that ended.
      best: what earlier tries gave; its keys are kept.
      first: there were none: ``state`` counts also where its score is not a number.
    """
    wins = (state["broken"] & ~best["broken"]) | (
        (state["broken"] == best["broken"]) & (state["score"] > best["score"])
    )
    wins |= first
    chosen = {"x_adv": tf.where(wins[:, None, None, None], state["x_adv"], best["x_adv"])}
    chosen["x_adv"].set_shape(best["x_adv"].shape)
    for name in ("broken", "score"):
        chosen[name] = tf.where(wins, state[name], best[name])
    return chosen


def checked(x: Tensor, y: Tensor, seed: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, int32 labels and one seed an example.

    Raises:
      ValueError: one of a wrong rank or type.
    """
    x = tf.stop_gradient(tf.convert_to_tensor(x))
    y = tf.convert_to_tensor(y)
    if x.dtype != tf.float32 or x.shape.rank != 4:
        raise ValueError(f"x: must be float32 of rank 4, got {x.dtype.name} {x.shape}")
    if not y.dtype.is_integer or y.shape.rank != 1:
        raise ValueError(f"y: must be integers of shape (batch,), got {y.dtype.name} {y.shape}")
    y = tf.cast(y, tf.int32)  # losses and argmax know no narrower type
    return x, y, example_seeds(seed, tf.shape(x)[0])


def is_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """bool (batch,): another class than ``y`` has the largest logit, or one is not finite."""
    other = tf.argmax(logits, axis=-1, output_type=tf.int32) != y
    return other | tf.reduce_any(~tf.math.is_finite(logits), axis=-1)


def value_and_gradient(
    loss_fn: Callable[[Tensor], Tensor],
    logits_fn: LogitsFn,
    x: Tensor,
    scale: float | None = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, loss of each example, and its gradient with respect to the pixels.

    Args:
      loss_fn: logits -> (batch,).
      logits_fn: the network.
      x: (batch, height, width, channels).
      scale: factor on the summed loss whose gradient is taken. ``None``: each example has
        its own, so that its largest derivative with respect to a logit is
        ``LARGEST_BY_LOGIT``, however confident the network is.
    """
    # Variables are not watched: only the pixels' gradient is wanted. The sum keeps an
    # example's gradient independent of the batch and, in float16, large.
    with tf.GradientTape(watch_accessed_variables=False) as of_network:
        of_network.watch(x)
        logits = logits_fn(x)
        wide = tf.cast(logits, tf.float32)  # what is scaled must not have underflowed before
    with tf.GradientTape(watch_accessed_variables=False) as of_loss:
        of_loss.watch(wide)
        loss = loss_fn(wide)
        total = tf.reduce_sum(loss)
    zero = tf.UnconnectedGradients.ZERO
    by_logit = of_loss.gradient(total, wide, unconnected_gradients=zero)
    if scale is None:
        largest = tf.reduce_max(tf.abs(by_logit), axis=-1, keepdims=True)
        by_logit = LARGEST_BY_LOGIT * tf.math.divide_no_nan(by_logit, largest)
    elif scale != 1:
        by_logit = scale * by_logit
    gradient = of_network.gradient(wide, x, output_gradients=by_logit, unconnected_gradients=zero)
    return logits, loss, gradient
