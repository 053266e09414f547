"""From a user's options to a ``LotteryConfig``.

Fills in what the paper sets per architecture (rates, warm-up, batch size) and
what follows from other options. The options declared here are those that a setting is
derived from; an option that is a setting itself is declared in ``settings.py``.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tf_lottery.errors import UsageError
from tf_lottery.options.architectures import Architecture, architecture
from tf_lottery.options.attacks import NORMS, RADIUS, AttackConfig, attack_from_name, default_eps
from tf_lottery.options.channels import ChannelOptions
from tf_lottery.options.checks import at_least, positive, within
from tf_lottery.options.devices import DeviceOptions
from tf_lottery.options.objectives import REPLAYS, training_attack
from tf_lottery.options.option import Option, Options, option
from tf_lottery.options.recipes import RECIPES, filled
from tf_lottery.options.registries import OBJECTIVES
from tf_lottery.options.searches import SearchOptions
from tf_lottery.options.settings import (
    ROLES,
    TRAINING_ATTACK,
    WARMED_UP,
    DataConfig,
    LotteryConfig,
    ModelConfig,
    ObjectiveConfig,
    Phase,
    PruneConfig,
    ScheduleConfig,
    SparsityUpdateConfig,
    TrainConfig,
)

MOST_EPOCHS = 10**6  # a table of rates has an entry a step
_EPOCHS = within(f"[0, {MOST_EPOCHS}]", f"1 or more, up to {MOST_EPOCHS:,}, or 0 for --epochs")
_DEFAULT = at_least(0, "more than 0, or 0 for the network's default")


def _known_attack(flag: str, name: str) -> None:
    attack_from_name(name, flag=flag)


def _known_phases(flag: str, phases: tuple[str, ...]) -> None:
    for phase in phases:
        name, _, epochs = phase.rpartition(":")
        if not name or not epochs.isdecimal() or not 0 < int(epochs) <= MOST_EPOCHS:
            allowed = "objectives with their epochs, such as n_fgsm:20,pgd10:4"
            raise UsageError.bad_value(flag, ",".join(phases), allowed)
        OBJECTIVES.check(flag, name)


@dataclass(frozen=True)
class TrainingOptions(Options, topic="Training"):
    """Of the trainings together: ``TrainConfig`` is one of them."""

    recipe: str = option(
        "paper",
        "A bundle of training options as published; those that are given go before it.",
        choices=tuple(RECIPES),
        roles=ROLES,
    )
    objective: str = option(
        "pgd", "What dense training and retraining minimise.", choices=OBJECTIVES, roles=ROLES
    )
    phases: tuple[str, ...] = option(
        (),
        "Objectives one after the other instead of one, with their epochs: n_fgsm:20,pgd10:4. The "
        "learning rate goes its way through all of them.",
        _known_phases,
        roles=ROLES,
    )
    search_objective: str = option(
        "fgsm", "What the search of a ticket minimises.", choices=OBJECTIVES
    )
    epochs: int = option(
        100,
        "Epochs of the dense baseline; with --phases those of all.",
        within(f"[1, {MOST_EPOCHS}]", f"1 or more, up to {MOST_EPOCHS:,}"),
        roles=ROLES,
    )
    ticket_epochs: int = option(0, "Epochs of retraining a ticket; 0: --epochs.", _EPOCHS)
    search_epochs: int = option(0, "Epochs of the search; 0: --epochs.", _EPOCHS)
    learning_rate: float = option(
        0,
        "Peak rate of dense training, retraining and the winning search; 0: 0.1.",
        _DEFAULT,
        roles=ROLES,
    )
    search_learning_rate: float = option(
        0, "Start rate of the boosting search; 0: 0.01, ResNets 0.05.", _DEFAULT
    )
    warmup_start: float = option(
        0, "First rate of a warm-up, whatever the search's; 0: 0.01, ResNets 0.05.", _DEFAULT
    )
    warmup_epochs: int | None = option(
        None,
        "Epochs below the peak rate. Default: 9, ResNets 10, at most half of the epochs.",
        at_least(0),
        roles=("ticket",),
    )
    batch_size: int = option(0, "Images a step; 0: 64, ResNets 128.", _DEFAULT, roles=ROLES)


@dataclass(frozen=True)
class AttackOptions(Options, topic=TRAINING_ATTACK):
    """Of the attack that is trained on."""

    eps: float = option(8 / 255, "Radius of the ball; 8/255 works.", RADIUS["linf"])
    steps: int = option(10, "PGD steps while training.", at_least(1), roles=ROLES)
    step_size: float | None = option(
        None,
        "PGD step. Default: eps with one step, eps/2 with two, else 2.5 eps / steps: eps/4 at 10.",
        at_least(0),
        roles=ROLES,
    )
    random_start: bool = option(
        False,
        "PGD starts at a random point of the ball while training (the authors' code: at the "
        "clean image).",
        roles=ROLES,
    )
    beta: float | None = option(
        None,
        "Weight of the second term of trades, mart and nuat (there at the end of training). "
        "Default: 6, 5 and 4, as published.",
        at_least(0),
        roles=ROLES,
    )
    replays: int = option(
        REPLAYS, "How often free trains on each batch in a row.", at_least(1), roles=ROLES
    )
    label_smoothing: float = option(
        0.0,
        "Share of the target that is spread over all classes, in the cross-entropies of every "
        "objective, not in the attack; in [0, 1).",
        within("[0, 1)"),
        roles=ROLES,
    )
    awp_gamma: float = option(
        0.0,
        "Adversarial weight perturbation: how far, as a share of its length, each kernel is moved "
        "before the gradient is taken (0.01 is usual, for trades 0.005); 0: not at all.",
        at_least(0),
        roles=ROLES,
    )
    validation_attack: str = option(
        "pgd10",
        "Run after each epoch, at the training radius, to pick the best one, if a network is "
        "trained adversarially.",
        _known_attack,
    )

    def objective(self, name: str) -> ObjectiveConfig:
        """The objective of that name, ``pgd<N>`` among them: whatever N, PGD of N steps."""
        return ObjectiveConfig(
            name,
            training_attack(name, self.eps, self.steps, self.step_size, self.random_start),
            self.beta,
            self.replays,
            self.label_smoothing,
            self.awp_gamma,
        )


@dataclass(frozen=True)
class EvaluationOptions(Options, topic="Attacks in evaluation (on pixels in [0, 1])"):
    """Of the attacks on test images."""

    attacks: tuple[str, ...] = option(
        ("fgsm", "pgd20", "pgd100", "cw"),
        "Run on test images: autoattack (the standard version), its parts apgd_ce, apgd_t, "
        "fab_t, square, also apgd_dlr, fab, square<N>; fgsm, pgd<N>, cw<N> (PGD on the margin "
        "loss, 30 steps), mim<N>; cw_l2; noise<N>.",
    )
    eval_norm: str = option("linf", "Norm of the ball.", choices=NORMS)
    eval_eps: float | None = option(None, "Radius. Default: --eps; for l2 0.5.")
    eval_step_size: float | None = option(
        None,
        "Step of PGD, C&W and MIM. Default: eval_eps/4, however training steps; MIM: eval_eps "
        "divided by its steps.",
        positive,
    )
    eval_random_start: bool = option(True, "PGD and C&W start at random.")
    restarts: int = option(
        1, "Random restarts; the worst counts. Not of fgsm, noise, cw_l2, autoattack.", at_least(1)
    )

    def __post_init__(self):
        super().__post_init__()
        if self.eval_eps is not None:
            RADIUS[self.eval_norm]("eval_eps", self.eval_eps)

    def attack(self, name: str, eps: float, flag: str = "attacks") -> AttackConfig:
        """The attack of that name; ``eps`` is the radius of training.

        Raises:
          UsageError: unknown name (naming ``flag``), or one of another norm.
        """
        radius = self.eval_eps
        if radius is None:
            radius = eps if self.eval_norm == "linf" else default_eps(self.eval_norm)
        return attack_from_name(
            name,
            radius,
            self.eval_step_size,
            self.eval_random_start,
            self.restarts,
            self.eval_norm,
            flag,
        )


def _with_roles(options: Iterable[Option]) -> dict[str, Option]:
    """By flag, each followed by those of single trainings, but for those declared by themselves."""
    told = {shared.flag: shared for shared in options}
    found: dict[str, Option] = {}
    for shared in told.values():
        for own in (shared, *map(shared.of_role, shared.roles)):
            found.setdefault(own.flag, told.get(own.flag, own))
    return found


# The options of ``lottery_config``.
OPTIONS = _with_roles(
    option
    for group in (
        DataConfig, ModelConfig, TrainingOptions, ScheduleConfig, PruneConfig, SearchOptions,
        SparsityUpdateConfig, ChannelOptions, AttackOptions, TrainConfig, EvaluationOptions,
        DeviceOptions, LotteryConfig,
    )
    for option in group.declared
)  # fmt: skip
DEFAULTS = {name: option.default for name, option in OPTIONS.items()}


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of ``lottery_config``: as given, else of a recipe, else the defaults.

    Epochs that nobody gave are those that the phases add up to.
    """
    values = filled(given, DEFAULTS, ROLES)
    for role in ("", *ROLES):
        prefix = f"{role}_" if role else ""
        phases, epochs = values[f"{prefix}phases"], f"{prefix}epochs"
        if phases and epochs not in given:
            OPTIONS[f"{prefix}phases"].refuse(phases)
            values[epochs] = sum(int(phase.rpartition(":")[2]) for phase in phases)
    warms_up = values["ticket_recipe"] == "paper" and values["warmup_epochs"] is not None
    if warms_up and not {"warmup_epochs", "ticket_warmup_epochs"} & {*given}:
        # The network's own default has no other name, and None is what --recipe says.
        epochs = values["ticket_epochs"] or values["epochs"]
        values["ticket_warmup_epochs"] = _warmup(architecture(values["model"]), epochs)
    return values


def _warmup(arch: Architecture, epochs: int) -> int:
    return min(arch.warmup_epochs, epochs // 2)


def evaluation_attack(name: str, options: Mapping[str, Any], flag: str = "attacks") -> AttackConfig:
    """One attack with the settings of evaluation.

    Args:
      name: of the attack.
      options: arguments of ``lottery_config``, all of evaluation among them.
      flag: that the name is from.

    Raises:
      UsageError: unknown name or bad setting.
    """
    return EvaluationOptions.of(options).attack(name, options["eps"], flag)


_SIGNATURE = inspect.Signature(
    [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in DEFAULTS.items()
    ]
)


def lottery_config(**options: Any) -> LotteryConfig:
    """Builds and validates the configuration of a run.

    Args:
      {options}

    Raises:
      UsageError: names the option, what it got and what it may be.

    Example:
      >>> config = lottery_config(dataset="digits", eps=0.15, epochs=4)
      >>> config.train.objective.attack.steps
      10
    """
    given = _SIGNATURE.bind(**options).arguments
    values = complete({n: tuple(v) if isinstance(v, list) else v for n, v in given.items()})
    roles = {role: _values_of(role, values) for role in ROLES}
    everyone = (values, *roles.values())
    asked, attack = TrainingOptions.of(values), AttackOptions.of(values)
    evaluated, devices = EvaluationOptions.of(values), DeviceOptions.of(values)
    natural = all(_objectives(training) == {"natural"} for training in everyone)
    normalize = natural if values["normalize"] is None else values["normalize"]
    model = ModelConfig.of(values, normalize=normalize)
    arch = architecture(model.name)
    # Of the training radius: other test settings must not change a training.
    validated = None if natural else attack_from_name(attack.validation_attack, attack.eps)

    def training(role: str, peak: float, warm: bool = True, **others: Any) -> TrainConfig:
        chosen = roles.get(role, values)
        own = TrainingOptions.of(chosen)
        epochs = own.epochs or asked.epochs
        warmup = 0
        if warm and chosen["schedule"] in WARMED_UP:
            asked_for = own.warmup_epochs
            warmup = _warmup(arch, epochs) if asked_for is None else asked_for
        # Whatever the search's rate: a sweep of that one leaves the dense baseline alone. Without a
        # warm-up it is nobody's start, and stays as it is by default.
        start = (warmup and own.warmup_start) or arch.search_learning_rate
        phases = _phases(role, chosen, epochs)
        return TrainConfig.of(
            chosen,
            objective=phases[0].objective,
            phases=phases if len(phases) > 1 else (),
            epochs=epochs,
            batch_size=own.batch_size or arch.batch_size,
            schedule=ScheduleConfig.of(
                chosen, peak=peak, warmup_start=min(start, peak), warmup_epochs=warmup
            ),
            validation_attack=validated,
            batch_norm_groups=devices.batch_norm_groups,
            **others,
        )

    rate = {name: chosen["learning_rate"] or arch.learning_rate for name, chosen in roles.items()}
    dense_rate = asked.learning_rate or arch.learning_rate
    search_rate = asked.search_learning_rate or arch.search_learning_rate
    update = SparsityUpdateConfig.of(values)
    return LotteryConfig.of(
        values,
        data=DataConfig.of(values),
        model=model,
        search=training("search", search_rate, warm=False, patience=0, ema_decay=0.0),
        winning_search=training("search", dense_rate, patience=0, ema_decay=0.0),
        train=training("", dense_rate, batch_norm_l1=0.0),
        ticket_train=training("ticket", rate["ticket"], batch_norm_l1=0.0, sparsity_update=update),
        sparsity_update=update,
        prune=PruneConfig.of(values),
        attacks=tuple(evaluated.attack(name, attack.eps) for name in evaluated.attacks),
    )


def _values_of(role: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one training: its own where there are some, else those of all.

    Raises:
      UsageError: one that cannot have this value.
    """
    found = dict(values)
    for shared in OPTIONS.values():
        own = OPTIONS.get(f"{role}_{shared.flag}")
        if role not in shared.roles or own is None or values[own.flag] is None:
            continue
        own.refuse(values[own.flag])
        if own.role or values[own.flag]:  # 0 of those declared by themselves: that of all
            found[shared.flag] = values[own.flag]
    if found["schedule"] != "step" and values[f"{role}_rate_drops"] is None:
        found["rate_drops"] = OPTIONS["rate_drops"].default
    # What somebody said of one training alone is one objective or several.
    if values[f"{role}_phases"] is None and (role == "search" or values[f"{role}_objective"]):
        found["phases"] = ()
    return found


def objectives_of(role: str, values: Mapping[str, Any]) -> set[str]:
    """Names of what a training minimises, ``pgd<N>`` among them; ``role`` empty: the dense one.

    Args:
      role: of the training.
      values: of all options.
    """
    return _objectives(_values_of(role, values) if role else values)


def _objectives(values: Mapping[str, Any]) -> set[str]:
    phases = {phase.rpartition(":")[0] for phase in values["phases"]}
    return phases or {values["objective"]}


def _phases(role: str, values: Mapping[str, Any], epochs: int) -> tuple[Phase, ...]:
    """What ``--phases`` or ``--<role>_phases`` says, else the one objective all along.

    Raises:
      UsageError: they do not add up to the epochs of the training.
    """
    told = values["phases"] or (f"{values['objective']}:{epochs}",)
    attack = AttackOptions.of(values)
    found = []
    for phase in told:
        name, _, length = phase.rpartition(":")
        found.append(Phase(attack.objective(name), int(length)))
    if sum(phase.epochs for phase in found) != epochs:
        flag = f"{role}_phases" if role else "phases"
        own = f"{role}_epochs" if role else "epochs"
        allowed = f"epochs that add up to --{own}={epochs}, or without --{own}"
        raise UsageError.bad_value(flag, ",".join(told), allowed)
    return tuple(found)


def _documentation() -> str:
    lines = (f"{o.flag}: {o.text}" for o in OPTIONS.values())
    return "\n      ".join(textwrap.fill(line, 92, subsequent_indent=" " * 8) for line in lines)


lottery_config.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
lottery_config.__doc__ = (lottery_config.__doc__ or "").replace("{options}", _documentation())
