"""Plain text: an attack in one phrase, aligned columns, one ticket's story."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tf_lottery.options.attacks import AttackConfig
from tf_lottery.report import formats

COLUMNS = 100  # of the terminal text, where the content lets it
_LOSSES = {
    "cross_entropy": "the cross-entropy",
    "margin": "the margin loss",
    "dlr": "the difference of logits ratio",
}


def attack_words(attack: AttackConfig) -> str:
    """One phrase for an attack, without its name.

    Example:
      >>> attack_words(AttackConfig("pgd20", steps=20, random_start=True))
      '20 steps of 2/255 on the cross-entropy, l_inf radius 8/255, from a random start'
    """
    # FAB begins at the clean image whatever is set, the queries of Square with stripes.
    started = attack.method in ("pgd", "mim", "apgd")
    start = "from a random start" if attack.random_start else "from the clean image"
    words = [
        _search_words(attack),
        f"{norm_word(attack.norm)} radius {formats.length(attack.eps, attack.norm)}",
        start if started else "",
        f"{attack.restarts} restarts" if attack.restarts > 1 else "",
    ]
    return ", ".join(word for word in words if word)


def norm_word(norm: str) -> str:
    """``linf`` -> ``l_inf``, ``l2`` -> ``l_2``."""
    return {"linf": "l_inf", "l2": "l_2"}[norm]


def _search_words(attack: AttackConfig) -> str:
    count = f"{attack.steps:,} step" + ("" if attack.steps == 1 else "s")
    size = formats.length(attack.step_size, attack.norm)
    loss = f"on {_LOSSES[attack.loss]}"
    each = f"each of {attack.targets} wrong classes"
    match attack.method:
        case "autoattack":
            return f"AutoAttack: {', '.join(part.name for part in attack.components)}"
        case "mim":
            return f"{count} of {size} with momentum {attack.decay:g} {loss}"
        case "apgd":
            aim = f" towards {each}" if attack.targets else ""
            return f"{count} of Auto-PGD {loss}{aim}"
        case "fab":
            return f"{count} of FAB towards {each if attack.targets else 'the nearest wrong class'}"
        case "square":
            queries = f"{attack.steps:,} quer{'y' if attack.steps == 1 else 'ies'}"
            return f"{queries} of random search (Square) {loss}, without gradients"
        case "cw_l2":
            return (
                f"{attack.search_steps} x {attack.steps:,} Adam steps of {attack.step_size:g} "
                "for the smallest perturbation (Carlini & Wagner)"
            )
        case "noise":
            points = f"{attack.steps:,} random points"
            return "a random point" if attack.steps == 1 else f"the worst of {points}"
    if ":" in attack.method:  # from elsewhere: what it does with its settings is its own
        return f"{count} of {attack.method}"
    return f"{count} of {size} {loss}"


def aligned(
    lines: Sequence[Sequence[str]],
    words: Collection[int] = (0,),
    rule: bool = True,
    gap: str = "  ",
) -> list[str]:
    """Rows of cells as text.

    Args:
      lines: as many cells each.
      words: columns set to the left; the others to the right.
      rule: below the first line.
      gap: between columns.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        gap.join(
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    if rule:
        text.insert(1, gap.join("-" * width for width in widths))
    return text


def capital(words: str) -> str:
    """The words with a capital letter first, the others as they are."""
    return words[:1].upper() + words[1:]


def printable(text: object) -> str:
    """One line without control characters, which a terminal would obey."""
    line = " ".join(str(text).split())
    kept = "\N{ZERO WIDTH SPACE}"  # of ours, where matplotlib would hide a name
    return "".join(letter if letter.isprintable() or letter == kept else "?" for letter in line)


def hanging(text: str, start: str, indent: int | None = None) -> str:
    """``start`` and the wrapped ``text``, whose further lines stand below its beginning.

    Args:
      text: one paragraph.
      start: stands before its first line.
      indent: of the further lines; as wide as ``start`` if left out.
    """
    below = " " * (len(start) if indent is None else indent)
    width = max(COLUMNS, len(below) + 40)
    return textwrap.fill(
        text, width, initial_indent=start, subsequent_indent=below, break_long_words=False
    )


def ticket_text(document: Mapping[str, Any]) -> str:
    """What ``ticket.json`` says, for reading: provenance, density per layer, digests."""
    network, found = document["network"], document["found"]
    lines = [
        f"ticket        {document['digest']}",
        f"written by    tf_lottery {document['package_version']} (format {document['format']})",
        f"network       {network['name']} depth {network['depth'] or 'default'}, "
        f"width x{network['width_multiplier']:g}, input {tuple(network['input_shape'])}, "
        f"{network['num_classes']} classes",
        f"data set      {document['dataset']}",
        f"initialised   seed {document['initialization']['seed']}, "
        f"digest {document['initialization']['digest']}",
        "rewinds to    "
        + (f"epoch {document['rewind_epoch']}" if document["rewind_epoch"] else "initialisation"),
        f"parent        {document['parent'] or 'none'}",
        f"density       {document['density']:.4f} "
        f"({document['weights_kept']:,} of {document['weights']:,} weights)",
    ]
    if found:
        lines += ["found by"] + [f"  {line}" for line in _tree(found)]
    lines.append("layers")
    width = max(len(layer["layer"]) for layer in document["layers"])
    for layer in document["layers"]:
        share = layer["kept"] / layer["weights"]
        bar = "#" * max(1, round(40 * share))
        lines.append(
            f"  {layer['layer']:<{width}}  {layer['kept']:>10,} of {layer['weights']:>10,}"
            f"  {share:>6.1%}  {bar}"
        )
    return "\n".join(lines)


def _tree(value: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            lines += _tree(item, f"{prefix}{key}.")
        else:
            shown = ", ".join(map(str, item)) if isinstance(item, list) else item
            lines.append(f"{prefix}{key} = {shown}")
    return lines


def listed(names: Sequence[str]) -> str:
    """Names in a row, told apart although they may hold commas."""
    return ("; " if any("," in name for name in names) else ", ").join(names)
