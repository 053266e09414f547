"""What an experiment cannot show, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator

from tf_lottery.report.experiment.document import Document, baselines, has_counted, listed
from tf_lottery.report.experiment.measures import CURVES, parse
from tf_lottery.report.experiment.statistics import count
from tf_lottery.report.limits import troubles


def limits(document: Document) -> Iterator[str]:
    """One sentence (or a few) a limit, in reading order."""
    if document["scale"]:
        yield (
            f"Not the paper's settings ({document['scale']}): a claim that fails here is not "
            "refuted, one that holds is not proven for the full scale, and the paper's numbers "
            "beside ours are for orientation."
        )
    yield from _seeds(document)
    yield from _images(document)
    if len(document["claims"]) > 1:
        yield (
            f"{count(len(document['claims']), 'claim')}: the intervals are not corrected for "
            "their number; among many, one in twenty misses by chance."
        )
    if not baselines(document):
        text = "There is no baseline here: costs are not set against that of a dense network."
        if has_counted(document):
            text = (
                "No dense network was trained here as a baseline. The FLOPs of search and "
                "retraining are set against those of one dense training, which are counted; "
                "seconds, and when an arm is as accurate as a dense network, are not."
            )
        yield text
    yield from unmeasured(document)
    yield from troubles(document["ledger"])
    if document["attacks"]:
        yield (
            "An accuracy under attacks is an upper bound: a stronger attack may find more than "
            "these did."
        )
    else:
        yield "No attack was run on the test images: nothing is said about their robustness."
    yield from _cost(document)


def unmeasured(document: Document) -> Iterator[str]:
    """Why a distance that the experiment is about is missing, and what to do; mostly nothing.

    Trainings have it from the version on that records it; the store hands out older ones.
    """
    words = [claim["measure"] for claim in document["claims"]]
    words += [word for figure in document["figures"] for word in figure["measures"]]
    if not any(parse(word).quantity == "distance" for word in words):
        return
    missing = [
        (arm["name"], run["seed"])
        for arm in document["arms"]
        for run in arm["runs"]
        if run["density"] < 1 and any(record["distance"] is None for record in run["curve"])
    ]
    stages = [
        entry["stage"]
        for entry in document["ledger"]
        if entry["kind"] == "train"
        and entry["label"].startswith("train")
        and any((name, entry["seed"]) in missing for name in entry["models"])
    ]
    if missing:
        names = listed(list(dict.fromkeys(name for name, _ in missing)))
        yield (
            f"The distance to the network it was cut from is missing for {names}: the store holds "
            "trainings of a version of tf_lottery that did not record it yet. To have it, remove "
            f"the director{'y' if len(stages) == 1 else 'ies'} {', '.join(stages)} from the store "
            "and give the command again, which repeats these trainings alone."
        )


def _seeds(document: Document) -> Iterator[str]:
    seeds = len(document["seeds"])
    if seeds == 1:
        yield (
            f"One seed ({document['seeds'][0]}): how far another initialisation and order of the "
            "data would change a result was not measured. The intervals cover the draw of the "
            "images alone; both arms saw the same images, which makes those of a difference if "
            "anything too wide."
        )
    else:
        few = " With so few, it is wide and rests on the seeds being normally distributed."
        yield (
            f"{count(seeds, 'seed')}: a 95 % t-interval of the mean, of a comparison that of the "
            "differences seed by seed. It covers what a seed changes, not the draw of the images, "
            f"which all seeds share.{few * (seeds < 5)}"
        )


def _images(document: Document) -> Iterator[str]:
    data = document["data"]
    used = data.get("validation_used") or data["validation"]
    words = [claim["measure"] for claim in document["claims"]]
    words += [word for figure in document["figures"] for word in figure["measures"]]
    if not any(parse(word).quantity in CURVES for word in words):
        return
    text = f"Validation accuracies are measured on {used:,}"
    if used < data["validation"]:
        text += f" of {data['validation']:,}"
    yield (
        f"{text} images, on which the best epoch was chosen as well: at the best epoch they "
        "flatter, at a fixed epoch they do not."
    )


def _cost(document: Document) -> Iterator[str]:
    yield (
        "Seconds on a shared machine vary from run to run; FLOPs do not, and they alone are "
        "comparable between machines."
    )
    if any(entry["cached"] for entry in document["ledger"]):
        yield "Some stages were finished by an earlier run: their seconds were measured then."
    if any(run["density"] < 1 for arm in document["arms"] for run in arm["runs"]):
        yield (
            "Unstructured masks save no arithmetic: a pruned weight is still multiplied, as a "
            "zero, so an epoch of a sparse network costs what a dense one costs. Whatever is "
            "saved is epochs."
        )
