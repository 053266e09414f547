"""JSON documents that reports are made from: checked when read, ordered when written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tf_lottery.errors import StoreError
from tf_lottery.files import document_digest, write_atomically

DIGEST = "document_digest"
_LIMIT = 256 * 2**20  # bytes of a document


def write_document(path: str | os.PathLike, document: dict, belongs_in: str) -> Path:
    """Writes ``document`` atomically, keys in their order, NumPy values as plain ones.

    Last comes its own digest, by which ``read_document`` knows whether it was changed.

    Args:
      path: of the file.
      document: checked by the caller.
      belongs_in: for messages, such as ``a results file``.

    Raises:
      ValueError: a number is NaN or infinite.
      TypeError: a value is neither JSON nor of NumPy.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(f"{type(value).__name__} does not belong in {belongs_in}")

    def text(content: dict) -> str:
        return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False, default=plain)

    rest = {key: value for key, value in document.items() if key != DIGEST}
    digest = document_digest(json.loads(text(rest)))
    return write_atomically(path, text({**rest, DIGEST: digest}) + "\n")


def read_document(
    path: str | os.PathLike,
    left_by: str,
    number: int,
    strange: Callable[[Any], str],
    problem: Callable[[dict], str],
) -> dict:
    """The checked document at ``path``.

    Args:
      path: of the file.
      left_by: what makes such a file, for messages.
      number: of the format that is read.
      strange: what kind of file it is not, ``""`` if it is of the right one and has a
        ``format``.
      problem: what is wrong with a document of the right kind and format, in one line;
        ``""`` if nothing is.

    Raises:
      StoreError: missing, unreadable, not JSON, of another kind or format, changed since it was
        written, or incomplete.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _LIMIT:
            raise StoreError(f"{path}: larger than {_LIMIT} bytes")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; {left_by} leaves it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read ({one_line(error)})") from error
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not JSON ({one_line(error)}); remove it") from error
    wrong = strange(document)
    if wrong:
        raise StoreError(f"{path}: {wrong}")
    found = document["format"]
    if found != number:
        advice = "unknown"
        if isinstance(found, int):
            advice = "written by an older tf_lottery; make it anew, in another place"
            if found > number:
                advice = "written by a newer tf_lottery; update the package"
        raise StoreError(f"{path}: format {found!r}, this version reads {number}: {advice}")
    expected = document.pop(DIGEST, None)  # older ones have none
    if expected is not None and expected != document_digest(document):
        raise StoreError(
            f"{path}: changed since it was written, its digest does not fit; remove it and give "
            "the command that made it again"
        )
    wrong = problem(document)
    if wrong:
        raise StoreError(f"{path}: {wrong}")
    return document


def ordered(part: dict, keys) -> dict:
    """``part`` with the known keys first, in their order, and the others sorted."""
    known = {key: part[key] for key in keys if key in part}
    return known | {key: part[key] for key in sorted(set(part) - set(known))}


def one_line(value: object) -> str:
    """Text without line breaks or runs of spaces."""
    return " ".join(str(value).split())


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
