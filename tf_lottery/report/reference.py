"""Published training curves to lay over a report, from a CSV file of the user's."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn, TextIO

from tf_lottery.errors import UsageError
from tf_lottery.report.results import Point, Reference

FLAG = "reference_csv"
COLUMNS = ("run", "epoch", "valid_clean", "valid_robust")


def read_reference(path: str | os.PathLike, runs: Iterable[str]) -> Reference:
    """The curves of some runs, as the ``reference`` of a study's document.

    The file is UTF-8 CSV with a header. Of its columns these are read: ``run``, the
    run's name; ``epoch``, from 0, rising within a run; ``valid_clean`` and
    ``valid_robust``, validation accuracies in percent, empty where not measured.
    Rows of other runs are not looked at.

    A run whose epochs start over is several trainings under one name, of which the
    longest counts, the first among equals. In the authors' curves there are two, both
    ResNet-18 searches: 100 epochs of the dense network, then 100 at the same rates that
    begin where rewound tickets do (78.8 % after one epoch, the search 46.5 %).

    Args:
      path: of the file, as given by ``--reference_csv``.
      runs: names of the runs wanted; those that the file lacks are left out.

    Returns:
      The file's name and the runs in the order asked for; epochs from 1, accuracies as shares
      or ``None``.

    Raises:
      UsageError: the file cannot be read, is no such CSV, a row of a wanted run has an
        accuracy outside 0..100 or an epoch out of order, or none of the runs is there.
    """
    wanted = dict.fromkeys(runs)
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark first
            found = _read(path, file, wanted)
    except FileNotFoundError:
        _fail(path, "no such file")
    except UnicodeDecodeError:
        _fail(path, "is no UTF-8 text")
    except OSError as error:
        _fail(path, f"cannot be read ({error.strerror})")
    except csv.Error as error:
        _fail(path, f"is no CSV ({error})")
    if wanted and not found:
        more = ", ..." if len(wanted) > 3 else ""
        _fail(path, f"has none of the runs {', '.join(list(wanted)[:3])}{more}")
    return Reference(path.name, {run: found[run] for run in wanted if run in found})


def _read(path: Path, file: TextIO, wanted: dict[str, None]) -> dict[str, list[Point]]:
    trainings: dict[str, list[list[Point]]] = {}
    for line, row in _rows(path, file):
        run = row["run"]
        if run not in wanted:
            continue
        record = Point(
            _epoch(path, line, row["epoch"]) + 1,
            _share(path, line, "valid_clean", row["valid_clean"]),
            _share(path, line, "valid_robust", row["valid_robust"]),
        )
        curves = trainings.setdefault(run, [])
        if not curves or record.epoch == curves[0][0].epoch:
            curves.append([])
        elif record.epoch <= curves[-1][-1].epoch:
            before = curves[-1][-1].epoch - 1
            _fail(path, f"line {line}: epoch {row['epoch']} of {run} after its epoch {before}")
        curves[-1].append(record)
    return {run: max(curves, key=len) for run, curves in trainings.items()}


def _rows(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number (the header is 1) and fields of each row."""
    reader = csv.DictReader(file)
    header = reader.fieldnames or []
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        _fail(path, f"lacks the columns {', '.join(missing)}; expected: {', '.join(COLUMNS)}")
    for row in reader:
        # DictReader's own words for a row that is too long and one that is too short.
        if None in row or None in row.values():
            _fail(path, f"line {reader.line_num}: must have {len(header)} fields, as the header")
        yield reader.line_num, row


def _epoch(path: Path, line: int, text: str) -> int:
    try:
        epoch = int(text)
    except ValueError:
        epoch = -1
    if not 0 <= epoch < 2**31:
        _fail(path, f"line {line}: epoch is {text!r}, must be an integer from 0 on")
    return epoch


def _share(path: Path, line: int, column: str, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        percent = float(text)
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:  # not-a-number too
        _fail(path, f"line {line}: {column} is {text!r}, must be a number in 0..100 or empty")
    return percent / 100


def _fail(path: Path, problem: str) -> NoReturn:
    raise UsageError(" ".join(f"--{FLAG}={path}: {problem}".split()), FLAG) from None
