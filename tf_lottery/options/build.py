"""From a user's options to a ``LotteryConfig``.

Fills in what the paper sets per architecture (rates, warm-up, batch size) and
what follows from other options. The command line's flags have these names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tf_lottery.errors import UsageError
from tf_lottery.options.attacks import NORMS, check_eps, default_eps
from tf_lottery.options.checks import choice
from tf_lottery.options.settings import (
    ARCHITECTURES,
    AttackConfig,
    DataConfig,
    LotteryConfig,
    ModelConfig,
    ObjectiveConfig,
    PruneConfig,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
)


def objective_config(
    name: str, eps: float, steps: int, step_size: float, random_start: bool, flag: str = "objective"
) -> ObjectiveConfig:
    """The training objective of that name.

    ``pgd`` takes all settings; ``fgsm`` is one step of eps from the clean image.

    Raises:
      UsageError: unknown name (naming ``flag``) or bad setting.
    """
    if name == "natural":
        return ObjectiveConfig("natural", None)
    if name == "fgsm":
        return ObjectiveConfig("fgsm", attack_from_name("fgsm", eps))
    if name == "pgd":
        attack = AttackConfig(f"pgd{steps}", "linf", eps, steps, step_size, random_start)
        return ObjectiveConfig("pgd", attack)
    raise UsageError.unknown(flag, name, ("natural", "fgsm", "pgd"))


def _check_attack_options(
    eps: float,
    steps: int,
    step_size: float | None,
    eval_eps: float | None,
    eval_step_size: float | None,
    restarts: int,
    eval_norm: str,
) -> None:
    """Checks each under its own flag, also what the chosen attacks leave unused."""
    choice("eval_norm", eval_norm, NORMS)
    check_eps("eps", eps)
    if eval_eps is not None:
        check_eps("eval_eps", eval_eps, eval_norm)
    if step_size is not None and not 0 <= step_size < math.inf:
        raise UsageError.bad_value("step_size", step_size, "0 or more")
    if eval_step_size is not None and not 0 < eval_step_size < math.inf:
        raise UsageError.bad_value("eval_step_size", eval_step_size, "more than 0")
    for flag, count in (("steps", steps), ("restarts", restarts)):
        if count < 1:
            raise UsageError.bad_value(flag, count, "1 or more")


# Arguments of ``evaluation_attacks`` after the names, in order.
_OF_EVALUATION = (
    "eps", "eval_norm", "eval_eps", "eval_step_size", "eval_random_start", "restarts",
)  # fmt: skip


def evaluation_attacks(
    names: Iterable[str],
    eps: float,
    eval_norm: str,
    eval_eps: float | None,
    eval_step_size: float | None,
    eval_random_start: bool,
    restarts: int,
) -> tuple[AttackConfig, ...]:
    """The attacks that names stand for in evaluation; arguments as of ``lottery_config``.

    Raises:
      UsageError: unknown name or bad setting.
    """
    if eval_eps is None:
        eval_eps = eps if eval_norm == "linf" else default_eps(eval_norm)
    return tuple(
        attack_from_name(name, eval_eps, eval_step_size, eval_random_start, restarts, eval_norm)
        for name in names
    )


def evaluation_attack(name: str, options: Mapping[str, Any]) -> AttackConfig:
    """One attack with the settings of evaluation.

    Args:
      name: of the attack.
      options: arguments of ``lottery_config``, all of evaluation among them.

    Raises:
      UsageError: unknown name or bad setting.
    """
    (attack,) = evaluation_attacks([name], *(options[option] for option in _OF_EVALUATION))
    return attack


def lottery_config(
    *,
    dataset: str = "digits",
    data_dir: str | None = None,
    train_examples: int = 0,
    validation_examples: int = 0,
    test_examples: int = 0,
    augment: bool | None = None,
    model: str = "convnet",
    depth: int = 0,
    width: int = 0,
    width_multiplier: float = 1.0,
    normalize: bool | None = None,
    objective: str = "pgd",
    search_objective: str = "fgsm",
    compare: tuple[str, ...] = ("dense", "boosting", "reinit"),
    sparsity: float = 0.8,
    score: str = "normalized_magnitude",
    scope: str = "global",
    pruning_schedule: str = "one_shot",
    rounds: int = 10,
    round_fraction: float = 0.2,
    rewind_epoch: int = 0,
    epochs: int = 100,
    ticket_epochs: int = 0,
    search_epochs: int = 0,
    learning_rate: float = 0,
    search_learning_rate: float = 0,
    schedule: str = "step",
    warmup_start: float = 0,
    warmup_epochs: int | None = None,
    batch_size: int = 0,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    patience: int = 0,
    eps: float = 8 / 255,
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = False,
    attacks: tuple[str, ...] = ("fgsm", "pgd20", "pgd100", "cw"),
    eval_norm: str = "linf",
    eval_eps: float | None = None,
    eval_step_size: float | None = None,
    eval_random_start: bool = True,
    restarts: int = 1,
    validation_attack: str = "pgd10",
    validation_images: int = 0,
    dtype_policy: str = "float32",
    attack_loss_scale: float = 0.0,
    jit_compile: bool = False,
    data_on_device: str = "auto",
    checkpoint_minutes: float = 5.0,
    on_nan: str = "stop",
    on_overfit: str = "warn",
    sync_batch_norm: bool = True,
    devices: int = 0,
    seed: int = 0,
    deterministic: bool = False,
) -> LotteryConfig:
    """Builds and validates the configuration of a run.

    Args (0 or ``None`` means the default described):
      dataset, data_dir, train_examples, validation_examples, test_examples: see
        ``settings.DataConfig``.
      augment: random crops and flips; default: for CIFAR sets only.
      model, depth, width, width_multiplier: see ``settings.ModelConfig``.
      normalize: the data set's mean and deviation in the first layer; default: if
        both objectives are natural (the authors' code).
      objective, search_objective: ``natural``, ``fgsm`` or ``pgd``.
      compare: kinds to train; see ``tf_lottery.lottery.graph``.
      sparsity ... rewind_epoch: see ``settings.PruneConfig``.
      epochs: of the dense baseline.
      ticket_epochs: of the tickets; default: ``epochs``.
      search_epochs: of the search; default: ``epochs``.
      learning_rate: peak rate of dense training, retraining and the winning
        search; default: the architecture's (0.1).
      search_learning_rate: the boosting search's rate before its first drop; default:
        the architecture's (VGG 0.01, ResNets 0.05).
      schedule: ``step``, ``cyclic``, ``cosine``, ``constant``.
      warmup_start: rate of the first epoch of a warm-up; default: the architecture's
        small rate, whatever the search's, so that a sweep of that one leaves the
        dense baseline alone.
      warmup_epochs: epochs below the peak; default: the architecture's, at most
        half of the epochs.
      batch_size: default: the architecture's.
      momentum, weight_decay: of SGD; decay is added to the gradient.
      patience: early stopping of dense training and retraining, not of searches; see
        ``settings.TrainConfig``.
      eps, steps, step_size, random_start: of the training attack, on [0, 1]
        pixels; ``step_size`` defaults to eps / 4. FGSM takes one step of eps.
      attacks: names evaluated on test images.
      eval_norm, eval_eps, eval_step_size: of evaluation; default: l_inf, ``eps`` (0.5 for
        l_2), and a quarter of ``eval_eps``, however training steps.
      eval_random_start, restarts: of evaluation, see ``settings.attack_from_name``.
      validation_attack: name; run each epoch, at the training radius, if a network is
        trained adversarially.
      validation_images: how many of the validation images that uses; 0: all.
      sync_batch_norm: where several devices share a batch, BatchNorm takes its statistics
        over all of it, as one device does; else each device has its own, and results
        depend on how many there are.
      devices: that share a batch; counts only without ``sync_batch_norm``.
      dtype_policy, attack_loss_scale, jit_compile, data_on_device, checkpoint_minutes, on_nan,
        on_overfit: see ``settings.TrainConfig``.
      seed, deterministic: see ``settings.LotteryConfig``.

    Raises:
      UsageError: names the option, what it got and what it may be.

    Example:
      >>> config = lottery_config(dataset="digits", eps=0.15, epochs=4)
      >>> config.train.objective.attack.steps
      10
    """
    if devices < 0 or (devices == 0 and not sync_batch_norm):
        allowed = "0 or more" if sync_batch_norm else "how many there are, with --nosync_batch_norm"
        raise UsageError.bad_value("devices", devices, allowed)
    natural = objective == search_objective == "natural"
    if normalize is None:
        normalize = natural
    model_config = ModelConfig(model, depth, width, width_multiplier, normalize)
    arch = ARCHITECTURES[model]
    _check_attack_options(eps, steps, step_size, eval_eps, eval_step_size, restarts, eval_norm)
    step_size = eps / 4 if step_size is None else step_size
    trained = objective_config(objective, eps, steps, step_size, random_start)
    searched = objective_config(
        search_objective, eps, steps, step_size, random_start, "search_objective"
    )
    for flag, value in (
        ("epochs", epochs),
        ("search_epochs", search_epochs or epochs),
        ("ticket_epochs", ticket_epochs or epochs),
    ):
        if value < 1:
            raise UsageError.bad_value(flag, value, "1 or more")
    for flag, rate_or_size in (
        ("learning_rate", learning_rate),
        ("search_learning_rate", search_learning_rate),
        ("warmup_start", warmup_start),
        ("batch_size", batch_size),
    ):
        if not 0 <= rate_or_size < math.inf:
            raise UsageError.bad_value(flag, rate_or_size, "more than 0")
    if warmup_epochs is not None and warmup_epochs < 0:
        raise UsageError.bad_value("warmup_epochs", warmup_epochs, "0 or more")
    rate = learning_rate or arch.learning_rate
    search_rate = search_learning_rate or arch.search_learning_rate
    start = warmup_start or arch.search_learning_rate

    evaluated = evaluation_attacks(
        attacks, eps, eval_norm, eval_eps, eval_step_size, eval_random_start, restarts
    )
    try:
        # Of the training radius: other test settings must not change a training.
        validated = attack_from_name(validation_attack, eps)
    except UsageError as error:
        message = str(error).replace("--attacks", "--validation_attack")
        raise UsageError(message, "validation_attack") from None

    def training(
        target: ObjectiveConfig, count: int, peak: float, warm: bool, search: bool
    ) -> TrainConfig:
        warmup = 0
        if warm and schedule != "cyclic":
            default = min(arch.warmup_epochs, count // 2)
            warmup = default if warmup_epochs is None else warmup_epochs
        return TrainConfig(
            objective=target,
            epochs=count,
            batch_size=batch_size or arch.batch_size,
            schedule=ScheduleConfig(schedule, peak, min(start, peak), warmup),
            momentum=momentum,
            weight_decay=weight_decay,
            validation_attack=None if natural else validated,
            validation_images=validation_images,
            dtype_policy=dtype_policy,
            jit_compile=jit_compile,
            patience=0 if search else patience,
            attack_loss_scale=attack_loss_scale,
            data_on_device=data_on_device,
            checkpoint_minutes=checkpoint_minutes,
            on_nan=on_nan,
            on_overfit=on_overfit,
            batch_norm_groups=1 if sync_batch_norm else devices,
        )

    return LotteryConfig(
        data=DataConfig(
            dataset,
            train_examples,
            validation_examples,
            test_examples,
            dataset.startswith("cifar") if augment is None else augment,
            data_dir,
        ),
        model=model_config,
        search=training(searched, search_epochs or epochs, search_rate, False, True),
        winning_search=training(searched, search_epochs or epochs, rate, True, True),
        train=training(trained, epochs, rate, True, False),
        ticket_train=training(trained, ticket_epochs or epochs, rate, True, False),
        prune=PruneConfig(
            sparsity, score, scope, pruning_schedule, rounds, round_fraction, rewind_epoch
        ),
        attacks=evaluated,
        compare=tuple(compare),
        seed=seed,
        deterministic=deterministic,
    )
