"""What an evaluation under attacks shows, in plain sentences, whichever way it went.

A difference between two models is claimed where McNemar's exact test on the images that
both saw gives p < 0.05, and nowhere else. A robust accuracy that a check of the diagnosis
speaks against is never stated without saying so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from tf_lottery.options.attacks import AttackConfig
from tf_lottery.report import formats
from tf_lottery.report.robustness.document import (
    CHECKS,
    NATURAL,
    WORST,
    Check,
    Evaluation,
    Model,
    Pair,
)
from tf_lottery.report.text import capital
from tf_lottery.statistics import difference, wilson

Outcome = Literal["ahead", "behind", "even", "note", "pass", "warn"]

ROBUST, COMPARISON, DIAGNOSIS, LIMITS = "Robust accuracy", "Comparison", "Diagnosis", "Limits"
CLAIM = 0.05  # p below which a difference is claimed
PAIRS_SPELT_OUT = 6
_STRONG_STEPS = 10  # of PGD; with fewer, robust accuracy is not much more than a guess
_STRONG_QUERIES = 1000  # of random search


class Finding(NamedTuple):
    """One sentence (or two).

    Attributes:
      topic: the heading it stands under.
      outcome: in a comparison, of the model named first; ``ahead`` and ``behind`` only
        where p < ``CLAIM``. ``warn`` and ``pass`` are of a diagnosis.
      text: plain text, no markup.
    """

    topic: str
    outcome: Outcome
    text: str


def findings(document: Evaluation) -> list[Finding]:
    """All findings of a document, grouped by topic in reading order."""
    return [
        *_robust_accuracy(document),
        *_comparison(document),
        *_diagnosis(document),
        *_transfer(document),
        *(Finding(LIMITS, "note", text) for text in limits(document)),
    ]


def claim(pair: Pair) -> Outcome:
    """Whether the pair's first model is better, worse, or neither can be claimed."""
    if pair.p >= CLAIM or not pair.difference:
        return "even"
    return "ahead" if pair.difference > 0 else "behind"


def claim_words(pair: Pair, name: str = "") -> str:
    """``a is higher``, ``a is lower`` with its (shortened) name, or that nothing can be claimed."""
    name = name or pair.a
    words = {"ahead": f"{name} is higher", "behind": f"{name} is lower"}
    return words.get(claim(pair), "no difference can be claimed")


def measure_words(measure: str) -> str:
    """``on clean images``, ``under pgd20``, ``under every attack``."""
    if measure == NATURAL:
        return "on clean images"
    return "under every attack" if measure == WORST else f"under {measure}"


def check_counts(checks: list[Check]) -> str:
    """``all 8 checks pass``, ``6 of 8 checks pass, 1 warns, 1 skipped``."""
    found = {
        key: sum(check.outcome == key for check in checks) for key in ("pass", "warn", "skipped")
    }
    total = len(checks)
    if not total:
        return "no checks"
    noun = "check" if total == 1 else "checks"
    if found["pass"] == total:
        return f"all {total} {noun} pass" if total > 1 else "the one check passes"
    parts = [f"{found['pass']} of {total} {noun} pass"]
    if found["warn"]:
        parts.append(f"{found['warn']} warn{'s' if found['warn'] == 1 else ''}")
    if found["skipped"]:
        parts.append(f"{found['skipped']} skipped")
    return ", ".join(parts)


def _robust_accuracy(document: Evaluation) -> Iterator[Finding]:
    measure = document.strongest
    suspects = document.warned
    for model in document.models:
        images = f"{model.examples:,} test images correctly"
        share, (low, high) = _share(model, measure or NATURAL)
        text = (
            f"{model.name} classifies {share} of {images} "
            f"{measure_words(measure or NATURAL)} (95 % interval [{low}, {high}])"
        )
        if measure is None:
            yield Finding(ROBUST, "note", f"{text}.")
            continue
        share, (low, high) = _share(model, NATURAL)
        text += f", and {share} of the clean ones ([{low}, {high}])"
        if model.name in suspects:
            text += ". Its robust accuracy is not to be trusted: see the diagnosis"
        yield Finding(ROBUST, "warn" if model.name in suspects else "note", f"{text}.")
    if measure is None:
        text = "No attack was run, so nothing is known about robustness."
        yield Finding(ROBUST, "note", text)


def _share(model: Model, measure: str) -> tuple[str, tuple[str, str]]:
    """An accuracy in percent and the bounds of its interval, as text."""
    share = model.accuracy(measure)
    assert share is not None
    low, high = wilson(share, model.examples)
    return f"{formats.percent(share)} %", (f"{100 * low:.1f}", f"{100 * high:.1f}")


def _comparison(document: Evaluation) -> Iterator[Finding]:
    for measure in dict.fromkeys((document.strongest or NATURAL, NATURAL)):
        pairs = [pair for pair in document.pairs if pair.measure == measure]
        if len(pairs) > PAIRS_SPELT_OUT:
            yield _many(document, pairs, measure)
            continue
        for pair in pairs:
            yield Finding(COMPARISON, claim(pair), _pair_text(document, pair))


def _pair_text(document: Evaluation, pair: Pair) -> str:
    text = (
        f"{pair.a} minus {pair.b} {measure_words(pair.measure)}: "
        f"{formats.points(pair.difference)} points, 95 % interval "
        f"{formats.point_interval(pair.low, pair.high)}, on the same {pair.examples:,} "
        f"images ({pair.only_a:,} of them right with {pair.a} alone, {pair.only_b:,} with "
        f"{pair.b} alone; McNemar's exact test, {formats.p_words(pair.p)}): "
        f"{claim_words(pair)}"
    )
    suspects = [name for name in (pair.a, pair.b) if name in document.warned]
    if suspects and pair.measure != NATURAL:
        text += f", but the robust accuracy of {' and '.join(suspects)} is not to be trusted"
    return f"{text}."


def _many(document: Evaluation, pairs: list[Pair], measure: str) -> Finding:
    differ = sum(claim(pair) != "even" for pair in pairs)
    words = measure_words(measure)
    total = len(pairs)
    if not differ:
        text = f"{capital(words)} no difference can be claimed in any of {total}"
        return Finding(COMPARISON, "even", f"{text} pairs of models (McNemar's exact test).")
    text = (
        f"{capital(words)} {differ} of {total} pairs of models differ (McNemar's "
        f"exact test, p < {CLAIM:g}); among equal models chance alone makes up to "
        f"{CLAIM * total:.0f} do so. "
    )
    if differ < total:
        text += f"For the other {total - differ} no difference can be claimed. "
    return Finding(COMPARISON, "note", f"{text}Table 2 has them all.")


def _diagnosis(document: Evaluation) -> Iterator[Finding]:
    found = document.diagnosis
    if not found and document.attacks:
        text = "None was made: whether the attacks work as they should is not known."
        yield Finding(DIAGNOSIS, "note", text)
    for name in document.warned:
        texts = [check.text for check in found[name] if check.outcome == "warn"]
        yield Finding(
            DIAGNOSIS,
            "warn",
            f"The robust accuracy of {name} is not to be trusted: {' '.join(texts)} "
            f"{capital(check_counts(found[name]))}.",
        )
    alike: dict[str, list[str]] = {}
    for name, checks in found.items():
        if name not in document.warned:
            skipped = [
                CHECKS[check.check].lower() for check in checks if check.outcome == "skipped"
            ]
            named = f" ({', '.join(skipped)})" if skipped else ""
            alike.setdefault(f"{check_counts(checks)}{named}.", []).append(name)
    for words, names in alike.items():
        yield Finding(DIAGNOSIS, "pass", f"{', '.join(names)}: {words}")


def _transfer(document: Evaluation) -> Iterator[Finding]:
    """Whether images crafted on another model fool one more often than its own do.

    Their gradients then mislead the attack (Athalye et al. 2018, section 3.1). Judged by the
    interval for independent samples, which is if anything too wide.
    """
    found = document.transfer
    if found is None or len(found.models) < 2:
        return
    images, attack = found.examples, found.attack.name
    suspicious = False
    for target, name in enumerate(found.models):
        own = found.accuracy[target][target]
        others = [
            (row[target], source) for source, row in enumerate(found.accuracy) if source != target
        ]
        lowest, source = min(others)
        if difference(own, images, lowest, images)[1] > 0:
            suspicious = True
            yield Finding(
                DIAGNOSIS,
                "warn",
                f"{name} is at {formats.percent(lowest)} % on images crafted on "
                f"{found.models[source]} with {attack}, and at {formats.percent(own)} % on "
                f"those crafted on {name} itself: its own gradients seem to mislead the attack.",
            )
    if not suspicious:
        text = f"No model is fooled clearly more often by images crafted on another with {attack}"
        yield Finding(DIAGNOSIS, "pass", f"{text} than by those crafted on itself.")


def limits(document: Evaluation) -> Iterator[str]:
    """What the document cannot show; one sentence (or a few) a limit."""
    if len(document.models) == 1:
        yield "A single model: nothing is compared."
    text = "The intervals cover the draw of the test images alone, not how a training run fell out"
    if document.pairs:
        text += (
            ". Pairs are compared on the same images (Agresti & Min's interval, McNemar's exact "
            "test), not corrected for the number of comparisons"
        )
    yield f"{text}."
    if document.attacks:
        yield (
            "An accuracy under attacks is an upper bound: an attack that fails, and a check that "
            "passes, prove nothing."
        )
        if not any(map(_is_strong, document.attacks)):
            names = ", ".join(document.attack_names)
            yield (
                f"Weak attacks alone ({names}): the true robust accuracy may lie far lower. "
                "--attacks=autoattack is the usual standard."
            )


def _is_strong(attack: AttackConfig) -> bool:
    method = attack.method
    if method in ("pgd", "mim"):
        reaches = attack.steps * attack.step_size >= attack.eps
        return attack.steps >= _STRONG_STEPS and reaches
    if method == "square":
        return attack.steps >= _STRONG_QUERIES
    return method != "noise"
