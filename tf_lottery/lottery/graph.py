"""The lottery: which stages find a ticket, train it, and train what it is compared with.

    init -> search training -> prune (and rewind) -> retrain -> evaluate, export

- ``dense``: the unpruned network, trained with the full schedule.
- ``boosting``: searched at the small rate without warm-up (arXiv 2003.05733).
- ``winning``: searched at the large rate with warm-up, like the dense baseline.
- ``reinit``: the boosting ticket's mask on a fresh initialisation.
- ``random_mask``: as many weights per layer as the boosting ticket, at random
  positions, on its initialisation.

This module only says what depends on what; ``lottery.work`` does it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.options.settings import LotteryConfig, TrainConfig, derive_seed, settings
from tf_lottery.pruning.schedule import sparsities
from tf_lottery.tickets import Ticket

WHICH = ("best", "last")
# Raise a kind's number when a change of code changes its results.
REVISIONS = {"train": 2, "evaluate": 3}


@dataclass(frozen=True)
class Entry:
    """The stages of one row of the comparison.

    Attributes:
      kind: one of ``settings.KINDS``.
      ticket: the prune stage whose ticket is trained; ``None`` for dense.
      train: its training.
      evaluations: by ``best`` and ``last`` epoch.
      export: of the best epoch.
    """

    kind: str
    ticket: Stage | None
    train: Stage
    evaluations: dict[str, Stage]
    export: Stage

    @property
    def stages(self) -> list[Stage]:
        """The stages nothing else in the entry depends on."""
        return [*self.evaluations.values(), self.export]

    @property
    def searches(self) -> list[Stage]:
        """The training stages spent on finding the ticket."""
        return [
            stage
            for stage in in_order([self.ticket] if self.ticket else [])
            if stage.kind == "train"
        ]


def entries(config: LotteryConfig, ticket: Ticket | None = None) -> list[Entry]:
    """One entry for each kind in ``settings.compare``.

    Args:
      config: the whole run.
      ticket: takes the place of the boosting ticket's search.
    """
    return [make_entry(config, kind, ticket) for kind in config.compare]


def make_entry(
    config: LotteryConfig, kind: str, given: Ticket | None = None, name: str = ""
) -> Entry:
    """The stages of one network.

    Args:
      config: its settings; ``compare`` does not matter.
      kind: one of ``settings.KINDS``.
      given: takes the place of the boosting ticket's search.
      name: for the stages' labels, instead of ``kind``.
    """
    called = name or kind
    if kind == "dense":
        ticket = None
        train = _train_stage(
            config, config.train, f"train: {called}", {"start": _init_stage(config, "init", name)}
        )
    else:
        ticket = _ticket_stage(config, kind, given, name)
        train = _train_stage(config, config.ticket_train, f"train: {called}", {"ticket": ticket})
    evaluations = {
        which: Stage(
            "evaluate",
            f"evaluate: {called} ({which} epoch)",
            {
                "weights": which,
                "dataset": config.data.name,
                "test_examples": config.data.test_examples,
                "attacks": settings(config.attacks),
                "seed": config.seed,
            },
            {"trained": train},
            {"config": config},
            REVISIONS["evaluate"],
        )
        for which in WHICH
    }
    # If the best epoch is the last, the attacks need not run twice.
    evaluations["last"] = dataclasses.replace(
        evaluations["last"], runtime={"config": config, "twin": evaluations["best"]}
    )
    export_parents = {"trained": train} if ticket is None else {"trained": train, "ticket": ticket}
    export = Stage(
        "export", f"export: {called}", {"weights": "best"}, export_parents, {"config": config}
    )
    return Entry(kind, ticket, train, evaluations, export)


def _training_data(config: LotteryConfig) -> dict:
    data = settings(config.data)
    del data["test_examples"]  # training never sees a test image
    return data


def _init_stage(config: LotteryConfig, purpose: str, name: str = "") -> Stage:
    # The data set gives the input shape and the classes; its pixels matter only
    # to a network that is normalised by them.
    data = _training_data(config) if config.model.normalize else {"name": config.data.name}
    chosen = {
        "model": settings(config.model),
        "data": data,
        "seed": derive_seed(config.seed, purpose),
    }
    label = f"initialise ({purpose})" + (f": {name}" if name else "")
    return Stage("init", label, chosen, runtime={"config": config})


def _train_stage(
    config: LotteryConfig, train: TrainConfig, label: str, parents: dict[str, Stage]
) -> Stage:
    chosen = {
        "train": settings(train),
        "data": _training_data(config),
        "seed": config.seed,
    }
    if config.deterministic:
        chosen["deterministic"] = True
    runtime = {"config": config, "train": train}
    return Stage("train", label, chosen, parents, runtime, REVISIONS["train"])


def _ticket_stage(config: LotteryConfig, kind: str, given: Ticket | None, name: str = "") -> Stage:
    if kind == "winning":
        return _search_stages(config, config.winning_search, name or kind, name)
    if given is None:
        boosting = _search_stages(config, config.search, name or "boosting", name)
    else:
        boosting = Stage(
            "prune",
            "ticket from --ticket",
            {"given": given.digest},
            runtime={"config": config, "ticket": given},
        )
    if kind == "boosting":
        return boosting
    seed = derive_seed(config.seed, kind)
    parents = {"ticket": boosting}
    if kind == "reinit":
        parents["start"] = _init_stage(config, "reinit", name)
    chosen = {"control": kind, "seed": seed}
    return Stage("prune", f"prune: {name or kind}", chosen, parents, {"config": config})


def _search_stages(config: LotteryConfig, train: TrainConfig, called: str, name: str) -> Stage:
    """The last prune stage of a search: one round, or several for iterative pruning."""
    prune = config.prune
    init = _init_stage(config, "init", name)
    rounds = sparsities(prune)
    if prune.rewind_epoch:
        train = dataclasses.replace(train, keep_epochs=(prune.rewind_epoch,))
    ticket: Stage | None = None
    first: Stage | None = None
    for number, sparsity in enumerate(rounds, 1):
        suffix = f", round {number} of {len(rounds)}" if len(rounds) > 1 else ""
        searched = _train_stage(
            config,
            train,
            f"search: {called}{suffix}",
            {"start": init} if ticket is None else {"ticket": ticket},
        )
        first = first or searched
        parents = {"start": init, "trained": searched}
        if ticket is not None:
            parents["ticket"] = ticket
        if prune.rewind_epoch:
            parents["rewind"] = first
        chosen = {
            "sparsity": sparsity,
            "score": prune.score,
            "scope": prune.scope,
            "rewind_epoch": prune.rewind_epoch,
        }
        if prune.score == "random":
            chosen["seed"] = derive_seed(config.seed, "score")
        ticket = Stage("prune", f"prune: {called}{suffix}", chosen, parents, {"config": config})
    assert ticket is not None  # every schedule has a round
    return ticket
