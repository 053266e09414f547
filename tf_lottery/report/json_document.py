"""JSON documents that reports are made from: typed, checked when read and when written.

A document is declared as a ``Document`` of msgspec structs; only rules between fields are
written as code, in its ``problems``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec
import numpy as np

from tf_lottery.errors import LotteryError, StoreError
from tf_lottery.files import document_digest, write_atomically
from tf_lottery.options.settings import settings

DIGEST = "document_digest"
_LIMIT = 256 * 2**20  # bytes of a document


class Document(msgspec.Struct, kw_only=True):
    """Base of documents.

    Fields with a default are those that not every file has: they are left out of a file while
    they have it. A field may be a settings dataclass. Keys that are not declared are ignored.

    Attributes:
      WHAT: of a file, for messages, such as ``an evaluation``.
      SIGN: a key that only such files have.
    """

    WHAT: ClassVar[str]
    SIGN: ClassVar[str]

    def problems(self) -> Iterator[str]:
        """What contradicts itself, a line each, the first thing first."""
        return iter(())

    @classmethod
    def to_file(cls, content: dict[str, Any]) -> dict[str, Any]:
        """JSON as a file holds it, from JSON as the fields are declared."""
        return content

    @classmethod
    def from_file(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Undoes ``to_file``."""
        return content


D = TypeVar("D", bound=Document)


def write_document(path: str | os.PathLike, document: Document) -> Path:
    """Writes ``document`` atomically, fields in their order, NumPy values as plain ones.

    Last comes its own digest, by which ``read_document`` knows whether it was changed.

    Raises:
      ValueError: the document is not what it is declared to be, contradicts itself, or a number
        is NaN or infinite.
      TypeError: a value is neither JSON nor of NumPy.
    """
    content = json.loads(_text(plain(document)))
    try:
        _checked(content, type(document))
    except ValueError as error:
        raise ValueError(f"not {document.WHAT}: {one_line(error)}") from error
    content = document.to_file(content)
    content.pop(DIGEST, None)
    content[DIGEST] = document_digest(content)
    return write_atomically(path, _text(content) + "\n")


def read_document(
    path: str | os.PathLike,
    left_by: str,
    kind: type[D],
    number: int,
    upgrade: Callable[[dict], dict | None] | None = None,
) -> D:
    """The checked document at ``path``.

    Args:
      path: of the file.
      left_by: what makes such a file, for messages.
      kind: of document.
      number: of the format that is read.
      upgrade: gives what a document of an older format is in this one, ``None`` if it does not
        know that one. May change what it is given.

    Raises:
      StoreError: missing, unreadable, not JSON, of another kind or format, changed since it was
        written, incomplete or contradictory. One line.
    """
    path = Path(path)
    content = _read_json(path, left_by)
    if not isinstance(content, dict) or "format" not in content or kind.SIGN not in content:
        raise StoreError(f"{path}: not {kind.WHAT} (no format number or no {kind.SIGN})")
    content = _unchanged(path, content)
    found = content["format"]
    try:
        if upgrade is not None and isinstance(found, int) and found < number:
            content = upgrade(content) or content
        _check_format(path, content["format"], number)
        return _checked(kind.from_file(content), kind)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # Of what is not even of the form that is taken apart here.
        reason = "" if isinstance(error, ValueError) else "not in the expected form: "
        raise StoreError(f"{path}: {reason}{one_line(error)}") from error


def plain(value: Any) -> Any:
    """JSON of structs, settings and NumPy values."""
    if isinstance(value, msgspec.Struct):
        found = ((field, plain(getattr(value, field.name))) for field in _fields(value))
        return {field.name: part for field, part in found if not _is_default(field, part)}
    if dataclasses.is_dataclass(value):
        return settings(value)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


_fields = msgspec.structs.fields


def _is_default(field: Any, part: Any) -> bool:
    if field.default_factory is not msgspec.NODEFAULT:
        return bool(part == field.default_factory())
    return field.default is not msgspec.NODEFAULT and bool(part == plain(field.default))


def _checked(content: Any, kind: type[D]) -> D:
    """Raises ``ValueError`` with the first thing that is wrong."""
    try:
        document = msgspec.convert(content, kind)
    except LotteryError as error:  # of a settings dataclass
        raise ValueError(f"impossible settings: {str(error).removeprefix('--')}") from error
    for problem in document.problems():
        raise ValueError(problem)
    return document


def _text(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)


def _read_json(path: Path, left_by: str) -> Any:
    try:
        if path.stat().st_size > _LIMIT:
            raise StoreError(f"{path}: larger than {_LIMIT} bytes")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; {left_by} leaves it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read ({one_line(error)})") from error
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not JSON ({one_line(error)}); remove it") from error


def _check_format(path: Path, found: Any, number: int) -> None:
    if found != number:
        advice = "unknown"
        if isinstance(found, int):
            advice = "written by an older tf_lottery; make it anew, in another place"
            if found > number:
                advice = "written by a newer tf_lottery; update the package"
        raise StoreError(f"{path}: format {found!r}, this version reads {number}: {advice}")


def _unchanged(path: Path, content: dict) -> dict:
    """The document without its digest."""
    expected = content.pop(DIGEST, None)  # older ones have none
    if expected is not None and expected != document_digest(content):
        raise StoreError(
            f"{path}: changed since it was written, its digest does not fit; remove it and give "
            "the command that made it again"
        )
    return content


def one_line(value: object) -> str:
    """Text without line breaks or runs of spaces."""
    return " ".join(str(value).split())


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{one_line(text)[:40]} is more than a number can be")
    return number
