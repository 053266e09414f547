"""SIGTERM as an exception, so that it unwinds the stack as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class Terminated(SystemExit):
    """SIGTERM has come: whatever saves on Ctrl-C saves. Uncaught, it ends a process with 143."""

    def __init__(self):
        super().__init__(128 + signal.SIGTERM)


@contextlib.contextmanager
def termination_raised() -> Iterator[None]:
    """In the body SIGTERM raises ``Terminated``; outside of the main thread nothing changes."""

    def leave(number, frame):
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may ask for signals
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
