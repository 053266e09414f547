"""An evaluation as aligned plain text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby

from tf_lottery.report import formats
from tf_lottery.report.robustness.document import CHECKS, WORST, Evaluation, Model, Pair
from tf_lottery.report.robustness.findings import (
    COMPARISON,
    PAIRS_SPELT_OUT,
    check_counts,
    claim_words,
    findings,
)
from tf_lottery.report.style import short
from tf_lottery.report.text import COLUMNS, aligned, attack_words, hanging, printable

_NAME = 28  # characters of a model's name; the longest common ones fit


def robustness_table(document: Evaluation) -> str:
    """Accuracies with intervals, pairs, transfer and diagnosis, at most 100 columns wide
    unless a name alone is wider."""
    parts = (_accuracies, _attacks, _pairs, _transfer, _diagnosis)
    return "\n\n".join(filter(None, ("\n".join(part(document)) for part in parts)))


def _accuracies(document: Evaluation) -> Iterator[str]:
    """A row a model, its intervals below; in several blocks where the attacks are many."""
    images = " or ".join(f"{n:,}" for n in sorted({model.examples for model in document.models}))
    head = f"Accuracy in % on {images} test images of {printable(document.data.name)}"
    worst = "; worst: right clean and under every attack" if WORST in document.measures else ""
    yield hanging(f"{head}, 95 % Wilson intervals below{worst}", "", 0)
    left = ["model", *(cell for model in document.models for cell in (_shown(model.name), ""))]
    blocks = [[left]]
    for measure in document.measures:
        cells = (cell for model in document.models for cell in _accuracy(model, measure))
        column = [measure, *cells]
        if len(blocks[-1]) > 1 and sum(2 + _width(c) for c in (*blocks[-1], column)) > COLUMNS + 2:
            blocks.append([left])
        blocks[-1].append(column)
    for block in blocks:
        yield from ("", *aligned(list(zip(*block, strict=True))))


def _accuracy(model: Model, measure: str) -> tuple[str, str]:
    share = model.accuracy(measure)
    below = "" if share is None else formats.interval(share, model.examples)
    return formats.percent(share), below


def _width(column: list[str]) -> int:
    return max(map(len, column))


def _attacks(document: Evaluation) -> Iterator[str]:
    if not document.attacks:
        yield "No attack was run: nothing is known about robustness."
    width = max((len(attack.name) for attack in document.attacks), default=0)
    for attack in document.attacks:
        yield hanging(attack_words(attack), f"{printable(attack.name):<{width}}  ")


def _pairs(document: Evaluation) -> Iterator[str]:
    """Each pair under each measure; where these are many, only what they come to."""
    pairs = document.pairs
    if sum(pair.measure == pairs[0].measure for pair in pairs) > PAIRS_SPELT_OUT:
        for finding in findings(document):
            if finding.topic == COMPARISON:
                yield hanging(finding.text.replace("Table 2 has", "The report has"), "", 2)
        return
    if pairs:
        yield "Pairs: points apart on the same images, 95 % interval, McNemar's exact test"
    lines = aligned([_pair(pair) for pair in pairs], words=(0, 3, 4), rule=False)
    names = (f"{_shown(pair.a)} - {_shown(pair.b)}" for pair in pairs)
    for name, same in groupby(zip(names, lines, strict=True), lambda each: each[0]):
        yield f"  {name}"
        yield from (f"    {line}" for _, line in same)


def _pair(pair: Pair) -> list[str]:
    bounds = formats.point_interval(pair.low, pair.high)
    claimed = claim_words(pair, _shown(pair.a))
    return [pair.measure, formats.points(pair.difference), bounds, formats.p_words(pair.p), claimed]


def _transfer(document: Evaluation) -> Iterator[str]:
    found = document.transfer
    if found is None:
        return
    yield from textwrap.wrap(
        f"Transfer of {printable(found.attack.name)} on {found.examples:,} images: accuracy in % "
        "of the column's model on images crafted on the row's; *: on the model itself",
        COLUMNS,
    )
    heads = sides = [_shown(name) for name in found.models]
    if _width(sides) + sum(max(6, len(name)) + 3 for name in heads) > COLUMNS:
        heads = [str(number) for number in range(1, len(sides) + 1)]
        sides = [f"{i:>2} {short(name, 24)}" for i, name in enumerate(sides, 1)]
    rows = [
        [side, *(formats.percent(share) + " *"[i == j] for j, share in enumerate(shares))]
        for i, (side, shares) in enumerate(zip(sides, found.accuracy, strict=True))
    ]
    gap = "  " if heads is sides else " "
    yield from aligned([["", *(f"{head} " for head in heads)], *rows], rule=False, gap=gap)


def _diagnosis(document: Evaluation) -> Iterator[str]:
    for name, checks in document.diagnosis.items():
        shown = _shown(name)
        for check in checks:
            if check.outcome == "warn":
                text = f"{CHECKS[check.check]}. {printable(check.text)}"
                yield hanging(text, f"WARN {shown}: ", 5)
        yield f"{shown}: {check_counts(checks)}"


def _shown(name: str) -> str:
    return short(printable(name), _NAME)
