"""What a study cannot show, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tf_lottery.options.searches import CURRENT, UNTRAINED
from tf_lottery.report.comparison import BOOSTING, CONTROLS, DENSE, TWIN
from tf_lottery.report.measures import CURVES, parse
from tf_lottery.report.results import Arm, LedgerEntry, Results
from tf_lottery.report.text import listed
from tf_lottery.report.trainings import training
from tf_lottery.report.verdicts import count

SATURATION_POINTS = 5.0
# By ``--search``, where it is not a whole training.
FOUND = {
    "early": "searched only until its mask had settled",
    "snip": "cut from the initialisation by SNIP, without a search training",
    "grasp": "cut from the initialisation by GraSP, without a search training",
    "synflow": "cut from the initialisation by SynFlow, without a search training",
    "random": "drawn at random, without a search",
}
# Kinds that start untrained, whatever the epoch to rewind to.
_UNTRAINED = (DENSE, TWIN, "reinit", "flying_bird", *UNTRAINED)


def limits(document: Results) -> Iterator[str]:
    """One sentence (or a few) a limit, in reading order."""
    if document.study.scale:
        yield (
            f"Not the paper's settings ({document.study.scale}): a claim that fails here is not "
            "refuted, one that holds is not proven for the full scale, and the paper's numbers "
            "beside ours are for orientation."
        )
    if len(document.arms) == 1:
        yield "A single model: nothing is compared."
    yield from _seeds(document)
    yield from _images(document)
    if len(document.claims) > 1:
        yield (
            f"{count(len(document.claims), 'claim')}: the intervals are not corrected for "
            "their number; among many, one in twenty misses by chance."
        )
    if not document.baselines:
        text = "There is no baseline here: costs are not set against that of a dense network."
        if document.has_counted:
            text = (
                "No dense network was trained here as a baseline. The FLOPs of search and "
                "retraining are set against those of one dense training, which are counted; "
                "seconds, and when an arm is as accurate as a dense network, are not."
            )
        yield text
    yield from unmeasured(document)
    yield from troubles(document.ledger)
    yield from _schedule(document)
    yield from _search(document)
    yield from _rewind(document)
    if document.attacks:
        yield (
            "An accuracy under attacks is an upper bound: a stronger attack may find more than "
            "these did."
        )
        yield from _saturation(document)
    else:
        yield "No attack was run on the test images: nothing is said about their robustness."
    yield from _cost(document)


def unmeasured(document: Results) -> Iterator[str]:
    """Why a distance that the study is about is missing, and what to do; mostly nothing.

    Trainings have it from the version on that records it; the store hands out older ones.
    """
    if not any(parse(word).quantity == "distance" for word in _words(document)):
        return
    missing = [
        (row.name, row.seed)
        for row in document.rows
        if row.density < 1 and any(record.distance is None for record in row.curve)
    ]
    stages = [
        entry.stage
        for entry in document.ledger
        if entry.kind == "train"
        and entry.label.startswith("train")
        and any((name, entry.seed) in missing for name in entry.models)
    ]
    if missing:
        names = listed(list(dict.fromkeys(name for name, _ in missing)))
        yield (
            f"The distance to the network it was cut from is missing for {names}: the store holds "
            "trainings of a version of tf_lottery that did not record it yet. To have it, remove "
            f"the director{'y' if len(stages) == 1 else 'ies'} {', '.join(stages)} from the store "
            "and give the command again, which repeats these trainings alone."
        )


def _words(document: Results) -> list[str]:
    words = [claim.measure for claim in document.claims]
    return words + [word for figure in document.figures for word in figure.measures]


def troubles(ledger: Sequence[LedgerEntry]) -> Iterator[str]:
    """What went wrong in trainings and was gone on with, a sentence a kind of trouble."""
    collapsed = [
        f"{training(entry)} (epoch {', '.join(map(str, entry.collapsed_epochs))})"
        for entry in ledger
        if entry.collapsed_epochs
    ]
    if collapsed:
        yield (
            f"Catastrophic overfitting, that is robust to FGSM and not to PGD, in "
            f"{'; '.join(collapsed)}: what was made from these weights is no fair sample of "
            "one-step training; --on_overfit=rollback or a smaller rate may avoid it."
        )
    halved = [(entry, entry.rollbacks - entry.overfit_rollbacks) for entry in ledger]
    back = [f"{training(entry)} ({times} x)" for entry, times in halved if times]
    if back:
        yield (
            f"Gone back to an earlier epoch, and on at half the rate each time: {'; '.join(back)}. "
            "The rates are not those of the settings, and the FLOPs of what was undone are not "
            "counted."
        )
    hardened = [
        f"{training(entry)} (from {2**entry.overfit_rollbacks} steps on)"
        for entry in ledger
        if entry.overfit_rollbacks
    ]
    if hardened:
        yield (
            "Gone back from catastrophic overfitting, and on against PGD of 2 steps, then 4, then "
            f"8: {'; '.join(hardened)}. The seconds and FLOPs are those of what was run, undone "
            "epochs among them."
        )


def _seeds(document: Results) -> Iterator[str]:
    seeds = len(document.seeds)
    if seeds == 1:
        paired = any(claim.pairs for claim in document.claims)
        yield (
            f"One seed ({document.seeds[0]}): how far another initialisation and order of the "
            "data would change a result was not measured. The intervals cover the draw of the "
            "images alone; "
            + (
                "test accuracies are compared image by image, validation accuracies as if of "
                "other images, which makes those intervals if anything too wide."
                if paired
                else "both arms saw the same images, which makes those of a difference if "
                "anything too wide."
            )
        )
    else:
        few = " With so few, it is wide and rests on the seeds being normally distributed."
        yield (
            f"{count(seeds, 'seed')}: a 95 % t-interval of the mean, of a comparison that of the "
            "differences seed by seed. It covers what a seed changes, not the draw of the images, "
            f"which all seeds share.{few * (seeds < 5)}"
        )


def _images(document: Results) -> Iterator[str]:
    data = document.data
    held_out = data.validation or 0
    used = data.validation_used or held_out
    if not any(parse(word).quantity in CURVES for word in _words(document)):
        return
    text = f"Validation accuracies are measured on {used:,}"
    if used < held_out:
        text += f" of {held_out:,}"
    yield (
        f"{text} images, on which the best epoch was chosen as well: at the best epoch they "
        "flatter, at a fixed epoch they do not."
    )


def _schedule(document: Results) -> Iterator[str]:
    # A schedule without decay; a step in the curve is then often no more than noise.
    schedule = _setting(document, ("train", "schedule", "name"), ("options", "schedule"))
    if schedule == "constant":
        yield (
            "The learning rate of the training never decays from its peak: accuracies swing from "
            "epoch to epoch by more than the intervals show."
        )


def _rewind(document: Results) -> Iterator[str]:
    epoch = _setting(document, ("prune", "rewind_epoch"), ("options", "rewind_epoch")) or 0
    kinds = list(dict.fromkeys(arm.kind for arm in document.arms))
    rewound = [kind for kind in kinds if kind not in _UNTRAINED]
    untrained = [kind for kind in kinds if kind in _UNTRAINED]
    if epoch and rewound and untrained:
        whole = epoch == CURRENT
        spent = "a search" if whole else count(epoch, "epoch")
        trained = "all of the search" if whole else f"{spent} of the search"
        yield (
            f"{_start(rewound)} from weights already trained for {trained}, "
            f"{_start(untrained)} untrained: comparisons at an epoch are {spent} apart."
        )


def _search(document: Results) -> Iterator[str]:
    """Where the boosting ticket is not what its name says everywhere else."""
    way = _setting(document, ("prune", "search"), ("options", "search"))
    rows = [row for row in document.rows if row.kind in (BOOSTING, *CONTROLS)]
    if way in FOUND and any(row.search_source == "run" for row in rows):
        yield f"The boosting ticket, and what is made of it, was {FOUND[way]} (--search={way})."


def _saturation(document: Results) -> Iterator[str]:
    """Warns where the margin loss finds clearly more than the cross-entropy does.

    Per arm, its lowest accuracy under a multi-step cross-entropy attack against its
    lowest under a margin-loss attack: a weaker PGD that merely took too few steps must
    not pass for vanishing gradients.
    """
    ascent = [a for a in document.attacks if a.method in ("pgd", "mim", "apgd")]
    entropy = [a.name for a in ascent if a.loss == "cross_entropy" and a.steps > 1]
    margin = [a.name for a in ascent if a.loss == "margin"]
    if not entropy or not margin:
        return
    gaps: dict[tuple[str, str], list[str]] = {}
    for arm in document.arms:
        found = _widest(document, arm, entropy, margin)
        if found and found[0] > SATURATION_POINTS:
            points, soft, hard, which = found
            gaps.setdefault((soft, hard), []).append(
                f"{points:.1f} points above {hard} for {arm.name} ({which} epoch)"
            )
    for (soft, _), arms in gaps.items():
        yield (
            f"{soft} is {', '.join(arms)}: cross-entropy gradients may vanish; trust the "
            "lower number."
        )


def _widest(
    document: Results, arm: Arm, entropy: list[str], margin: list[str]
) -> tuple[float, str, str, str] | None:
    found = []
    for row in document.runs(arm.name):
        for which in ("best", "last") if row.tests else ():
            shares = {name: getattr(row.tests[name], which) for name in (*entropy, *margin)}
            soft, hard = (min(names, key=shares.__getitem__) for names in (entropy, margin))
            found.append((round(100 * (shares[soft] - shares[hard]), 6), soft, hard, which))
    return max(found, default=None)


def _cost(document: Results) -> Iterator[str]:
    yield (
        "Seconds on a shared machine vary from run to run; FLOPs do not, and they alone are "
        "comparable between machines."
    )
    unknown = [row.name for row in document.rows if row.search_source == "unknown"]
    if unknown:
        yield (
            f"The given ticket of {listed(list(dict.fromkeys(unknown)))} records no search cost: "
            "no saving can be claimed."
        )
    if any(entry.cached for entry in document.ledger):
        yield "Some stages were finished by an earlier run: their seconds were measured then."
    if any(row.density < 1 and row.flops_left == 1 for row in document.rows):
        yield (
            "Unstructured masks save no arithmetic: a pruned weight is still multiplied, as a "
            "zero, so an epoch of a sparse network costs what the same one of a dense network "
            "costs. Whatever is saved is epochs, or passes of an epoch."
        )
    cut = {row.name: row.flops_left for row in document.rows if row.flops_left < 1}
    if cut:
        shares = [f"{name} {100 * left:.0f} %" for name, left in cut.items()]
        yield (
            "Channels were cut out before retraining, so that an epoch, an attack and a prediction "
            f"cost less; of a forward pass's FLOPs are left: {listed(shares)}. The search ran the "
            "whole network."
        )


def _setting(document: Results, *paths: tuple[str, ...]) -> Any:
    """The first of these settings that there is; a comparison's and an experiment's differ."""
    for path in paths:
        value: Any = document.settings
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def _start(kinds: list[str]) -> str:
    words = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} and {kinds[-1]}"
    return f"{words} start{'s' if len(kinds) == 1 else ''}"
