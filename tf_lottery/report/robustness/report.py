"""``report.html`` and ``report.md`` of an evaluation under attacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from tf_lottery.report import formats
from tf_lottery.report.document import hardware, origin
from tf_lottery.report.pages import (
    FIGURES,
    Block,
    Cell,
    Details,
    Findings,
    Head,
    Heading,
    Item,
    Page,
    Paragraph,
    Row,
    Section,
    Table,
    Terms,
    figures,
    write_page,
)
from tf_lottery.report.robustness.captions import captions
from tf_lottery.report.robustness.document import (
    CHECKS,
    EVALUATION,
    NATURAL,
    WORST,
    Evaluation,
    Model,
    Transfer,
    read_evaluation,
)
from tf_lottery.report.robustness.figures import save_figures
from tf_lottery.report.robustness.findings import (
    check_counts,
    claim_words,
    findings,
    measure_words,
)
from tf_lottery.report.text import attack_words

PAIRS_OPEN = 40  # rows; a longer table of pairs is folded away
MODELS_OPEN = 3  # with more models, checks that pass are folded away
_WORST = "the share of images classified correctly when clean and under every one of these attacks"


def write_robustness_report(directory: str | os.PathLike) -> Path:
    """Writes ``figures/*.png``, ``report.md`` and ``report.html`` from ``evaluation.json``.

    Returns:
      The path of ``report.html``, see ``write_page``.

    Raises:
      StoreError: ``evaluation.json`` is missing or damaged.
    """
    directory = Path(directory)
    document = read_evaluation(directory / EVALUATION)
    return write_page(directory, page(document, save_figures(document, directory / FIGURES)))


def page(document: Evaluation, saved: dict[str, Path]) -> Page:
    """What the report says; ``saved``: figure name -> path."""
    models, names = document.models, ", ".join(document.attack_names)
    what = models[0].name if len(models) == 1 else f"{len(models)} models"
    return Page(
        f"Robustness: {what} on {document.data.name}",
        [f"{document.data.test:,} test images", names or "no attack", *hardware(document)],
        [
            Section("Findings", list(_findings(document))),
            Section("Results", [*_results(document), *_pairs(document), _transfer(document)]),
            Section("Figures", figures(saved, captions(document))),
            Section("Diagnosis", list(_diagnosis(document))),
            Section("Cost", list(_cost(document))),
            origin(document),
        ],
    )


def _findings(document: Evaluation) -> Iterator[Block]:
    for topic, found in groupby(findings(document), lambda finding: finding.topic):
        yield Heading(topic)
        yield Findings([Item(finding.outcome, finding.text) for finding in found])


def _results(document: Evaluation) -> Iterator[Block]:
    measures = document.measures
    yield Table(
        "Test accuracy",
        "in percent, with 95 % Wilson intervals.",
        "Model",
        [Head("", "Test images"), *(Head("", measure) for measure in measures)],
        [
            Row(
                model.name,
                [f"{model.examples:,}", *(_accuracy(model, measure) for measure in measures)],
                model.what,
            )
            for model in document.models
        ],
    )
    if document.strongest is None:
        yield Paragraph("No attack was run.", note=True)
        return
    words = [(attack.name, attack_words(attack)) for attack in document.attacks]
    yield Terms([*words, *([(WORST, _WORST)] if WORST in measures else [])])
    robust = measure_words(document.strongest)
    yield Paragraph(f"“Robust accuracy”, in the findings, is that {robust}.", note=True)


def _accuracy(model: Model, measure: str) -> Cell:
    share = model.accuracy(measure)
    small = "" if share is None else formats.interval(share, model.examples)
    return Cell(formats.percent(share), small)


def _pairs(document: Evaluation) -> Iterator[Block]:
    if not document.pairs:
        return
    table = Table(
        "Pairs of models",
        "on the same images: accuracy of the first minus that of the second, in points.",
        "First",
        [
            Head("", "Second", words=True),
            Head("", "Under", words=True),
            Head("", "Difference", "95 % interval"),
            Head("Images right only with", "first"),
            Head("Images right only with", "second"),
            Head("", "McNemar's", "exact p"),
            Head("", "Reading", words=True),
        ],
        [
            Row(
                pair.a,
                [
                    pair.b,
                    pair.measure,
                    Cell(
                        formats.points(pair.difference), formats.point_interval(pair.low, pair.high)
                    ),
                    f"{pair.only_a:,}",
                    f"{pair.only_b:,}",
                    formats.p_value(pair.p),
                    claim_words(pair),
                ],
            )
            for pair in document.pairs
        ],
    )
    count = len(document.pairs)
    yield Details(f"All {count} comparisons", [table]) if count > PAIRS_OPEN else table
    yield Paragraph(
        "Interval: Agresti & Min's adjusted Wald interval for matched pairs. p: two-sided, of "
        "McNemar's exact test that both are equally accurate; a difference is claimed below "
        "0.05, not corrected for the number of comparisons.",
        note=True,
    )


def _transfer(document: Evaluation) -> Table | None:
    found = document.transfer
    if found is None:
        return None
    return Table(
        "Transfer.",
        f"Accuracy in percent of the column's model on images crafted on the row's, with "
        f"{found.attack.name} ({attack_words(found.attack)}) on {found.examples:,} test images. "
        "White box: crafted on the model itself.",
        "Crafted on",
        [Head("Classified by", name) for name in found.models],
        [Row(name, _transferred(found, i)) for i, name in enumerate(found.models)],
    )


def _transferred(found: Transfer, row: int) -> list[Cell]:
    return [
        Cell(formats.percent(share), "white box" if row == column else "", row == column)
        for column, share in enumerate(found.accuracy[row])
    ]


def _diagnosis(document: Evaluation) -> Iterator[Block]:
    if not document.diagnosis:
        return
    images = document.settings.get("analysis_images")
    if isinstance(images, int) and images:
        yield Paragraph(
            f"Measured on the first {min(images, document.data.test):,} test images, with attacks "
            "of the diagnosis' own, not with those of the table.",
            note=True,
        )
    yield Paragraph(
        "Whether the attacks fail for a reason that is no robustness: masked gradients, "
        "randomness, too few steps."
    )
    for name, checks in document.diagnosis.items():
        yield Heading(f"{name}: {check_counts(checks)}")
        items = [Item(c.outcome, c.text, f"{CHECKS[c.check]}.") for c in checks]
        passed = [item for item in items if item.outcome == "pass"]
        if shown := [item for item in items if item.outcome != "pass"]:
            yield Findings(shown)
        if passed:
            few = len(document.diagnosis) <= MODELS_OPEN
            yield Details(f"{len(passed)} passed", [Findings(passed)], open=few)


def _cost(document: Evaluation) -> Iterator[Block]:
    runs = [NATURAL, *document.attack_names]
    rows, sums = [], [0.0, 0, 0]
    for model in document.models:
        for name in runs:
            cost = model.cost[name]
            passes = (cost.forward_passes, cost.input_gradient_passes)
            each = [Cell(formats.si(n), formats.si(n / model.examples)) for n in passes]
            rows.append(Row(model.name, [name, formats.seconds(cost.seconds), *each]))
            sums = [a + b for a, b in zip(sums, (cost.seconds, *passes), strict=True)]
    yield Table(
        "What each attack cost.",
        "Passes are counted in images; small: per test image.",
        "Model",
        [
            Head("", "Run", words=True),
            Head("", "Seconds"),
            Head("Passes", "forward"),
            Head("Passes", "input gradient"),
        ],
        rows,
        [Row("All", ["", formats.seconds(sums[0]), *map(formats.si, sums[1:])])],
    )
    yield Paragraph(
        "Seconds are as measured and vary on a shared machine. Transfer, curves and diagnosis are "
        "not included.",
        note=True,
    )
