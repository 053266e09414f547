"""FAB: the smallest perturbation, by projecting on the linearised decision boundary.

Croce & Hein 2020, "Minimally distorted adversarial examples with a fast adaptive
boundary attack", arXiv 1907.02044, Algorithm 1, with the constants and without the final
line search, as in AutoAttack (Croce & Hein 2020, arXiv 2003.01690).
"""

from __future__ import annotations

from tf_lottery.attacks.hyperplane import distances, to_hyperplane
from tf_lottery.attacks.losses import logit_difference, ranked_target
from tf_lottery.attacks.norms import length, onto_sphere
from tf_lottery.attacks.procedure import Procedure, State, is_wrong, value_and_gradient
from tf_lottery.attacks.seeds import random_direction
from tf_lottery.keras import tf
from tf_lottery.type_aliases import LogitsFn, Tensor

_ALPHA_MAX = 0.1  # most that a step is drawn towards the clean image's own projection
_ETA = 1.05  # projections go that far, to get across the boundary
_BETA = 0.9  # from an adversarial image, the search goes on at this share of its way
_TINY = 1e-8  # least length of a projection
_START = 0.5  # length of a random start, in eps
_ROUNDING = 1e-6  # relative, by which a float32 length may exceed eps


def verdict(x: Tensor, closest: Tensor, distance: Tensor, eps: float) -> State:
    """What a search for the smallest perturbation has to say about a ball.

    Args:
      x: clean images.
      closest: the misclassified image nearest to each; ``x`` where none was found.
      distance: its distance, (batch,); infinite where none was found.
      eps: radius.

    Returns:
      Entries of a state, all but the attack's own; the score is minus the distance.
    """
    broken = distance <= eps * (1 + _ROUNDING)
    return {
        "x_adv": tf.where(broken[:, None, None, None], closest, x),
        "broken": broken,
        "score": -distance,
        "distance": distance,
        "closest": closest,
    }


class FastAdaptiveBoundary(Procedure):
    """FAB, towards the nearest class (its boundaries linearised) or, with targets, towards one.

    A try's state has besides the usual ``distance`` and ``closest``, see ``verdict``:
    they know no eps. An iteration towards the nearest class takes an input-gradient pass
    for each wrong class; ``step_cost`` knows that number once ``tries`` was called.
    """

    start_cost = (1, 0)
    step_cost = (2, 1)

    def tries(self, classes: int) -> int:
        """See ``Procedure``; here the classes get known, on which the cost depends."""
        if not self.config.targets:
            self.step_cost = (2, classes - 1)
        return super().tries(classes)

    def stop_after(self, first: int) -> int:
        """After 3 iterations, then after every 10."""
        return min(self.length, 3 if first < 3 else (first // 10 + 1) * 10)

    def start(self, logits_fn, x, y, seeds, attempt):
        """See ``Procedure``; tries after one of each target start from a random point."""
        config = self.config
        logits = logits_fn(x)
        targets = self.targets(logits.shape[-1])
        clean_wrong = is_wrong(logits, y)
        state = verdict(x, x, tf.where(clean_wrong, 0.0, float("inf")), config.eps)
        state["point"] = x
        if config.targets:
            state["target"] = ranked_target(logits, y, attempt % targets)
        if config.restarts > 1:
            noise = random_direction(seeds, self.salt(attempt), tf.shape(x)[1:], config.norm)
            noise = tf.ensure_shape(noise, x.shape)
            moved = x + onto_sphere(noise, _START * config.eps, config.norm)
            moved = tf.clip_by_value(moved, 0.0, 1.0)
            state["point"] = tf.where(attempt // targets > 0, moved, x)
        return state

    def step(self, logits_fn, x, y, seeds, attempt, state, i):
        """See ``Procedure``."""
        norm = self.config.norm
        point = state["point"]
        if self.config.targets:
            _, value, normal = value_and_gradient(
                lambda logits: logit_difference(logits, y, state["target"]), logits_fn, point
            )
        else:
            value, normal = nearest_boundary(logits_fn, point, y, norm)
        normal = tf.where(tf.math.is_finite(normal), normal, 0.0)
        value_at_x = value - tf.reduce_sum(normal * (point - x), axis=(1, 2, 3))
        # Both projections in one loop: (2 * batch, height, width, channels).
        both = to_hyperplane(
            tf.concat([point, x], 0),
            tf.concat([normal, normal], 0),
            -tf.concat([value, value_at_x], 0),
            norm,
        )
        from_point, from_x = tf.split(both, 2)
        near, far = (tf.maximum(length(d, norm), _TINY) for d in (from_point, from_x))
        alpha = tf.minimum(near / (near + far), _ALPHA_MAX)[:, None, None, None]
        moved = (point + _ETA * from_point) * (1 - alpha) + (x + _ETA * from_x) * alpha
        moved = tf.clip_by_value(moved, 0.0, 1.0)

        wrong = is_wrong(logits_fn(moved), y)
        distance = length(moved - x, norm)
        nearer = wrong & (distance < state["distance"])
        if self.stop_when_broken:  # the first inside the ball, whatever others still do
            nearer &= ~state["broken"]
        closest = tf.where(nearer[:, None, None, None], moved, state["closest"])
        distance = tf.where(nearer, distance, state["distance"])
        back = x + _BETA * (moved - x)
        return {
            **state,
            **verdict(x, closest, distance, self.config.eps),
            "point": tf.where(wrong[:, None, None, None], back, moved),
        }


def nearest_boundary(
    logits_fn: LogitsFn, point: Tensor, y: Tensor, norm: str
) -> tuple[Tensor, Tensor]:
    """f = z_c - z_y and its input gradient, for the wrong class c whose f = 0 is nearest.

    Nearest where the network is taken for linear and the box is left aside.

    Args:
      logits_fn: the network.
      point: images, float32 (batch, height, width, channels).
      y: true classes, int32 (batch,).
      norm: ``linf`` or ``l2``.

    Returns:
      float32 (batch,) and one shaped as ``point``; 0 where no class has a gradient.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(point)
        logits = logits_fn(point)
    classes = logits.shape[-1]
    wide = tf.cast(logits, tf.float32)

    def examine(k, least, value, normal):
        # The k-th class after y, another one for each example: examples are independent,
        # so one pass gives each its own gradient.
        signs = tf.one_hot((y + k) % classes, classes) - tf.one_hot(y, classes)
        gradient = tape.gradient(
            logits,
            point,
            output_gradients=tf.cast(signs, logits.dtype),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        gradient.set_shape(point.shape)
        difference = tf.reduce_sum(tf.where(signs == 0, 0.0, signs * wide), axis=-1)
        far = distances(gradient, difference, norm)
        nearer = far < least
        return (
            k + 1,
            tf.where(nearer, far, least),
            tf.where(nearer, difference, value),
            tf.where(nearer[:, None, None, None], gradient, normal),
        )

    zero = tf.zeros_like(y, tf.float32)
    # A loop, not unrolled: a hundred classes would make a graph of a hundred passes.
    _, _, value, normal = tf.while_loop(
        lambda k, *_: k < classes,
        examine,
        (1, zero + float("inf"), zero, tf.zeros_like(point)),
        parallel_iterations=1,
    )
    return value, normal
