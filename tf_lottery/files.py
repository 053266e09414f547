"""Files that are either the old ones or the new ones, never half of both."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tf_lottery.errors import StoreError


def write_atomically(path: str | os.PathLike, content: bytes | str) -> Path:
    """Puts ``content`` (text as UTF-8) at ``path``; makes the folder if need be.

    What is no character, as in a file's name that is not UTF-8, becomes its escape.

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
            if isinstance(content, str):
                content = content.encode(errors="backslashreplace")
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None:  # else its text is all there is
            error.filename = error.filename or str(path)  # a write that fails names no file
        raise
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


def plain_name(path: str | os.PathLike) -> str:
    """A name of ``path`` that TensorFlow takes as it stands; good while this process lives.

    TensorFlow reads ``[x]``, ``*``, ``?`` and a backslash as patterns, in names of checkpoints
    and SavedModels too, where an escaped one is not found either; and it encodes names as
    UTF-8, whatever the locale. So a path with anything but plain characters gets a link.

    Args:
      path: exists, if a directory is to be made in it or files are to be found below it.
    """
    text = os.fspath(path)
    return text if _is_plain(text) else _link(os.path.abspath(text))


_LINKS = "tf_lottery-"  # how the name of the directory of links begins


def _is_plain(text: str) -> bool:
    return text.isascii() and not set(text) & set("*?[]\\")


@functools.cache
def _links() -> tempfile.TemporaryDirectory:
    """Where links lie, until this process ends."""
    places = filter(_is_plain, (tempfile.gettempdir(), "/tmp", "/var/tmp"))
    usable = [place for place in places if os.access(place, os.W_OK | os.X_OK)]
    return tempfile.TemporaryDirectory(prefix=_LINKS, dir=usable[0] if usable else None)


@functools.cache
def _link(target: str) -> str:
    # The end is kept: libraries tell .keras files by it.
    suffix = Path(target).suffix
    link = Path(_links().name, uuid.uuid4().hex + (suffix if _is_plain(suffix) else ""))
    link.symlink_to(target)
    return str(link)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BROKEN = (errno.EIO, errno.EROFS, errno.EACCES)


def _number(error: Exception) -> int | None:
    """The operating system's number of an error, by its words where a library kept those alone."""
    copied = isinstance(error, shutil.Error)  # a tree
    told = (n for n in (*_FULL, *(_BROKEN if copied else ())) if os.strerror(n) in str(error))
    return next(told, getattr(error, "errno", None))


def _is_temporary(error: Exception, root: str | os.PathLike) -> bool:
    """Whether an error names a temporary file of ours or of a library, and none of ``root``."""
    told = f"{getattr(error, 'filename', '')} {error}"
    temporary, place = tempfile.gettempdir() + os.sep, os.path.abspath(root)
    if place.startswith(temporary) and place in told:  # the root itself lies there
        return False
    return any(not name.startswith(_LINKS) for name in told.split(temporary)[1:])


@contextlib.contextmanager
def disk_errors(flag: str, root: str | os.PathLike) -> Iterator[None]:
    """Turns the errors of a full or failing disk, TensorFlow's too, into a ``StoreError``.

    Args:
      flag: of the directory, for the message; where an error names a temporary file, that
        tells of ``TMPDIR`` instead.
      root: the directory.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        number, place = _number(error), f"--{flag}"
        name = str(getattr(error, "filename", None) or root)
        ours = os.path.realpath(name).startswith(os.path.realpath(root))
        if _is_temporary(error, root):
            place, root, ours = "TMPDIR", f"{tempfile.gettempdir()} (temporary files)", True
        if number in _FULL:
            raise StoreError(
                f"{place}: no space left under {root}; free some and run the same command again"
            ) from error
        # A file elsewhere that may not be read is another matter, for another message.
        if ours and number in _BROKEN:
            reason = os.strerror(number)
            raise StoreError(
                f"{place}: {root} cannot be written ({reason}); put that right or free its "
                "disk and run the same command again"
            ) from error
        raise
