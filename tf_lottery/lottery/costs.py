"""What a stage costs: seconds, examples, passes through the network, FLOPs.

With F the FLOPs of one forward pass of one image (multiplications and additions of
conv and dense layers), the gradient with respect to the activations costs about F
and the gradient with respect to the weights about F. So a natural training step
costs 3F an image, an FGSM step 5F, a PGD-10 step 23F. Masks of single weights save
none of this on dense hardware; a network that was cut to its channels has a smaller F.

The training step itself needs no gradient of the pixels, so the first layer's share of
one input-gradient pass is counted in vain: of a natural step 0.2 % for VGG-16, 0.1 % for
ResNet-18, below 0.01 % for WideResNet-34-10, 1.5 % for LeNet, and less of an adversarial one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from tf_lottery.attacks import make_procedure
from tf_lottery.objectives import passes_of
from tf_lottery.options.settings import AttackConfig, TrainConfig
from tf_lottery.training.flying_bird import updates


@dataclass(frozen=True)
class Cost:
    """Passes are counted in images.

    Attributes:
      seconds: wall time of the work itself, without validation.
      startup_seconds: the part of it spent tracing and compiling.
      validation_seconds: wall time of validation, not in ``seconds``.
      examples: images seen, once each epoch.
      forward_passes, input_gradient_passes, weight_gradient_passes: images
        passed through the network each way, validation left out.
      flops: of these passes.
    """

    seconds: float = 0.0
    startup_seconds: float = 0.0
    validation_seconds: float = 0.0
    examples: int = 0
    forward_passes: int = 0
    input_gradient_passes: int = 0
    weight_gradient_passes: int = 0
    flops: int = 0

    def to_json(self) -> dict:
        """A JSON object."""
        return asdict(self)


def training_cost(
    config: TrainConfig,
    images: int,
    forward_flops: int,
    epochs: Sequence[tuple[int, int]] | None = None,
) -> Cost:
    """The cost of a training run, predicted or of the epochs that were trained; times left at 0.

    Args:
      config: epochs, batch size, objective, and updates of the masks: those that look at
        gradients take a step's passes.
      images: size of the training set; each epoch drops the last partial batch.
      forward_flops: F above.
      epochs: that were trained, see ``training.guards.trained_epochs``; ``None``: as planned.
    """
    trained = [*enumerate([0] * config.epochs)] if epochs is None else epochs
    steps, update = images // config.batch_size, config.sparsity_update
    looks = update is not None and update.growth == "gradient"
    forward = input_gradient = weight_gradient = 0
    for epoch, times in trained:
        passed = (steps + looks * updates(config, steps, epoch)) * config.batch_size
        passes = passes_of(config.part(epoch)[0].hardened(times))
        forward += passed * passes[0]
        input_gradient += passed * passes[1]
        weight_gradient += passed * passes[2]
    return Cost(
        examples=steps * config.batch_size * len(trained),
        forward_passes=forward,
        input_gradient_passes=input_gradient,
        weight_gradient_passes=weight_gradient,
        flops=(forward + input_gradient + weight_gradient) * forward_flops,
    )


def validation_cost(
    config: TrainConfig, images: int, forward_flops: int, classes: int = 10
) -> Cost:
    """The most that the validation of a training run can cost, all epochs together.

    Args:
      config: epochs, attack, and how many of the images are used each epoch.
      images: size of the validation set.
      forward_flops: F above.
      classes: of the model.
    """
    # The second one for training.guards.CollapseGuard.
    attacks = tuple(one for one in (config.validation_attack, config.probe) if one is not None)
    used = config.epochs * (config.validation_images or images)
    cost = evaluation_cost(attacks, used, forward_flops, classes)
    if config.ema_decay:  # the averaged weights are judged too, without FGSM
        second = evaluation_cost(attacks[:1], used, forward_flops, classes)
        passes = ("forward_passes", "input_gradient_passes", "flops")
        both = {name: getattr(cost, name) + getattr(second, name) for name in passes}
        cost = replace(cost, **both)
    return cost


def evaluation_cost(
    attacks: tuple[AttackConfig, ...], images: int, forward_flops: int, classes: int = 10
) -> Cost:
    """The most that clean accuracy and every attack can cost on ``images`` images.

    As if every image were classified correctly and withstood every part of every attack
    to the end; images that are wrong or break early cost less.

    Args:
      attacks: suites count with all their parts.
      images: how many.
      forward_flops: F above.
      classes: of the model; targeted attacks aim at all but one, up to their number.
    """
    forward, gradient = 1, 0  # the clean image
    for attack in attacks:
        for part in attack.components:
            there, back = _attack_passes(part, classes)
            forward += there + 1  # what broke is judged like clean images
            gradient += back
    forward, gradient = images * forward, images * gradient
    return Cost(
        examples=images,
        forward_passes=forward,
        input_gradient_passes=gradient,
        flops=(forward + gradient) * forward_flops,
    )


def transfer_cost(
    attack: AttackConfig, images: int, forward_flops: Sequence[int], classes: int = 10
) -> Cost:
    """What a transfer matrix costs: one attack a model, and every model on every result.

    Args:
      attack: run on every image to its end.
      images: how many.
      forward_flops: F above, of each model.
      classes: of the models.
    """
    models = len(forward_flops)
    there, back = _attack_passes(attack, classes)
    # Each model sees the clean images once and the adversarial ones of every source.
    forward = images * models * (there + 1 + models)
    gradient = images * models * back
    return Cost(
        examples=images * models,
        forward_passes=forward,
        input_gradient_passes=gradient,
        flops=images * (there + 1 + models + back) * sum(forward_flops),
    )


def _attack_passes(part: AttackConfig, classes: int) -> tuple[int, int]:
    """The most forward and input-gradient passes that one attack spends on an image."""
    procedure = make_procedure(part)
    tries = procedure.tries(classes)
    costs = zip(procedure.start_cost, procedure.step_cost, procedure.end_cost, strict=True)
    there, back = (start + procedure.length * step + end for start, step, end in costs)
    return tries * there, tries * back
