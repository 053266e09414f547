"""The report of a study: ``report.html``, ``report.md`` and its figures, from its results."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tf_lottery.files import slug
from tf_lottery.report import formats, ledger, pages, tables
from tf_lottery.report.answers import Answer, answers
from tf_lottery.report.captions import caption
from tf_lottery.report.document import hardware, images, origin
from tf_lottery.report.figures.drawing import save_figures
from tf_lottery.report.figures.pictures import Pictures, read_pictures
from tf_lottery.report.frontier import frontier_answers
from tf_lottery.report.limits import limits
from tf_lottery.report.pages import (
    FIGURES,
    Block,
    Cell,
    Code,
    Details,
    Findings,
    Head,
    Item,
    Page,
    Paragraph,
    Row,
    Section,
    Table,
    Terms,
    command_line,
)
from tf_lottery.report.results import (
    PICTURES,
    LedgerEntry,
    Results,
    find_results,
    read_results,
)
from tf_lottery.report.tables import Grid
from tf_lottery.report.text import attack_words, capital, listed
from tf_lottery.report.trainings import averages, early_ends
from tf_lottery.report.verdicts import count, tally, verdicts

NAMED = 4  # arms that a stage's row names
_AGAIN = "The command that made this; run again, it takes finished stages from the store."
_DECIDED = (
    "In brackets: 95 % interval of the difference{}. Yes and no only where the whole interval "
    "says so; otherwise not decided."
)


def write_report(directory: str | os.PathLike) -> Path:
    """Writes ``figures/*``, ``report.md`` and ``report.html`` from the results there.

    ``report.html`` holds its figures and asks nothing of the network, so that the
    one file can be mailed. Each file is replaced as a whole.

    Returns:
      The path of ``report.html``.

    Raises:
      StoreError: the results are missing or damaged, or ``pictures.npz`` is damaged.
    """
    directory = Path(directory)
    document = read_results(find_results(directory))
    pictures = read_pictures(directory / PICTURES)
    saved = save_figures(document, pictures, directory / FIGURES)
    return pages.write_page(directory, page(document, saved, pictures, directory))


def page(
    document: Results, saved: Mapping[str, Path], pictures: Pictures | None, workdir: Path
) -> Page:
    """The report as blocks.

    Args:
      document: the results.
      saved: figure name -> file.
      pictures: adversarial examples, if there are any.
      workdir: named in commands to go on with.
    """
    about, data = document.study, document.data
    told = {figure.name: figure for figure in document.figures}
    captions = {name: caption(document, told[name], pictures) for name in saved}
    title = f"{about.source}: {about.title}" if about.source else about.title
    models = ", ".join(dict.fromkeys(arm.model for arm in document.arms))
    seeds = document.seeds
    meta = [
        count(len(document.arms), "arm"),
        f"seed {seeds[0]}"
        if len(seeds) == 1
        else f"{len(seeds)} seeds ({', '.join(map(str, seeds))})",
        f"{models} on {data.name}",
        images(data),
        *hardware(document),
    ]
    return Page(
        title,
        meta,
        [
            *_question(document),
            Section("Verdicts", list(_verdicts(document))),
            Section("Figures", pages.figures(saved, captions)),
            Section("Results", list(_results(document))),
            Section("Cost", list(_cost(document))),
            Section("Limits", [Findings([Item("note", text) for text in limits(document)])]),
            Section("Next", list(_next_steps(document, workdir))),
            origin(document, _AGAIN),
        ],
    )


def _question(document: Results) -> Iterator[Block]:
    about = document.study
    if about.question:
        yield Paragraph(about.question, "Question.")
    if not document.is_experiment:
        return
    if about.paper:
        yield Paragraph(about.paper, "The paper.")
    if about.scale:
        text = f"{about.scale[:1].upper()}{about.scale[1:]}"
        lead = f"Not {about.whose} settings."
        yield Findings([Item("warn", text, lead, label="scale")])
    else:
        yield Paragraph(f"{capital(about.whose)} own.", "Settings.")


def _verdicts(document: Results) -> Iterator[Block]:
    found = verdicts(document)
    if not found and not document.is_experiment:
        return
    items = []
    yield from _answers(document)
    yield from (Paragraph(told.text, told.question) for told in frontier_answers(document))
    yield Paragraph(tally(found))
    for verdict in found:
        note = verdict.detail + (f" Paper: {verdict.paper}" if verdict.paper else "")
        lead = f"{verdict.claim}: {verdict.outcome}{',' * bool(verdict.found)}"
        items.append(Item(verdict.outcome, verdict.found, lead, note))
    if items:
        yield Findings(items)
        seeds = ", seed by seed" * (len(document.seeds) > 1)
        yield Paragraph(_DECIDED.format(seeds), note=True)


def _answers(document: Results) -> Iterator[Block]:
    told: dict[str, list[Answer]] = {}
    for answer in answers(document):
        told.setdefault(answer.ticket, []).append(answer)
    if len(told) > 1:
        heads = [Head("", answer.question, words=True) for answer in next(iter(told.values()))]
        rows = [Row(name, [answer.text for answer in three]) for name, three in told.items()]
        yield Table("", "", "ticket", heads, rows)
        return
    for three in told.values():
        yield from (Paragraph(answer.text, answer.question) for answer in three)


def _results(document: Results) -> Iterator[Block]:
    several = len(document.seeds) > 1
    reading = (
        "means over the seeds, 95 % intervals below (±: t-interval over the seeds; from–to: over "
        "the images only, where all seeds agree)"
        if several
        else "1 seed, 95 % Wilson intervals over the images only below"
    )
    ends = "Best: weights of the best validation epoch; last: of the last epoch."
    yield _table("Accuracy", f"in percent: {reading}. {ends}", tables.accuracies(document))
    yield from (Paragraph(text, note=True) for text in averages(document))
    terms = [(attack.name, attack_words(attack)) for attack in document.attacks]
    if len(terms) > 1:
        terms.append(
            ("worst", "worst-case: the share of images classified correctly when clean and under "
             "every one of these attacks")
        )  # fmt: skip
    if terms:
        yield Terms(terms)
    if any(arm.published for arm in document.arms):
        text = f"Rows “{tables.PAPER}”: what the paper gives for the arm above, at its own scale."
        yield Paragraph(text, note=True)
    others = tables.others(document)
    if others:
        text = f"of the claims, the figures and the paper: {reading}."
        yield _table("Other measures", text, others)
    transfer = tables.transfer(document)
    if transfer and document.transfer:
        spread = (
            "means over the seeds, 95 % t-intervals below"
            if several
            else "1 seed, 95 % Wilson intervals below"
        )
        yield _table(
            "Transfer.",
            "Accuracy in percent of the column's network on adversarial examples crafted on the "
            f"row's, with {document.transfer.attack} on {document.transfer.examples:,} test "
            f"images; {spread}.",
            transfer,
            "Crafted on",
        )


def _table(title: str, text: str, grid: Grid, first: str = "Arm") -> Table:
    return Table(title, text, first, grid.heads, grid.rows)


def _cost(document: Results) -> Iterator[Block]:
    spread = "; means over the seeds, ±: 95 % t-interval" * (len(document.seeds) > 1)
    relative = _relative(document)
    told = f" Relative: search and training over {relative}." if relative else ""
    cut = any(row.flops_left < 1 for row in document.rows)
    yield _table("Cost of each arm,", f"search and training{spread}.{told}", tables.costs(document))
    yield Paragraph(
        "Passes are counted in images, forward, input-gradient and weight-gradient together. FLOPs "
        "count every weight, pruned or not, because that is what the hardware does: unstructured "
        "masks save no arithmetic. Seconds are as measured."
        + " Channels that were cut out before retraining are not there to be counted."
        * cut,
        note=True,
    )
    yield from (Paragraph(text, note=True) for text in early_ends(document))
    gains = tables.gains(document)
    if gains:
        names = document.baselines
        baseline = names[0] if len(names) == 1 else f"its baseline ({listed(names)})"
        yield _table(
            "When it pays.",
            "When an arm's validation accuracy (robust where that was measured) reached the best "
            f"of {baseline}, and at what cost, search included, over what that one took to get "
            "there itself; “never” where it did not. Last column: how many retrainings to that "
            "accuracy one search must serve until it has paid for itself in FLOPs"
            f"{spread}.",
            gains,
        )
    if document.ledger:
        yield _stages(
            document,
            ledger.by_kind(document),
            "What the stages cost,",
            "summed by kind; a stage that several arms share counts once.",
        )
        yield Paragraph(
            "Seconds include start-up (tracing, compiling) and leave out validation. A stage from "
            "the store was not run again; its cost is that of the run that made it, perhaps on "
            "another day or machine.",
            note=True,
        )
        yield Details("By kind and arm", [_stages(document, ledger.by_arm(document))])
        yield Details(count(len(document.ledger), "stage"), [_every_stage(document)])


def _relative(document: Results) -> str:
    """What relative costs are relative to; empty where there are none."""
    names = document.baselines
    if not names:
        dense = "one dense training of all epochs, counted and not run"
        return dense if document.has_counted else ""
    if len(names) == 1:
        return f"the baseline, {names[0]}, which is 1"
    return f"the arm's own baseline ({listed(names)}), which is 1"


_STAGE_HEADS = (
    Head("", "for", words=True), Head("", "stages"), Head("", "seconds"), Head("", "images"),
    Head("Passes", "forward"), Head("Passes", "input gradient"), Head("Passes", "weight gradient"),
    Head("", "FLOPs"), Head("", "from the store"),
)  # fmt: skip


def _stages(
    document: Results, groups: Sequence[ledger.Group], title: str = "", text: str = ""
) -> Table:
    total = len(document.arms)
    rows = [Row(g.kind, [_named(g.arms, total), *_sums(g)]) for g in groups]
    foot = []
    if title:
        whole = (("All stages", ledger.total(document)), ("This run", ledger.fresh(document)))
        foot = [Row(name, ["", *_sums(group)]) for name, group in whole]
    return Table(title, text, "kind", _STAGE_HEADS, rows, foot)


def _sums(group: ledger.Group) -> list[Cell | str]:
    sums = group.sums
    validation = sums["validation_seconds"]
    small = f"+ {formats.seconds(validation)} validation" if validation else ""
    return [
        f"{group.stages:,}",
        Cell(formats.seconds(sums["seconds"]), small),
        *(formats.si(sums[key]) for key in ledger.SUMS[3:]),
        f"{group.cached:,}",
    ]


def _every_stage(document: Results) -> Table:
    heads = [
        Head("", "for", words=True), Head("", "seed"), Head("", "seconds"),
        Head("Passes", "forward"), Head("Passes", "input gradient"),
        Head("Passes", "weight gradient"), Head("", "FLOPs"), Head("", "source", words=True),
    ]  # fmt: skip
    return Table("", "", "stage", heads, [_stage(document, entry) for entry in document.ledger])


def _stage(document: Results, entry: LedgerEntry) -> Row:
    passes = (entry.forward_passes, entry.input_gradient_passes, entry.weight_gradient_passes)
    cells = [
        _named(entry.models, len(document.arms)),
        formats.NONE if entry.seed is None else str(entry.seed),
        formats.seconds(entry.seconds),
        *map(formats.si, passes),
        formats.si(entry.flops),
        "store" if entry.cached else "this run",
    ]
    return Row(entry.label, cells, entry.stage, soft=entry.cached)


def _named(arms: Sequence[str], total: int) -> str:
    """The arms of a stage in a few words."""
    if len(arms) == total > 1:
        return f"all {total} arms"
    if len(arms) > NAMED:
        return f"{listed(arms[: NAMED - 1])} and {len(arms) - NAMED + 1} more"
    return listed(arms) or formats.NONE


def _next_steps(document: Results, workdir: Path) -> Iterator[Block]:
    """Commands to go on with, where the networks and tickets lie beside the report."""
    if document.is_experiment:
        return
    sparse = [arm.name for arm in document.arms if arm.kind != "dense"]
    shown = slug((sparse or [document.arms[0].name])[0])
    test = [f"--dataset={document.data.name}", "--attacks=pgd100", "--restarts=5"]
    if document.attacks:
        attack = document.attacks[0]
        test.append(f"--eval_eps={formats.length(attack.eps, attack.norm)}")
        if attack.norm != "linf":
            test.append(f"--eval_norm={attack.norm}")
    yield Paragraph("Look at curves, images and hyperparameters in TensorBoard:")
    yield Code(command_line(["tensorboard", f"--logdir={workdir / 'tensorboard'}"]))
    yield Paragraph(
        "Test a trained network under a stronger attack. It is a SavedModel: float pixels in "
        "[0, 1] in, logits out:"
    )
    model = f"--model_path={workdir / 'saved_model' / shown}"
    yield Code(command_line(["--mode=evaluate", model, *test]))
    if sparse:
        yield Paragraph("See what a ticket keeps, layer by layer, and how it was found:")
        yield Code(command_line(["--mode=inspect", f"--ticket={workdir / 'tickets' / shown}"]))
    yield Paragraph("Write this report anew from results.json:")
    yield Code(command_line(["--mode=report", f"--workdir={workdir}"]))
