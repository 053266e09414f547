"""Locks between processes, of one machine or of several that share a disk.

A lock is a file under ``flock``, which the kernel frees when its process ends. The file
says who holds it, and its modification time is touched while it is held. Between machines
the kernel may never hear of a host that died; a lock of another host whose time has not
changed for ``SILENCE`` seconds is taken over. The owner that comes back after all finds
another file in the place of its own (``Lock.check``).

Where the file system knows no ``flock``, creating the file is taking the lock and removing
it is giving it back; then the lock of a dead process of this host is taken over as well,
once it has missed a few touches.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tf_lottery.errors import StoreError

HEARTBEAT = 5.0  # seconds between touches of a lock that is held
SILENCE = 300.0  # seconds without one until the owner on another host counts as dead
_MISSED = 3  # touches that a dead process of this host must have missed, without flock
_POLLS = (0.02, 0.5)  # seconds between looks at a lock that another has: first, longest
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """Who holds a lock; empty fields if its file does not say.

    Attributes:
      host, boot: the machine, and which of its starts.
      pid: the process.
      what: what is locked, in the user's words.
      since: local time of the owner, with its offset from UTC.
      token: of this holding alone.
    """

    host: str = ""
    boot: str = ""
    pid: int = 0
    what: str = ""
    since: str = ""
    token: str = ""

    def __str__(self) -> str:
        if not self.token:
            return "a process that has not said its name"
        return f"process {self.pid} on {self.host}, since {self.since}"


class Lock:
    """A lock that this process holds; leaving it as a context gives it back.

    Attributes:
      path: the lock file.
      owner: this process, as others read it.
    """

    def __init__(self, path: Path, descriptor: int, owner: Owner, exclusive: bool):
        self.path = path
        self.owner = owner
        self._descriptor = descriptor
        self._exclusive = exclusive  # held by the file's existence, not by flock
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, args=(HEARTBEAT,), daemon=True)
        self._heart.start()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    @property
    def lost(self) -> bool:
        """True if another process has taken the lock over."""
        try:
            mine, there = os.fstat(self._descriptor), os.stat(self.path)
        except OSError:
            return True
        return (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino)

    def check(self) -> None:
        """Makes sure that the lock is still this process's.

        Raises:
          StoreError: another process has taken it over.
        """
        if self.lost:
            raise StoreError(
                f"{self.owner.what}: taken over by {_read(self.path) or 'another process'}, which "
                f"had heard nothing of this one for {SILENCE:g} s; it is left to the other, and "
                "the same command goes on from there"
            )

    def release(self) -> None:
        """Gives the lock back; a second time does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._heart.join()
        with contextlib.suppress(OSError):
            if not self._exclusive:
                os.ftruncate(self._descriptor, 0)
            elif not self.lost:
                os.unlink(self.path)
        os.close(self._descriptor)

    def _beat(self, seconds: float) -> None:
        while not self._ended.wait(seconds):
            with contextlib.suppress(OSError):  # it would be told by the work itself
                os.utime(self._descriptor)


def held(
    path: str | os.PathLike, what: str, announce: Callable[[str], None] = _log.warning
) -> Lock:
    """Waits for the lock at ``path`` and takes it, for the body of a ``with`` or until released.

    Args:
      path: in an existing directory; the file is created if missing.
      what: is locked: the label of a stage, or a directory.
      announce: told once, if there is a wait, for whom.

    Raises:
      OSError: the file cannot be written.
    """
    path = Path(path)
    pause, waits = _POLLS[0], 0
    while True:
        lock, flocks = _try(path, what)
        if lock is None:
            # Taken first: the silence is of this holding, not of one that replaced it since.
            before = _signature(path)
            if before is not None and _is_silent(path, flocks):
                lock = _take_over(path, before, what, announce)
        if lock is not None:
            _seen.pop(str(path), None)
            return lock
        waits += 1
        # Not at once: a process that only looks holds it for a moment.
        if waits == 3:
            announce(f"waiting for {what}: {_read(path) or Owner()} has it")
        time.sleep(pause)
        pause = min(2 * pause, _POLLS[1])


def holder(path: str | os.PathLike) -> Owner | None:
    """Who holds the lock; ``None`` if nobody does, or one that counts as dead."""
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        flocks = _flock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)
    if flocks or _is_silent(path, flocks is not None):
        return None
    return _read(path) or Owner()


def _flock(descriptor: int, kind: int) -> bool | None:
    """True if it was locked, False if another has it, ``None`` if there is no ``flock``."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _try(path: Path, what: str) -> tuple[Lock | None, bool]:
    """The lock if it is free, and whether the file system knows ``flock``."""
    try:
        descriptor, created = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        try:
            descriptor, created = os.open(path, os.O_RDWR), False
        except FileNotFoundError:  # given back meanwhile
            return None, True
    try:
        flocks = _flock(descriptor, fcntl.LOCK_EX)
        free = created if flocks is None else flocks
        if free and _is_at(path, descriptor):
            owner = _write(descriptor, what)
            return Lock(path, descriptor, owner, exclusive=flocks is None), flocks is not None
    except BaseException:
        if created:  # without flock it would look held
            path.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None, flocks is not None


def _is_at(path: Path, descriptor: int) -> bool:
    """False if the file was replaced between being opened and being locked."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _take_over(
    path: Path, before: tuple[int, ...], what: str, announce: Callable[[str], None]
) -> Lock | None:
    """Puts a lock file of this process in the place of a silent one's.

    Args:
      before: the signature of the silent holding.

    Returns:
      The lock, or ``None`` if the file is no longer that of the holding: it was touched, or
      another process has taken it over.
    """
    former = _read(path)
    if _signature(path) != before:
        return None
    # One process alone may replace this holding; its name is that of no later one.
    claim = path.with_name(f"{path.name}.{former.token if former else before[0]}.claim")
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        if _unchanged(claim) > SILENCE:  # its process died within a moment's work
            claim.unlink(missing_ok=True)
        return None
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            flocks = _flock(descriptor, fcntl.LOCK_EX)
            owner = _write(descriptor, what)
            if _signature(path) != before:
                os.close(descriptor)
                return None
            os.replace(fresh, path)
        except BaseException:
            os.close(descriptor)
            raise
    finally:
        fresh.unlink(missing_ok=True)
        claim.unlink(missing_ok=True)
    announce(f"{what}: taken over from {former or Owner()}, which shows no sign of life")
    return Lock(path, descriptor, owner, exclusive=flocks is None)


# What others see of an owner -------------------------------------------------------


def _write(descriptor: int, what: str) -> Owner:
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    owner = Owner(socket.gethostname(), _boot(), os.getpid(), what, now, uuid.uuid4().hex)
    # Emptied first: what a reader may find of it is a beginning, which is no JSON.
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(owner)).encode() + b"\n", 0)
    return owner


def _read(path: Path) -> Owner | None:
    """The owner that the file names; ``None`` if there is none or half of one."""
    try:
        found = json.loads(path.read_bytes())
        return Owner(**{name: found[name] for name in Owner.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError):
        return None


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


# Signs of life ----------------------------------------------------------------------

# By path: what the file was like and when, on this process's clock, it was first seen so.
# The clocks of two hosts differ, so times of files are compared with each other alone.
_seen: dict[str, tuple[tuple[int, ...], float]] = {}


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _unchanged(path: Path) -> float:
    """Seconds for which this process has seen the file unchanged."""
    now, signature = time.monotonic(), _signature(path)
    if signature is None:
        _seen.pop(str(path), None)
        return 0.0
    if _seen.get(str(path), ((), 0.0))[0] != signature:
        _seen[str(path)] = signature, now
    return now - _seen[str(path)][1]


def _is_silent(path: Path, flocks: bool) -> bool:
    """True if the lock's owner counts as dead."""
    silence, owner = _unchanged(path), _read(path)
    if owner is None:  # with flock it is alive, or an older version that says nothing
        return not flocks and silence > SILENCE
    if (owner.host, owner.boot) != (socket.gethostname(), _boot()):
        return silence > SILENCE
    # The kernel of this host knows its processes' flocks. A process in another container
    # cannot be seen but touches its file.
    return not flocks and not _is_alive(owner.pid) and silence > _MISSED * HEARTBEAT


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
