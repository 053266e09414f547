"""Settings of attacks, and the names that stand for them in ``--attacks``.

Lengths are on [0, 1] pixels. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tf_lottery.errors import UsageError
from tf_lottery.options.checks import at_least, positive, within
from tf_lottery.options.option import Options, added, option
from tf_lottery.options.registries import METHODS

NORMS = ("linf", "l2")
# dlr and logit_difference are of apgd; with targets, of one wrong class after the other.
LOSSES = ("cross_entropy", "margin", "dlr")
NOISES = ("uniform", "normal", "signs")
L2_EPS = 0.5  # usual for CIFAR-10 (RobustBench)

CW_STEPS = 30  # PGD steps on the margin loss, as in Zhang et al. 2019 (TRADES), section 5
MIM_STEPS = 10  # Dong et al. 2018, section 4.1
NOISE_DRAWS = 10
APGD_STEPS = 100  # these four: the standard suite of Croce & Hein 2020, section 5
FAB_STEPS = 100
TARGETS = 9
SQUARE_QUERIES = 5000
CW_L2_STEPS = 1000  # Adam steps for each constant, of 9 tried; Carlini & Wagner 2017 take more
CW_L2_SEARCH = 9

# Name -> what it is, for error messages and --help.
NAMES = (
    "fgsm", "pgd<N> such as pgd20", "cw", "cw<N>", "mim", "mim<N>", "noise", "noise<N>", "apgd_ce",
    "apgd_dlr", "apgd_t", "fab", "fab_t", "square", "square<N>", "cw_l2", "autoattack",
    "package.module:Procedure",
)  # fmt: skip

# A radius on [0, 1] pixels.
RADIUS = {
    "linf": within("[0, 1]", "in [0, 1], the range of a pixel (8/255 is usual for CIFAR-10)"),
    "l2": at_least(0, "0 or more (0.5 is usual for CIFAR-10 in l_2)"),
}


@dataclass(frozen=True)
class AttackConfig(Options):
    """One attack on [0, 1] pixels.

    Attributes:
      name: ``fgsm``, ``pgd<N>``, ``apgd_ce`` ...; only a label, the fields say everything.
      norm: ``linf`` or ``l2``.
      eps: radius of the ball; l_inf: in [0, 1].
      steps: gradient steps, queries (``square``) or draws (``noise``), at least 1.
      step_size: length of a step (``pgd``, ``mim``), of Adam's (``cw_l2``); others set
        their own.
      random_start: ``pgd`` and ``mim``: start at a random point of the ball instead of
        the clean image.
      restarts: independent tries; the per-example worst is kept. At least 1.
      loss: ``cross_entropy``, ``margin`` (largest wrong logit minus true logit) or, for
        ``apgd``, ``dlr`` (difference of logits ratio).
      method: of ``registries.METHODS``.
      targets: 0, or how many wrong classes are aimed at, one after the other, the likeliest
        first (``apgd`` with ``dlr``, ``fab``); at most the wrong classes there are.
      decay: of ``mim``'s accumulated gradient.
      search_steps: of the binary search of ``cw_l2`` for its constant.
      noise: size of ``pgd``'s random start: of ``uniform`` noise the radius, of ``normal`` noise
        the standard deviation, of ``signs`` what each pixel is moved by; 0: eps.
      noise_kind: its distribution.
      projected: ``pgd`` stays in the ball; otherwise in [0, 1] alone, as N-FGSM in training.
    """

    name: str = "pgd10"
    norm: str = option("linf", choices=NORMS)
    eps: float = 8 / 255
    steps: int = option(10, check=at_least(1))
    step_size: float = option(2 / 255, check=at_least(0))
    random_start: bool = False
    restarts: int = option(1, check=at_least(1))
    loss: str = option("cross_entropy", choices=LOSSES, flag="attack loss")
    method: str = added("pgd", choices=METHODS, flag="attack method")
    targets: int = added(0, check=at_least(0))
    decay: float = added(1.0, check=at_least(0))
    search_steps: int = added(CW_L2_SEARCH, check=at_least(1))
    noise: float = added(0.0, check=at_least(0))
    noise_kind: str = added("uniform", choices=NOISES)
    projected: bool = added(True)

    def __post_init__(self):
        super().__post_init__()
        RADIUS[self.norm]("eps", self.eps)
        if self.method in ("pgd", "mim") and self.eps > 0 and self.step_size == 0:
            raise UsageError.bad_value("step_size", self.step_size, "more than 0, usually eps/4")
        if self.method == "cw_l2":
            if self.norm != "l2":
                raise UsageError.bad_value("norm", self.norm, "l2 for cw_l2")
            positive("step_size", self.step_size)
        if self.loss == "dlr" and self.method != "apgd":
            raise UsageError.bad_value("attack loss", self.loss, "cross_entropy or margin here")

    @property
    def components(self) -> tuple[AttackConfig, ...]:
        """The attacks a suite consists of, in their order; the attack itself otherwise."""
        if self.method != "autoattack":
            return (self,)
        return tuple(
            attack_from_name(name, self.eps, norm=self.norm)
            for name in ("apgd_ce", "apgd_t", "fab_t", "square")
        )


def default_eps(norm: str) -> float:
    """The usual radius for CIFAR-10, on [0, 1] pixels: 8/255 in l_inf, 0.5 in l_2."""
    return 8 / 255 if norm == "linf" else L2_EPS


def attack_from_name(
    name: str,
    eps: float = 8 / 255,
    step_size: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    norm: str = "linf",
    flag: str = "attacks",
) -> AttackConfig:
    """The attack that a name in ``--attacks`` stands for.

    Args:
      name:
        ``fgsm`` (one step of eps from the clean image; Goodfellow et al. 2015),
        ``pgd<N>`` (N steps on the cross-entropy; Madry et al. 2018),
        ``cw``, ``cw<N>`` (N, by default 30, such steps on the margin loss of Carlini &
        Wagner 2017),
        ``mim``, ``mim<N>`` (N, by default 10, steps with momentum; Dong et al. 2018),
        ``noise``, ``noise<N>`` (the worst of N, by default 10, random points),
        ``apgd_ce``, ``apgd_dlr``, ``apgd_t``, ``fab``, ``fab_t``, ``square``: the
        parts of AutoAttack (Croce & Hein 2020), 100 steps and 9 targets or 5,000
        queries (``square<N>``: N queries),
        ``autoattack``: ``apgd_ce``, ``apgd_t``, ``fab_t``, ``square``, each on what
        the ones before left standing,
        ``cw_l2`` (smallest l_2 perturbation by Adam; Carlini & Wagner 2017),
        ``package.module:Procedure``: an attack from elsewhere, with the settings of
        ``pgd10``; see ``tf_lottery.attacks.procedure``.
      eps: radius on [0, 1] pixels.
      step_size: of PGD, C&W's margin loss and MIM; ``None`` means eps / 4 and, as in its
        paper, eps / N for MIM.
      random_start: of PGD and C&W's margin loss.
      restarts: of all but ``fgsm``, ``noise``, ``cw_l2`` and ``autoattack``.
      norm: ``linf`` or ``l2``.
      flag: that the name is from.

    Raises:
      UsageError: unknown name (naming ``flag``) or invalid value.
    """
    match = re.fullmatch(r"(pgd|cw|mim|noise|square)([1-9]\d{0,6})?", name)
    kind, count = (match[1], int(match[2] or 0)) if match else (name, 0)
    quarter = eps / 4 if step_size is None else step_size
    pgd: dict[str, Any] = {"step_size": quarter, "random_start": random_start, "restarts": restarts}
    apgd = {
        "steps": APGD_STEPS, "step_size": 2 * eps, "random_start": True, "restarts": restarts,
        "method": "apgd",
    }  # fmt: skip
    fab = {"steps": FAB_STEPS, "step_size": 0, "restarts": restarts, "method": "fab"}
    draws = {"step_size": 0, "random_start": True}
    known: dict[str, dict[str, Any]] = {
        "fgsm": {"steps": 1, "step_size": eps},
        "pgd": {"steps": count, **pgd},
        "cw": {"steps": count or CW_STEPS, "loss": "margin", **pgd},
        "mim": {
            "steps": count or MIM_STEPS,
            "step_size": eps / (count or MIM_STEPS) if step_size is None else step_size,
            "restarts": restarts,
            "method": "mim",
        },
        "noise": {"steps": count or NOISE_DRAWS, **draws, "loss": "margin", "method": "noise"},
        "apgd_ce": apgd,
        "apgd_dlr": {**apgd, "loss": "dlr"},
        "apgd_t": {**apgd, "loss": "dlr", "targets": TARGETS},
        "fab": {**fab, "loss": "margin"},
        "fab_t": {**fab, "loss": "margin", "targets": TARGETS},
        "square": {
            "steps": count or SQUARE_QUERIES, **draws, "restarts": restarts, "loss": "margin",
            "method": "square",
        },
        "autoattack": {"steps": 1, **draws, "method": "autoattack"},
        "cw_l2": {"steps": CW_L2_STEPS, "step_size": 0.01, "loss": "margin", "method": "cw_l2"},
    }  # fmt: skip
    if ":" in name:
        METHODS.check(flag, name)
        return AttackConfig(name, norm, eps, method=name, **pgd)
    if kind not in known or name == "pgd":
        raise UsageError.unknown(flag, name, NAMES)
    if kind == "cw_l2" and norm != "l2":
        raise UsageError(
            f"--{flag}: cw_l2 measures l_2 lengths, got --eval_norm={norm}; must be --eval_norm=l2",
            flag,
        )
    return AttackConfig(name, norm, eps, **known[kind])
