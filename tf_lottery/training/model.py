"""The training step: attack, masked gradients, SGD, mask again.

``LotteryModel`` is an ordinary ``keras.Model``; ``fit`` drives it, so every Keras
callback works. Its network stays a plain functional model that anyone can call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from tf_lottery.attacks import make_attack
from tf_lottery.keras import keras, tf
from tf_lottery.models.frozen import frozen_logits
from tf_lottery.nesting import named_layers
from tf_lottery.objectives import Objective, Step
from tf_lottery.options.registries import OBJECTIVES
from tf_lottery.options.settings import ObjectiveConfig, TrainConfig, derive_seed
from tf_lottery.pruning.masks import MaskedNetwork, keeps_all
from tf_lottery.training.averaging import WeightAverage
from tf_lottery.training.weight_perturbation import perturbed, unmoved
from tf_lottery.type_aliases import Attack, Tensor

_NATURAL = ObjectiveConfig("natural")


class LotteryModel(keras.Model):
    """A masked network with the objective it is trained on.

    Batches are dicts from ``tf_lottery.data``: ``image`` float32 (batch, h, w, c)
    in [0, 1], ``label`` int32 (batch,), ``index`` int32 (batch,), and ``epoch`` int32
    (batch,) in training or ``weight`` float32 (batch,), 0 for padding, in validation.

    Args:
      masked: the network and its masks, which must not change unless ``masks_change``.
      objective: what to minimise.
      make_attack: the attack it trains against, see ``objectives.Step``; ``None``: there is none.
      attack_seed: root of the training attack's random starts, which are keyed by
        (attack_seed, epoch, example).
      weight_decay: L2 coefficient, added as ``weight_decay * w`` to the gradient of
        every trainable variable before momentum, as PyTorch's SGD (and so the
        paper's code) does; Keras's own ``weight_decay`` is decoupled from the rate.
      batch_norm_l1: L1 coefficient of the scales of BatchNorm layers, added as
        ``batch_norm_l1 * sign(scale)`` to their gradients (Liu et al. 2017, arXiv 1708.06519).
      validation_attack: judged on validation images; ``None``: clean accuracy only.
      validation_network: float32 twin used for validation when the trained
        network computes in another precision; its weights are the caller's to sync.
      validation_fgsm: judged beside ``validation_attack``, for ``callbacks.CollapseGuard``;
        ``None``: not done.
      fetch: turns a training batch without ``image`` into one with, inside the step; see
        ``data.DeviceImages``. ``None``: batches bring their images.
      masks_change: the step reads every mask, also one that keeps all.
      validation_loss: measures the cross-entropy on the validation images, under
        ``validation_attack`` if there is one, as ``loss`` of a validation; of the raw weights.
      average: of the weights, moved after each step and validated beside them.
      config: settings of the objective.
      total_steps: optimizer steps of the whole training.
      image_shape: of a batch, where the objective is ``free`` and keeps a perturbation.

    Attributes:
      perturbation: variable of ``image_shape``, part of where a training stands; or ``None``.
    """

    def __init__(
        self,
        masked: MaskedNetwork,
        objective: Objective,
        make_attack: Callable[..., Attack] | None = None,
        *,
        attack_seed: int = 0,
        weight_decay: float = 0.0,
        batch_norm_l1: float = 0.0,
        validation_attack: Attack | None = None,
        validation_network: keras.Model | None = None,
        validation_fgsm: Attack | None = None,
        fetch: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        masks_change: bool = False,
        validation_loss: bool = False,
        average: WeightAverage | None = None,
        config: ObjectiveConfig = _NATURAL,
        total_steps: int = 0,
        image_shape: tuple[int, ...] | None = None,
    ):
        super().__init__(name="lottery_model")
        self.masked = masked
        self.network = masked.network
        self.minimise(objective, make_attack, config)
        self.total_steps = total_steps
        self.perturbation = None
        if image_shape is not None:
            self.perturbation = tf.Variable(tf.zeros(image_shape), False, name="perturbation")
        self.attack_seed = attack_seed
        self.weight_decay = weight_decay
        self.batch_norm_l1 = batch_norm_l1
        scales = {id(scale) for scale in batch_norm_scales(self.network)}
        self._scales = [id(variable) in scales for variable in self.network.trainable_variables]
        self.validation_attack = validation_attack
        self.validation_network = validation_network or masked.network
        self.validation_fgsm = validation_fgsm
        self.fetch = fetch
        self.average = average
        # Under a distribution strategy each replica has its part of the batch. The
        # optimizer sums the gradients of all, each of which is therefore a share of the
        # mean's; metrics are summed where they are kept.
        self._replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self.distribute_reduction_method = "first"
        # Nobody need pay for multiplying by ones: dense runs, and BatchNorm behind layers that
        # keep all of their filters.
        self._multipliers = [
            factor if factor is not None and (masks_change or not keeps_all(factor)) else None
            for factor in masked.multipliers()
        ]
        self._loss = keras.metrics.Mean("loss")
        self._accuracy = keras.metrics.Mean("accuracy")
        judged = ["natural", "robust", "fgsm", *(["loss"] if validation_loss else [])]
        if average is not None:
            judged += ["average_natural", "average_robust"]
        self._judged = {name: keras.metrics.Mean(name) for name in judged}

    def minimise(
        self,
        objective: Objective,
        make_attack: Callable[..., Attack] | None,
        config: ObjectiveConfig,
    ) -> None:
        """From the next ``fit`` on the steps have this objective; arguments as of the class."""
        self.objective, self.make_attack, self.objective_config = objective, make_attack, config
        self.train_function = None  # it has the former one in it

    @property
    def metrics(self):
        return [self._loss, self._accuracy, *self._judged.values()]

    def epoch_sums(self) -> list[tf.Variable]:
        """What sums up over the steps of an epoch; float32 scalars."""
        return [*self._loss.variables, *self._accuracy.variables]

    def steps_done(self) -> int:
        """Steps of the epoch under way, on one device."""
        return int(self._loss.count.numpy())

    def call(self, x, training=False):
        return self.network(x, training=training)

    def loss_and_gradients(self, batch):
        """The loss, logits and labels for the accuracy, and the weights' gradients.

        The gradients are of the mean loss, for each trainable variable, before masks and decay.
        """
        step = self._step(batch)
        loss, logits, gradients, _ = self._passes(step)
        return loss, logits, step.y, gradients

    def _step(self, batch):
        if self.fetch is not None:
            batch = self.fetch(batch)
        progress = 0.0
        if self.total_steps:
            progress = tf.cast(self.optimizer.iterations, tf.float32) / self.total_steps
        return Step(
            batch["image"],
            batch["label"],
            self._attack_seeds(batch),
            self.network,
            frozen_logits,
            self.make_attack,
            config=self.objective_config,
            progress=progress,
            perturbation=self.perturbation,
        )

    def _passes(self, step):
        """As ``_backward``, with the weights where ``awp_gamma`` says."""
        gamma = self.objective_config.awp_gamma
        if not gamma:
            return self._backward(step)
        with unmoved(self.network.non_trainable_variables):
            gradients = self._backward(step)[2]
        variables = self.network.trainable_variables
        with perturbed(variables, gradients, self._multipliers, gamma):
            return self._backward(step)

    def _backward(self, step):
        """The loss, logits, and the gradients of the weights and of what the step watches."""
        with tf.GradientTape() as tape:
            step.record(tape)
            loss, logits = self.objective(step)
            scaled = self._scale(loss / self._replicas)
        variables = self.network.trainable_variables
        watched = [tensor for tensor, _ in step.watched]
        gradients = tape.gradient(scaled, [*variables, *watched])
        # Of the others the sign is what counts.
        ours, others = gradients[: len(variables)], gradients[len(variables) :]
        return loss, logits, self._unscale(ours), others

    def train_step(self, batch):
        step = self._step(batch)
        y = step.y
        loss, logits, gradients, watched = self._passes(step)
        variables = self.network.trainable_variables
        decay = self.weight_decay / self._replicas
        if decay:
            gradients = [
                _decayed(gradient, decay, variable)
                for gradient, variable in zip(gradients, variables, strict=True)
            ]
        if self.batch_norm_l1:
            shrink = self.batch_norm_l1 / self._replicas
            gradients = [
                gradient + shrink * tf.sign(variable) if scale else gradient
                for gradient, variable, scale in zip(
                    gradients, variables, self._scales, strict=True
                )
            ]
        gradients = [
            gradient if factor is None else gradient * factor
            for gradient, factor in zip(gradients, self._multipliers, strict=True)
        ]
        self.optimizer.apply_gradients(
            zip(gradients, variables, strict=True),
            # TensorFlow never forgets a graph in which gradients are summed over replicas.
            skip_gradients_aggregation=self._replicas == 1,
        )
        # Again after the update: 0 * anything is 0 only for finite numbers, and -0.0
        # or an optimizer with other state must not revive a weight.
        for variable, factor in zip(variables, self._multipliers, strict=True):
            if factor is not None:
                variable.assign(variable * factor)
        for (_, do), gradient in zip(step.watched, watched, strict=True):
            do(gradient)
        if self.average is not None:
            self.average.update(self.optimizer.iterations)
        self._loss.update_state(loss)
        self._accuracy.update_state(_correct(logits, y))
        return {
            "loss": self._loss.result(),
            "accuracy": self._accuracy.result(),
            # Of this step; where several replicas share a batch, of the first one's part.
            "gradient_norm": tf.linalg.global_norm(gradients),
        }

    def test_step(self, batch):
        attacks = {"robust": self.validation_attack, "fgsm": self.validation_fgsm}
        result = self._validated(batch, self.validation_network, attacks)
        if self.average is not None:
            attacks = {"average_robust": self.validation_attack}
            result |= self._validated(batch, self.average.network, attacks, "average_natural")
        return result

    def _validated(self, batch, network, attacks, natural="natural"):
        """The metrics of one network: accuracy on clean images and under attacks, by name."""
        x, y, weight = batch["image"], batch["label"], batch["weight"]

        def logits_fn(images):
            return network(images, training=False)

        judged = logits_fn(x)
        correct = _correct(judged, y)
        found = {natural: correct}
        for name, attack in attacks.items():
            if attack is not None:
                seeds = tf.stack([tf.zeros_like(batch["index"]), batch["index"]], axis=1)
                attacked = attack(frozen_logits(network), x, y, seeds)
                logits = logits_fn(attacked)
                judged = logits if name == "robust" else judged
                # As in evaluation: the clean image lies in the ball too.
                found[name] = correct * _correct(logits, y)
        if natural == "natural" and "loss" in self._judged:
            judged = tf.cast(judged, tf.float32)
            found["loss"] = tf.nn.sparse_softmax_cross_entropy_with_logits(y, judged)
        for name, right in found.items():
            self._judged[name].update_state(right, sample_weight=weight)
        return {name: self._judged[name].result() for name in found}

    def _attack_seeds(self, batch):
        return tf.stack([self.attack_seed + batch["epoch"], batch["index"]], axis=1)

    def _scale(self, loss):
        scaler = getattr(self.optimizer, "get_scaled_loss", None)
        return scaler(loss) if scaler else loss

    def _unscale(self, gradients):
        unscaler = getattr(self.optimizer, "get_unscaled_gradients", None)
        return unscaler(gradients) if unscaler else gradients


def attack_scale(config: TrainConfig) -> float | None:
    """The factor on the training attack's loss; ``None``: one for each image.

    Gradients of float16 networks underflow, and the attack needs only their sign.
    bfloat16 has the range of float32.
    """
    if config.attack_loss_scale:
        return config.attack_loss_scale
    return None if config.dtype_policy == "mixed_float16" else 1.0


def objective_parts(
    config: TrainConfig, objective: ObjectiveConfig
) -> tuple[Objective, Callable[..., Attack] | None, ObjectiveConfig]:
    """What ``LotteryModel.minimise`` takes.

    Args:
      config: of the training.
      objective: its own, or a hardened one.
    """
    make = None
    if objective.attack:
        scale = attack_scale(config)
        make = functools.partial(make_attack, objective.attack, gradient_scale=scale)
    return OBJECTIVES.find("objective", objective.name), make, objective


def make_training_model(
    masked: MaskedNetwork,
    config: TrainConfig,
    seed: int,
    validation_network: keras.Model | None = None,
    fetch: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    masks_change: bool = False,
    validation_loss: bool = False,
    average: WeightAverage | None = None,
    total_steps: int = 0,
) -> LotteryModel:
    """The Keras model of a run, not yet compiled.

    Args:
      masked: starting weights and masks.
      config: objective, attack, weight decay.
      seed: the run's root seed.
      validation_network, fetch, masks_change, validation_loss, average, total_steps: as of
        ``LotteryModel``.
    """
    judged = [config.validation_attack, config.probe]
    validation_attack, validation_fgsm = (make_attack(one) if one else None for one in judged)
    objective, attack, settings = objective_parts(config, config.objective)
    free = any(phase.objective.name == "free" for phase in config.parts)
    carried = (config.batch_size, *masked.network.input_shape[1:])
    return LotteryModel(
        masked,
        objective,
        attack,
        config=settings,
        total_steps=total_steps,
        image_shape=carried if free else None,
        attack_seed=derive_seed(seed, "attack"),
        weight_decay=config.weight_decay,
        batch_norm_l1=config.batch_norm_l1,
        validation_attack=validation_attack,
        validation_network=validation_network,
        validation_fgsm=validation_fgsm,
        fetch=fetch,
        masks_change=masks_change,
        validation_loss=validation_loss,
        average=average,
    )


def batch_norm_scales(network: keras.Model) -> list[tf.Variable]:
    """The scales (gamma) of a network's BatchNorm layers that have one."""
    return [
        layer.gamma
        for layer in named_layers(network).values()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.gamma is not None
    ]


def _decayed(gradient, decay, variable):
    """The gradient with weight decay.

    Nothing else makes the product wait: all of them would be computed first of all, and held
    while the step is at its peak of memory.
    """
    with tf.control_dependencies([gradient]):
        return gradient + decay * variable


def _correct(logits, y):
    """1.0 where the arg max of (batch, classes) logits is the label, else 0.0."""
    return tf.cast(tf.equal(tf.argmax(logits, axis=-1, output_type=y.dtype), y), tf.float32)
