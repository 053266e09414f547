"""Settings of objectives, the names that stand for them, and the settings they were published with.

Lengths are on [0, 1] pixels. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tf_lottery.options.attacks import AttackConfig, attack_from_name
from tf_lottery.options.checks import at_least, within
from tf_lottery.options.option import Options, added, option
from tf_lottery.options.registries import OBJECTIVES

# Weight of the second term: Zhang et al. 2019, section 5.3; Wang et al. 2020, section 4;
# Sriramanan et al. 2021, the last epoch's.
BETA = {"trades": 6.0, "mart": 5.0, "nuat": 4.0}
REPLAYS = 8  # Shafahi et al. 2019, section 5, for CIFAR-10

# Steps of a single gradient, by objective: what differs from a step of eps from the clean image.
_ONE_STEP: dict[str, dict[str, Any]] = {
    "fgsm": {},
    "free": {},  # its perturbation moves by as much, and is no attack's
    "fgsm_rs": {"step": 1.25, "random_start": True},
    "n_fgsm": {"random_start": True, "noise": 2.0, "projected": False},
    "nuat": {"random_start": True, "noise": 0.5, "noise_kind": "signs"},
}
_GAUSSIAN = 0.001  # standard deviation of the start of TRADES and MART


@dataclass(frozen=True)
class ObjectiveConfig(Options):
    """What a training step minimises.

    Attributes:
      name: of ``registries.OBJECTIVES``, or ``package.module:function``; ``pgd<N>`` becomes
        ``pgd``.
      attack: that it trains against; ``None``: none, as in ``natural``. Of ``free``, the radius
        and the step of its perturbation.
      beta: weight of the second term; ``None`` becomes the published one where there is one.
      replays: of ``free``, how often each batch is trained on in a row.
      label_smoothing: share of the target that is spread over all classes, in cross-entropies of
        the loss.
      awp_gamma: adversarial weight perturbation, relative to each kernel's length; 0: none.
    """

    name: str = option("pgd", flag="objective", choices=OBJECTIVES)
    attack: AttackConfig | None = None
    beta: float | None = added(None, check=at_least(0))
    replays: int = added(REPLAYS, check=at_least(1))
    label_smoothing: float = added(0.0, check=within("[0, 1)"))
    awp_gamma: float = added(0.0, check=at_least(0))

    def __post_init__(self):
        super().__post_init__()
        name, steps = OBJECTIVES.numbered(self.name)
        object.__setattr__(self, "name", name)
        if steps and (self.attack is None or self.attack.steps != steps):
            raise ValueError(f"{name}{steps} takes {steps} steps, its attack says otherwise")
        if name not in OBJECTIVES:
            return
        # Objectives from outside attack or do not.
        if (self.attack is None) != (name == "natural"):
            raise ValueError("an attack goes with every objective but natural")
        # What an objective does not use must not be in its key.
        beta = BETA.get(name) if self.beta is None or name not in BETA else self.beta
        object.__setattr__(self, "beta", beta)
        if name != "free":
            object.__setattr__(self, "replays", REPLAYS)

    @property
    def attack_steps(self) -> int:
        """Gradient steps of the attack; 0 without one."""
        return self.attack.steps * self.attack.restarts if self.attack else 0

    @property
    def one_step(self) -> bool:
        """It trains against a single gradient, and may overfit catastrophically."""
        return self.attack is not None and self.attack.steps == 1

    @property
    def batch_replays(self) -> int:
        """How often each batch comes in a row."""
        return self.replays if self.name == "free" else 1

    @property
    def shared_by_devices(self) -> bool:
        """Several devices can each take a part of the batch, without another result."""
        return self.name not in ("free", "nuat") and not self.awp_gamma

    def hardened(self, times: int) -> ObjectiveConfig:
        """What goes on after catastrophic overfitting: 2, 4, 8 ... steps of PGD.

        From a random point of the ball, with the steps of ``default_step_size``; what takes several
        steps anyway stays as it is. Two steps of eps/2 cost 2F more, and Andriushchenko &
        Flammarion 2020 (arXiv 2007.02617) train with them at 8/255 where one step collapses.

        Args:
          times: how often a training has gone back from it; 0: the objective itself.
        """
        if not times or self.attack is None or not self.one_step:
            return self
        steps, eps = 2**times, self.attack.eps
        attack = AttackConfig(
            f"pgd{steps}", self.attack.norm, eps, steps, default_step_size(eps, steps), True
        )
        name = "pgd" if self.name in _ONE_STEP and self.name != "nuat" else self.name
        return dataclasses.replace(self, name=name, attack=attack)


def default_step_size(eps: float, steps: int) -> float:
    """Of PGD in training: all of eps in one step, halves in two, else 2.5 eps / steps.

    At the usual 10 steps that is eps / 4 (Madry et al. 2018: 2.5 eps / steps).
    """
    return eps / (steps if steps <= 2 else 0.4 * steps)


def training_attack(
    name: str, eps: float, steps: int, step_size: float | None, random_start: bool
) -> AttackConfig | None:
    """The attack that goes with an objective; ``None`` for ``natural``.

    Args:
      name: of the objective.
      eps: radius.
      steps, step_size, random_start: of objectives that take several steps, those from elsewhere
        among them; ``step_size`` ``None``: see ``default_step_size``. TRADES and MART have a
        start of their own.
    """
    if name == "natural":
        return None
    if name == "fgsm":
        return attack_from_name(name, eps)
    if name in _ONE_STEP:
        given = _ONE_STEP[name]
        return AttackConfig(
            name,
            eps=eps,
            steps=1,
            step_size=given.get("step", 1.0) * eps,
            random_start=given.get("random_start", False),
            noise=given.get("noise", 0.0) * eps,
            noise_kind=given.get("noise_kind", "uniform"),
            projected=given.get("projected", True),
        )
    name, fixed = OBJECTIVES.numbered(name)
    steps = fixed or steps
    size = default_step_size(eps, steps) if step_size is None else step_size
    attack = AttackConfig(f"pgd{steps}", "linf", eps, steps, size, random_start)
    if name not in ("trades", "mart"):
        return attack
    return dataclasses.replace(attack, random_start=True, noise=_GAUSSIAN, noise_kind="normal")
