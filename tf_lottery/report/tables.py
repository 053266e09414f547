"""The tables of a study: every arm, with the paper's own values where it gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tf_lottery.report import formats, measures, values
from tf_lottery.report.measures import Measure
from tf_lottery.report.pages import Cell, Head, Row
from tf_lottery.report.results import Arm, Results
from tf_lottery.statistics import Estimate, estimate

PAPER = "paper (full scale)"


class Column(NamedTuple):
    """Head of a column: ``group`` stands above neighbours of the same group; may be empty."""

    group: str
    head: str
    measure: Measure


class Grid(NamedTuple):
    """Heads of columns, and rows of as many cells."""

    heads: list[Head]
    rows: list[Row]


def accuracies(document: Results) -> Grid:
    """Density, validation after epoch 1, test accuracies at the best and the last epoch."""
    return _grid(document, _accuracy_columns(document))


def costs(document: Results) -> Grid:
    """Epochs, seconds, FLOPs, passes and what they are relative to the baseline."""
    return _grid(document, _cost_columns(document))


def gains(document: Results) -> Grid | None:
    """When each arm was as accurate as the baseline at its best; ``None`` without one."""
    return _grid(document, _GAIN_COLUMNS) if document.baselines else None


def others(document: Results) -> Grid | None:
    """Measures of claims, figures and the paper that are in neither of these tables."""
    names = [arm.name for arm in document.arms]
    wanted = [_resolved(document, claim.measure, names) for claim in document.claims]
    for figure in document.figures:
        if figure.form == "sweep":
            drawn = [arm.name for arm in document.drawn(figure)]
            wanted += [_resolved(document, word, drawn) for word in figure.measures]
    wanted += [_resolved(document, word, names) for arm in document.arms for word in arm.published]
    tabled = [*_accuracy_columns(document), *_cost_columns(document), *_GAIN_COLUMNS]
    known = {column.measure for column in tabled}
    columns = [
        Column("", _title(measure), measure)
        for measure in dict.fromkeys(wanted)
        if measure not in known and _has_values(document, measure)
    ]
    columns.sort(key=lambda column: (column.measure.quantity, str(column.measure.at).zfill(6)))
    return _grid(document, columns) if columns else None


def _resolved(document: Results, word: str, arms: Sequence[str]) -> Measure:
    return values.resolve(document, measures.parse(word), arms)


def _has_values(document: Results, measure: Measure) -> bool:
    """Whether a column of the measure would hold anything."""
    if measure.at is None and measure.key is None:
        return False
    ours = any(values.value(row, measure) is not None for row in document.rows)
    return ours or any(_published(document, arm, measure).text for arm in document.arms)


def _title(measure: Measure) -> str:
    words = measures.words(measure)
    unit = {"accuracy": ", %", "share": ", %"}.get(measure.unit, "")
    return f"{words[:1].upper()}{words[1:]}{unit}"


def _accuracy_columns(document: Results) -> list[Column]:
    columns = [Column("", "Density, %", Measure("run:density"))]
    for kind in ("natural", "robust"):
        measure = Measure(f"validation_{kind}", 1)
        if any(values.value(row, measure) is not None for row in document.rows):
            columns.append(Column("Validation, epoch 1", kind, measure))
    for name in document.tests:
        columns += [
            Column(f"Test, {name}", at, Measure(f"test_{name}", at)) for at in ("best", "last")
        ]
    return columns


def _cost_columns(document: Results) -> list[Column]:
    columns = [Column("Epochs", "all", Measure("run:epochs")),
               Column("Epochs", "best", Measure("run:best_epoch"))]  # fmt: skip
    for group, unit, ratio in (
        ("Seconds", "seconds", "total_over_dense"),
        ("FLOPs", "flops", "total_flops_over_dense"),
    ):
        if unit == "flops" and any(row.flops_left < 1 for row in document.rows):
            columns.append(Column(group, "left of a pass, %", Measure("run:flops_left")))
        for head, stem in (("search", "search"), ("training", "train")):
            columns.append(Column(group, head, Measure(f"run:{stem}_{unit}")))
        if document.baselines or (unit == "flops" and document.has_counted):
            columns.append(Column(group, "relative", Measure(f"run:{ratio}")))
    if any(row.train_passes is not None for row in document.rows):
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


def _grid(document: Results, columns: Sequence[Column]) -> Grid:
    rows = [row for arm in document.arms for row in _rows(document, arm, columns)]
    return Grid([Head(column.group, column.head) for column in columns], rows)


def _rows(document: Results, arm: Arm, columns: Sequence[Column]) -> Iterator[Row]:
    # A network that all arms have in common is told once, in the page's head.
    what = arm.model if len({other.model for other in document.arms}) > 1 else ""
    yield Row(arm.name, [cell(document, arm, column.measure) for column in columns], what)
    found = [_published(document, arm, column.measure) for column in columns]
    if any(each.text for each in found):
        yield Row(PAPER, found, soft=True)


def _published(document: Results, arm: Arm, measure: Measure) -> Cell:
    number = values.published(document, arm, measure, [each.name for each in document.arms])
    return Cell("" if number is None else measures.number(number, measure.unit))


def cell(document: Results, arm: Arm, measure: Measure) -> Cell:
    """The mean over the arm's seeds with its interval; ``never`` and a dash as they apply."""
    found = values.mean(document, arm.name, measure)
    if found is None:
        return Cell("never" if _is_never(document, arm, measure) else formats.NONE)
    small = interval_words(found, measure)
    total = len(document.seeds)
    if found.seeds < total:
        word = "never" if measure.key in measures.NEVER else "not measured"
        part = f"{found.seeds} of {total} seeds, else {word}"
        small = f"{small}; {part}" if small else part
    return Cell(measures.number(found.mean, measure.unit), small)


def _is_never(document: Results, arm: Arm, measure: Measure) -> bool:
    """Whether a missing value means that the arm never got there, which it tried to."""
    if document.baseline_of(arm) in (None, arm.name):
        return False
    if any(r.search_source == "unknown" for r in document.runs(arm.name)):
        return measure.key == "epochs_to_dense"
    if measure.key == "break_even" and not any(r.search_flops for r in document.runs(arm.name)):
        return False  # nothing to pay for
    return measure.key in measures.NEVER


def transfer(document: Results) -> Grid | None:
    """Accuracy of the column's arm on examples made on the row's; ``None`` without any."""
    found = document.transfer
    if found is None:
        return None
    measure = Measure("test_transfer", "best")  # an accuracy on test images
    rows = []
    for row, name in enumerate(found.arms):
        cells = []
        for column in range(len(found.arms)):
            mean = estimate([matrix[row][column] for matrix in found.matrices], found.examples)
            words = [interval_words(mean, measure)]
            theirs = found.published[row][column] if found.published else None
            words.append("" if theirs is None else f"paper {formats.percent(theirs)}")
            words.append("white box" if row == column else "")
            small = "\n".join(filter(None, words))
            cells.append(Cell(formats.percent(mean.mean), small, own=row == column))
        rows.append(Row(name, cells))
    return Grid([Head("Classified by", name) for name in found.arms], rows)


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
