"""What TensorFlow's C++ side says on the terminal, kept off it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from tf_lottery.errors import LotteryError


@contextlib.contextmanager
def silent_stderr(unless: bool = False) -> Iterator[None]:
    """Drops what is written to file descriptor 2, unless the body fails unexpectedly.

    TensorFlow's C++ side writes there before any of its own switches works.

    Args:
      unless: drop nothing.
    """
    if unless:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as sink:
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except LotteryError:
            raise
        except BaseException:
            sink.seek(0)
            os.write(kept, sink.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def say(line: str) -> None:
    """Prints a line at once, into a file or a pipe too."""
    print(line, flush=True)
