"""The table of ``--mode=export``, from its document."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from tf_lottery.report import formats
from tf_lottery.report.text import COLUMNS, aligned, attack_words
from tf_lottery.statistics import wilson


def export_table(document: Mapping[str, Any]) -> str:
    """One line a file: numbers stored, sizes, latency, accuracies; and what they mean.

    Args:
      document: as ``export.exporting.export_model`` gives.
    """
    accuracy = document["accuracy"]
    batches = document["timing"]["batches"]
    head = ["file", "weights", "non-zero", "size", "gzip", *(f"batch {n}, ms" for n in batches)]
    if accuracy:
        head += ["natural %", f"{accuracy['attack']['name']} %"]
    lines = [head]
    for row in document["rows"]:
        cells = [row["label"], f"{row['weights']:,}", f"{row['nonzero_weights']:,}"]
        cells += [formats.si(row["bytes"], "B"), formats.si(row["gzip_bytes"], "B")]
        cells += [_milliseconds(row["latency_ms"][str(n)]["median"]) for n in batches]
        if accuracy:
            mark = "" if row["crafted_on"] == row["label"] else "*"
            cells += [formats.percent(row["natural"]), formats.percent(row["robust"]) + mark]
        lines.append(cells)
    notes = [
        textwrap.fill(note, COLUMNS, initial_indent="- ", subsequent_indent="  ")
        for note in _notes(document)
    ]
    return "\n".join([*aligned(lines), "", *notes])


def _milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def _notes(document: Mapping[str, Any]) -> Iterator[str]:
    cut = document["compaction"]
    if cut is not None:
        before, after = cut["flops"]
        yield (
            f"compacted: {cut['removed']:,} of {cut['channels']:,} filters and units are cut out, "
            f"{after / before:.1%} of the operations are left"
        )
    yield (
        "weights: numbers stored, BatchNorm's included; TFLite folds BatchNorm into the layers "
        "before it. In a sparse encoding the zeros left out are counted as stored"
    )
    timing, machine = document["timing"], document["machine"]
    yield (
        f"latency: of this machine ({machine['cpu']}, {timing['threads']} threads), median of "
        f"{timing['rounds']} calls, all files in turns"
    )
    accuracy = document["accuracy"]
    if accuracy is None:
        yield f"accuracy: not measured: {document['not_measured']}"
        return
    low, high = wilson(document["rows"][0]["natural"], accuracy["examples"])
    yield (
        f"accuracy: of the files as read back from disk, on {accuracy['examples']:,} test images "
        f"of {accuracy['dataset']} (95 % interval of the first: {100 * low:.1f} to "
        f"{100 * high:.1f}); {accuracy['attack']['name']}: {attack_words(accuracy['attack'])}"
    )
    twins = {row["crafted_on"] for row in document["rows"] if row["crafted_on"] != row["label"]}
    if twins:
        yield (
            f"* on examples crafted on the {twins.pop().removeprefix('before: ')}, which has "
            "gradients where a TFLite file has none: an attack made for the file itself may find "
            "more"
        )
