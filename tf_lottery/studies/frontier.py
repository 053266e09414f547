"""The frontier: at a share of the cost of dense PGD training, what is the most robust?

Arms are ways to a network times budgets. A budget is a share of the passes of the dense PGD
training, search included; each arm has a whole schedule of its own, of as many epochs as fit. F
counts the passes of an image in one step, as ``objectives.passes`` and the ledger do. What
channels that are cut will save is estimated here; the report goes by what was spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tf_lottery.errors import UsageError
from tf_lottery.report.asked import Claim, Figure
from tf_lottery.report.comparison import DENSE, MARGIN
from tf_lottery.studies.definition import Arm, Base, Experiment, Sweep, number
from tf_lottery.studies.paper.scale import CIFAR10

SMALL_RATE, PAPER_TICKET = "dense, small rate", "boosting ticket as in the paper"
PAPER_SHARE = 0.51  # of the dense training, the paper's claim
BUDGETS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
_TAIL = 0.25  # of a budget, for the epochs of PGD at the end
_TRIANGULAR = {"ticket_schedule": "triangular"}


def passes(objective: str, steps: int) -> int:
    """F of one training step.

    Args:
      objective: ``trades``, ``pgd``, ``pgd<N>``, ``n_fgsm``, ``fgsm``, ``free`` or ``natural``.
      steps: of ``pgd`` and ``trades``.
    """
    if objective == "trades":
        return 7 + 2 * steps
    if objective.startswith("pgd"):
        return 3 + 2 * int(objective.removeprefix("pgd") or steps)
    return {"natural": 3, "free": 3, "fgsm": 5, "n_fgsm": 5}[objective]


# (F that may be spent on an image, steps of PGD) -> options of the retraining, or ``None`` where
# not an epoch fits.
Training = Callable[[float, int], dict[str, Any] | None]


def _one(objective: str, **others: Any) -> Training:
    def fit(total: float, steps: int) -> dict[str, Any] | None:
        epochs = int(total / passes(objective, steps) + 1e-9)
        if epochs < 1:
            return None
        return {"ticket_objective": objective, "ticket_epochs": epochs, **others}

    return fit


def _with_tail(total: float, steps: int) -> dict[str, Any] | None:
    """N-FGSM, then PGD for about a quarter of the cost, on one triangle of the rate."""
    last = max(1, round(_TAIL * total / passes("pgd", steps)))
    first = int((total - last * passes("pgd", steps)) / passes("n_fgsm", steps) + 1e-9)
    if first < 1:
        return None
    phases = (f"n_fgsm:{first}", f"pgd:{last}")
    return {"ticket_phases": phases, "ticket_epochs": first + last, **_TRIANGULAR}


N_FGSM, TAIL = "N-FGSM", "N-FGSM, PGD at the end"
TRAININGS: dict[str, Training] = {
    "PGD": _one("pgd"),
    "PGD, one cycle": _one("pgd", ticket_schedule="one_cycle"),
    "PGD-2": _one("pgd2", **_TRIANGULAR),
    "PGD-3": _one("pgd3", **_TRIANGULAR),
    N_FGSM: _one("n_fgsm", **_TRIANGULAR),
    TAIL: _with_tail,
    "free": _one("free", **_TRIANGULAR),
    "TRADES": _one("trades", **_TRIANGULAR),
}
BEST = (N_FGSM, TAIL)  # what tickets are trained by


@dataclass(frozen=True)
class Way:
    """How a network comes about before it is trained.

    Attributes:
      name: for tables.
      kind: of ``settings.KINDS``.
      options: of ``lottery_config``.
      search: objective of a search by training; empty: none.
      share: of the budget that the search may take.
      least: epochs that a search takes at least.
      width: of the network that is trained over that of the whole one.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    search: str = ""
    share: float = 0.0
    least: int = 1
    width: float = 1.0

    def arm(self, training: str, budget: float, base: Base) -> Arm | None:
        """Trained for a budget; ``None`` where that is too small."""
        steps, total = base.options["steps"], budget * whole(base)
        options = dict(self.options)
        if self.search:
            each = passes(self.search, steps)
            epochs = int(self.share * total / each + 1e-9)
            if epochs < self.least:
                return None
            options |= {"search_objective": self.search, "search_epochs": epochs}
            total -= epochs * each
        if self.kind == "dense_twin" and self.width < 1:
            options["width_multiplier"] = self.width * base.options["width_multiplier"]
        fitted = TRAININGS[training](total / self.width**2, steps)
        if fitted is None:
            return None
        series = f"{self.name}, {training}"
        name = f"{series}: {share(budget)}"
        return Arm(name, self.kind, {**options, **fitted}, series, budget)


def _channels(gone: float) -> Way:
    """Cut by the norms of filters relative to their layer's after a natural search.

    That takes about the same share of every layer, so that what is left of the FLOPs is near
    ``width`` squared; by BatchNorm scales it may be anything from half to twice that.
    """
    options = {
        "structure": "channels", "channel_sparsity": gone, "channel_score": "filter_norm",
    }  # fmt: skip
    return Way(f"{gone:.0%} of channels cut", "boosting", options, "natural", 0.2, width=1 - gone)


def _random(sparsity: float) -> Way:
    return Way(f"random {sparsity:.0%} sparse", "random", {"sparsity": sparsity})


TWIN = Way("dense", "dense_twin")
BOOSTING = Way("boosting ticket", "boosting", search="fgsm", share=1 / 3)
REINIT = Way("its mask re-initialised", "reinit", search="fgsm", share=1 / 3)
CUT = {gone: _channels(gone) for gone in (0.25, 0.5)}
SMALL = {gone: Way(f"dense, {1 - gone:.0%} wide", "dense_twin", width=1 - gone) for gone in CUT}
RANDOM = {sparsity: _random(sparsity) for sparsity in (0.5, 0.8, 0.9)}
TICKETS = (
    BOOSTING,
    Way("early ticket", "early", search="fgsm", share=0.5, least=6),
    Way("SynFlow ticket", "synflow"),
    Way("Flying Bird", "flying_bird"),
    *CUT.values(),
    *RANDOM.values(),
)


def whole(base: Base) -> int:
    """F of the dense PGD training, of an image."""
    return base.epochs * passes("pgd", base.options["steps"])


def share(budget: float) -> str:
    """``1/8``; ``0.3`` of what is no such fraction."""
    parts = round(1 / budget)
    if abs(parts * budget - 1) > 1e-9:
        return number(budget)
    return "1" if parts == 1 else f"1/{parts}"


def _arms(base: Base) -> list[Arm]:
    return [Arm(DENSE, "dense", series=DENSE, x=1.0), *_paper_arms(base), *_all(base)]


def _all(base: Base) -> Iterator[Arm]:
    """Raises ``UsageError`` for a budget that nothing can be done with."""
    pairs = [(TWIN, training) for training in TRAININGS]
    pairs += [(way, training) for way in (*TICKETS, REINIT, *SMALL.values()) for training in BEST]
    for budget in base.sweeps["sweep_budgets"]:
        arms = [
            way.arm(training, budget, base)
            for way, training in pairs
            # Dense PGD training for all of the cost is the baseline.
            if (way, training, budget) != (TWIN, "PGD", 1)
        ]
        if not any(arms):
            allowed = f"more, of {base.epochs} epochs: not one of any training fits"
            raise UsageError.bad_value("sweep_budgets", f"{budget:g}", allowed)
        yield from filter(None, arms)


def _paper_arms(base: Base) -> list[Arm]:
    """The paper's own baseline, at the small rate, and its ticket at its share of the cost."""
    small = {"learning_rate": base.search_rate, "warmup_epochs": 0}
    total, steps = PAPER_SHARE * whole(base), base.options["steps"]
    search = int(0.4 * total / passes("fgsm", steps))
    epochs = int((total - search * passes("fgsm", steps)) / passes("pgd", steps))
    ticket = {"search_objective": "fgsm", "search_epochs": search, "ticket_epochs": epochs}
    arms = [Arm(SMALL_RATE, "dense", small, x=1.0)]
    if search and epochs:
        arms.append(Arm(PAPER_TICKET, "boosting", ticket, x=PAPER_SHARE))
    return arms


_AUTOATTACK = "test_autoattack@best"
_BASELINE = "the dense PGD training"
_AS_ROBUST = "ends no more than half a point below"


def _claims(base: Base) -> list[Claim]:
    names = {arm.name for arm in _arms(base)}
    asked = [
        (
            "paper_own",
            f"the paper's ticket {_AS_ROBUST} its own baseline",
            PAPER_TICKET,
            SMALL_RATE,
        ),
        ("paper_fair", f"the paper's ticket {_AS_ROBUST} {_BASELINE}", PAPER_TICKET, DENSE),
    ]
    for budget in base.sweeps["sweep_budgets"]:
        for training in BEST:
            asked += _asked(budget, training)
    return [
        Claim(id, text, ours, theirs, _AUTOATTACK, "not_less", margin=MARGIN)
        if _AS_ROBUST in text
        else Claim(id, text, ours, theirs, _AUTOATTACK, "more")
        for id, text, ours, theirs in asked
        if {ours, theirs} <= names
    ]


def _asked(budget: float, training: str) -> Iterator[tuple[str, str, str, str]]:
    """Id, text and both arms of the claims at one budget under one training."""
    where, key = f"at {share(budget)} of the cost", f"{BEST.index(training)}_{1 / budget:g}"

    def at(way: Way) -> str:
        return f"{way.name}, {training}: {share(budget)}"

    yield f"cheap_{key}", f"{where} dense {training} {_AS_ROBUST} {_BASELINE}", at(TWIN), DENSE
    pairs = [(way, TWIN, "the dense network") for way in TICKETS]
    pairs += [(BOOSTING, REINIT, REINIT.name), (BOOSTING, RANDOM[0.8], "a random mask")]
    pairs += [(CUT[gone], SMALL[gone], "a dense network as small") for gone in CUT]
    for ours, theirs, words in pairs:
        id = f"{_slug(ours.name)}_{_slug(theirs.name)}_{key}"
        yield id, f"{where} {ours.name} beats {words} under {training}", at(ours), at(theirs)


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text.lower())


def _series(*ways: Way, trainings: tuple[str, ...]) -> tuple[str, ...]:
    return (DENSE, *(f"{way.name}, {training}" for way in ways for training in trainings))


def _figures() -> tuple[Figure, ...]:
    parts = (
        ("trainings", "dense networks, and the paper's ticket",
         (*_series(TWIN, trainings=tuple(TRAININGS)), SMALL_RATE, PAPER_TICKET)),
        ("tickets", f"tickets under {N_FGSM}",
         _series(TWIN, *TICKETS, REINIT, *SMALL.values(), trainings=(N_FGSM,))),
        ("tickets_tail", f"tickets under {TAIL}",
         _series(TWIN, *TICKETS, REINIT, *SMALL.values(), trainings=(TAIL,))),
    )  # fmt: skip
    costs = (
        (
            "flops",
            "run:total_flops_over_dense",
            "FLOPs, search included, of the dense PGD training",
        ),
        ("seconds", "run:total_over_dense", "seconds, search included, of the dense PGD training"),
    )
    return tuple(
        Figure(
            f"{name}_{cost}", "frontier", f"AutoAttack accuracy against cost: {title}",
            (_AUTOATTACK, measure), words, "accuracy under AutoAttack (%)", log_x=True, arms=series,
        )
        for cost, measure, words in costs
        for name, title, series in parts
    )  # fmt: skip


FRONTIER = Experiment(
    "frontier",
    "Frontier",
    "Which way to a robust network is the cheapest?",
    "At a share of the cost of dense PGD training, search included, which recipe gives the highest "
    "accuracy under AutoAttack, and where do tickets add to it?",
    "",
    _arms,
    _claims,
    _figures(),
    {**CIFAR10, "eps": 8 / 255, "steps": 10, "warmup_epochs": 0, "weight_decay": 5e-4,
     "batch_size": 128, "validation_images": 1000},
    models=("resnet18", "wide_resnet", "vgg"),
    defaults={"attacks": ("pgd20", "autoattack")},
    # What arms set, and whatever else would change what their epochs cost.
    sets=(
        "ticket_objective", "ticket_epochs", "ticket_phases", "ticket_schedule", "search",
        "search_objective", "search_epochs", "search_phases", "structure", "channel_sparsity",
        "channel_score", "sparsity", "phases", "recipe", "search_recipe", "ticket_recipe",
        "awp_gamma", "search_awp_gamma", "ticket_awp_gamma", "search_steps", "ticket_steps",
        "sparsity_update", "growth", "search_image_size", "pruning_schedule",
    ),
    sweeps=(Sweep("sweep_budgets", BUDGETS, low=1 / 1024, high=1.0),),
    fixed={"objective": "pgd"},
    baseline=DENSE,
    sweep_label="budget: share of the dense training's FLOPs",
    log_sweep=True,
)  # fmt: skip
