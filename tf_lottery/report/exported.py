"""``export.json``: what the files of an export are, and its table for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import ClassVar, Literal

import msgspec

from tf_lottery.options.attacks import AttackConfig
from tf_lottery.report import formats
from tf_lottery.report.document import Amount, Count, Machine, Positive, Share
from tf_lottery.report.json_document import Document
from tf_lottery.report.text import COLUMNS, aligned, attack_words
from tf_lottery.statistics import wilson

EXPORT = "export.json"


class Latency(msgspec.Struct, kw_only=True):
    """Milliseconds of a call: median and quartiles."""

    median: Amount
    low: Amount
    high: Amount


class File(msgspec.Struct, kw_only=True):
    """One file or directory, and what was measured on it.

    Attributes:
      label: its name in the table.
      format: of ``settings.EXPORT_FORMATS``.
      file: its path in the export; ``None`` if it is there for comparison alone.
      compacted: whether what no logit depends on was cut out.
      weights: numbers stored.
      latency_ms: batch size (as text) -> milliseconds.
      natural: accuracy on clean images, where there are images, as below.
      robust: accuracy under the attack.
      crafted_on: label of the file that the attack saw.
    """

    label: str
    format: str
    file: str | None
    compacted: bool
    weights: Count
    nonzero_weights: Count
    bytes: Count
    gzip_bytes: Count
    latency_ms: dict[str, Latency]
    natural: Share | None = None
    robust: Share | None = None
    crafted_on: str = ""


class Timing(msgspec.Struct, kw_only=True):
    """Batch sizes, calls of each file, threads."""

    batches: list[Positive]
    rounds: Positive
    threads: Positive


class Accuracy(msgspec.Struct, kw_only=True):
    """What accuracies were measured on."""

    dataset: str
    digest: str
    examples: Positive
    attack: AttackConfig


class Compaction(msgspec.Struct, kw_only=True):
    """What was cut out: filters and units, of how many; FLOPs before and after; the channels of
    each smaller layer that are left."""

    removed: Count
    channels: Count
    flops: tuple[Positive, Positive]
    kept: dict[str, list[Count]]


class Measured(msgspec.Struct, kw_only=True):
    """Files side by side; ``accuracy`` is ``None`` where ``not_measured`` says why."""

    rows: list[File]
    timing: Timing
    accuracy: Accuracy | None
    not_measured: str | None


class Exported(Document):
    """``model``: what was exported; the rest as in ``Measured``."""

    WHAT: ClassVar[str] = "an export"
    SIGN: ClassVar[str] = "timing"

    format: Literal[1]
    kind: Literal["export"]
    package_version: str
    command: list[str]
    model: str
    machine: Machine
    compaction: Compaction | None
    rows: list[File]
    timing: Timing
    accuracy: Accuracy | None
    not_measured: str | None


def export_table(document: Exported) -> str:
    """One line a file: numbers stored, sizes, latency, accuracies; and what they mean."""
    accuracy, batches = document.accuracy, document.timing.batches
    head = ["file", "weights", "non-zero", "size", "gzip", *(f"batch {n}, ms" for n in batches)]
    if accuracy is not None:
        head += ["natural %", f"{accuracy.attack.name} %"]
    lines = [head]
    for row in document.rows:
        cells = [row.label, f"{row.weights:,}", f"{row.nonzero_weights:,}"]
        cells += [formats.si(row.bytes, "B"), formats.si(row.gzip_bytes, "B")]
        cells += [_milliseconds(row.latency_ms[str(n)].median) for n in batches]
        if accuracy is not None:
            mark = "" if row.crafted_on == row.label else "*"
            cells += [formats.percent(row.natural), formats.percent(row.robust) + mark]
        lines.append(cells)
    notes = [
        textwrap.fill(note, COLUMNS, initial_indent="- ", subsequent_indent="  ")
        for note in _notes(document)
    ]
    return "\n".join([*aligned(lines), "", *notes])


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def _notes(document: Exported) -> Iterator[str]:
    cut = document.compaction
    if cut is not None:
        before, after = cut.flops
        yield (
            f"compacted: {cut.removed:,} of {cut.channels:,} filters and units are cut out, "
            f"{after / before:.1%} of the operations are left"
        )
    yield (
        "weights: numbers stored, BatchNorm's included; TFLite folds BatchNorm into the layers "
        "before it. In a sparse encoding the zeros left out are counted as stored"
    )
    timing = document.timing
    yield (
        f"latency: of this machine ({document.machine.cpu}, {timing.threads} threads), median of "
        f"{timing.rounds} calls, all files in turns"
    )
    accuracy, natural = document.accuracy, document.rows[0].natural
    if accuracy is None or natural is None:
        yield f"accuracy: not measured: {document.not_measured}"
        return
    low, high = wilson(natural, accuracy.examples)
    yield (
        f"accuracy: of the files as read back from disk, on {accuracy.examples:,} test images "
        f"of {accuracy.dataset} (95 % interval of the first: {100 * low:.1f} to "
        f"{100 * high:.1f}); {accuracy.attack.name}: {attack_words(accuracy.attack)}"
    )
    twins = {row.crafted_on for row in document.rows if row.crafted_on != row.label}
    if twins:
        yield (
            f"* on examples crafted on the {twins.pop().removeprefix('before: ')}, which has "
            "gradients where a TFLite file has none: an attack made for the file itself may find "
            "more"
        )
