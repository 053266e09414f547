"""An evaluation as aligned plain text for a terminal."""

from __future__ import annotations

import textwrap

from tf_lottery.report import formats
from tf_lottery.report.robustness.document import CHECKS, Evaluation
from tf_lottery.report.robustness.verdict import (
    COMPARISON,
    PAIRS_SPELT_OUT,
    check_counts,
    claim_words,
    findings,
)
from tf_lottery.report.style import short
from tf_lottery.report.text import COLUMNS, attack_words, hanging

_NAME = 28  # characters of a model's name; the longest common ones fit


def robustness_table(document: Evaluation) -> str:
    """Accuracies with intervals, pairs, transfer and diagnosis, at most 100 columns wide
    unless a name alone is wider."""
    parts = [_accuracies(document), _attacks(document), _pairs(document)]
    parts += [_transfer(document), _diagnosis(document)]
    return "\n\n".join(part for part in parts if part)


def _accuracies(document: Evaluation) -> str:
    """A row a model, its intervals below; in several blocks where the attacks are many."""
    names = {model.name: _shown(model.name) for model in document.models}
    columns = []
    for measure in document.measures:
        cells = [measure]
        for model in document.models:
            share = model.accuracy(measure)
            cells.append(formats.percent(share))
            cells.append("" if share is None else formats.interval(share, model.examples))
        width = max(map(len, cells))
        columns.append([cell.rjust(width) for cell in cells])
    left = ["model"]
    for name in names.values():
        left += [name, ""]
    left = [cell.ljust(max(map(len, left))) for cell in left]
    blocks, block = [], [left]
    for column in columns:
        if len(block) > 1 and _width([*block, column]) > COLUMNS:
            blocks.append(block)
            block = [left]
        block.append(column)
    examples = sorted({model.examples for model in document.models})
    images = " or ".join(f"{count:,}" for count in examples)
    head = f"Accuracy in % on {images} test images of {_line(document.data.name)}"
    worst = "; worst: right clean and under every attack" if "worst" in document.measures else ""
    text = [hanging(f"{head}, 95 % Wilson intervals below{worst}", "", 0)]
    return "\n\n".join(text + [_joined(block) for block in [*blocks, block]])


def _joined(block: list[list[str]]) -> str:
    rows = ["  ".join(cells).rstrip() for cells in zip(*block, strict=True)]
    rows.insert(1, "  ".join("-" * len(column[0]) for column in block))
    return "\n".join(rows)


def _width(block: list[list[str]]) -> int:
    return sum(len(column[0]) for column in block) + 2 * (len(block) - 1)


def _attacks(document: Evaluation) -> str:
    if not document.attacks:
        return "No attack was run: nothing is known about robustness."
    width = max(len(attack.name) for attack in document.attacks)
    return "\n".join(
        hanging(attack_words(attack), f"{_line(attack.name):<{width}}  ")
        for attack in document.attacks
    )


def _pairs(document: Evaluation) -> str:
    """Each pair under each measure; where these are many, only what they come to."""
    pairs = document.pairs
    if not pairs:
        return ""
    shown = sum(pair.measure == pairs[0].measure for pair in pairs)
    if shown > PAIRS_SPELT_OUT:
        texts = [finding.text for finding in findings(document) if finding.topic == COMPARISON]
        texts = [text.replace("Table 2 has", "The report has") for text in texts]
        return "\n".join(hanging(text, "", 2) for text in texts)
    lines = ["Pairs: points apart on the same images, 95 % interval, McNemar's exact test"]
    rows = [
        [
            f"{_shown(pair.a)} - {_shown(pair.b)}",
            pair.measure,
            formats.points(pair.difference),
            formats.point_interval(pair.low, pair.high),
            formats.p_words(pair.p),
            claim_words(pair, _shown(pair.a)),
        ]
        for pair in pairs
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sum(widths) + 2 * len(widths) > COLUMNS:
        # Long names: each pair on a line of its own, what was measured below it.
        last = ""
        for row in rows:
            if row[0] != last:
                lines.append(f"  {row[0]}")
            last = row[0]
            lines.append("    " + _cells(row[1:], widths[1:]))
        return "\n".join(lines)
    return "\n".join(lines + ["  " + _cells(row, widths) for row in rows])


def _cells(cells: list[str], widths: list[int]) -> str:
    right = {len(cells) - 4, len(cells) - 3}  # the difference and its interval
    return "  ".join(
        cell.rjust(width) if i in right else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def _transfer(document: Evaluation) -> str:
    found = document.transfer
    if found is None:
        return ""
    heads = sides = [_shown(name) for name in found.models]
    gap = "  "
    if max(map(len, sides)) + sum(max(6, len(name)) + 3 for name in heads) > COLUMNS:
        heads = [str(number) for number in range(1, len(sides) + 1)]
        sides = [f"{i:>2} {short(name, 24)}" for i, name in enumerate(sides, 1)]
        gap = " "
    rows = [
        [formats.percent(share) + ("*" if i == j else " ") for j, share in enumerate(row)]
        for i, row in enumerate(found.accuracy)
    ]
    columns = [
        [f"{head} ", *cells] for head, cells in zip(heads, zip(*rows, strict=True), strict=True)
    ]
    columns = [[cell.rjust(max(map(len, column))) for cell in column] for column in columns]
    left = [side.ljust(max(map(len, sides))) for side in ("", *sides)]
    text = (
        f"Transfer of {_line(found.attack.name)} on {found.examples:,} images: accuracy "
        "in % of the column's model on images crafted on the row's; *: on the model itself"
    )
    lines = [gap.join(cells).rstrip() for cells in zip(left, *columns, strict=True)]
    return "\n".join([*textwrap.wrap(text, COLUMNS), *lines])


def _diagnosis(document: Evaluation) -> str:
    lines = []
    for name, checks in document.diagnosis.items():
        shown = _shown(name)
        for check in checks:
            if check.outcome == "warn":
                text = f"{CHECKS[check.check]}. {_line(check.text)}"
                lines.append(hanging(text, f"WARN {shown}: ", 5))
        lines.append(f"{shown}: {check_counts(checks)}")
    return "\n".join(lines)


def _shown(name: str) -> str:
    return short(_line(name), _NAME)


def _line(text: object) -> str:
    """One line without control characters, which a terminal would obey."""
    line = " ".join(str(text).split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)
