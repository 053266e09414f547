"""Settings of one training: its phases, its learning rate, and all else that it goes by."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from tf_lottery.errors import UsageError
from tf_lottery.options.attacks import AttackConfig, attack_from_name
from tf_lottery.options.checks import at_least, positive, within
from tf_lottery.options.objectives import ObjectiveConfig
from tf_lottery.options.option import Options, added, option
from tf_lottery.options.searches import SettlingConfig
from tf_lottery.options.sparsity import SparsityUpdateConfig

TRAINING_ATTACK = "Attacks in training (l_inf, on pixels in [0, 1])"
ROLES = ("search", "ticket")  # trainings that may have settings of their own
SCHEDULES = ("step", "cyclic", "triangular", "one_cycle", "cosine", "constant")
WARMED_UP = ("step", "cosine", "constant")  # the others begin low by themselves
DTYPE_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
MEASURED = "auto"  # one of them takes its place before a stage is made


def _shares(flag: str, shares: tuple[float, ...]) -> None:
    numbers = bool(shares) and all(isinstance(share, (int, float)) for share in shares)
    if not numbers or not all(a < b for a, b in itertools.pairwise((0.0, *shares, 1.0))):
        given = ",".join(map(str, shares))
        raise UsageError.bad_value(flag, given, "rising shares in (0, 1), such as 0.5,0.75")


@dataclass(frozen=True)
class Phase:
    """Epochs of one training that share an objective."""

    objective: ObjectiveConfig
    epochs: int


@dataclass(frozen=True)
class ScheduleConfig(Options, topic="Training"):
    """Learning rate over the epochs; see ``tf_lottery.training.schedules``.

    Attributes:
      peak: the highest rate.
      warmup_start: rate of the first epoch when ``warmup_epochs`` > 0.
      warmup_epochs: epochs below the peak.
    """

    name: str = option(
        "step",
        "step: x0.1 at each of --rate_drops. cyclic: up over 40 % of the steps, down to 0. "
        "triangular: up over half of them (Fast AT). one_cycle: from peak/25 up over 30 %, down "
        "to almost 0. These three have no warm-up.",
        flag="schedule",
        choices=SCHEDULES,
        roles=ROLES,
    )
    peak: float = option(0.1, check=positive, flag="learning_rate")
    warmup_start: float = option(0.01, check=positive)
    warmup_epochs: int = option(0, check=at_least(0))
    drops: tuple[float, ...] = added(
        (0.5, 0.75),
        "Shares of the epochs after which the step schedule divides the rate by ten.",
        _shares,
        flag="rate_drops",
        roles=ROLES,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.name != "step" and self.drops != (0.5, 0.75):
            given = ",".join(map(str, self.drops))
            raise UsageError.bad_value("rate_drops", given, "left out without --schedule=step")


@dataclass(frozen=True)
class TrainConfig(Options, topic="Training"):
    """One training run of a network.

    Attributes:
      objective: of the first phase.
      phases: one after the other, ``epochs`` together; the schedule goes through. Empty: the
        one objective all along.
      validation_attack: run on the validation images after every epoch; ``None``
        validates on clean images alone. The best epoch is the one with the highest
        validation accuracy under it.
      keep_epochs: epochs (counted from 1) after which the weights are kept for rewinding.
      settling: the training ends once its mask has settled; ``None``: it does not look.
      attack_loss_scale: factor on the loss whose gradient the training attack follows; 0
        leaves it to the policy: ``mixed_float16`` gives each image its own, so that what
        reaches the logits does not underflow, and the others need none.
      batch_norm_groups: equal parts of a batch that each have BatchNorm statistics of
        their own; 1: those of the whole batch. More than 1 only where as many devices
        share the batch.
      sparsity_update: how the masks change on the way; ``None``: they do not.
    """

    objective: ObjectiveConfig
    epochs: int = option(100, check=at_least(1))
    batch_size: int = option(64, check=at_least(1))
    schedule: ScheduleConfig = ScheduleConfig()
    phases: tuple[Phase, ...] = field(default=(), metadata={"omit_default": True})
    momentum: float = option(0.9, "Of SGD, in [0, 1).", within("[0, 1)"), roles=ROLES)
    weight_decay: float = option(
        1e-4, "L2 coefficient, added to every gradient.", at_least(0), roles=ROLES
    )
    validation_attack: AttackConfig | None = None
    validation_images: int = added(
        0, "Validation images used each epoch; 0: all.", at_least(0), topic=TRAINING_ATTACK
    )
    dtype_policy: str = added(
        "float32",
        "Precision of training; evaluation is always float32. auto: mixed_bfloat16 if a second's "
        "measurement finds it faster here, which --store keeps.",
        choices=(*DTYPE_POLICIES, MEASURED),
        roles=ROLES,
    )
    keep_epochs: tuple[int, ...] = field(default=(), metadata={"omit_default": True})
    settling: SettlingConfig | None = field(default=None, metadata={"omit_default": True})
    batch_norm_l1: float = added(
        0.0,
        "L1 coefficient of the BatchNorm scales in searches, such as 1e-4 for "
        "--channel_score=batch_norm: added to their gradients with their signs.",
        at_least(0),
    )
    patience: int = added(
        0,
        "Early stopping of dense training and retraining: epochs, of --phases of the last, without "
        "a new best validation accuracy; 0: never.",
        at_least(0),
        roles=("ticket",),
    )
    ema_decay: float = added(
        0.0,
        "Dense training and retraining average their weights after every step, at most with this "
        "decay (such as 0.995); the average is validated beside the weights and is what counts. "
        "0: no average.",
        within("[0, 1)"),
        roles=("ticket",),
    )
    attack_loss_scale: float = added(
        0.0,
        "Factor on the training attack's loss under --dtype_policy; 0: in float16 one for each "
        "image, else 1.",
        at_least(0),
    )
    jit_compile: bool = added(
        False, "Compile training, validation and a run's evaluation with XLA (accelerators)."
    )
    data_on_device: str = option(
        "auto",
        "Training images in the accelerator's memory; auto: on a GPU, up to 2 GiB. Changes no "
        "result.",
        choices=("auto", "on", "off"),
        recorded=False,
    )
    batch_norm_groups: int = added(1, check=at_least(1), flag="devices")
    checkpoint_minutes: float = option(
        5.0,
        "What is trained is saved at least so often, also within an epoch (on one device); 0: "
        "after each epoch alone. Changes no result.",
        at_least(0),
        recorded=False,
    )
    on_nan: str = option(
        "stop",
        "A loss or gradient that is not finite: stop, or go back to the end of the last epoch and "
        "on at half the rate, three times at most.",
        choices=("stop", "rollback"),
        fingerprint=False,  # without it there is either the same result or none
    )
    on_overfit: str = added(
        "warn",
        "One-step training that becomes robust to FGSM alone (catastrophic overfitting): warn, "
        "stop, or go back to the end of the last epoch and on against PGD of two steps, then four, "
        "then eight.",
        choices=("warn", "stop", "rollback"),
    )

    sparsity_update: SparsityUpdateConfig | None = field(
        default=None, metadata={"omit_default": True}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.sparsity_update is not None and self.sparsity_update.name == "none":
            object.__setattr__(self, "sparsity_update", None)
        if any(k > self.epochs for k in self.keep_epochs):
            raise UsageError.bad_value(
                "rewind_epoch", max(self.keep_epochs), f"at most the search's {self.epochs} epochs"
            )
        if self.phases and sum(phase.epochs for phase in self.phases) != self.epochs:
            raise ValueError("phases and epochs do not add up")
        if self.on_overfit != "warn" and self._one_step and self.probe is None:
            judge = self.validation_attack
            raise UsageError(
                f"--on_overfit={self.on_overfit}: a guard with nothing to probe, as the validation "
                f"attack is {judge.name if judge else 'none'}; must be one of several steps, such "
                "as --validation_attack=pgd10",
                "on_overfit",
            )

    @property
    def parts(self) -> tuple[Phase, ...]:
        """The phases, at least one."""
        return self.phases or (Phase(self.objective, self.epochs),)

    def part(self, epoch: int) -> tuple[ObjectiveConfig, int]:
        """The objective of an epoch, counted from 0, and the epoch in which it ends."""
        end = 0
        for phase in self.parts:
            end += phase.epochs
            if epoch < end:
                break
        return phase.objective, end

    @property
    def _one_step(self) -> AttackConfig | None:
        """The attack of the first phase that trains against a single gradient."""
        phases = (phase.objective for phase in self.parts)
        return next((objective.attack for objective in phases if objective.one_step), None)

    @property
    def probe(self) -> AttackConfig | None:
        """FGSM at the radius of training, judged beside the validation attack of a one-step
        training: catastrophic overfitting is robustness to it alone. ``None``: not looked for."""
        judge, attack = self.validation_attack, self._one_step
        if judge is None or attack is None or (judge.method == "pgd" and judge.steps == 1):
            return None
        return attack_from_name("fgsm", attack.eps, norm=attack.norm)
