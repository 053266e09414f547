"""``evaluation.json``: what one or several classifiers do under attacks.

The document is plain JSON. Accuracies are shares in [0, 1], lengths are on [0, 1] pixels,
times seconds; passes are counted in images.

* ``kind`` (``evaluation``), ``settings`` (nested), ``command`` (argv), ``machine``,
  ``package_version``; ``data``: name, images used, digest and class names;
* ``attacks``: the settings of each, see ``tf_lottery.options.attacks.AttackConfig``;
* ``models``: one entry a model. ``robust`` holds the accuracy under each attack, ``worst``
  (or null) the share of images classified correctly when clean and under every attack.
  ``broken_by`` counts, for each attack, the images that each of its parts broke, ``standing``
  those that none did; ``cost`` is that of ``natural`` and of each attack;
* ``pairs``: two models on the same images under one measure (``natural``, an attack,
  ``worst``), see ``tf_lottery.statistics.compare``; none with a single model;
* ``transfer`` (or null): accuracy of the column's model on images crafted on the row's;
* ``curves`` (or null): accuracy over ``eps`` and over ``steps`` (either may be null), with
  what rises from one value to the next: [from, to, share gained];
* ``diagnosis``: model -> checks of whether its attacks work as they should.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from tf_lottery.report.json_document import one_line, ordered, read_document, write_document
from tf_lottery.report.results import WORST
from tf_lottery.report.text import attack_problem

FORMAT = 1
KIND = "evaluation"
EVALUATION = "evaluation.json"
NATURAL = "natural"

Document: TypeAlias = dict[str, Any]

TOP_KEYS = (
    "format", "kind", "package_version", "command", "settings", "machine", "data",
    "attacks", "models", "pairs", "transfer", "curves", "diagnosis",
)  # fmt: skip
MACHINE_KEYS = ("cpu", "cores", "memory_gb", "python", "tensorflow", "devices")
DATA_KEYS = ("name", "test", "digest", "classes")
MODEL_KEYS = (
    "name", "what", "examples", "natural", "robust", "worst", "broken_by", "standing", "cost",
)  # fmt: skip
COST_KEYS = ("seconds", "forward_passes", "input_gradient_passes")
PAIR_KEYS = (
    "a", "b", "measure", "examples", "difference", "low", "high", "only_a", "only_b", "p",
)  # fmt: skip
TRANSFER_KEYS = ("attack", "examples", "models", "accuracy")
CURVES = ("eps", "steps")
CURVE_KEYS = ("attack", "examples", "values", "accuracy", "rises")
CHECK_KEYS = ("check", "outcome", "text", "value")
# What a report calls each check.
CHECKS = {
    "zero_gradients": "Zero gradients",
    "black_box_beats_gradients": "Black box beats gradients",
    "stronger_is_weaker": "A stronger attack finds less",
    "unbounded_attack": "Unbounded attack",
    "probabilities": "Probabilities for logits",
    "randomness": "Randomness",
    "half_precision": "Half precision",
    "eps_curve": "Accuracy over eps",
}
OUTCOMES = ("pass", "warn", "skipped")


def attack_names(document: Document) -> list[str]:
    """The attacks, in the order of the document."""
    return [attack["name"] for attack in document["attacks"]]


def measures(document: Document) -> list[str]:
    """What to show of each model; the worst of a single attack is that attack."""
    attacks = attack_names(document)
    worst = len(attacks) > 1 and any(model["worst"] is not None for model in document["models"])
    return [NATURAL, *attacks, *([WORST] if worst else [])]


def accuracy(model: dict, measure: str) -> float | None:
    """The model's share under ``natural``, ``worst`` or an attack; ``None`` if not measured."""
    return model[measure] if measure in (NATURAL, WORST) else model["robust"][measure]


def strongest(document: Document) -> str | None:
    """The measure that "robust accuracy" stands for; ``None`` without attacks.

    The worst of all attacks image by image, where every model has it; else the attack that
    leaves the lowest accuracy on average, the same for all models.
    """
    attacks = attack_names(document)
    models = document["models"]
    if len(attacks) > 1 and all(model[WORST] is not None for model in models):
        return WORST
    if not attacks:
        return None
    return min(attacks, key=lambda name: sum(model["robust"][name] for model in models))


def warned(document: Document) -> list[str]:
    """Names of the models whose robust accuracy a check speaks against."""
    return [
        model["name"]
        for model in document["models"]
        if any(check["outcome"] == "warn" for check in document["diagnosis"].get(model["name"], ()))
    ]


def write_evaluation(path: str | os.PathLike, document: Document) -> Path:
    """Writes ``document`` atomically; keys in a fixed, readable order.

    Raises:
      ValueError: something is missing or contradicts itself, or a number is NaN or infinite.
    """
    problem = _problem(document)
    if problem:
        raise ValueError(f"no evaluation document: {problem}")
    chosen = ordered(document, TOP_KEYS)
    chosen["models"] = [ordered(model, MODEL_KEYS) for model in document["models"]]
    chosen["pairs"] = [ordered(pair, PAIR_KEYS) for pair in document["pairs"]]
    return write_document(path, chosen, "an evaluation")


def read_evaluation(path: str | os.PathLike) -> Document:
    """The checked document at ``path``.

    Raises:
      StoreError: missing, unreadable, not JSON, of another format, or incomplete.
    """
    return read_document(path, "a finished --mode=evaluate", FORMAT, _strange, _problem)


def _strange(document: Any) -> str:
    if not isinstance(document, dict) or document.get("kind") != KIND or "format" not in document:
        return "not an evaluation (no format number or another kind)"
    return ""


def _problem(document: Document) -> str:
    """What is wrong with a document, in one line; empty when nothing is."""
    try:
        return one_line(next(_problems(document), ""))
    except (TypeError, AttributeError, LookupError, ValueError, OverflowError) as error:
        return f"not in the expected form ({one_line(error)})"


def _problems(document: Document) -> Iterator[str]:
    """What is wrong, the first thing first; later parts rely on what was checked before."""
    yield from _lacks("it", document, TOP_KEYS)
    if document["format"] != FORMAT or document["kind"] != KIND:
        yield f"of format {document['format']!r} and kind {document['kind']!r}"
    yield from _lacks("machine", document["machine"], MACHINE_KEYS)
    yield from _lacks("data", document["data"], DATA_KEYS)
    yield from _attack_problems(document)
    if not document["models"]:
        yield "has no models"
    for i, model in enumerate(document["models"]):
        yield from _lacks(f"models[{i}]", model, MODEL_KEYS)
        yield from _model_problems(f"model {model['name']!r}", model, attack_names(document))
    names = [model["name"] for model in document["models"]]
    if len(set(names)) != len(names):
        yield "two models have the same name"
    for i, pair in enumerate(document["pairs"]):
        yield from _lacks(f"pairs[{i}]", pair, PAIR_KEYS)
        yield from _pair_problems(f"pairs[{i}]", pair, names, attack_names(document))
    if document["transfer"] is not None:
        yield from _transfer_problems(document["transfer"], names)
    if document["curves"] is not None:
        yield from _lacks("curves", document["curves"], CURVES)
        for key in CURVES:
            if document["curves"][key] is not None:
                yield from _curve_problems(f"curves[{key!r}]", document["curves"][key], names)
    yield from _unknown("diagnosis", document["diagnosis"], names)
    for name, checks in document["diagnosis"].items():
        for i, check in enumerate(checks):
            where = f"diagnosis[{name!r}][{i}]"
            yield from _lacks(where, check, CHECK_KEYS)
            if check["check"] not in CHECKS:
                yield f"{where}: unknown check {check['check']!r}"
            if check["outcome"] not in OUTCOMES:
                yield f"{where}: unknown outcome {check['outcome']!r}"


def _attack_problems(document: Document) -> Iterator[str]:
    for i, attack in enumerate(document["attacks"]):
        problem = attack_problem(attack)
        if problem:
            yield f"attacks[{i}]: {problem}"
        yield from _lacks(f"attacks[{i}]", attack, ("name",))
    names = attack_names(document)
    if len(set(names)) != len(names):
        yield "two attacks have the same name"
    yield from (f"an attack is called {name!r}" for name in (NATURAL, WORST) if name in names)


def _model_problems(where: str, model: dict, attacks: list[str]) -> Iterator[str]:
    examples = model["examples"]
    if examples < 1:
        yield f"{where} was tested on no images"
    for key in ("robust", "broken_by", "standing"):
        yield from _lacks(f"{where}: {key}", model[key], attacks)
        yield from _unknown(f"{where}: {key}", model[key], attacks)
    yield from _lacks(f"{where}: cost", model["cost"], [NATURAL, *attacks])
    yield from _unknown(f"{where}: cost", model["cost"], [NATURAL, *attacks])
    shares = {NATURAL: model[NATURAL], **model["robust"]}
    if model[WORST] is not None:
        shares[WORST] = model[WORST]
    for name, share in shares.items():
        if not _is_share(share):
            yield f"{where}: accuracy of {name} outside [0, 1]"
    if shares.get(WORST, 0) > min(shares.values()) + 0.5 / examples:
        yield f"{where}: worst is above the lowest of its accuracies"
    for name in attacks:
        counts = [model["standing"][name], *model["broken_by"][name].values()]
        if min(counts) < 0 or sum(counts) > examples:
            yield f"{where}: broken_by and standing of {name} do not fit {examples} images"
    for name, cost in model["cost"].items():
        yield from _lacks(f"{where}: cost of {name}", cost, COST_KEYS)
        if min(cost[key] for key in COST_KEYS) < 0:
            yield f"{where}: cost of {name} below 0"


def _pair_problems(where: str, pair: dict, names: list[str], attacks: list[str]) -> Iterator[str]:
    yield from _unknown(where, (pair["a"], pair["b"]), names)
    if pair["a"] == pair["b"]:
        yield f"{where} compares {pair['a']!r} with itself"
    if pair["measure"] not in (NATURAL, *attacks, WORST):
        yield f"{where}: unknown measure {pair['measure']!r}"
    only_a, only_b, examples = pair["only_a"], pair["only_b"], pair["examples"]
    fits = min(only_a, only_b) >= 0 and 1 <= examples >= only_a + only_b
    if not fits or abs(pair["difference"] * examples - (only_a - only_b)) > 0.5:
        yield f"{where}: difference and counts contradict each other"
    if not -1 <= pair["low"] <= pair["difference"] <= pair["high"] <= 1:
        yield f"{where}: difference outside its interval"
    if not _is_share(pair["p"]):
        yield f"{where}: p outside [0, 1]"


def _transfer_problems(transfer: dict, names: list[str]) -> Iterator[str]:
    yield from _lacks("transfer", transfer, TRANSFER_KEYS)
    yield from _experiment_problems("transfer", transfer)
    yield from _unknown("transfer", transfer["models"], names)
    matrix, side = transfer["accuracy"], len(transfer["models"])
    if side < 1 or len(set(transfer["models"])) != side:
        yield "transfer: no models, or one of them twice"
    if len(matrix) != side or any(len(row) != side for row in matrix):
        yield f"transfer: accuracy is not {side} x {side}"
    if not all(_is_share(share) for row in matrix for share in row):
        yield "transfer: accuracy outside [0, 1]"


def _curve_problems(where: str, curve: dict, names: list[str]) -> Iterator[str]:
    yield from _lacks(where, curve, CURVE_KEYS)
    yield from _experiment_problems(where, curve)
    values = curve["values"]
    if not values or min(values) < 0 or any(b <= a for a, b in pairwise(values)):
        yield f"{where}: values do not increase"
    if not curve["accuracy"]:
        yield f"{where}: accuracy of no model"
    for key in ("accuracy", "rises"):
        yield from _unknown(f"{where}: {key}", curve[key], names)
    for name, shares in curve["accuracy"].items():
        if len(shares) != len(values) or not all(map(_is_share, shares)):
            yield f"{where}: accuracy of {name!r} is not {len(values)} shares"
    for name, rises in curve["rises"].items():
        if any(len(rise) != 3 or rise[1] not in values for rise in rises):
            yield f"{where}: rises of {name!r} are not [from, to, share gained]"


def _experiment_problems(where: str, part: dict) -> Iterator[str]:
    problem = attack_problem(part["attack"])
    if problem:
        yield f"{where}: attack: {problem}"
    yield from _lacks(f"{where}: attack", part["attack"], ("name",))
    if part["examples"] < 1:
        yield f"{where} was measured on no images"


def _is_share(value: Any) -> bool:
    return bool(0 <= value <= 1)


def _lacks(where: str, part: Any, keys) -> Iterator[str]:
    missing = ", ".join(repr(key) for key in keys if key not in part)
    if missing:
        yield f"{where} lacks {missing}".removeprefix("it ")


def _unknown(where: str, names, known: list[str]) -> Iterator[str]:
    yield from (f"{where}: unknown {name!r}" for name in names if name not in known)
