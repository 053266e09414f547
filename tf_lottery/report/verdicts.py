"""Whether each claim of a study holds, judged by 95 % intervals.

A claim is about the difference d between an arm and another one (or a number), in the
measure's unit, with its interval [low, high], see ``tf_lottery.statistics``:

* ``more``: yes if low > 0, no if high < 0. ``less``: the other way round;
* ``not_less`` with a margin: yes if low >= -margin, no if high < -margin;
* ``same``: yes if the whole interval lies within +-margin, no if wholly outside.

Else the claim is not decided. An interval of no width (a counted cost) always decides. Without
an interval nothing is decided, and what was not measured says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from tf_lottery.report import measures, values
from tf_lottery.report.measures import Measure
from tf_lottery.report.results import Arm, Claim, Results
from tf_lottery.report.text import capital
from tf_lottery.statistics import Estimate, estimate, paired

Outcome = Literal["yes", "no", "not decided", "not measured"]
OUTCOMES: tuple[Outcome, ...] = ("yes", "no", "not decided", "not measured")


# What cannot be said without knowing what the search cost.
_OF_SEARCH = ("total_over_dense", "total_flops_over_dense", "seconds_to_dense_over_dense",
              "flops_to_dense_over_dense", "break_even")  # fmt: skip


class Verdict(NamedTuple):
    """One claim and what became of it; all texts are plain, without markup.

    Attributes:
      id, claim, paper: of the claim: its name, its text, what the paper found.
      outcome: whether the claim holds here.
      found: the number behind it, such as ``+14.2 points [12.9, 15.5], 3 seeds``.
      detail: the measure and both sides' means.
      gap: the difference and its interval; ``None`` where there is none.
    """

    id: str
    claim: str
    paper: str
    outcome: Outcome
    found: str
    detail: str
    gap: Estimate | None

    @property
    def text(self) -> str:
        """One sentence: the claim, the outcome, the number."""
        return f"{self.claim}: {self.outcome}{', ' * bool(self.found)}{self.found}"


def verdicts(document: Results) -> list[Verdict]:
    """One verdict a claim, in the order of the document."""
    found = [verdict_of(document, claim) for claim in document.claims]
    told = list(zip(document.claims, found, strict=True))
    # What costs less and is worse is not the same for less.
    worse = {
        (claim.ours, claim.theirs)
        for claim, verdict in told
        if claim.measure.startswith("test") and claim.expect == "more" and verdict.outcome == "no"
    }
    return [
        verdict._replace(detail=f"{verdict.detail} {_LESS}")
        if claim.measure == "run:total_flops_over_dense"
        and verdict.outcome == "yes"
        and (claim.ours, document.baseline_of(document.arm(claim.ours))) in worse
        else verdict
        for claim, verdict in told
    ]


_LESS = "But its accuracy is lower (see above): the two do not buy the same."


def tally(found: Sequence[Verdict]) -> str:
    """``Of 5 claims 3 hold here, 1 does not, 1 is not decided.``"""
    if not found:
        return "No claim is put to the test here."
    words = {
        "yes": ("holds here", "hold here"),
        "no": ("does not", "do not"),
        "not decided": ("is not decided", "are not decided"),
        "not measured": ("was not measured", "were not measured"),
    }
    parts: list[str] = []
    for outcome in OUTCOMES:
        number = sum(verdict.outcome == outcome for verdict in found)
        if number:
            phrase = words[outcome][number > 1]
            if outcome == "no" and not parts:
                phrase += " hold here"
            parts.append(f"{number} {phrase}")
    if len(found) == 1:
        return f"The one claim {parts[0].removeprefix('1 ')}."
    return f"Of {len(found)} claims {', '.join(parts)}."


def decide(expect: str, low: float, high: float, margin: float = 0.0) -> Outcome:
    """The outcome for the difference's interval, as in the module's docstring."""
    if expect in ("less", "more"):
        if expect == "less":
            low, high = -high, -low
        if low > 0:
            return "yes"
        return "no" if high < 0 or low == high else "not decided"
    if expect == "not_less":
        return "yes" if low >= -margin else "no" if high < -margin else "not decided"
    if -margin <= low and high <= margin:
        return "yes"
    return "no" if low > margin or high < -margin else "not decided"


def verdict_of(document: Results, claim: Claim) -> Verdict:
    """Whether one claim holds."""
    sides = [document.arm(name) for name in (claim.ours, claim.theirs) if name is not None]
    names = [side.name for side in sides]
    measure = values.resolve(document, measures.parse(claim.measure), names)
    columns = [[values.value(row, measure) for row in document.runs(name)] for name in names]
    sources = {row.search_source for name in names for row in document.runs(name)}
    if measure.key in _OF_SEARCH and "unknown" in sources:
        text = "The given ticket does not record what its search cost."
        return _made(claim, "not measured", "", text, None)
    if measure.key in measures.NEVER and document.baselines:
        late = _never(document, claim, measure, sides, columns)
        if late is not None:
            return late
    seeds = [column for column in zip(*columns, strict=True) if None not in column]
    images = [values.images(document, name, measure) for name in names]
    if not seeds or (measure.unit == "accuracy" and None in images):
        text = f"{capital(measures.words(measure))} was not measured."
        return _made(claim, "not measured", "", text, None)
    kept: list[list[float]] = [list(column) for column in zip(*seeds, strict=True)]
    gap = _gap(document, claim, measure, kept, images)
    outcome: Outcome = "not decided"
    if gap.low is not None and gap.high is not None:
        outcome = decide(claim.expect, gap.low, gap.high, claim.margin)
    missing = len(document.seeds) - gap.seeds
    shown = gap_words(gap, measure)
    if claim.value is not None and claim.theirs is None:
        shown = value_words(gap.minus(-claim.value), measure)
    found = f"{shown}, {basis_words(gap)}"
    if missing:
        found += f" (not measured in {count(missing, 'other')})"
    return _made(claim, outcome, found, _detail(claim, measure, sides, kept), gap)


def _gap(
    document: Results,
    claim: Claim,
    measure: Measure,
    kept: list[list[float]],
    images: list[int | None],
) -> Estimate:
    names = [name for name in (claim.ours, claim.theirs) if name is not None]
    counted = values.is_counted(document, measure, names)
    if claim.theirs is None:
        assert claim.value is not None  # checked with the document
        return estimate(kept[0], images[0], counted).minus(claim.value)
    ours, theirs = images
    both = (ours, theirs) if ours is not None and theirs is not None else None
    whole = len(kept[0]) == len(document.seeds) == len(claim.pairs)
    pairs = [(pair.only_ours, pair.only_theirs) for pair in claim.pairs] if whole else None
    return paired(kept[0], kept[1], both, counted, pairs)


def basis_words(found: Estimate) -> str:
    """What the interval covers: ``3 seeds``, ``1 seed, interval over the images only``."""
    seeds = count(found.seeds, "seed")
    return {
        "seeds": seeds,
        "images": f"{seeds}, interval over the images only",
        "pairs": f"{seeds}, interval over the images, one by one",
        "identical": f"{seeds} with identical values, interval over the images only",
        "counted": "counted, the same for any seed",
        "none": f"{seeds}, no interval",
    }[found.basis]


def count(number: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def gap_words(gap: Estimate, measure: Measure) -> str:
    """``+14.2 points [12.9, 15.5]``; without the bounds where there are none or no width."""
    unit = measure.unit
    text = f"{measures.signed(gap.mean, unit)}{measures.difference_unit(unit)}"
    if gap.low is None or gap.high is None or gap.low == gap.high:
        return text
    return f"{text} [{measures.number(gap.low, unit)}, {measures.number(gap.high, unit)}]"


def value_words(found: Estimate, measure: Measure) -> str:
    """``1.87``, ``0.91 [0.80, 1.02]``, ``43.1 % [40.2, 46.0]``: what is compared with a number."""
    text = measures.quantified(measures.number(found.mean, measure.unit), measure.unit)
    if found.low is None or found.high is None or found.low == found.high:
        return text
    low, high = (measures.number(bound, measure.unit) for bound in (found.low, found.high))
    return f"{text} [{low}, {high}]"


def _detail(claim: Claim, measure: Measure, sides: list[Arm], kept: list[list[float]]) -> str:
    unit = measure.unit
    shown = [
        f"{side.name} {measures.number(sum(column) / len(column), unit)}"
        for side, column in zip(sides, kept, strict=True)
    ]
    if claim.value is not None:
        shown.append(measures.number(claim.value, unit))
    parts = measures.quantified(" against ".join(shown), unit)
    text = f"{capital(measures.words(measure))}: {parts}"
    if claim.expect in ("not_less", "same"):
        margin = f"{measures.number(claim.margin, unit)}{measures.difference_unit(unit)}"
        rule = "the same: within" if claim.expect == "same" else "not less: by no more than"
        text += f" ({rule} {'±' * (claim.expect == 'same')}{margin})"
    return f"{text}."


def _never(
    document: Results,
    claim: Claim,
    measure: Measure,
    sides: list[Arm],
    columns: list[list[float | None]],
) -> Verdict | None:
    """The verdict where a side never got there in some seed; ``None`` if none is missing.

    Never is later than any number: with two seeds or more the claim is decided if one side
    never got there in any of them and the other did in all.
    """
    seeds = len(document.seeds)
    gone = [sum(value is None for value in column) for column in columns]
    if not any(gone):
        return None
    outcome: Outcome = "not decided"
    if seeds > 1 and set(gone) <= {0, seeds} and (len(gone) == 1 or gone[0] != gone[1]):
        later = gone[0] == seeds
        bound = float("inf") if later else float("-inf")
        outcome = decide(claim.expect, bound, bound, claim.margin)
    parts = []
    for side, missing, column in zip(sides, gone, columns, strict=True):
        reached = [value for value in column if value is not None]
        words = f"never in {missing} of {seeds} seeds" if seeds > 1 else "never"
        if not missing:
            words = _reached(reached, measure)
        elif reached:
            words += f", else {_reached(reached, measure)}"
        parts.append(f"{side.name} {words}")
    if claim.value is not None:
        parts.append(measures.number(claim.value, measure.unit))
    detail = f"{capital(measures.words(measure))}: {' against '.join(parts)}."
    what = "never reached" if gone[0] else "the other never got there"
    if len(gone) > 1 and all(gone):
        what = "neither got there in every seed" if seeds > 1 else "neither got there"
    elif 0 < sum(gone) < seeds:
        what = f"not reached in {sum(gone)} of {seeds} seeds"
    return _made(claim, outcome, f"{what}, {count(seeds, 'seed')}", detail, None)


def _reached(found: list[float], measure: Measure) -> str:
    shown = measures.number(sum(found) / len(found), measure.unit)
    return measures.quantified(shown, measure.unit)


def _made(claim: Claim, outcome: Outcome, found: str, detail: str, gap: Estimate | None) -> Verdict:
    return Verdict(claim.id, claim.text, claim.paper, outcome, found, detail, gap)
