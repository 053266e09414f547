"""SIGTERM and SIGHUP as an exception, so that they unwind the stack as Ctrl-C does."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
from collections.abc import Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Terminated(SystemExit):
    """One of these signals has come: whatever saves on Ctrl-C saves.

    Uncaught, it ends a process with 143 (SIGTERM) or 129 (SIGHUP: its terminal was closed).
    """

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__(128 + number)


@contextlib.contextmanager
def termination_raised() -> Iterator[None]:
    """In the body SIGTERM and SIGHUP raise ``Terminated``; outside of the main thread nothing
    changes, and an ignored SIGHUP (``nohup``) stays ignored."""

    def leave(number, frame):
        _leave_lost_terminal()
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may ask for signals
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_lost_terminal() -> None:
    """Output for a terminal that was closed goes nowhere: writing to it would fail, on the way
    to what is to be saved."""
    for number in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, number)
                os.close(nowhere)
