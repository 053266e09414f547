"""Plain text for the terminal: one model's accuracies, one ticket's story."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tf_lottery.config import AttackConfig
from tf_lottery.reporting.intervals import wilson


def accuracy_table(
    natural: float, robust: Mapping[str, float], examples: int, attacks: Sequence[AttackConfig]
) -> str:
    """Accuracies in percent with 95 % Wilson intervals, one attack a line.

    Args:
      natural: fraction of 1.
      robust: fractions by attack name.
      examples: number of images they are means over.
      attacks: what the names stand for.
    """
    lines = [_accuracy("natural", natural, examples, "clean images")]
    for attack in attacks:
        start = "random start" if attack.random_start else "clean start"
        what = f"l_inf eps {attack.eps:.4g}, {attack.steps} x {attack.step_size:.4g}, {start}"
        if attack.restarts > 1:
            what += f", {attack.restarts} restarts"
        if attack.loss == "margin":
            what += ", margin loss"
        lines.append(_accuracy(attack.name, robust[attack.name], examples, what))
    return "\n".join(lines)


def _accuracy(name: str, share: float, examples: int, what: str) -> str:
    low, high = wilson(share, examples)
    return f"{name:<10}{share:>7.1%}  [{low:.1%}, {high:.1%}]  {what}"


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
