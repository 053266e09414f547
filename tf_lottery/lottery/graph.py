"""The lottery: which stages find a ticket, train it, and train what it is compared with.

    init -> search training -> prune (and rewind) -> retrain -> evaluate, export

- ``dense``: the unpruned network, trained with the full schedule: what costs refer to.
- ``dense_twin``: the unpruned network, trained as the tickets are (``--ticket_*``).
- ``boosting``: searched at the small rate without warm-up (arXiv 2003.05733), or found as
  ``--search`` says: by one of the ways below.
- ``winning``: searched at the large rate with warm-up, like the dense baseline.
- ``reinit``: the boosting ticket's mask on a fresh initialisation.
- ``random_mask``: as many weights per layer as the boosting ticket, at random
  positions, on its initialisation.
- ``early``: as ``boosting`` without ``--search``, until the mask has settled (arXiv 1909.11957).
- ``snip``, ``grasp``, ``synflow``: cut from the initialisation, see ``pruning.at_init``.
- ``random``: random masks with the layers' densities of ``--layer_density``.
- ``flying_bird``: random masks with the layers' densities of ideal gas quotas, which change while
  the ticket is trained (arXiv 2202.09844).

Each of these kinds is a ticket finder, found by name in ``options.registries.FINDERS`` or as
``package.module:function``: ``(config, name, given) -> stage``. The stage leaves ``ticket``;
without one (``None``) the unpruned network is trained as tickets are. ``name`` is for its labels,
empty where the kind says it; ``given`` is the ticket of ``--ticket``. How the ticket is trained
may stand in the stage's ``runtime["ticket_train"]``.

This module only says what depends on what; ``lottery.work`` does it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.errors import UsageError
from tf_lottery.lottery.search_keys import mask_settings
from tf_lottery.options.registries import FINDERS, SCORES
from tf_lottery.options.searches import (
    CURRENT,
    SCORED_AT_INIT,
    SEARCHES,
    UNTRAINED,
    SettlingConfig,
)
from tf_lottery.options.settings import (
    MEASURED,
    AttackConfig,
    LotteryConfig,
    TrainConfig,
    derive_seed,
    settings,
)
from tf_lottery.pruning.schedule import sparsities
from tf_lottery.tickets import Ticket

WHICH = ("best", "last")
# Raise a kind's number when a change of code changes its results.
REVISIONS = {"train": 2, "evaluate": 3}
_LOOKING = 2  # the revision of prunings that look at images


@dataclass(frozen=True)
class Entry:
    """The stages of one row of the comparison.

    Attributes:
      kind: name of a finder.
      ticket: the stage whose ticket is trained; ``None``: the unpruned network.
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
    def last_ticket(self) -> Stage | None:
        """The stage whose ticket has the masks that training ends with; ``None``: unpruned."""
        if self.ticket is None:
            return None
        return self.train if self.train.runtime["train"].sparsity_update else self.ticket

    @property
    def searches(self) -> list[Stage]:
        """The trainings among the stages that find the ticket."""
        return [s for s in in_order([self.ticket] if self.ticket else []) if s.kind == "train"]


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
      kind: name of a finder.
      given: takes the place of the boosting ticket's search.
      name: for the stages' labels, instead of ``kind``.

    Raises:
      UsageError: the masks of a ticket of channels are to change.
    """
    called = name or kind
    if config.prune.channels and kind in (*UNTRAINED, "flying_bird"):
        _refuse_channels("compare", kind)
    ticket: Stage | None = FINDERS.find("compare", kind)(config, name, given)
    training = config.train
    if ticket is not None:
        training = ticket.runtime.get("ticket_train", config.ticket_train)
        update = training.sparsity_update
        cut = any(s.settings.get("structure") == "channels" for s in in_order([ticket]))
        if update is not None and cut:
            allowed = "none for a ticket of channels, which is cut before it is trained"
            raise UsageError.bad_value("sparsity_update", update.name, allowed)
    elif kind != "dense":
        training = dataclasses.replace(config.ticket_train, sparsity_update=None)
    parents = {"ticket": ticket} if ticket else {"start": init_stage(config, "init", name)}
    train = train_stage(config, training, f"train: {called}", parents)
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


def attack_stage(evaluation: Stage, attack: AttackConfig) -> Stage:
    """One attack of an evaluation, which other evaluations may have too."""
    names = ("weights", "dataset", "test_examples", "seed")
    return Stage(
        "attack",
        f"{evaluation.label}: {attack.name}",
        {"attack": settings(attack), **{name: evaluation.settings[name] for name in names}},
        evaluation.parents,
        evaluation.runtime,
        evaluation.revision,
    )


def training_data(config: LotteryConfig) -> dict:
    """The settings of the data, as far as training sees it."""
    data = settings(config.data)
    del data["test_examples"]  # never seen
    return data


def init_stage(config: LotteryConfig, purpose: str = "init", name: str = "") -> Stage:
    """An initialisation: the run's own (``init``), or another for another purpose."""
    # The data set gives the input shape and the classes; its pixels matter only
    # to a network that is normalised by them.
    data = training_data(config)
    if not config.model.normalize:
        data = {name: data[name] for name in ("name", "image_size") if name in data}
    chosen = {
        "model": settings(config.model),
        "data": data,
        "seed": derive_seed(config.seed, purpose),
    }
    label = f"initialise ({purpose})" + (f": {name}" if name else "")
    return Stage("init", label, chosen, runtime={"config": config})


def train_stage(
    config: LotteryConfig,
    train: TrainConfig,
    label: str,
    parents: dict[str, Stage],
    key: TrainConfig | None = None,
) -> Stage:
    """A training; ``key``: the settings that its key goes by, see ``mask_settings``."""
    if train.dtype_policy == MEASURED:
        raise UsageError(
            "--dtype_policy=auto has to be measured before a stage is made, as the command line, "
            "find_ticket and train_ticket do: give the policy itself",
            "dtype_policy",
        )
    chosen = {
        "train": settings(key or train),
        "data": training_data(config),
        "seed": config.seed,
    }
    if config.deterministic:
        chosen["deterministic"] = True
    runtime = {"config": config, "train": train}
    return Stage("train", label, chosen, parents, runtime, REVISIONS["train"])


def dense(config: LotteryConfig, name: str, given: Ticket | None) -> None:
    """No ticket: the whole network is trained."""
    del config, name, given


dense_twin = dense


def boosting(config: LotteryConfig, name: str, given: Ticket | None) -> Stage:
    if given is None:
        way, called = config.prune.search, name or "boosting"
        return _WAYS[way](config, called if way == "train" else f"{called} ({way})", name)
    # The same masks are trained in another way.
    cut = {} if given.structure == "weights" else {"structure": given.structure}
    return Stage(
        "prune",
        "ticket from --ticket",
        {"given": given.digest, **cut},
        runtime={"config": config, "ticket": given},
    )


def _trained(config: LotteryConfig, called: str, name: str) -> Stage:
    return search_stages(config, config.search, called, name)


def _settled(config: LotteryConfig, called: str, name: str) -> Stage:
    return search_stages(config, config.search, called, name, early=True)


def _scored(score: str) -> Callable[[LotteryConfig, str, str], Stage]:
    def found(config: LotteryConfig, called: str, name: str) -> Stage:
        parents = {"start": init_stage(config, "init", name)}
        return prune_stage(config, f"prune: {called}", config.prune.sparsity, parents, score)

    return found


def _random(config: LotteryConfig, called: str, name: str) -> Stage:
    scope = config.prune.layer_density
    return _at_random(config, called, name, "layer" if scope == "uniform" else scope)


def _at_random(config: LotteryConfig, called: str, name: str, scope: str) -> Stage:
    parents = {"start": init_stage(config, "init", name)}
    return prune_stage(config, f"prune: {called}", config.prune.sparsity, parents, "random", scope)


# (config, called, name) -> stage, by ``--search``; the names are those of ``search_stages``.
_WAYS: dict[str, Callable[[LotteryConfig, str, str], Stage]] = {
    "train": _trained,
    "early": _settled,
    **{score: _scored(score) for score in SCORED_AT_INIT},
    "random": _random,
}


def _finder(way: str) -> Callable[[LotteryConfig, str, Ticket | None], Stage]:
    def find(config: LotteryConfig, name: str, given: Ticket | None) -> Stage:
        del given
        return _WAYS[way](config, name or way, name)

    return find


early, snip, grasp, synflow, random = map(_finder, SEARCHES[1:])


def flying_bird(config: LotteryConfig, name: str, given: Ticket | None) -> Stage:
    del given
    update = config.sparsity_update
    if update.name == "none":
        update = dataclasses.replace(update, name="flying_bird")
    training = dataclasses.replace(config.ticket_train, sparsity_update=update)
    start = _at_random(config, name or "flying_bird", name, "igq")
    return dataclasses.replace(start, runtime={**start.runtime, "ticket_train": training})


def _refuse_channels(flag: str, got: str) -> NoReturn:
    allowed = "train or early" if flag == "search" else "kinds that search by training"
    raise UsageError.bad_value(flag, got, f"{allowed} with --structure=channels")


def way_of(stage: Stage) -> str:
    """The ``--search`` by which a stage that scores weights finds its ticket.

    Of a kind from elsewhere that cuts the initialisation, the score.
    """
    training = stage.parents.get("trained")
    if training is None:
        return stage.settings["score"]
    return "early" if "settling" in training.settings["train"] else "train"


def winning(config: LotteryConfig, name: str, given: Ticket | None) -> Stage:
    del given
    return search_stages(config, config.winning_search, name or "winning", name)


def reinit(config: LotteryConfig, name: str, given: Ticket | None) -> Stage:
    fresh = {"start": init_stage(config, "reinit", name)}
    return _control(config, "reinit", boosting(config, name, given), name, fresh)


def random_mask(config: LotteryConfig, name: str, given: Ticket | None) -> Stage:
    return _control(config, "random_mask", boosting(config, name, given), name, {})


def _control(
    config: LotteryConfig, kind: str, ticket: Stage, name: str, others: dict[str, Stage]
) -> Stage:
    chosen = {"control": kind, "seed": derive_seed(config.seed, kind)}
    parents = {"ticket": ticket, **others}
    return Stage("prune", f"prune: {name or kind}", chosen, parents, {"config": config})


def prune_stage(
    config: LotteryConfig,
    label: str,
    sparsity: float,
    parents: dict[str, Stage],
    score: str = "",
    scope: str = "",
) -> Stage:
    """Cuts a ticket.

    Args:
      config: of the run.
      label: for people.
      sparsity: share of all weights that is removed afterwards; of a ticket of channels share
        of the weights of the cut network.
      parents: ``start``, the initialisation; ``trained``, the training whose weights are
        scored, without which they are those of ``start``; ``ticket``, of the round before;
        ``rewind``, a training that kept ``config.prune.rewind_epoch``, without which the
        ticket rewinds to ``start``.
      score, scope: empty: those of ``config.prune``.

    Raises:
      UsageError: channels are to be chosen without a search by training.
    """
    prune = config.prune
    score = score or prune.score
    chosen = {
        "sparsity": sparsity,
        "score": score,
        "scope": scope or prune.scope,
        "rewind_epoch": prune.rewind_epoch if "rewind" in parents else 0,
    }
    if prune.channels:
        if "trained" not in parents:  # at the start all channels score alike
            _refuse_channels("search", score)
        own = dataclasses.asdict(prune.channels)
        chosen |= {name: settings(value) for name, value in own.items()}
    looks = score in ("snip", "grasp")
    if score == "random" or looks or score not in SCORES:
        chosen["seed"] = derive_seed(config.seed, "score")
    if looks or score not in SCORES:  # which may look at images
        chosen["data"] = training_data(config)
    if looks:
        chosen["objective"] = settings(config.search.objective)
    revision = _LOOKING if "data" in chosen else 1
    return Stage("prune", label, chosen, parents, {"config": config}, revision)


def search_stages(
    config: LotteryConfig, train: TrainConfig, called: str, name: str = "", early: bool = False
) -> Stage:
    """The last prune stage of a search: one round, or several for iterative pruning.

    Args:
      config: of the run.
      train: how the network is trained each round.
      called: in the labels of trainings and prunings.
      name: in that of the initialisation.
      early: each training ends once the mask that its round leads to has settled.
    """
    prune = config.prune
    init = init_stage(config, "init", name)
    rounds = sparsities(prune)
    if isinstance(prune.rewind_epoch, int) and prune.rewind_epoch:
        train = dataclasses.replace(train, keep_epochs=(prune.rewind_epoch,))
    ticket: Stage | None = None
    first: Stage | None = None
    for number, sparsity in enumerate(rounds, 1):
        suffix = f", round {number} of {len(rounds)}" if len(rounds) > 1 else ""
        if early:
            settling = SettlingConfig(
                prune.mask_distance, sparsity, prune.score, prune.scope, prune.channels
            )
            train = dataclasses.replace(train, settling=settling)
        searched = train_stage(
            config.on_search_images,
            train,
            f"search: {called}{suffix}",
            {"start": init} if ticket is None else {"ticket": ticket},
            mask_settings(config, train),
        )
        first = first or searched
        parents = {"start": init, "trained": searched}
        if ticket is not None:
            parents["ticket"] = ticket
        if prune.rewind_epoch:
            parents["rewind"] = searched if prune.rewind_epoch == CURRENT else first
        ticket = prune_stage(config, f"prune: {called}{suffix}", sparsity, parents)
    assert ticket is not None  # every schedule has a round
    return ticket
