"""``results.json``: what a study measured, one row a network and seed.

A comparison of kinds and an experiment of the paper leave the same document. It is plain JSON.
Accuracies are shares in [0, 1], times seconds; epochs count from 1, passes in images (forward,
input-gradient and weight-gradient together); FLOPs are floating-point operations, not per second.

In a row of the file each accuracy on the test images has a key of its own beside the others:
``natural``, every attack's name, and where there are attacks ``worst``, the share of images that
are classified correctly when clean and under every attack; each is ``{"best": ..., "last": ...}``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

from msgspec import Struct, field
from msgspec.structs import fields

from tf_lottery.options.attacks import AttackConfig
from tf_lottery.report.asked import About, Claim, Figure
from tf_lottery.report.document import Amount, Count, Data, Machine, Positive, Settings, Share
from tf_lottery.report.json_document import Document, read_document, write_document
from tf_lottery.report.measures import WORST, parse
from tf_lottery.report.upgrade import upgraded

FORMAT = 2
RESULTS = "results.json"
EXPERIMENT = "experiment.json"  # what experiments left in format 1
PICTURES = "pictures.npz"


class Arm(Struct):
    """What is trained with every seed.

    Attributes:
      name: unique; the ``name`` of its rows.
      kind: ``dense``, ``boosting`` or another way to a ticket.
      series: arms of one series are one line over ``x``.
      reference: name of the same run among the published curves.
      published: measure -> the paper's value.
      baseline: the arm that the ratios of its rows refer to, if not the study's.
    """

    name: str
    kind: str
    series: str
    model: str
    sparsity: Share
    x: float | None = None
    reference: str | None = None
    published: dict[str, float] = field(default_factory=dict)
    baseline: str | None = None


class Accuracy(Struct):
    """With the weights of the best validation epoch and of the last epoch."""

    best: Share
    last: Share


class Record(Struct):
    """One epoch of a training; ``None``: not measured.

    With averaged weights ``validation_...`` are of them, and ``raw_...`` of those that are trained.
    """

    epoch: Positive
    learning_rate: float
    loss: float
    train_accuracy: Share
    validation_natural: Share
    validation_robust: Share | None
    seconds: Amount
    validation_seconds: Amount
    distance: float | None = None
    raw_natural: Share | None = None
    raw_robust: Share | None = None


class Layer(Struct):
    """How many of a layer's weights are kept."""

    layer: str
    weights: Positive
    kept: Count


class Row(Struct, kw_only=True):
    """One arm with one seed.

    Attributes:
      name: of the arm.
      test_examples: images of the tests; 0: it was not tested.
      tests: ``natural``, each attack, ``worst``.
      weights: which are its best, where they were averaged; its last are the average then.
      stopped: whether it ended before the last planned epoch.
      search_source: where the cost of the search is from: ``run``, ``ticket`` (as recorded in
        a given one), ``unknown`` (that does not say: no ratios follow) or ``none``.
      total_over_dense, total_flops_over_dense: seconds and FLOPs of search and training over
        those of the baseline's training. Where there is no baseline FLOPs refer to a dense
        training of as many epochs as the settings give one, counted and not run.
      epochs_to_dense: epochs until the baseline's best validation accuracy; ``None``: never.
        ``seconds_to_dense_over_dense`` and ``flops_to_dense_over_dense``: search and those
        epochs over what the baseline itself took to get there.
      break_even: how often the ticket has to be retrained for one search to have paid.
      curve: one record an epoch.
      layers: of the mask; empty without one.
      flops_left: FLOPs of a forward pass over the whole network's; 1 where nothing was cut out.
    """

    name: str
    kind: str
    model: str
    dataset: str
    seed: int
    density: Share
    test_examples: Count
    tests: dict[str, Accuracy]
    epochs: Count
    best_epoch: Count
    search_seconds: Amount
    train_seconds: Amount
    total_over_dense: Amount | None
    search_flops: Amount
    train_flops: Amount
    total_flops_over_dense: Amount | None
    search_passes: Count | None = None
    train_passes: Count | None = None
    search_source: Literal["run", "ticket", "unknown", "none"]
    epochs_to_dense: Amount | None
    seconds_to_dense_over_dense: Amount | None
    flops_to_dense_over_dense: Amount | None
    break_even: Amount | None = None
    weights: Literal["", "raw", "average"] = ""
    stopped: bool = False
    curve: list[Record] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    flops_left: Share = 1.0


class Transfer(Struct):
    """For each seed the accuracy of the column's arm on examples made on the row's."""

    attack: str
    examples: Positive
    arms: list[str]
    matrices: list[list[list[Share]]]
    published: list[list[Share | None]] | None = None


class Point(Struct):
    """One epoch of a published curve."""

    epoch: Positive
    natural: Share | None
    robust: Share | None


class Reference(Struct):
    """Published curves: name of the file, run -> points."""

    file: str
    runs: dict[str, list[Point]]


class LedgerEntry(Struct):
    """What one stage cost, used by the arms ``models``; ``epochs`` and ``planned_...`` are of a
    training that ended early, ``weights`` as of ``Row``."""

    stage: str
    kind: str
    label: str
    models: list[str]
    seconds: Amount
    startup_seconds: Amount
    validation_seconds: Amount
    examples: Count
    forward_passes: Count
    input_gradient_passes: Count
    weight_gradient_passes: Count
    flops: Amount
    cached: bool
    seed: int | None = None
    collapsed_epochs: list[int] = field(default_factory=list)
    rollbacks: int = 0
    weights: Literal["", "raw", "average"] = ""
    epochs: Count = 0
    planned_epochs: Count = 0
    planned_flops: Amount = 0
    overfit_rollbacks: int = 0


class Results(Document):
    """The document.

    Attributes:
      command: arguments; ``settings``: nested, whatever identifies the study.
      seeds: the root seed of each replicate, in the order of every arm's rows.
      attacks: what the attacks' names stand for.
      baseline: the arm that the rows' ratios refer to, but for arms that name their own.
      rows: of every arm, in the order of ``arms``, one a seed.
      searches: curves of the searches (of the first seed), where they are told; by label.
    """

    WHAT: ClassVar[str] = "a results file"
    SIGN: ClassVar[str] = "ledger"

    format: Literal[2]
    package_version: str
    command: list[str]
    study: About
    settings: Settings
    machine: Machine
    data: Data
    seeds: list[int]
    attacks: list[AttackConfig]
    baseline: str | None
    arms: list[Arm]
    rows: list[Row]
    claims: list[Claim]
    figures: list[Figure]
    transfer: Transfer | None
    reference: Reference | None
    searches: dict[str, list[Record]]
    ledger: list[LedgerEntry]

    def arm(self, name: str) -> Arm:
        """The arm called ``name``."""
        return next(arm for arm in self.arms if arm.name == name)

    def runs(self, arm: str) -> list[Row]:
        """The rows of an arm, in the order of ``seeds``."""
        return [row for row in self.rows if row.name == arm]

    def drawn(self, figure: Figure) -> list[Arm]:
        """The arms of a figure, in its order."""
        return self.arms if figure.arms is None else [self.arm(name) for name in figure.arms]

    @property
    def attack_names(self) -> list[str]:
        """The attacks, in the order of the document."""
        return [attack.name for attack in self.attacks]

    @property
    def tests(self) -> list[str]:
        """The test accuracies to show; the worst of a single attack is that attack."""
        names = self.attack_names
        tested = any(row.tests for row in self.rows)
        return ["natural", *names, *([WORST] if len(names) > 1 else [])] if tested else []

    def baseline_of(self, arm: Arm) -> str | None:
        """Name of the arm that the ratios of an arm's rows refer to."""
        return arm.baseline or self.baseline

    @property
    def baselines(self) -> list[str]:
        """The arms that ratios refer to."""
        found = (self.baseline_of(arm) for arm in self.arms)
        return list(dict.fromkeys(name for name in found if name is not None))

    @property
    def has_counted(self) -> bool:
        """Whether FLOPs are set against a dense training that was not run."""
        counted = any(row.total_flops_over_dense is not None for row in self.rows)
        return counted and not self.baselines

    @property
    def is_experiment(self) -> bool:
        """Whether the study is an experiment, and no comparison."""
        return bool(self.study.source)

    def problems(self) -> Iterator[str]:
        names = [arm.name for arm in self.arms]
        if not names or not self.seeds:
            yield "has no arms or no seeds"
        if len(set(self.seeds)) != len(self.seeds):
            yield f"seeds: {self.seeds} has one twice"
        yield from _repeated("attacks", self.attack_names)
        yield from (f"an attack is called {n!r}" for n in self.attack_names if n in _TAKEN)
        yield from _repeated("arms", names)
        yield from _repeated("claims", [claim.id for claim in self.claims])
        yield from _repeated("figures", [figure.name for figure in self.figures])
        if self.baseline is not None:
            yield from _unknown("baseline", [self.baseline], names)
        yield from _unknown("rows", [row.name for row in self.rows], names)
        for arm in self.arms:
            where = f"arm {arm.name!r}"
            if not arm.name.strip():
                yield f"{where}: its name is no text"
            if arm.baseline is not None:
                yield from _unknown(f"{where}: baseline", [arm.baseline], names)
            for word in arm.published:
                parse(word)
            if (seeds := [row.seed for row in self.runs(arm.name)]) != self.seeds:
                yield f"{where} has rows of the seeds {seeds}, not of {self.seeds}"
            if any((row.kind, row.model) != (arm.kind, arm.model) for row in self.runs(arm.name)):
                yield f"{where}: a row is of another kind or model"
        wanted = ["natural", *self.attack_names, *([WORST] if self.attacks else [])]
        for row in self.rows:
            yield from _row_problems(f"row {row.name!r}, seed {row.seed}", row, wanted)
        for claim in self.claims:
            yield from _claim_problems(f"claim {claim.id!r}", claim, names)
            yield from _pair_problems(f"claim {claim.id!r}: pairs", claim, self)
        for figure in self.figures:
            yield from _figure_problems(f"figure {figure.name!r}", figure, names)
        if self.transfer is not None:
            yield from _transfer_problems(self.transfer, names, len(self.seeds))
        for i, entry in enumerate(self.ledger):
            yield from _unknown(f"ledger[{i}]", entry.models, names)
            if entry.epochs >= (entry.planned_epochs or 1) or entry.planned_flops < entry.epochs:
                yield f"ledger[{i}]: not an early end"

    @classmethod
    def to_file(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Each row's accuracies become keys of the row."""
        rows = []
        for row in content["rows"]:
            early = {key: row[key] for key in _EARLY}
            late = {key: value for key, value in row.items() if key not in (*_EARLY, "tests")}
            rows.append(early | row["tests"] | late)
        return {**content, "rows": rows}

    @classmethod
    def from_file(cls, content: dict[str, Any]) -> dict[str, Any]:
        names = ["natural", *(attack["name"] for attack in content["attacks"]), WORST]
        rows = []
        for row in content["rows"]:
            tests = {name: row[name] for name in names if name in row}
            rows.append({key: value for key, value in row.items() if key not in tests})
            rows[-1]["tests"] = tests
        return {**content, "rows": rows}


_EARLY = ("name", "kind", "model", "dataset", "seed", "density", "test_examples")
_TAKEN = ("natural", WORST, *(field.name for field in fields(Row)))  # keys of a row


def find_results(directory: str | os.PathLike) -> Path:
    """The results in a work directory; of 0.1.0's experiments if there are no others."""
    older = Path(directory) / EXPERIMENT
    path = Path(directory) / RESULTS
    return older if older.exists() and not path.exists() else path


def write_results(path: str | os.PathLike, document: Results) -> Path:
    """Writes ``document`` atomically; keys in a fixed, readable order.

    Raises:
      ValueError: something contradicts itself, or a number is NaN or infinite.
    """
    return write_document(path, document)


def read_results(path: str | os.PathLike) -> Results:
    """The checked document at ``path``, also one that 0.1.0 wrote.

    Raises:
      StoreError: missing, unreadable, not JSON, of another format, or incomplete.
    """
    return read_document(path, "a finished --mode=run", Results, FORMAT, upgraded)


def _repeated(where: str, names: Sequence[str]) -> Iterator[str]:
    if len(set(names)) != len(names):
        yield f"{where}: two of the same name"


def _row_problems(where: str, row: Row, wanted: Sequence[str]) -> Iterator[str]:
    if not row.best_epoch <= row.epochs:
        yield f"{where}: best_epoch {row.best_epoch} of {row.epochs} epochs"
    epochs = [record.epoch for record in row.curve]
    rising = all(a < b for a, b in pairwise([0, *epochs]))
    if not rising or (epochs and epochs[-1] > row.epochs):
        yield f"{where}: curve: epochs do not rise from 1 to at most {row.epochs}"
    if row.curve and bool(row.weights) != any(r.raw_natural is not None for r in row.curve):
        yield f"{where}: weights {row.weights!r} do not fit the curve"
    if bool(row.test_examples) != bool(row.tests):
        yield f"{where} was tested on {row.test_examples} images"
    if missing := [name for name in wanted if row.tests and name not in row.tests]:
        yield f"{where} lacks the accuracy of {', '.join(missing)}"
    for layer in row.layers:
        if layer.kept > layer.weights:
            yield f"{where}: layer {layer.layer!r} keeps {layer.kept} of {layer.weights} weights"


def _claim_problems(where: str, claim: Claim, names: Sequence[str]) -> Iterator[str]:
    yield from _unknown(where, [claim.ours], names)
    measure = parse(claim.measure)
    if measure.at is None and measure.key is None:
        yield f"{where}: {claim.measure!r} says no epoch"
    if claim.theirs is not None:
        yield from _unknown(where, [claim.theirs], names)
    if (claim.theirs is None) == (claim.value is None):
        yield f"{where} compares with neither an arm nor a value, or with both"


def _pair_problems(where: str, claim: Claim, document: Results) -> Iterator[str]:
    if not claim.pairs:
        return
    if claim.theirs is None or not claim.measure.startswith("test"):
        yield f"{where} of what are not two networks on test images"
    elif [pair.seed for pair in claim.pairs] != document.seeds:
        yield f"{where} are not of the seeds {document.seeds}"
    else:
        both = (document.runs(claim.ours), document.runs(claim.theirs))
        for pair, ours, theirs in zip(claim.pairs, *both, strict=True):
            images = {pair.examples, ours.test_examples, theirs.test_examples}
            if len(images) > 1 or pair.only_ours + pair.only_theirs > pair.examples:
                yield f"{where} of seed {pair.seed} do not fit {ours.test_examples} images"


def _figure_problems(where: str, figure: Figure, names: Sequence[str]) -> Iterator[str]:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", figure.name):
        yield f"{where}: its name is no file name"
    if figure.arms is not None:
        yield from _unknown(where, figure.arms, names)
        yield from _repeated(where, figure.arms)
    if figure.form in ("epochs", "sweep") and not figure.measures:
        yield f"{where} has no measures"
    units = [(parse(word).unit, parse(word).at is None) for word in figure.measures]
    if figure.form == "frontier" and units != [("accuracy", False), ("ratio", True)]:
        yield f"{where}: its measures are not an accuracy and a cost over the baseline's"
    for word in figure.measures:
        measure = parse(word)
        wrong = "sweep" if measure.at is None and measure.key is None else "epochs"
        if figure.form == wrong:
            yield f"{where}: {word!r} is no measure of form {figure.form!r}"


def _transfer_problems(transfer: Transfer, names: Sequence[str], seeds: int) -> Iterator[str]:
    yield from _unknown("transfer", transfer.arms, names)
    yield from _repeated("transfer", transfer.arms)
    if len(transfer.matrices) != seeds:
        yield f"transfer: {len(transfer.matrices)} matrices for {seeds} seeds"
    side = len(transfer.arms)
    published: list[Any] = [] if transfer.published is None else [transfer.published]
    for matrix in [*transfer.matrices, *published]:
        if side < 1 or len(matrix) != side or any(len(row) != side for row in matrix):
            yield f"transfer: a matrix is not {side} x {side}"


def _unknown(where: str, names: Iterable[str], known: Sequence[str]) -> Iterator[str]:
    yield from (f"{where}: unknown {name!r}" for name in names if name not in known)
