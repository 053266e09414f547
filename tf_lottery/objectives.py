"""What training minimises: a function of one training step.

An objective is a function ``(step) -> (loss, logits)``, found by name in
``options.registries.OBJECTIVES`` or, from anywhere else, as ``package.module:function``. It
sees the step's images, its network and its attack as a ``Step``, and gives

- the loss: scalar float32, the mean over the batch, whose gradient with respect to the weights
  the step takes;
- the logits (batch, classes) that the training accuracy is counted on.

Adversarial training minimises the loss at the attack's images (Madry et al. 2018, equation
2.1); the attack is treated as a constant, no gradient flows through it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from tf_lottery.errors import UsageError
from tf_lottery.keras import keras, tf
from tf_lottery.options.registries import OBJECTIVES
from tf_lottery.options.settings import ObjectiveConfig
from tf_lottery.type_aliases import Attack, LogitsFn, Tensor


class Step:
    """A training step, as its objective sees it.

    Attributes:
      x: clean images, float32 (batch, height, width, channels) in [0, 1].
      y: int32 (batch,).
      seeds: int32 (batch, 2), for stateless random numbers: others for each example and epoch.

    Args:
      network: that is trained.
      freeze: network -> its logits in inference mode, a function of the images alone.
      make_attack: the configured attack, on its own loss or on the ``loss`` it is given;
        ``None``: there is none.
      unrecorded: context in which nothing is differentiated with respect to the weights.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        seeds: Tensor,
        network: keras.Model,
        freeze: Callable[[keras.Model], LogitsFn],
        make_attack: Callable[..., Attack] | None = None,
        unrecorded: Callable[[], Any] = contextlib.nullcontext,
    ):
        self.x, self.y, self.seeds = x, y, seeds
        self._network = network
        self._freeze = freeze
        self._make_attack = make_attack
        self._unrecorded = unrecorded
        self._constant = False

    def logits(self, x: Tensor) -> Tensor:
        """Of the network in training mode: moves BatchNorm's averages, and is differentiated."""
        return self._network(x, training=True)

    @functools.cached_property
    def frozen(self) -> LogitsFn:
        """The logits in inference mode: what an attack sees, a constant to the weights' gradient.

        It must not move BatchNorm's averages, and it attacks what will be deployed.
        """
        with self._apart():
            logits_fn = self._freeze(self._network)

        def frozen(x):
            with self._apart():
                return logits_fn(x)

        return frozen

    def attack(self, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """Attacked images, of ``x``'s shape, a constant; the same at every call.

        Args:
          loss: what the attack maximises instead of its own: (logits, y) -> float32 (batch,).

        Raises:
          ValueError: the settings of the objective have no attack.
        """
        if self._make_attack is None:
            raise ValueError("the objective attacks, but its settings have no attack")
        attack = self._make_attack() if loss is None else self._make_attack(loss=loss)
        with self._apart():
            return tf.stop_gradient(attack(self.frozen, self.x, self.y, self.seeds))

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """Unrecorded, also where it already is."""
        if self._constant:
            yield
            return
        self._constant = True
        try:
            with self._unrecorded():
                yield
        finally:
            self._constant = False


Objective: TypeAlias = Callable[[Step], tuple[Tensor, Tensor]]


def passes(
    forward: int = 1, input_gradient: int = 1, weight_gradient: int = 1, attacks: int = 1
) -> Callable:
    """Says what a step costs an image under an objective; these are what others cost.

    Args:
      forward, input_gradient, weight_gradient: passes beside the attack: ``Step.frozen`` is a
        forward pass, ``Step.logits`` one of each kind.
      attacks: how often the configured attack is run, if there is one.
    """

    def decorate(objective: Any) -> Any:
        objective.passes = (forward, input_gradient, weight_gradient, attacks)
        return objective

    return decorate


def passes_of(config: ObjectiveConfig) -> tuple[int, int, int]:
    """Forward, input-gradient and weight-gradient passes an image of one training step."""
    objective = OBJECTIVES.find("objective", config.name)
    told = getattr(objective, "passes", None)
    if told is None and config.name not in OBJECTIVES:
        raise UsageError.bad_value(
            "objective",
            config.name,
            "a function that says what a step costs: decorate it with objectives.passes(...)",
        )
    forward, inputs, weights, attacks = told or (1, 1, 1, 1)
    # Restarts and margins aside, an attack step is one forward and one input gradient.
    steps = attacks * config.attack_steps
    return forward + steps, inputs + steps, weights


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of (batch, classes) logits and int labels (batch,), in float32."""
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=tf.cast(logits, tf.float32))
    )


def natural(step: Step) -> tuple[Tensor, Tensor]:
    """Cross-entropy on clean images."""
    logits = step.logits(step.x)
    return cross_entropy(logits, step.y), logits


def adversarial(step: Step) -> tuple[Tensor, Tensor]:
    """Cross-entropy on attacked images."""
    logits = step.logits(step.attack())
    return cross_entropy(logits, step.y), logits


fgsm = pgd = adversarial
