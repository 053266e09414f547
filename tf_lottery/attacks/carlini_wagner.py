"""The l_2 attack of Carlini & Wagner: Adam, and a binary search for the constant.

"Towards evaluating the robustness of neural networks", 2017, arXiv 1608.04644, section
VI.A, with confidence kappa = 0 and untargeted.
"""

from __future__ import annotations

from tf_lottery.attacks.fab import verdict
from tf_lottery.attacks.losses import margin
from tf_lottery.attacks.norms import length
from tf_lottery.attacks.procedure import Procedure, State, is_wrong
from tf_lottery.keras import tf
from tf_lottery.type_aliases import Tensor

_FIRST_CONSTANT = 1e-3
_GROWTH = 10.0  # of the constant until one succeeds
_SQUEEZE = 1 - 1e-6  # of [-1, 1], at whose ends the inverse of tanh is infinite
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8  # of Adam


class CarliniWagnerL2(Procedure):
    """Minimises ||x' - x||_2^2 + c max(z_y - max_{i != y} z_i, 0) over x' = (tanh(u) + 1) / 2.

    The iterations run over ``search_steps`` constants c, ``steps`` of Adam each, always
    from the clean image; every x' that is misclassified counts. After a constant that gave
    none c is raised, after one that did it is lowered. Unlike the authors' program this one
    never cuts a constant short. Where a pixel is 0 or 1, tanh is flat and u has about 6 to
    go before it moves: too few ``steps`` of too small a ``step_size`` find nothing there.
    A state has ``distance`` and ``closest`` besides the usual entries, see
    ``attacks.fab.verdict``: they know no eps.
    """

    start_cost = (1, 0)
    step_cost = (1, 1)

    @property
    def length(self) -> int:
        """Iterations for all constants."""
        return self.config.steps * self.config.search_steps

    def stop_after(self, first: int) -> int:
        """Ten times a constant."""
        return min(self.length, first + max(1, self.config.steps // 10))

    def start(self, logits_fn, x, y, seeds, attempt):
        """See ``Procedure``."""
        clean_wrong = is_wrong(logits_fn(x), y)
        distance = tf.where(clean_wrong, 0.0, float("inf"))
        zero = tf.zeros_like(distance)
        return {
            **verdict(x, x, distance, self.config.eps),
            "variable": _to_variable(x),
            "mean": tf.zeros_like(x),
            "square": tf.zeros_like(x),
            "constant": zero + _FIRST_CONSTANT,
            "lower": zero,
            "upper": zero + float("inf"),
            "success": tf.zeros_like(clean_wrong),
        }

    def step(self, logits_fn, x, y, seeds, attempt, state, i):
        """See ``Procedure``; the image judged is the one before Adam's step."""
        config = self.config
        within = i % config.steps
        first = within == 0
        searched = _next_constant(state)
        state = {
            **state,
            **{
                name: tf.where(first & (i > 0), value, state[name])
                for name, value in searched.items()
            },
            "variable": tf.where(first, _to_variable(x), state["variable"]),
            "mean": tf.where(first, 0.0, state["mean"]),
            "square": tf.where(first, 0.0, state["square"]),
        }

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(state["variable"])
            image = (tf.tanh(state["variable"]) + 1) / 2
            logits = logits_fn(image)
            squared_length = tf.reduce_sum(tf.square(image - x), axis=(1, 2, 3))
            shortfall = tf.nn.relu(-margin(logits, y))
            total = tf.reduce_sum(squared_length + state["constant"] * shortfall)
        gradient = tape.gradient(total, state["variable"])
        gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)

        wrong = is_wrong(logits, y)
        distance = length(image - x, "l2")
        nearer = wrong & (distance < state["distance"])
        if self.stop_when_broken:  # the first inside the ball, whatever others still do
            nearer &= ~state["broken"]
        closest = tf.where(nearer[:, None, None, None], image, state["closest"])
        distance = tf.where(nearer, distance, state["distance"])

        time = tf.cast(within + 1, tf.float32)
        mean = _BETA_1 * state["mean"] + (1 - _BETA_1) * gradient
        square = _BETA_2 * state["square"] + (1 - _BETA_2) * tf.square(gradient)
        unbiased = mean / (1 - tf.pow(_BETA_1, time))
        deviation = tf.sqrt(square / (1 - tf.pow(_BETA_2, time)))
        return {
            **state,
            **verdict(x, closest, distance, config.eps),
            "variable": state["variable"] - config.step_size * unbiased / (deviation + _EPSILON),
            "mean": mean,
            "square": square,
            "success": state["success"] | wrong,
        }


def _to_variable(x: Tensor) -> Tensor:
    """u with (tanh(u) + 1) / 2 = x, to 5e-7."""
    return tf.atanh((2 * x - 1) * _SQUEEZE)


def _next_constant(state: State) -> State:
    """The binary search after a constant's last iteration: below it or above it."""
    constant, success = state["constant"], state["success"]
    lower = tf.where(success, state["lower"], constant)
    upper = tf.where(success, constant, state["upper"])
    bounded = tf.math.is_finite(upper)
    return {
        "lower": lower,
        "upper": upper,
        "constant": tf.where(bounded, (lower + upper) / 2, _GROWTH * constant),
        "success": tf.zeros_like(success),
    }
