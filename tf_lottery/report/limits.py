"""What a results document cannot show, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tf_lottery.report.results import Document

SATURATION_POINTS = 5.0
# Kinds that start from the weights to rewind to, and kinds that start untrained.
_REWOUND = ("boosting", "winning", "random_mask")
_UNTRAINED = ("dense", "reinit")


def limits(document: Document) -> Iterator[str]:
    """One sentence (or a few) a limit, in reading order."""
    rows = document["rows"]
    if all(row["kind"] != "dense" for row in rows):
        yield "There is no dense run here: nothing can be said about accuracy or cost against it."
    if len(rows) == 1:
        yield "A single model: nothing is compared."
    seeds = sorted({row["seed"] for row in rows})
    if len(seeds) == 1:
        seed = f"One seed ({seeds[0]}); seed noise not measured."
    else:
        seed = f"{len(seeds)} seeds; models are compared within a seed."
    yield (
        f"{seed} The intervals cover the draw of the images alone: 95 %, Newcombe's for two "
        "independent samples. Both models saw the same images, which makes them if anything "
        "too wide; they are not corrected for the number of comparisons."
    )
    yield from troubles(document["ledger"])
    yield from _schedule(document)
    yield from _rewind(document)
    if not document["attacks"]:
        yield "No attack was run, so nothing is known about robustness."
    yield from _saturation(document)
    yield (
        "Seconds on a shared machine vary from run to run; FLOPs do not, and they alone decide "
        "whether a cost counts as lower or higher."
    )
    names = {row["name"] for row in rows}
    if any(
        entry["kind"] == "train" and entry["cached"] and names & set(entry["models"])
        for entry in document["ledger"]
    ):
        yield "Some stages were finished by an earlier run: their seconds were measured then."
    if any(row["density"] < 1 for row in rows):
        yield (
            "Unstructured masks save no arithmetic: a pruned weight is still multiplied, as a "
            "zero, so an epoch of a sparse network costs what a dense one costs. Whatever is "
            "saved is epochs."
        )


def troubles(ledger: list[dict]) -> Iterator[str]:
    """What went wrong in trainings and was gone on with, a sentence a kind of trouble.

    Args:
      ledger: of a document; entries without trouble lack the keys.
    """
    collapsed = [
        f"{_training(entry)} (epoch {', '.join(map(str, entry['collapsed_epochs']))})"
        for entry in ledger
        if entry.get("collapsed_epochs")
    ]
    if collapsed:
        yield (
            f"Catastrophic overfitting, that is robust to FGSM and not to PGD, in "
            f"{'; '.join(collapsed)}: what was made from these weights is no fair sample of FGSM "
            "training; --on_overfit=rollback or a smaller rate may avoid it."
        )
    back = [
        f"{_training(entry)} ({entry['rollbacks']} x)" for entry in ledger if entry.get("rollbacks")
    ]
    if back:
        yield (
            f"Gone back to an earlier epoch, and on at half the rate each time: {'; '.join(back)}. "
            "The rates are not those of the settings, and the seconds and FLOPs of what was "
            "undone are not counted."
        )


def _training(entry: dict) -> str:
    seed = f", seed {entry['seed']}" if "seed" in entry else ""
    return f"{entry['label']}{seed}"


def _schedule(document: Document) -> Iterator[str]:
    # A schedule without decay; a step in the curve is then often no more than noise.
    if _setting(document, "train", "schedule", "name") == "constant":
        yield (
            "The learning rate of the training never decays from its peak: accuracies swing from "
            "epoch to epoch by more than the intervals show."
        )


def _rewind(document: Document) -> Iterator[str]:
    epochs = _setting(document, "prune", "rewind_epoch") or 0
    kinds = [row["kind"] for row in document["rows"]]
    rewound = [kind for kind in _REWOUND if kind in kinds]
    untrained = [kind for kind in _UNTRAINED if kind in kinds]
    if epochs > 0 and rewound and untrained:
        spent = "1 epoch" if epochs == 1 else f"{epochs} epochs"
        yield (
            f"{_start(rewound)} from weights already trained for {spent} of the search, "
            f"{_start(untrained)} untrained: comparisons at an epoch are {spent} apart."
        )


def _saturation(document: Document) -> Iterator[str]:
    """Warns where the margin loss finds clearly more than the cross-entropy does.

    Per model, its lowest accuracy under a multi-step cross-entropy attack against its
    lowest under a margin-loss attack: a weaker PGD that merely took too few steps must
    not pass for vanishing gradients.
    """
    ascent = [a for a in document["attacks"] if a.get("method", "pgd") in ("pgd", "mim", "apgd")]
    entropy = [a["name"] for a in ascent if a["loss"] == "cross_entropy" and a["steps"] > 1]
    margin = [a["name"] for a in ascent if a["loss"] == "margin"]
    if not entropy or not margin:
        return
    gaps: dict[tuple[str, str], list[str]] = {}
    for row in document["rows"]:
        found = []
        for which in ("best", "last"):
            soft = min(entropy, key=lambda name: row[name][which])
            hard = min(margin, key=lambda name: row[name][which])
            points = round(100 * (row[soft][which] - row[hard][which]), 6)
            found.append((points, soft, hard, which))
        points, soft, hard, which = max(found)
        if points > SATURATION_POINTS:
            gaps.setdefault((soft, hard), []).append(
                f"{points:.1f} points above {hard} for {row['name']} ({which} epoch)"
            )
    for (soft, _), models in gaps.items():
        yield (
            f"{soft} is {', '.join(models)}: cross-entropy gradients may vanish; trust the "
            "lower number."
        )


def _setting(document: Document, *path: str) -> Any:
    value = document["settings"]
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _start(kinds: list[str]) -> str:
    words = kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} and {kinds[-1]}"
    return f"{words} start{'s' if len(kinds) == 1 else ''}"
