"""What one wants to know of a comparison first: how robust, for how much, does the ticket help?

Made from the verdicts, so that they say the same.
"""

from __future__ import annotations

from typing import NamedTuple

from tf_lottery.report import measures, tables, values
from tf_lottery.report.comparison import CONTROLS, DENSE, TWIN, phrase, tickets
from tf_lottery.report.measures import Measure
from tf_lottery.report.results import Results
from tf_lottery.report.text import capital
from tf_lottery.report.verdicts import Verdict, basis_words, gap_words, verdicts

_FLOPS, _SECONDS = Measure("run:total_flops_over_dense"), Measure("run:total_over_dense")


class Answer(NamedTuple):
    """Of a ticket a question and what the run says, in plain text."""

    ticket: str
    question: str
    text: str


def answers(document: Results) -> list[Answer]:
    """Three for each ticket that is compared with the dense network; none of another study."""
    if document.is_experiment or document.baseline != DENSE:
        return []
    found = {verdict.id: verdict for verdict in verdicts(document)}
    first = "How robust?" if document.attacks else "How accurate?"
    told = []
    for ticket in tickets([arm.kind for arm in document.arms]):
        told += [
            Answer(ticket, first, _accuracy(document, ticket, found[f"best_{ticket}_{DENSE}"])),
            Answer(ticket, "For how much?", _share(document, ticket)),
            Answer(ticket, "Does the ticket help?", _help(document, ticket, found)),
        ]
    return told


def _accuracy(document: Results, ticket: str, verdict: Verdict) -> str:
    measure = values.resolve(document, Measure("test", "best"), [ticket, DENSE])
    ours, theirs = (_shown(document, name, measure) for name in (ticket, DENSE))
    basis = f"; {basis_words(verdict.gap)}" if verdict.gap else ""
    return (
        f"{capital(phrase(ticket))} {ours} %, {phrase(DENSE)} {theirs} % "
        f"({measures.words(measure)}{basis}): {_gap(verdict)}"
    )


def _share(document: Results, ticket: str) -> str:
    rows = document.runs(ticket)
    if any(row.search_source == "unknown" for row in rows):
        return "The given ticket does not record what its search cost."
    search = sum(row.search_flops for row in rows)
    part = search / (search + sum(row.train_flops for row in rows))
    text = (
        f"{_shown(document, ticket, _FLOPS)} of the dense training's FLOPs and "
        f"{_shown(document, ticket, _SECONDS)} of its seconds; {part:.0%} of these FLOPs are search"
    )
    if any(arm.kind == TWIN for arm in document.arms):
        text += f"; {phrase(TWIN)} takes {_shown(document, TWIN, _FLOPS)}"
    return text


def _help(document: Results, ticket: str, found: dict[str, Verdict]) -> str:
    kinds = [arm.kind for arm in document.arms]
    beside = TWIN if TWIN in kinds else DENSE
    verdict = found[f"best_{ticket}_{beside}"]
    others = [
        f"{_gap(found[claim])} against {phrase(other)}"
        for other in CONTROLS
        if (claim := f"best_{ticket}_{other}") in found
    ]
    lead = f"{capital(verdict.outcome)}: {_gap(verdict)} against {phrase(beside)}"
    return "; ".join([lead, *others])


def _shown(document: Results, name: str, measure: Measure) -> str:
    return tables.cell(document, document.arm(name), measure).text


def _gap(verdict: Verdict) -> str:
    return gap_words(verdict.gap, Measure("test")) if verdict.gap else verdict.outcome
