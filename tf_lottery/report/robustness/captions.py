"""Title, caption and alternative text of each figure of an evaluation."""

from __future__ import annotations

from tf_lottery.options.attacks import AttackConfig
from tf_lottery.report import formats
from tf_lottery.report.pages import Caption
from tf_lottery.report.robustness.document import Curve, Evaluation, Transfer
from tf_lottery.report.robustness.figures import BANDS, autoattack, fates, suite_parts
from tf_lottery.report.text import attack_words
from tf_lottery.statistics import wilson


def captions(document: Evaluation) -> dict[str, Caption]:
    """Figure name -> caption, for all figures that ``figures.save_figures`` draws."""
    found = {}
    suite = autoattack(document)
    if suite is not None:
        found["broken_by"] = _broken_by(document, suite)
    if (curve := document.curve("eps")) is not None:
        found["accuracy_per_eps"] = _per_eps(curve)
    if (curve := document.curve("steps")) is not None:
        found["accuracy_per_steps"] = _per_steps(curve)
    if document.transfer is not None:
        found["transfer"] = _transfer(document.transfer)
    return found


def _broken_by(document: Evaluation, suite: AttackConfig) -> Caption:
    parts = suite_parts(document, suite)
    bars = []
    for model in document.models:
        shares = [formats.percent(n / model.examples) for n in fates(model, suite.name, parts)]
        words = zip(("wrong when clean", *parts, "standing"), shares, strict=True)
        bars.append(f"{model.name}: {', '.join(f'{word} {share} %' for word, share in words)}")
    return Caption(
        f"What {suite.name} broke.",
        "Each part of the suite sees the images that are still classified correctly after the "
        "parts before it: a long bar of a late part means that the earlier, cheaper ones miss "
        "much. Only bars of 5 % and more have their number inside.",
        f"Stacked bars of the share of test images. {'; '.join(bars)}.",
    )


def _per_eps(curve: Curve) -> Caption:
    radius = formats.length(curve.attack.eps, curve.attack.norm)
    return Caption(
        "Accuracy against the radius.",
        f"{_experiment(curve)}, with steps as much shorter or longer as the radius; the dotted "
        f"line marks the radius {radius}. A robust network loses accuracy gradually, and every "
        "network must come down to guessing or below at a radius that lets any image become any "
        f"other. {_rises(curve)}",
        f"Lines of accuracy over the radius. {_ends(curve)}",
    )


def _per_steps(curve: Curve) -> Caption:
    return Caption(
        "Accuracy against the number of steps.",
        f"{_experiment(curve)}, but for the steps, which are on a logarithmic axis. Where the line "
        f"still falls at its end, more steps would find more. {_rises(curve)}",
        f"Lines of accuracy over the number of steps. {_ends(curve)}",
    )


def _transfer(transfer: Transfer) -> Caption:
    names = transfer.models
    cells = [
        f"crafted on {source}: "
        + ", ".join(
            f"{target} {formats.percent(share)} %" for target, share in zip(names, row, strict=True)
        )
        for source, row in zip(names, transfer.accuracy, strict=True)
    ]
    return Caption(
        "Transfer of adversarial examples.",
        f"Accuracy of the column's model on images crafted on the row's; {transfer.examples:,} "
        f"test images, {transfer.attack.name}: {attack_words(transfer.attack)}. Framed: "
        "crafted on the model itself (white box). A framed number above others of its column is "
        "a sign of gradients that mislead the attack.",
        f"Heat map of accuracies. {'; '.join(cells)}.",
    )


def _experiment(curve: Curve) -> str:
    """Attack, images and what stands for their draw."""
    text = f"On {curve.examples:,} test images, {curve.attack.name}: {attack_words(curve.attack)}"
    if len(curve.accuracy) <= BANDS:
        return f"95 % Wilson bands. {text}"
    halves = [
        (high - low) / 2
        for shares in curve.accuracy.values()
        for low, high in [wilson(share, curve.examples) for share in shares]
    ]
    return f"95 % Wilson intervals (not drawn) up to ±{100 * max(halves):.1f} points. {text}"


def _rises(curve: Curve) -> str:
    """What rises, in words: room that an attack has more of cannot raise accuracy."""
    models = [
        f"{name} (by up to {100 * max(gain for _, _, gain in rises):.1f} points)"
        for name, rises in curve.rises.items()
        if rises
    ]
    if not models:
        return "No line rises by more than a few images."
    return (
        f"Rings mark a rise, which a stronger attack cannot cause unless it fails: "
        f"{', '.join(models)}."
    )


def _ends(curve: Curve) -> str:
    parts = [
        f"{name} from {formats.percent(shares[0])} to {formats.percent(shares[-1])} %"
        for name, shares in curve.accuracy.items()
    ]
    return f"{'; '.join(parts)}."
