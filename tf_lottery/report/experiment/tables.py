"""The tables of an experiment: every arm, with the paper's own values where it gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from tf_lottery.report import formats
from tf_lottery.report.experiment import measures
from tf_lottery.report.experiment.document import (
    Document,
    attack_names,
    baseline_of,
    baselines,
    drawn_arms,
    has_counted,
)
from tf_lottery.report.experiment.measures import Measure
from tf_lottery.report.experiment.statistics import Estimate, estimate
from tf_lottery.report.results import WORST

PAPER = "paper (full scale)"


class Column(NamedTuple):
    """Head of a column: ``group`` stands above neighbours of the same group; may be empty."""

    group: str
    head: str
    measure: Measure


class Cell(NamedTuple):
    """``small`` stands below or behind: the interval."""

    text: str
    small: str = ""


class Row(NamedTuple):
    """One arm, or (``paper``) what the paper gives for the arm above."""

    name: str
    small: str
    cells: list[Cell]
    paper: bool = False


class Table(NamedTuple):
    """Attributes:
    heads: (group, name) of each column.
    rows: as many cells each.
    """

    heads: list[tuple[str, str]]
    rows: list[Row]

    @property
    def top(self) -> list[tuple[str, int]]:
        """(text, columns) of the upper of two rows of heads; 0 columns: a head of both rows."""
        spans: list[tuple[str, int]] = []
        for group, same in groupby(self.heads, lambda head: head[0]):
            names = [name for _, name in same]
            spans += [(group, len(names))] if group else [(name, 0) for name in names]
        return spans

    @property
    def bottom(self) -> list[str]:
        """The lower row of heads; empty where one row will do."""
        return [name for group, name in self.heads if group]


def accuracies(document: Document) -> Table:
    """Density, validation after epoch 1, test accuracies at the best and the last epoch."""
    return _table(document, _accuracy_columns(document))


def costs(document: Document) -> Table:
    """Epochs, seconds, FLOPs, passes and what they are relative to the baseline."""
    return _table(document, _cost_columns(document))


def gains(document: Document) -> Table | None:
    """When each arm was as accurate as the baseline at its best; ``None`` without one."""
    return _table(document, _GAIN_COLUMNS) if baselines(document) else None


def others(document: Document) -> Table | None:
    """Measures of claims, figures and the paper that are in neither of these tables."""
    words = [claim["measure"] for claim in document["claims"]]
    wanted = [measures.resolve(document, measures.parse(word), document["arms"]) for word in words]
    for figure in document["figures"]:
        if figure["form"] == "sweep":
            arms = drawn_arms(document, figure)
            parsed = map(measures.parse, figure["measures"])
            wanted += [measures.resolve(document, measure, arms) for measure in parsed]
    for arm in document["arms"]:
        wanted += [
            measures.resolve(document, measures.parse(word), document["arms"])
            for word in arm["published"]
        ]
    tabled = [*_accuracy_columns(document), *_cost_columns(document), *_GAIN_COLUMNS]
    known = {column.measure for column in tabled}
    columns = [
        Column("", _title(measure), measure)
        for measure in dict.fromkeys(wanted)
        if measure not in known and _has_values(document, measure)
    ]
    columns.sort(key=lambda column: (column.measure.quantity, str(column.measure.at).zfill(6)))
    return _table(document, columns) if columns else None


def _has_values(document: Document, measure: Measure) -> bool:
    """Whether a column of the measure would hold anything."""
    if measure.at is None and measure.key is None:
        return False
    runs = [run for arm in document["arms"] for run in arm["runs"]]
    ours = any(measures.value(run, measure) is not None for run in runs)
    return ours or any(_published(document, arm, measure).text for arm in document["arms"])


def _title(measure: Measure) -> str:
    words = measures.words(measure)
    unit = {"accuracy": ", %", "share": ", %"}.get(measure.unit, "")
    return f"{words[:1].upper()}{words[1:]}{unit}"


def _accuracy_columns(document: Document) -> list[Column]:
    runs = [run for arm in document["arms"] for run in arm["runs"]]
    columns = [Column("", "Density, %", Measure("run:density"))]
    for kind in ("natural", "robust"):
        measure = Measure(f"validation_{kind}", 1)
        if any(measures.value(run, measure) is not None for run in runs):
            columns.append(Column("Validation, epoch 1", kind, measure))
    attacks = attack_names(document)
    if any(run["test"] for run in runs):
        for name in ("natural", *attacks, *([WORST] if len(attacks) > 1 else [])):
            columns += [
                Column(f"Test, {name}", at, Measure(f"test_{name}", at)) for at in ("best", "last")
            ]
    return columns


def _cost_columns(document: Document) -> list[Column]:
    columns = [Column("Epochs", "all", Measure("run:epochs")),
               Column("Epochs", "best", Measure("run:best_epoch"))]  # fmt: skip
    for group, unit in (("Seconds", "seconds"), ("FLOPs", "flops")):
        for head, stem in (("search", "search"), ("training", "train")):
            columns.append(Column(group, head, Measure(f"run:{stem}_{unit}")))
        if baselines(document) or (unit == "flops" and has_counted(document)):
            columns.append(Column(group, "relative", Measure(f"run:total_{unit}_over_dense")))
    columns.append(Column("Passes", "search", Measure("run:search_passes")))
    columns.append(Column("Passes", "training", Measure("run:train_passes")))
    return columns


_REACH = "To the baseline's best accuracy"
_GAIN_COLUMNS = [
    Column(_REACH, "epochs", Measure("run:epochs_to_dense")),
    Column(_REACH, "seconds, relative", Measure("run:seconds_to_dense_over_dense")),
    Column(_REACH, "FLOPs, relative", Measure("run:flops_to_dense_over_dense")),
    Column("Search paid for", "after retrainings", Measure("run:break_even")),
]


def _table(document: Document, columns: Sequence[Column]) -> Table:
    rows = [row for arm in document["arms"] for row in _rows(document, arm, columns)]
    return Table([(column.group, column.head) for column in columns], rows)


def _rows(document: Document, arm: dict, columns: Sequence[Column]) -> Iterator[Row]:
    # A network that all arms have in common is told once, in the page's head.
    what = arm["model"] if len({other["model"] for other in document["arms"]}) > 1 else ""
    yield Row(arm["name"], what, [cell(document, arm, column.measure) for column in columns])
    found = [_published(document, arm, column.measure) for column in columns]
    if any(text != "" for text, _ in found):
        yield Row(PAPER, "", found, paper=True)


def _published(document: Document, arm: dict, measure: Measure) -> Cell:
    """The paper's value, also where it stands under the word that resolves to ``measure``."""
    for word, value in arm["published"].items():
        parsed = measures.parse(word)
        if measures.resolve(document, parsed, document["arms"]) == measure:
            return Cell(measures.number(value, measure.unit))
    return Cell("")


def cell(document: Document, arm: dict, measure: Measure) -> Cell:
    """The mean over the arm's seeds with its interval; ``never`` and a dash as they apply."""
    values = [measures.value(run, measure) for run in arm["runs"]]
    known = [value for value in values if value is not None]
    if not known:
        return Cell("never" if _is_never(document, arm, measure) else formats.NONE)
    images = measures.images(document, arm, measure)
    found = estimate(known, images, measures.is_counted(document, measure))
    small = interval_words(found, measure)
    if len(known) < len(values):
        word = "never" if measure.key in measures.NEVER else "not measured"
        part = f"{len(known)} of {len(values)} seeds, else {word}"
        small = f"{small}; {part}" if small else part
    return Cell(measures.number(found.mean, measure.unit), small)


def _is_never(document: Document, arm: dict, measure: Measure) -> bool:
    """Whether a missing value means that the arm never got there, which it tried to."""
    if baseline_of(document, arm) in (None, arm["name"]):
        return False
    if measure.key == "break_even" and not any(run["search_flops"] for run in arm["runs"]):
        return False  # nothing to pay for
    return measure.key in measures.NEVER


def interval_words(found: Estimate, measure: Measure) -> str:
    """``±0.4`` over seeds, ``87.2–88.9`` over images; empty where there is no width."""
    if found.low is None or found.high is None or found.low == found.high:
        return ""
    if found.basis == "seeds":
        # The wider side: the other one may have been cut off at 0 or 100 %.
        half = max(found.high - found.mean, found.mean - found.low)
        return f"±{measures.number(half, measure.unit)}"
    low, high = (measures.number(bound, measure.unit) for bound in (found.low, found.high))
    return f"{low}–{high}"
