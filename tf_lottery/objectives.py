"""What training minimises: cross-entropy on clean or on attacked images.

An objective is two functions: ``perturb`` makes the images a step trains on and
``loss`` judges the logits on them. Adversarial training minimises the loss at the
attack's images (Madry et al. 2018, equation 2.1); the attack is treated as a
constant, no gradient flows through it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tf_lottery.keras import tf
from tf_lottery.options.settings import ObjectiveConfig
from tf_lottery.types import Attack, LogitsFn, Tensor


@dataclass(frozen=True)
class Objective:
    """A named pair of functions.

    Attributes:
      name: ``natural``, ``fgsm`` or ``pgd``.
      perturb: (logits_fn, x, y, seed) -> images to train on, of x's shape, in [0, 1].
      loss: (logits, y) -> scalar float32, the batch mean.
    """

    name: str
    perturb: Callable[[LogitsFn, Tensor, Tensor, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of (batch, classes) logits and int labels (batch,), in float32."""
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=tf.cast(logits, tf.float32))
    )


def make_objective(config: ObjectiveConfig, attack: Attack | None = None) -> Objective:
    """Builds the objective of ``config`` around an attack.

    Args:
      config: names the objective.
      attack: made from ``settings.attack``; ``None`` for natural training only.

    Raises:
      ValueError: the attack is missing, or natural training got one.
    """
    if (attack is None) != (config.name == "natural"):
        raise ValueError(f"objective {config.name} and attack {attack} do not go together")

    def perturb(logits_fn, x, y, seed):
        return x if attack is None else tf.stop_gradient(attack(logits_fn, x, y, seed))

    return Objective(config.name, perturb, cross_entropy)
