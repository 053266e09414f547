"""Title, caption and alternative text of each figure of a study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

import numpy as np

from tf_lottery.report import formats, measures, values
from tf_lottery.report.figures import epochs, frontier, panels, sweep
from tf_lottery.report.figures.bars import distinct_masks
from tf_lottery.report.figures.drawing import mean_transfer
from tf_lottery.report.figures.pictures import PICTURES_SHOWN, Pictures, amplification
from tf_lottery.report.measures import WORST, Measure
from tf_lottery.report.pages import Caption
from tf_lottery.report.results import Arm, Figure, Results
from tf_lottery.report.text import capital, listed
from tf_lottery.report.verdicts import count

SPOKEN = 12  # lines that an alternative text tells of


def caption(document: Results, figure: Figure, pictures: Pictures | None) -> Caption:
    """The caption of a figure that has data."""
    if figure.form == "pictures":
        assert pictures is not None
        return _pictures(figure, pictures)
    return _CAPTIONS[figure.form](document, figure)


def _epochs(document: Results, figure: Figure) -> Caption:
    arms, shown = document.drawn(figure), epochs.shown_measures(document, figure)
    lines = {
        (arm.name, measure): epochs.line(document, arm, measure)
        for measure in shown
        for arm in arms
    }
    last = epochs.last_epoch(document, figure)
    few = len(arms) <= panels.BANDS
    parts = [f"{_means(document)}, after each epoch{_on_images(document, shown)}."]
    if few:
        thing = "Bars" if last == 1 else "Bands"
        parts.append(f"{thing}: {_spread(document, shown)}.")
    else:
        halves = [
            float(np.max(found.high - found.low)) / 2
            for (_, measure), found in lines.items()
            if found is not None and measure.unit == "accuracy"
        ]
        if halves:
            widest = f"{_spread(document, shown)}, reach up to ±{max(halves):.1f} points"
            parts.append(f"The intervals, {widest}; not drawn, they would hide each other.")
    if _ends_early(document, arms, shown):
        parts.append("A line ends with the first of its seeds to end.")
    if document.reference is not None and any(
        epochs.reference_line(document, arm, measure, last) for arm in arms for measure in shown
    ):
        file = PurePath(document.reference.file).name
        parts.append(
            f"Thin, greyish lines in the same pattern: the authors' own curves at full scale "
            f"({file}), of the same epochs."
        )
    if len(document.seeds) == 1 and len(document.arms) <= panels.BANDS:
        parts.append("A ring marks the epoch whose weights count as best.")
    if document.searches:
        parts.append("Thin grey dashes are the search runs, which no ticket inherits.")
    if document.baseline is not None and not document.is_experiment:
        parts.append(f"The dotted level is the best of {document.baseline}.")
    points = [
        point
        for arm in arms
        for measure in shown
        for point in epochs.published_points(document, arm, measure, last)
    ]
    if points:
        edge = "; at the right edge those of its best or last epoch" * any(
            at > last for at, _ in points
        )
        parts.append(f"Hollow markers: values that the paper gives, at full scale{edge}.")
    spoken = []
    for measure in shown:
        ends = [
            f"{arm.name} from {found.mean[0]:.3g} to {found.mean[-1]:.3g}"
            for arm in arms[:SPOKEN]
            for found in [lines[arm.name, measure]]
            if found is not None
        ]
        spoken.append(f"{_named(measure)} over epochs 1 to {last}: {'; '.join(ends)}")
    return _caption(figure, " ".join(parts), f"Lines. {'. '.join(spoken)}.")


def _sweep(document: Results, figure: Figure) -> Caption:
    shown = sweep.shown_measures(document, figure)
    parts = [f"{_means(document)}{_on_images(document, shown)}."]
    spread = _spread(document, shown)
    if spread != _NO_INTERVAL:
        aside = len(sweep.lines(document, figure, shown[0])) > 1
        beside = ", drawn side by side so that none hides another" * aside
        parts.append(f"Bars: {spread}{beside}.")
    levels = list(sweep.levels(document, figure, shown[0]))
    if levels:
        parts.append(f"The level{'s' * (len(levels) > 1)} across: {listed(levels)}.")
    points = {
        measure: [
            (name, point)
            for name, series in sweep.lines(document, figure, measure).items()
            for point in series
        ]
        for measure in shown
    }
    if any(point.paper is not None for found in points.values() for _, point in found):
        share = document.study.scale and figure.x_label.startswith("epochs")
        parts.append(
            "Hollow markers on thin, greyish lines in the same pattern: the paper's values, at "
            f"full scale{' and for the same share of its epochs' if share else ''}."
        )
    if any(point.mean is None for found in points.values() for _, point in found):
        parts.append("Where a point is missing, the value was never reached or not measured.")
    spoken = []
    for measure in shown:
        series = sweep.lines(document, figure, measure)
        told_points = [
            f"{name}: " + ", ".join(f"{p.mean:.3g} at {p.x:g}" for p in found if p.mean is not None)
            for name, found in list(series.items())[:SPOKEN]
        ]
        spoken.append(f"{_named(measure)}. {'; '.join(told_points)}")
    return _caption(figure, " ".join(parts), f"Lines. {'. '.join(spoken)}.")


def _transfer(document: Results, figure: Figure) -> Caption:
    names, shares = mean_transfer(document, figure)
    transfer = document.transfer
    assert transfer is not None  # there is a figure of it
    seeds = len(document.seeds)
    mean = f"; means over {count(seeds, 'seed')}" if seeds > 1 else "; 1 seed"
    return _caption(
        figure,
        "Accuracy of the column's network on adversarial examples crafted on the row's with "
        f"{transfer.attack} from {transfer.examples:,} test images{mean}. Framed: crafted on "
        "the network itself (white box).",
        f"Heat map of accuracies. {crafted(names, shares.tolist())}.",
    )


def crafted(names: list[str], shares: list[list[float]]) -> str:
    """A matrix of transfer in words."""
    return "; ".join(
        f"crafted on {source}: "
        + ", ".join(
            f"{target} {formats.percent(share)} %" for target, share in zip(names, row, strict=True)
        )
        for source, row in zip(names, shares, strict=True)
    )


def _seconds(document: Results, figure: Figure) -> Caption:
    names = ", ".join(arm.name for arm in document.drawn(figure))
    return _caption(
        figure,
        "Validation accuracy over the seconds spent on search and training, validation left out. "
        "A ticket's line begins where its search ends (grey vertical line). Seconds are as "
        "measured, perhaps on a shared machine: the verdicts judge by FLOPs."
        + " A ticket would pay off where its line reaches the dotted level, the dense run's best, "
        "left of the dense run's own best." * (document.baseline is not None),
        f"Lines of validation accuracy over seconds, search included, for {names}.",
    )


def _accuracy(document: Results, figure: Figure) -> Caption:
    seeds = len(document.seeds)
    spread = "95 % Wilson intervals" if seeds == 1 else f"95 % t-intervals over {seeds} seeds"
    bars = [
        f"{arm.name}: "
        + ", ".join(f"{name} {_best(document, arm, name)} %" for name in document.tests)
        for arm in document.drawn(figure)
    ]
    return _caption(
        figure,
        f"Bars: weights of the best validation epoch, with {spread}. White "
        "diamonds: last epoch; a diamond well below its bar is robust overfitting. Bars "
        "whose intervals overlap widely are no evidence of a difference."
        + " Worst: images classified correctly when clean and under every attack."
        * (WORST in document.tests),
        f"Bars of test accuracy. {'; '.join(bars)}.",
    )


def _best(document: Results, arm: Arm, name: str) -> str:
    found = values.mean(document, arm.name, Measure(f"test_{name}", "best"))
    return formats.percent(None if found is None else found.mean)


def _cost(document: Results, figure: Figure) -> Caption:
    spoken = []
    for arm in document.drawn(figure):
        search, train = (
            np.mean([getattr(row, f"{part}_seconds") for row in document.runs(arm.name)])
            for part in ("search", "train")
        )
        spoken.append(
            f"{arm.name}: search {formats.seconds(float(search))} s, "
            f"training {formats.seconds(float(train))} s"
        )
    return _caption(
        figure,
        "Search (hatched) and training (plain), in seconds as measured and in floating-point "
        "operations." + " In brackets: relative to the dense run." * bool(document.baselines),
        f"Bars of search and training cost. {'; '.join(spoken)}.",
    )


def _layers(document: Results, figure: Figure) -> Caption:
    masks = [", ".join(names) for names, _ in distinct_masks(document, figure)]
    return _caption(
        figure,
        "In brackets: number of weights. The vertical lines are the overall densities. "
        "Models that keep the same number in every layer share their bars.",
        f"Bars of the share of weights kept in each layer, for {' and for '.join(masks)}.",
    )


def _pictures(figure: Figure, pictures: Pictures) -> Caption:
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
    return _caption(
        figure,
        f"{origin}The first {count} of the stored pictures, not a selection: above each its "
        f"true class, below it the prediction (✓ right, ✗ wrong); {facts}. {limit}; the last row "
        "shows the change "
        f"{amplification(eps):g} times enlarged around grey.",
        f"Grid of {count} images, clean and attacked, with predictions: {facts}.",
    )


def _frontier(document: Results, figure: Figure) -> Caption:
    found, best = frontier.series(document, figure), frontier.frontier(document, figure)
    y, x = map(measures.parse, figure.measures)
    spoken = "; ".join(
        f"{name}: " + ", ".join(f"{100 * p.accuracy:.1f} at {p.cost:.2g}" for p in points)
        for name, points in list(found.items())[:SPOKEN]
    )
    return _caption(
        figure,
        f"Every point is a training of its own, with a whole schedule. {_means(document)}"
        f"{_on_images(document, [y])}. Bars: {_spread(document, [y])}. Left is cheaper: the cost "
        f"of {document.baseline}, whose accuracy the dotted level shows, is 1. Wide, pale line: "
        "arms of the whole study than which no cheaper one is better: "
        f"{listed([place.arm.name for place in best])}.",
        f"{capital(measures.words(y))} in % over {measures.words(x)}. {spoken}.",
    )


_CAPTIONS: dict[str, Callable[[Results, Figure], Caption]] = {
    "epochs": _epochs,
    "sweep": _sweep,
    "transfer": _transfer,
    "seconds": _seconds,
    "accuracy": _accuracy,
    "cost": _cost,
    "layers": _layers,
    "frontier": _frontier,
}


def _caption(figure: Figure, text: str, alt: str) -> Caption:
    return Caption(f"{figure.title.rstrip('.')}.", text, alt)


def _means(document: Results) -> str:
    seeds = len(document.seeds)
    return "1 seed" if seeds == 1 else f"Means over {count(seeds, 'seed')}"


_NO_INTERVAL = "no interval, 1 seed"


def _spread(document: Results, shown: list[Measure]) -> str:
    """What bars and bands are."""
    seeds = len(document.seeds)
    if seeds > 2:
        return "95 % t-intervals over the seeds"
    if seeds == 2:
        return "from the one seed to the other"
    if all(measure.unit != "accuracy" for measure in shown):
        return _NO_INTERVAL
    only = "" if all(measure.unit == "accuracy" for measure in shown) else " of the accuracies"
    return f"95 % Wilson intervals{only} over the images only"


def _on_images(document: Results, shown: list[Measure]) -> str:
    """``, on 500 validation images``; empty where nothing is an accuracy of one kind."""
    accuracies = [measure for measure in shown if measure.unit == "accuracy"]
    kinds = {measure.quantity in measures.CURVES for measure in accuracies}
    if len(kinds) != 1:
        return ""
    found = {
        values.images(document, arm.name, measure)
        for arm in document.arms
        for measure in accuracies
    } - {None}
    if len(found) != 1:
        return ""
    only = "" if len(accuracies) == len(shown) else "accuracies "
    return f", {only}on {found.pop():,} {'validation' if kinds == {True} else 'test'} images"


def _ends_early(document: Results, arms: list[Arm], shown: list[Measure]) -> bool:
    """Whether some run of an arm has a longer curve than the arm's line."""
    return any(
        found is not None and row.curve and row.curve[-1].epoch > found.epochs[-1]
        for arm in arms
        for measure in shown
        for found in [epochs.line(document, arm, measure)]
        for row in document.runs(arm.name)
        if epochs.curve_of(row.curve, measure.quantity)
    )


def _named(measure: Measure) -> str:
    unit = " in %" if measure.unit in ("accuracy", "share") else ""
    words = measures.words(measure)
    return f"{words[:1].upper()}{words[1:]}{unit}"
