"""An experiment as aligned plain text for a terminal."""

from __future__ import annotations

from tf_lottery.report.experiment import measures, tables
from tf_lottery.report.experiment.document import (
    Document,
    attack_names,
    baselines,
    has_counted,
)
from tf_lottery.report.experiment.limits import unmeasured
from tf_lottery.report.experiment.measures import Measure
from tf_lottery.report.experiment.statistics import count
from tf_lottery.report.experiment.tables import Cell
from tf_lottery.report.experiment.verdict import tally, verdicts
from tf_lottery.report.results import WORST
from tf_lottery.report.style import short
from tf_lottery.report.text import aligned, hanging

_NAME = 36  # characters of an arm's name


def experiment_table(document: Document) -> str:
    """A row an arm (means over the seeds) and what became of the paper's claims."""
    told = document["experiment"]
    parts = [
        hanging(_line(f"{told['source']}: {told['title']}"), "", 0),
        hanging(_line(document["scale"] or "at the paper's own scale"), "scale: ", 7),
    ]
    blocks = ["\n".join(parts), _arms(document), _claims(document)]
    blocks += [hanging(_line(text), "note: ", 6) for text in unmeasured(document)]
    return "\n\n".join(blocks)


def _arms(document: Document) -> str:
    columns = _columns(document)
    lines = [["arm", *(head for head, _ in columns)]]
    for arm in document["arms"]:
        shown = [_cell(document, arm, wanted) for _, wanted in columns]
        lines.append([short(_line(arm["name"]), _NAME), *shown])
    return "\n".join([*aligned(lines), _reading(document)])


def _columns(document: Document) -> list[tuple[str, list[Measure]]]:
    """Head and the one measure, or the two for best/last."""
    first = measures.resolve(document, Measure("validation", 1), document["arms"])
    columns = [("density %", [Measure("run:density")]), ("epoch 1", [first])]
    attacks = attack_names(document)
    if any(run["test"] for arm in document["arms"] for run in arm["runs"]):
        for name in ("natural", *attacks, *([WORST] if len(attacks) > 1 else [])):
            columns.append((name, [Measure(f"test_{name}", at) for at in ("best", "last")]))
    columns += [
        ("epochs", [Measure("run:epochs")]),
        ("search s", [Measure("run:search_seconds")]),
        ("train s", [Measure("run:train_seconds")]),
    ]
    if baselines(document):
        columns.append(("s/baseline", [Measure("run:total_seconds_over_dense")]))
        columns.append(("FLOPs/baseline", [Measure("run:total_flops_over_dense")]))
    elif has_counted(document):
        columns.append(("FLOPs/dense", [Measure("run:total_flops_over_dense")]))
    return columns


def _cell(document: Document, arm: dict, wanted: list[Measure]) -> str:
    cells: list[Cell] = [tables.cell(document, arm, measure) for measure in wanted]
    text = "/".join(cell.text for cell in cells)
    spread = cells[0].small
    return f"{text} {spread}" if len(cells) == 1 and spread.startswith("±") else text


def _reading(document: Document) -> str:
    seeds = len(document["seeds"])
    parts = []
    first = measures.resolve(document, Measure("validation", 1), document["arms"])
    parts.append(f"epoch 1: {measures.words(first)} in %")
    if any(run["test"] for arm in document["arms"] for run in arm["runs"]):
        parts.append("test accuracies in %, best/last epoch")
    if seeds > 1:
        parts.append(f"means over {count(seeds, 'seed')}, ±: 95 % t-interval")
    else:
        parts.append("1 seed")
    return hanging(f"{'; '.join(parts)}.", "", 0)


def _claims(document: Document) -> str:
    found = verdicts(document)
    width = max((len(verdict.outcome) for verdict in found), default=0)
    lines = [tally(found)]
    for verdict in found:
        start = f"{verdict.outcome:<{width}}  "
        number = f" ({verdict.found})" if verdict.found else ""
        lines.append(hanging(_line(f"{verdict.claim}{number}"), start))
    return "\n".join(lines)


def _line(text: object) -> str:
    """One line without control characters, which a terminal would obey."""
    line = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)
