"""Title, caption and alternative text of each figure of a report."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tf_lottery.report import formats
from tf_lottery.report.figures import PICTURES_SHOWN, amplification, distinct_masks
from tf_lottery.report.results import WORST, Document, accuracy_names, is_search

_LEVEL = "the dotted level is the dense run's best"


class Caption(NamedTuple):
    """Plain text; ``alt`` says in words what the picture shows."""

    title: str
    text: str
    alt: str


def captions(document: Document, pictures: dict[str, np.ndarray] | None) -> dict[str, Caption]:
    """Figure name -> caption, for all figures of ``figures.save_all``."""
    rows = document["rows"]
    names = ", ".join(row["name"] for row in rows)
    images = document["data"].get("validation_used") or document["data"]["validation"]
    robust = any(
        record["validation_robust"] is not None
        for curve in document["curves"].values()
        for record in curve
    )
    dense = any(row["kind"] == "dense" for row in rows)
    measured = "natural and robust" if robust else "natural"
    searched = any(is_search(label) for label in document["curves"])
    result = {
        "accuracy_per_epoch": Caption(
            "Accuracy per epoch.",
            f"On {images:,} validation images after each epoch. A ring marks the epoch whose "
            "weights count as best"
            + (f"; {_LEVEL}" * dense)
            + "."
            + (" Thin grey dashes are the search runs, which no ticket inherits." * searched)
            + " A boosting ticket would show as a line that rises, in the first epochs, earlier "
            "than the dense network's and than that of the same mask on fresh weights.",
            f"Lines of {measured} validation accuracy over the epochs for {names}. "
            + _ends(document, "validation_robust" if robust else "validation_natural"),
        ),
        "accuracy_per_second": Caption(
            "The same against time.",
            f"{'Robust' if robust else 'Natural'} validation accuracy over the seconds spent on "
            "search and training, validation left out. A ticket's line begins where its search "
            "ends (grey vertical line). Seconds are as measured, perhaps on a shared machine: the "
            "findings judge by FLOPs."
            + (
                f" In the chart {_LEVEL}; a ticket would pay off where its line reaches that level "
                "left of the dense run's own best."
            )
            * dense,
            f"Lines of validation accuracy over seconds, search included, for {names}.",
        ),
        "test_accuracy": Caption(
            "Test accuracy.",
            "Bars: weights of the best validation epoch, with 95 % Wilson intervals. White "
            "diamonds: last epoch; a diamond well below its bar is robust overfitting. Bars "
            "whose intervals overlap widely are no evidence of a difference."
            + " Worst: images classified correctly when clean and under every attack."
            * (WORST in accuracy_names(document)),
            "Bars of test accuracy. " + "; ".join(_accuracies(document, row) for row in rows) + ".",
        ),
        "cost": Caption(
            "Cost of a model.",
            "Search (hatched) and training (plain), in seconds as measured and in "
            "floating-point operations." + " In brackets: relative to the dense run." * dense,
            "Bars of search and training cost. "
            + "; ".join(
                f"{row['name']}: search {formats.seconds(row['search_seconds'])} s, "
                f"training {formats.seconds(row['train_seconds'])} s"
                for row in rows
            )
            + ".",
        ),
        "layer_density": Caption(
            "Weights kept in each layer.",
            "In brackets: number of weights. The vertical lines are the overall densities. "
            "Models that keep the same number in every layer share their bars.",
            "Bars of the share of weights kept in each layer, for "
            + " and for ".join(", ".join(models) for models, _ in distinct_masks(document))
            + ".",
        ),
    }
    if pictures is not None and len(pictures["label"]):
        result["adversarial_examples"] = _pictures(pictures)
    return result


def _pictures(pictures: dict[str, np.ndarray]) -> Caption:
    count = min(PICTURES_SHOWN, len(pictures["label"]))
    label = pictures["label"][:count]
    right = int(np.sum(pictures["clean_prediction"][:count] == label))
    held = int(np.sum(pictures["adversarial_prediction"][:count] == label))
    eps = float(pictures["eps"])
    # Optional: which model was attacked, and how.
    origin = ""
    if "attack" in pictures and "model" in pictures:
        origin = f"{pictures['attack']} against {pictures['model']}. "
    limit = f"No pixel changes by more than {formats.pixels(eps)}"
    if str(pictures.get("norm", "linf")) == "l2":
        limit = f"The change of an image has an l_2 length of at most {eps:.4g}"
    facts = f"{right} of {count} are classified correctly when clean, {held} when attacked"
    return Caption(
        "Adversarial examples.",
        f"{origin}The first {count} of the stored pictures, not a selection: above each its "
        f"true class, below it the prediction (✓ right, ✗ wrong); {facts}. {limit}; the last row "
        "shows the change "
        f"{amplification(eps):g} times enlarged around grey.",
        f"Grid of {count} images, clean and attacked, with predictions: {facts}.",
    )


def _accuracies(document: Document, row: dict) -> str:
    shares = (f"{name} {formats.percent(row[name]['best'])} %" for name in accuracy_names(document))
    return f"{row['name']}: {', '.join(shares)}"


def _ends(document: Document, key: str) -> str:
    parts = []
    for row in document["rows"]:
        values = [
            record[key]
            for record in document["curves"].get(row["name"], [])
            if record[key] is not None
        ]
        if values:
            first, last = formats.percent(values[0]), formats.percent(values[-1])
            parts.append(f"{row['name']} from {first} to {last} %")
    return f"{'; '.join(parts)}." if parts else ""
