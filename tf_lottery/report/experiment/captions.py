"""Title, caption and alternative text of each figure of an experiment."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np

from tf_lottery.report import formats
from tf_lottery.report.captions import Caption
from tf_lottery.report.experiment import curves, measures, panels, sweep
from tf_lottery.report.experiment.document import Document, drawn_arms, listed
from tf_lottery.report.experiment.figures import mean_transfer
from tf_lottery.report.experiment.measures import Measure
from tf_lottery.report.experiment.statistics import count

SPOKEN = 12  # lines that an alternative text tells of


def captions(document: Document) -> dict[str, Caption]:
    """Figure name -> caption, for all figures that have data."""
    found = {}
    for told in document["figures"]:
        if told["form"] == "epochs" and curves.shown_measures(document, told):
            found[told["name"]] = _epochs(document, told)
        elif told["form"] == "sweep" and sweep.shown_measures(document, told):
            found[told["name"]] = _sweep(document, told)
        elif told["form"] == "transfer" and len(mean_transfer(document, told)[0]) > 1:
            found[told["name"]] = _transfer(document, told)
    return found


def _epochs(document: Document, told: dict) -> Caption:
    arms, shown = drawn_arms(document, told), curves.shown_measures(document, told)
    lines = {
        (arm["name"], measure): curves.line(document, arm, measure)
        for measure in shown
        for arm in arms
    }
    last = curves.last_epoch(document, told)
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
    if any(
        curves.reference_line(document, arm, measure, last) for arm in arms for measure in shown
    ):
        file = PurePath(document["reference"]["file"]).name
        parts.append(
            f"Thin, greyish lines in the same pattern: the authors' own curves at full scale "
            f"({file}), of the same epochs."
        )
    points = [
        point
        for arm in arms
        for measure in shown
        for point in curves.published_points(document, arm, measure, last)
    ]
    if points:
        edge = "; at the right edge those of its best or last epoch" * any(
            at > last for at, _ in points
        )
        parts.append(f"Hollow markers: values that the paper gives, at full scale{edge}.")
    spoken = []
    for measure in shown:
        ends = [
            f"{arm['name']} from {found.mean[0]:.3g} to {found.mean[-1]:.3g}"
            for arm in arms[:SPOKEN]
            for found in [lines[arm["name"], measure]]
            if found is not None
        ]
        spoken.append(f"{_named(measure)} over epochs 1 to {last}: {'; '.join(ends)}")
    return _caption(told, " ".join(parts), f"Lines. {'. '.join(spoken)}.")


def _sweep(document: Document, told: dict) -> Caption:
    shown = sweep.shown_measures(document, told)
    parts = [f"{_means(document)}{_on_images(document, shown)}."]
    spread = _spread(document, shown)
    if spread != _NO_INTERVAL:
        aside = len(sweep.lines(document, told, shown[0])) > 1
        beside = ", drawn side by side so that none hides another" * aside
        parts.append(f"Bars: {spread}{beside}.")
    levels = list(sweep.levels(document, told, shown[0]))
    if levels:
        parts.append(f"The level{'s' * (len(levels) > 1)} across: {listed(levels)}.")
    points = {
        measure: [
            (name, point)
            for name, series in sweep.lines(document, told, measure).items()
            for point in series
        ]
        for measure in shown
    }
    if any(point.paper is not None for found in points.values() for _, point in found):
        share = document["scale"] and (told["x_label"] or "").startswith("epochs")
        parts.append(
            "Hollow markers on thin, greyish lines in the same pattern: the paper's values, at "
            f"full scale{' and for the same share of its epochs' if share else ''}."
        )
    if any(point.mean is None for found in points.values() for _, point in found):
        parts.append("Where a point is missing, the value was never reached or not measured.")
    spoken = []
    for measure in shown:
        series = sweep.lines(document, told, measure)
        told_points = [
            f"{name}: " + ", ".join(f"{p.mean:.3g} at {p.x:g}" for p in found if p.mean is not None)
            for name, found in list(series.items())[:SPOKEN]
        ]
        spoken.append(f"{_named(measure)}. {'; '.join(told_points)}")
    return _caption(told, " ".join(parts), f"Lines. {'. '.join(spoken)}.")


def _transfer(document: Document, told: dict) -> Caption:
    names, shares = mean_transfer(document, told)
    transfer = document["transfer"]
    seeds = len(document["seeds"])
    mean = f"; means over {count(seeds, 'seed')}" if seeds > 1 else "; 1 seed"
    cells = [
        f"crafted on {source}: "
        + ", ".join(
            f"{target} {formats.percent(share)} %" for target, share in zip(names, row, strict=True)
        )
        for source, row in zip(names, shares, strict=True)
    ]
    return _caption(
        told,
        "Accuracy of the column's network on adversarial examples crafted on the row's with "
        f"{transfer['attack']} from {transfer['examples']:,} test images{mean}. Framed: crafted on "
        "the network itself (white box).",
        f"Heat map of accuracies. {'; '.join(cells)}.",
    )


def _caption(told: dict, text: str, alt: str) -> Caption:
    return Caption(f"{told['title'].rstrip('.')}.", text, alt)


def _means(document: Document) -> str:
    seeds = len(document["seeds"])
    return "1 seed" if seeds == 1 else f"Means over {count(seeds, 'seed')}"


_NO_INTERVAL = "no interval, 1 seed"


def _spread(document: Document, shown: list[Measure]) -> str:
    """What bars and bands are."""
    seeds = len(document["seeds"])
    if seeds > 2:
        return "95 % t-intervals over the seeds"
    if seeds == 2:
        return "from the one seed to the other"
    if all(measure.unit != "accuracy" for measure in shown):
        return _NO_INTERVAL
    only = "" if all(measure.unit == "accuracy" for measure in shown) else " of the accuracies"
    return f"95 % Wilson intervals{only} over the images only"


def _on_images(document: Document, shown: list[Measure]) -> str:
    """``, on 500 validation images``; empty where nothing is an accuracy of one kind."""
    accuracies = [measure for measure in shown if measure.unit == "accuracy"]
    kinds = {measure.quantity in measures.CURVES for measure in accuracies}
    if len(kinds) != 1:
        return ""
    found = {
        measures.images(document, arm, measure)
        for arm in document["arms"]
        for measure in accuracies
    } - {None}
    if len(found) != 1:
        return ""
    only = "" if len(accuracies) == len(shown) else "accuracies "
    return f", {only}on {found.pop():,} {'validation' if kinds == {True} else 'test'} images"


def _ends_early(document: Document, arms: list[dict], shown: list[Measure]) -> bool:
    """Whether some run of an arm has a longer curve than the arm's line."""
    return any(
        found is not None and run["curve"] and run["curve"][-1]["epoch"] > found.epochs[-1]
        for arm in arms
        for measure in shown
        for found in [curves.line(document, arm, measure)]
        for run in arm["runs"]
        if any(record[measure.quantity] is not None for record in run["curve"])
    )


def _named(measure: Measure) -> str:
    unit = " in %" if measure.unit in ("accuracy", "share") else ""
    words = measures.words(measure)
    return f"{words[:1].upper()}{words[1:]}{unit}"
