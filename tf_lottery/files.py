"""Files that are either the old ones or the new ones, never half of both."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tf_lottery.errors import StoreError


def write_atomically(path: str | os.PathLike, content: bytes | str) -> Path:
    """Puts ``content`` (text as UTF-8) at ``path``; makes the folder if need be.

    The bytes go to a hidden file in the same folder, are synced to the disk and
    renamed over ``path``. If anything fails the old file stays as it was.

    Raises:
      OSError: the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        # "x", not tempfile: its files are readable by their owner alone, and
        # the rename would hand that to a report meant to be shared.
        with open(temporary, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: str | os.PathLike, document: Any) -> Path:
    """``write_atomically`` of JSON; NaN and infinity raise ``ValueError`` before that."""
    return write_atomically(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def digest(path: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def document_digest(document: Any) -> str:
    """SHA-256 (hex) of JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def slug(label: str) -> str:
    """A label as a directory name: ``search: boosting`` -> ``search-boosting``."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", label).strip("-")


@contextlib.contextmanager
def new_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a directory to fill, which gets the name ``path`` when the body ends.

    Until then it is ``.<name>.partial`` beside it, whose leavings of a process that died
    are removed first. After an error nothing is left.

    Args:
      path: missing, or an empty directory. One on which a disk is mounted is filled
        itself, as it cannot be replaced.
    """
    path = Path(path).resolve()
    if os.path.ismount(path):
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    try:
        partial.mkdir()
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove(path: Path) -> None:
    """Removes a file or a directory with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leavings(directory: Path) -> None:
    """Removes what ``write_atomically`` and ``new_directory`` left when a process died.

    Args:
      directory: in which no process writes; searched with all below it.
    """
    for pattern in (".*.tmp", ".*.partial"):
        for path in list(directory.rglob(pattern)):
            remove(path)


def make_directory(flag: str, root: str | os.PathLike) -> None:
    """Creates ``root`` if missing and makes sure that it can be written.

    Raises:
      StoreError: it cannot; names ``flag``.
    """
    root = Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"--{flag}: {root} cannot be written ({error.strerror}); put that right or free its "
            f"disk and run the same command again, or choose another --{flag}"
        ) from None


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = (errno.EIO, errno.EROFS, errno.EACCES)


def _number(error: Exception) -> int | None:
    """The operating system's number of an error, by its words where a library kept those alone."""
    copied = isinstance(error, shutil.Error)  # a tree
    told = (n for n in (*_FULL, *(_BROKEN if copied else ())) if os.strerror(n) in str(error))
    return next(told, getattr(error, "errno", None))


@contextlib.contextmanager
def disk_errors(flag: str, root: str | os.PathLike) -> Iterator[None]:
    """Turns the errors of a full or failing disk, TensorFlow's too, into a ``StoreError``.

    Args:
      flag: of the directory, for the message.
      root: the directory.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        number = _number(error)
        if number in _FULL:
            raise StoreError(
                f"--{flag}: no space left under {root}; free some and run the same command again"
            ) from error
        # A file elsewhere that may not be read is another matter, for another message.
        ours = str(getattr(error, "filename", None) or root).startswith(str(root))
        if ours and number in _BROKEN:
            reason = os.strerror(number)
            raise StoreError(
                f"--{flag}: {root} cannot be written ({reason}); put that right or free its "
                "disk and run the same command again"
            ) from error
        raise
