"""What is wrong with an experiment document."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from numbers import Real
from typing import Any

from tf_lottery.options.settings import KINDS
from tf_lottery.report.experiment.measures import NEVER, RUN_UNITS, parse
from tf_lottery.report.results import DATA_KEYS, LEDGER_KEYS, MACHINE_KEYS, WORST
from tf_lottery.report.text import attack_problem

FORMAT = 1
FORMS = ("epochs", "sweep", "transfer")
EXPECTATIONS = ("more", "less", "not_less", "same")

TOP_KEYS = (
    "format", "package_version", "command", "experiment", "scale", "settings", "machine", "data",
    "seeds", "attacks", "baseline", "arms", "claims", "figures", "transfer", "reference",
    "ledger",
)  # fmt: skip
EXPERIMENT_KEYS = ("id", "source", "title", "question", "paper", "sweep")
ARM_KEYS = (
    "name", "kind", "series", "x", "model", "sparsity", "reference", "published", "runs",
)  # fmt: skip
RUN_KEYS = (
    "seed", "density", "epochs", "best_epoch", "stopped", "test", "search_seconds",
    "train_seconds", "search_flops", "train_flops", "search_passes", "train_passes",
    "total_seconds_over_dense", "total_flops_over_dense", "epochs_to_dense",
    "seconds_to_dense_over_dense", "flops_to_dense_over_dense", "break_even", "curve",
)  # fmt: skip
CURVE_KEYS = (
    "epoch", "learning_rate", "loss", "train_accuracy", "validation_natural",
    "validation_robust", "distance", "seconds", "validation_seconds",
)  # fmt: skip
CLAIM_KEYS = ("id", "text", "ours", "theirs", "value", "measure", "expect", "margin", "paper")
FIGURE_KEYS = ("name", "form", "title", "measures", "x_label", "y_label", "log_x", "arms")
TRANSFER_KEYS = ("attack", "examples", "arms", "matrices", "published")
NULLABLE = (*NEVER, "total_seconds_over_dense", "total_flops_over_dense")
_SHARES = ("train_accuracy", "validation_natural", "validation_robust")
_ENDS = ("best", "last")


def problem(document: Any) -> str:
    """What is wrong with a document, in one line; empty when nothing is."""
    try:
        return " ".join(next(_problems(document), "").split())
    except (TypeError, AttributeError, LookupError, ValueError, OverflowError) as error:
        return f"not in the expected form ({' '.join(str(error).split())})"


def _problems(document: dict) -> Iterator[str]:
    """What is wrong, the first thing first; later parts rely on what was checked before."""
    yield from _lacks("it", document, TOP_KEYS)
    if document["format"] != FORMAT:
        yield f"of format {document['format']!r}"
    yield from _lacks("machine", document["machine"], MACHINE_KEYS)
    yield from _lacks("data", document["data"], DATA_KEYS)
    yield from _lacks("experiment", document["experiment"], EXPERIMENT_KEYS)
    sweep = document["experiment"]["sweep"]
    if sweep is not None:
        yield from _lacks("experiment: sweep", sweep, ("label", "log"))
    if not isinstance(document["scale"], str):
        yield f"scale: {document['scale']!r} is no text"
    seeds = document["seeds"]
    if not seeds or not all(_is_whole(seed) for seed in seeds):
        yield f"seeds: {seeds!r} are not one whole number or more"
    yield from _attack_problems(document["attacks"])
    if not document["arms"]:
        yield "has no arms"
    attacks = [attack["name"] for attack in document["attacks"]]
    for i, arm in enumerate(document["arms"]):
        yield from _lacks(f"arms[{i}]", arm, ARM_KEYS)
        yield from _arm_problems(f"arm {arm['name']!r}", arm, seeds, attacks)
    names = [arm["name"] for arm in document["arms"]]
    yield from _repeated("arms", names)
    if document["baseline"] is not None:
        yield from _unknown("baseline", [document["baseline"]], names)
    for arm in document["arms"]:
        if arm.get("baseline") is not None:
            yield from _unknown(f"arm {arm['name']!r}: baseline", [arm["baseline"]], names)
    for i, claim in enumerate(document["claims"]):
        yield from _lacks(f"claims[{i}]", claim, CLAIM_KEYS)
        yield from _claim_problems(f"claim {claim['id']!r}", claim, names)
    yield from _repeated("claims", [claim["id"] for claim in document["claims"]])
    for i, figure in enumerate(document["figures"]):
        yield from _lacks(f"figures[{i}]", figure, FIGURE_KEYS)
        yield from _figure_problems(f"figure {figure['name']!r}", figure, names)
    yield from _repeated("figures", [figure["name"] for figure in document["figures"]])
    if document["transfer"] is not None:
        yield from _transfer_problems(document["transfer"], names, len(seeds))
    if document["reference"] is not None:
        yield from _reference_problems(document["reference"])
    for i, entry in enumerate(document["ledger"]):
        where = f"ledger[{i}]"
        yield from _lacks(where, entry, (*LEDGER_KEYS, "seed"))
        yield from _unknown(where, entry["models"], names)
        counts = set(LEDGER_KEYS) - {"stage", "kind", "label", "models", "cached"}
        yield from _numbers(where, entry, counts, _is_positive)


def _attack_problems(attacks: list) -> Iterator[str]:
    for i, attack in enumerate(attacks):
        found = attack_problem(attack)
        if found:
            yield f"attacks[{i}]: {found}"
        yield from _lacks(f"attacks[{i}]", attack, ("name",))
    names = [attack["name"] for attack in attacks]
    yield from _repeated("attacks", names)
    yield from (f"an attack is called {name!r}" for name in ("natural", WORST) if name in names)


def _arm_problems(where: str, arm: dict, seeds: list, attacks: list[str]) -> Iterator[str]:
    for key in ("name", "series", "model"):
        if not isinstance(arm[key], str) or not arm[key].strip():
            yield f"{where}: {key} {arm[key]!r} is no text"
    if arm["kind"] not in KINDS:
        yield f"{where} is of unknown kind {arm['kind']!r}"
    if arm["x"] is not None and not _is_number(arm["x"]):
        yield f"{where}: x is {arm['x']!r}, no number"
    for word, number in arm["published"].items():
        parse(word)
        if not _is_number(number):
            yield f"{where}: published {word} is {number!r}, no number"
    if len(arm["runs"]) != len(seeds):
        yield f"{where} has {len(arm['runs'])} runs for {len(seeds)} seeds"
    for i, run in enumerate(arm["runs"]):
        place = f"{where}: runs[{i}]"
        yield from _lacks(place, run, RUN_KEYS)
        if run["seed"] != seeds[i]:
            yield f"{place} is of seed {run['seed']!r}, not of {seeds[i]}"
        yield from _run_problems(place, run, attacks)


def _run_problems(where: str, run: dict, attacks: list[str]) -> Iterator[str]:
    numbers = [key for key in RUN_UNITS if key not in NULLABLE or run[key] is not None]
    yield from _numbers(where, run, numbers, _is_positive)
    if not (_is_whole(run["epochs"]) and 0 <= run["best_epoch"] <= run["epochs"]):
        yield f"{where}: best_epoch {run['best_epoch']!r} of {run['epochs']!r} epochs"
    if not _is_share(run["density"]):
        yield f"{where}: density {run['density']!r} outside [0, 1]"
    for i, record in enumerate(run["curve"]):
        yield from _lacks(f"{where}: curve[{i}]", record, CURVE_KEYS)
        present = [key for key in CURVE_KEYS if record[key] is not None and key != "epoch"]
        place = f"{where}: curve[{i}]"
        yield from _numbers(place, record, present, _is_number)
        yield from _numbers(place, record, [key for key in _SHARES if key in present], _is_share)
    epochs = [record["epoch"] for record in run["curve"]]
    rising = all(map(_is_whole, epochs)) and all(a < b for a, b in pairwise([0, *epochs]))
    if not rising or (epochs and epochs[-1] > run["epochs"]):
        yield f"{where}: curve: epochs do not rise from 1 to at most {run['epochs']}"
    test = run["test"]
    if test is None:
        return
    wanted = ["natural", *attacks, *([WORST] if attacks else [])]
    yield from _lacks(f"{where}: test", test, ["examples", *wanted])
    if not _is_whole(test["examples"]) or test["examples"] < 1:
        yield f"{where} was tested on {test['examples']!r} images"
    for name in wanted:
        yield from _lacks(f"{where}: test: {name}", test[name], _ENDS)
        yield from _numbers(f"{where}: test: {name}", test[name], _ENDS, _is_share)


def _claim_problems(where: str, claim: dict, names: list[str]) -> Iterator[str]:
    yield from _unknown(where, [claim["ours"]], names)
    parse(claim["measure"])
    if parse(claim["measure"]).at is None and parse(claim["measure"]).key is None:
        yield f"{where}: {claim['measure']!r} says no epoch"
    if claim["expect"] not in EXPECTATIONS:
        yield f"{where}: unknown expect {claim['expect']!r}"
    if claim["theirs"] is not None:
        yield from _unknown(where, [claim["theirs"]], names)
    elif not _is_number(claim["value"]):
        yield f"{where} compares with neither an arm nor a value"
    if not _is_positive(claim["margin"]):
        yield f"{where}: margin {claim['margin']!r} is not 0 or more"


def _figure_problems(where: str, figure: dict, names: list[str]) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", figure["name"]):
        yield f"{where}: its name is no file name"
    if figure["form"] not in FORMS:
        yield f"{where}: unknown form {figure['form']!r}"
    if figure["arms"] is not None:
        yield from _unknown(where, figure["arms"], names)
        yield from _repeated(where, figure["arms"])
    if figure["form"] != "transfer" and not figure["measures"]:
        yield f"{where} has no measures"
    for word in figure["measures"]:
        measure = parse(word)
        over_epochs = measure.at is None and measure.key is None
        if figure["form"] != "transfer" and over_epochs != (figure["form"] == "epochs"):
            yield f"{where}: {word!r} is no measure of form {figure['form']!r}"


def _transfer_problems(transfer: dict, names: list[str], seeds: int) -> Iterator[str]:
    yield from _lacks("transfer", transfer, TRANSFER_KEYS)
    yield from _unknown("transfer", transfer["arms"], names)
    yield from _repeated("transfer", transfer["arms"])
    if not _is_whole(transfer["examples"]) or transfer["examples"] < 1:
        yield "transfer was measured on no images"
    side = len(transfer["arms"])
    if len(transfer["matrices"]) != seeds:
        yield f"transfer: {len(transfer['matrices'])} matrices for {seeds} seeds"
    published = transfer["published"]
    for matrix in transfer["matrices"] + ([] if published is None else [published]):
        if side < 1 or len(matrix) != side or any(len(row) != side for row in matrix):
            yield f"transfer: a matrix is not {side} x {side}"
        shares = [share for row in matrix for share in row]
        if matrix is published:
            shares = [share for share in shares if share is not None]
        if not all(_is_share(share) for share in shares):
            yield "transfer: accuracy outside [0, 1]"


def _reference_problems(reference: dict) -> Iterator[str]:
    yield from _lacks("reference", reference, ("file", "runs"))
    for name, records in reference["runs"].items():
        for i, record in enumerate(records):
            where = f"reference: {name!r}[{i}]"
            yield from _lacks(where, record, ("epoch", "natural", "robust"))
            if not _is_whole(record["epoch"]) or record["epoch"] < 1:
                yield f"{where}: epoch {record['epoch']!r}"
            present = [key for key in ("natural", "robust") if record[key] is not None]
            yield from _numbers(where, record, present, _is_share)


def _numbers(
    where: str, part: dict, keys: Iterable[str], fits: Callable[[Any], bool]
) -> Iterator[str]:
    names: dict[Callable[[Any], bool], str] = {
        _is_share: "a share in [0, 1]",
        _is_positive: "0 or more",
    }
    wanted = names.get(fits, "a number")
    for key in keys:
        if not fits(part[key]):
            yield f"{where}: {key} is {part[key]!r}, not {wanted}"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value == int(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _lacks(where: str, part: Any, keys) -> Iterator[str]:
    missing = ", ".join(repr(key) for key in keys if key not in part)
    if missing:
        yield f"{where} lacks {missing}".removeprefix("it ")


def _unknown(where: str, names, known: list[str]) -> Iterator[str]:
    yield from (f"{where}: unknown {name!r}" for name in names if name not in known)


def _repeated(where: str, names: list[str]) -> Iterator[str]:
    if len(set(names)) != len(names):
        yield f"{where}: two of the same name"
