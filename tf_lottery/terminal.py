"""The standard streams: what TensorFlow's C++ side says there, and streams that fail."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from tf_lottery.errors import LotteryError

# Waits for a line. The end of its input without one is the end of a process that could not
# say what was kept from the terminal; that stands in what is open as 2 here.
_WITNESS = "read -r line || cat <&2"


@contextlib.contextmanager
def silent_stderr(unless: bool = False) -> Iterator[None]:
    """Drops what is written to file descriptor 2, unless the body fails unexpectedly.

    TensorFlow's C++ side writes there before any of its own switches works, and ends the
    process itself where it cannot go on: then too what it said is shown.

    Args:
      unless: drop nothing.
    """
    if unless:
        yield
        return
    _flush()
    try:
        kept = os.dup(2)
    except OSError:  # closed: nothing can be seen there
        yield
        return
    with (
        tempfile.NamedTemporaryFile() as sink,
        open(sink.name, "rb") as said,
        _witness(said, kept),
    ):
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except LotteryError:
            raise
        except BaseException:
            _flush()
            os.write(kept, said.read())
            raise
        finally:
            _flush()
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def _witness(said: IO[bytes], stderr: int) -> Iterator[None]:
    """If this process dies in the body, what is ``said`` by then goes to ``stderr``."""
    try:
        # A session of its own: Ctrl-C ends this process, which says itself what is to be said.
        witness = subprocess.Popen(
            ["/bin/sh", "-c", _WITNESS],
            stdin=subprocess.PIPE,
            stdout=stderr,
            stderr=said,
            start_new_session=True,
        )
    except OSError:  # no shell, or no process to be had
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            witness.communicate(b"\n")


def _flush() -> None:
    with contextlib.suppress(OSError, AttributeError):  # closed, full, or none
        sys.stderr.flush()


def open_streams() -> None:
    """Makes the standard streams usable, whatever they are.

    Those that whoever started this process closed are opened on the null device: else the
    next file to be opened would get their number, and what is printed. A character that a
    stream cannot encode, as in a file's name, is written as its escape.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Prints a line at once, into a file or a pipe too."""
    print(line, flush=True)
