"""What training minimises: a function of one training step.

An objective is a function ``(step) -> (loss, logits)``, found by name in
``options.registries.OBJECTIVES`` or, from anywhere else, as ``package.module:function``. It
sees the step's images, its network and its attack as a ``Step``, and gives

- the loss: scalar float32, the mean over the batch, whose gradient with respect to the weights
  the step takes;
- the logits (batch, classes) that the training accuracy is counted on.

Adversarial training minimises the loss at the attack's images (Madry et al. 2018, equation
2.1); the attack is treated as a constant, no gradient flows through it. ``docs/objectives.md``
lists what is built in, with sources, settings and costs.
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

_NATURAL = ObjectiveConfig("natural")


class Step:
    """A training step, as its objective sees it.

    Attributes:
      x: clean images, float32 (batch, height, width, channels) in [0, 1].
      y: int32 (batch,).
      seeds: int32 (batch, 2), for stateless random numbers: others for each example and epoch.
      config: settings of the objective.
      progress: share of the training that is done, scalar float32 in [0, 1).
      perturbation: of ``free``: variable like ``x``, kept from step to step; 0 at first.
      watched: what ``on_gradient`` was told.

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
        *,
        config: ObjectiveConfig = _NATURAL,
        progress: Tensor | float = 0.0,
        perturbation: tf.Variable | None = None,
    ):
        self.x, self.y, self.seeds = x, y, seeds
        self.config, self.progress, self.perturbation = config, progress, perturbation
        self.watched: list[tuple[Tensor, Callable[[Tensor], Any]]] = []
        self._network = network
        self._freeze = freeze
        self._make_attack = make_attack
        self._unrecorded = unrecorded
        self._watch: Callable[[Tensor], None] = lambda tensor: None
        self._constant = False
        self._attacked: list[Tensor] = []
        self._known: list[Tensor] = []

    def record(self, tape: tf.GradientTape) -> None:
        """What follows is differentiated by ``tape``; once more: at the same attacked images."""
        self._unrecorded, self._watch = tape.stop_recording, tape.watch
        self._known, self._attacked = self._attacked, []
        self.watched = []

    def logits(self, x: Tensor) -> Tensor:
        """Of the network in training mode: moves BatchNorm's averages, and is differentiated."""
        return self._network(x, training=True)

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy of (batch, classes) logits with the labels, smoothed if so set."""
        return cross_entropy(logits, self.y, self.config.label_smoothing)

    def on_gradient(self, tensor: Tensor, do: Callable[[Tensor], Any]) -> Tensor:
        """The tensor, to be used in its place.

        After the backward pass of the step ``do`` is called with the loss's gradient with respect
        to it, times a positive number in half precision.
        """
        self._watch(tensor)
        self.watched.append((tensor, do))
        return tensor

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
        done = len(self._attacked)
        if done < len(self._known):
            self._attacked.append(self._known[done])
            return self._known[done]
        attack = self._make_attack() if loss is None else self._make_attack(loss=loss)
        with self._apart():
            found = tf.stop_gradient(attack(self.frozen, self.x, self.y, self.seeds))
        self._attacked.append(found)
        return found

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
    # See ``training.weight_perturbation``: all that is differentiated, once more.
    again = weights if config.awp_gamma else 0
    return forward + steps + again, inputs + steps + again, weights + again


def cross_entropy(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of (batch, classes) logits and int labels (batch,), in float32.

    Args:
      logits, y: see above.
      smoothing: share of the target that all classes have in equal parts (Szegedy et al. 2016,
        arXiv 1512.00567, section 7).
    """
    logits = tf.cast(logits, tf.float32)
    if not smoothing:
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        )
    classes = logits.shape[-1]
    target = tf.one_hot(y, classes, on_value=1 - smoothing) + smoothing / classes
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=target, logits=logits))


def divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(softmax(p) || softmax(q)) of (batch, classes) logits: float32 (batch,)."""
    log_p, log_q = (tf.nn.log_softmax(tf.cast(each, tf.float32)) for each in (p_logits, q_logits))
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), -1)


@tf.custom_gradient
def nuclear_norm(matrix: Tensor) -> tuple[Tensor, Callable]:
    """Sum of the singular values of a float32 matrix (rows, columns): scalar.

    Its gradient is U V^T over the singular values that are not 0, the shortest of its
    subgradients: the derivative of the decomposition itself divides by differences of singular
    values.
    """
    values, left, right = tf.linalg.svd(matrix)
    # Below this share of the largest, singular vectors are rounding errors.
    kept = tf.cast(values > 1e-5 * tf.reduce_max(values), matrix.dtype)

    def gradient(upstream):
        return upstream * tf.matmul(left * kept, right, transpose_b=True)

    return tf.reduce_sum(values), gradient


def natural(step: Step) -> tuple[Tensor, Tensor]:
    """Cross-entropy on clean images."""
    logits = step.logits(step.x)
    return step.cross_entropy(logits), logits


def adversarial(step: Step) -> tuple[Tensor, Tensor]:
    """Cross-entropy on attacked images."""
    logits = step.logits(step.attack())
    return step.cross_entropy(logits), logits


# They differ in their attacks, see ``options.objectives``: PGD (Madry et al. 2018, arXiv
# 1706.06083), FGSM (Goodfellow et al. 2015, arXiv 1412.6572), FGSM from a random start (Wong et
# al. 2020, arXiv 2001.03994), from noise that is kept (de Jorge et al. 2022, arXiv 2202.01181).
fgsm = fgsm_rs = n_fgsm = pgd = adversarial


@passes(forward=3, input_gradient=2, weight_gradient=2)
def trades(step: Step) -> tuple[Tensor, Tensor]:
    """Zhang et al. 2019, arXiv 1901.08573, equation 5: clean, and close to it when attacked."""
    frozen = step.frozen(step.x)
    attacked = step.attack(lambda logits, y: divergence(frozen, logits))
    clean, logits = step.logits(step.x), step.logits(attacked)
    apart = tf.reduce_mean(divergence(clean, logits))
    return step.cross_entropy(clean) + step.config.beta * apart, logits


@passes(forward=2, input_gradient=2, weight_gradient=2)
def mart(step: Step) -> tuple[Tensor, Tensor]:
    """Wang et al. 2020 (ICLR), equation 11: more weight on what is misclassified.

    The attacked image's cross-entropy and its margin to the likeliest wrong class, and the
    divergence from the clean one, which counts as much as the clean one is wrong.
    """
    attacked = step.attack()
    clean, logits = step.logits(step.x), step.logits(attacked)
    true = tf.one_hot(step.y, logits.shape[-1])
    wrong = tf.reduce_max(tf.nn.softmax(tf.cast(logits, tf.float32)) * (1 - true), -1)
    margin = -tf.math.log(1.0001 - wrong)  # as the authors' code, finite where wrong is 1
    trusted = tf.reduce_sum(tf.nn.softmax(tf.cast(clean, tf.float32)) * true, -1)
    apart = divergence(clean, logits) * (1 - trusted)
    loss = step.cross_entropy(logits) + tf.reduce_mean(margin + step.config.beta * apart)
    return loss, logits


@passes(forward=3, input_gradient=2, weight_gradient=2)
def nuat(step: Step) -> tuple[Tensor, Tensor]:
    """Sriramanan et al. 2021 (NeurIPS, "Towards Efficient and Effective Adversarial Training").

    The attack and the training have the nuclear norm of the logits' differences in common, over
    the batch; its weight grows linearly from 0 to ``beta``.
    """
    weight = (step.config.beta or 0.0) * step.progress
    frozen = tf.cast(step.frozen(step.x), tf.float32)

    def smoothness(logits, clean):
        return weight * nuclear_norm(tf.cast(logits, tf.float32) - tf.cast(clean, tf.float32))

    def attacked_loss(logits, y):
        apart = smoothness(logits, frozen)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        return losses + apart / tf.cast(tf.size(y), tf.float32)

    attacked = step.attack(attacked_loss)
    clean, logits = step.logits(step.x), step.logits(attacked)
    apart = smoothness(logits, clean) / tf.cast(tf.size(step.y), tf.float32)
    return step.cross_entropy(clean) + apart, logits


@passes(attacks=0)
def free(step: Step) -> tuple[Tensor, Tensor]:
    """Shafahi et al. 2019, arXiv 1904.12843, algorithm 1: one backward pass for both.

    The pixels' gradient, in training mode, moves a perturbation that the next step starts from:
    of the same images ``replays`` times, and then of the next batch.
    """
    variable, attack = step.perturbation, step.config.attack
    if variable is None or attack is None:
        raise ValueError("free training needs its perturbation")
    delta = step.on_gradient(
        tf.convert_to_tensor(variable),
        lambda gradient: variable.assign(
            tf.clip_by_value(delta + attack.step_size * _sign(gradient), -attack.eps, attack.eps)
        ),
    )
    logits = step.logits(tf.clip_by_value(step.x + delta, 0.0, 1.0))
    return step.cross_entropy(logits), logits


def _sign(gradient: Tensor) -> Tensor:
    return tf.sign(tf.where(tf.math.is_finite(gradient), gradient, 0.0))
