"""Settings of attacks, and the names that stand for them in ``--attacks``.

Lengths are on [0, 1] pixels. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from tf_lottery.errors import UsageError
from tf_lottery.options.checks import at_least, choice, positive

NORMS = ("linf", "l2")
METHODS = ("pgd", "mim", "apgd", "fab", "square", "cw_l2", "noise", "autoattack")
# dlr and logit_difference are of apgd; with targets, of one wrong class after the other.
LOSSES = ("cross_entropy", "margin", "dlr")
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
    "fgsm",
    "pgd<N> such as pgd20",
    "cw",
    "cw<N>",
    "mim",
    "mim<N>",
    "noise",
    "noise<N>",
    "apgd_ce",
    "apgd_dlr",
    "apgd_t",
    "fab",
    "fab_t",
    "square",
    "square<N>",
    "cw_l2",
    "autoattack",
)


@dataclass(frozen=True)
class AttackConfig:
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
      method: one of ``METHODS``.
      targets: 0, or how many wrong classes are aimed at, one after the other, the likeliest
        first (``apgd`` with ``dlr``, ``fab``); at most the wrong classes there are.
      decay: of ``mim``'s accumulated gradient.
      search_steps: of the binary search of ``cw_l2`` for its constant.
    """

    name: str = "pgd10"
    norm: str = "linf"
    eps: float = 8 / 255
    steps: int = 10
    step_size: float = 2 / 255
    random_start: bool = False
    restarts: int = 1
    loss: str = "cross_entropy"
    method: str = field(default="pgd", metadata={"omit_default": True})
    targets: int = field(default=0, metadata={"omit_default": True})
    decay: float = field(default=1.0, metadata={"omit_default": True})
    search_steps: int = field(default=CW_L2_SEARCH, metadata={"omit_default": True})

    def __post_init__(self):
        choice("norm", self.norm, NORMS)
        choice("attack method", self.method, METHODS)
        choice("attack loss", self.loss, LOSSES)
        check_eps("eps", self.eps, self.norm)
        if self.steps < 1:
            raise UsageError.bad_value("steps", self.steps, "1 or more")
        at_least("step_size", self.step_size, 0)
        if self.method in ("pgd", "mim") and self.eps > 0 and self.step_size == 0:
            raise UsageError.bad_value("step_size", self.step_size, "more than 0, usually eps/4")
        if self.restarts < 1:
            raise UsageError.bad_value("restarts", self.restarts, "1 or more")
        if self.method == "cw_l2":
            if self.norm != "l2":
                raise UsageError(
                    f"--attacks: cw_l2 measures l_2 lengths, got --eval_norm={self.norm}; "
                    "must be --eval_norm=l2",
                    "attacks",
                )
            positive("step_size", self.step_size)
            at_least("search_steps", self.search_steps, 1)
        at_least("targets", self.targets, 0)
        at_least("decay", self.decay, 0)
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


def check_eps(flag: str, eps: float, norm: str = "linf") -> None:
    """Raises ``UsageError`` for a radius that is none of the norm."""
    if norm == "l2":
        if not 0 <= eps < math.inf:
            raise UsageError.bad_value(flag, eps, "0 or more (0.5 is usual for CIFAR-10 in l_2)")
    elif not 0 <= eps <= 1:
        raise UsageError.bad_value(
            flag, eps, "in [0, 1], the range of a pixel (8/255 is usual for CIFAR-10)"
        )


def attack_from_name(
    name: str,
    eps: float = 8 / 255,
    step_size: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    norm: str = "linf",
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
        ``cw_l2`` (smallest l_2 perturbation by Adam; Carlini & Wagner 2017).
      eps: radius on [0, 1] pixels.
      step_size: of PGD, C&W's margin loss and MIM; ``None`` means eps / 4 and, as in its
        paper, eps / N for MIM.
      random_start: of PGD and C&W's margin loss.
      restarts: of all but ``fgsm``, ``noise``, ``cw_l2`` and ``autoattack``.
      norm: ``linf`` or ``l2``.

    Raises:
      UsageError: unknown name or invalid value.
    """
    if name == "fgsm":
        return AttackConfig("fgsm", norm, eps, 1, eps)
    if name == "autoattack":
        return AttackConfig(name, norm, eps, 1, 0, True, method="autoattack")
    if name == "cw_l2":
        return AttackConfig(name, norm, eps, CW_L2_STEPS, 0.01, loss="margin", method="cw_l2")
    if name in ("apgd_ce", "apgd_dlr", "apgd_t"):
        loss = "cross_entropy" if name == "apgd_ce" else "dlr"
        targets = TARGETS if name == "apgd_t" else 0
        return AttackConfig(
            name, norm, eps, APGD_STEPS, 2 * eps, True, restarts, loss, "apgd", targets
        )
    if name in ("fab", "fab_t"):
        targets = TARGETS if name == "fab_t" else 0
        return AttackConfig(
            name, norm, eps, FAB_STEPS, 0, False, restarts, "margin", "fab", targets
        )
    match = re.fullmatch(r"(pgd|cw|mim|noise|square)((?:[1-9]\d{0,6})?)", name)
    if not match or (match[1] == "pgd" and not match[2]):
        raise UsageError.unknown("attacks", name, NAMES)
    family, count = match[1], int(match[2] or 0)
    if family == "square":
        steps = count or SQUARE_QUERIES
        return AttackConfig(name, norm, eps, steps, 0, True, restarts, "margin", "square")
    if family == "noise":
        draws = count or NOISE_DRAWS
        return AttackConfig(name, norm, eps, draws, 0, True, loss="margin", method="noise")
    if family == "mim":
        steps = count or MIM_STEPS
        size = eps / steps if step_size is None else step_size
        return AttackConfig(name, norm, eps, steps, size, False, restarts, method="mim")
    return AttackConfig(
        name,
        norm,
        eps,
        count or CW_STEPS,
        eps / 4 if step_size is None else step_size,
        random_start,
        restarts,
        "margin" if family == "cw" else "cross_entropy",
    )
