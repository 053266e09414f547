"""A study as plain text for a terminal: a row an arm, and what it says of what was asked."""

from __future__ import annotations

from tf_lottery.report import measures, tables, values
from tf_lottery.report.answers import answers
from tf_lottery.report.frontier import frontier_answers
from tf_lottery.report.limits import unmeasured
from tf_lottery.report.measures import Measure
from tf_lottery.report.results import Arm, Results
from tf_lottery.report.style import short
from tf_lottery.report.text import aligned, hanging, printable
from tf_lottery.report.trainings import averages, early_ends
from tf_lottery.report.verdicts import count, tally, verdicts

_NAME = 36  # characters of an arm's name


def summary(document: Results) -> str:
    """A row an arm (means over the seeds); of a comparison with the dense network three answers,
    else a line a claim."""
    told = [*answers(document), *frontier_answers(document)]
    asked = [hanging(printable(text), f"{question} ", 4) for _, question, text in told]
    blocks = [_arms(document), "\n".join(asked), _claims(document, brief=bool(asked))]
    if document.is_experiment:
        about = document.study
        parts = [
            hanging(printable(f"{about.source}: {about.title}"), "", 0),
            hanging(printable(about.scale or f"{about.whose} own"), "scale: ", 7),
        ]
        blocks.insert(0, "\n".join(parts))
    notes = (*unmeasured(document), *averages(document), *early_ends(document))
    blocks += [hanging(printable(text), "note: ", 6) for text in notes]
    return "\n\n".join(block for block in blocks if block)


def _arms(document: Results) -> str:
    columns = _columns(document)
    rows = [["model", *(printable(head) for head, _ in columns)]]
    for arm in document.arms:
        shown = [_cell(document, arm, wanted) for _, wanted in columns]
        rows.append([short(printable(arm.name), _NAME), *shown])
    return "\n".join([*aligned(rows), _reading(document)])


def _first(document: Results) -> Measure:
    names = [arm.name for arm in document.arms]
    return values.resolve(document, Measure("validation", 1), names)


def _columns(document: Results) -> list[tuple[str, list[Measure]]]:
    """Head and the one measure, or the two for best/last."""
    columns = [("density %", [Measure("run:density")]), ("epoch 1", [_first(document)])]
    for name in document.tests:
        columns.append((name, [Measure(f"test_{name}", at) for at in ("best", "last")]))
    columns += [
        ("epochs", [Measure("run:epochs")]),
        ("search s", [Measure("run:search_seconds")]),
        ("train s", [Measure("run:train_seconds")]),
    ]
    if document.baselines:
        columns.append(("s/dense", [Measure("run:total_over_dense")]))
    if document.baselines or document.has_counted:
        columns.append(("FLOPs/dense", [Measure("run:total_flops_over_dense")]))
    return columns


def _cell(document: Results, arm: Arm, wanted: list[Measure]) -> str:
    cells = [tables.cell(document, arm, measure) for measure in wanted]
    text = "/".join(cell.text for cell in cells)
    spread = cells[0].small
    return f"{text} {spread}" if len(cells) == 1 and spread.startswith("±") else text


def _reading(document: Results) -> str:
    """What the numbers mean and how far they can be trusted."""
    seeds = len(document.seeds)
    parts = [f"epoch 1: {measures.words(_first(document))} in %"]
    if document.tests:
        tested = sorted({row.test_examples for row in document.rows if row.tests})
        images = " or ".join(f"{n:,}" for n in tested)
        parts.append(f"test accuracies in %, best/last epoch, on {images} images")
        if measures.WORST in document.tests:
            parts.append("worst: right under every attack")
    spread = f"means over {count(seeds, 'seed')}, ±: 95 % t-interval" if seeds > 1 else "1 seed"
    return hanging(f"{'; '.join([*parts, spread])}.", "", 0)


def _claims(document: Results, brief: bool) -> str:
    found = verdicts(document)
    if not found and not document.is_experiment:
        return ""
    if brief:
        return f"{tally(found)} The report has them all."
    width = max((len(verdict.outcome) for verdict in found), default=0)
    rows = [tally(found)]
    for verdict in found:
        number = f" ({verdict.found})" if verdict.found else ""
        rows.append(hanging(printable(f"{verdict.claim}{number}"), f"{verdict.outcome:<{width}}  "))
    return "\n".join(rows)
