"""Independent stages side by side, in long-lived worker processes of this machine.

``concurrent.futures`` and loky would be less code, but there one dead worker breaks the
whole pool and takes the running work of the others with it, and neither gives a process
its cores or its log.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import multiprocessing.resource_tracker
import os
import pickle
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from pathlib import Path

from tf_lottery import files
from tf_lottery.engine.driver import finish_all
from tf_lottery.engine.order import Schedule
from tf_lottery.engine.outcome import Outcome, carry_out
from tf_lottery.engine.serial import Worker
from tf_lottery.engine.stage import Stage
from tf_lottery.engine.store import Store
from tf_lottery.errors import UsageError
from tf_lottery.interruption import Terminated, termination_raised

_log = logging.getLogger(__name__)
_POLL = 0.5  # seconds between looks at what can start, while stages are at work
_GRACE = 60.0  # seconds that workers have to save what they work on


def run_parallel(
    targets: Iterable[Stage],
    store: Store,
    make_worker: Callable[[Store], Worker],
    jobs: int,
    announce: Callable[[str], None] = _log.info,
) -> dict[str, bool]:
    """Finishes every stage the targets need, up to ``jobs`` of them at the same time.

    A worker that dies is replaced and its stage goes on from what it left in the store,
    ``order.RETRIES`` times. Several runs may share a store: each stage is done once.
    No worker outlives this process, however it ends. What workers print goes to ``logs`` in
    the store, which is removed after a run without errors.

    Args:
      targets: the stages wanted.
      store: where results go.
      make_worker: called once in each worker process, with the store; picklable.
      jobs: worker processes, each with its share of the cores.
      announce: told of each stage as it starts and ends.

    Returns:
      For each stage key whether it was finished by another run.

    Raises:
      LotteryError: of the first stage that failed, after the running ones have ended;
        finished stages stay. Or a stage's worker died too often.
      UsageError: ``jobs`` is below 1.
    """
    if jobs < 1:
        raise UsageError.bad_value("jobs", jobs, "at least 1")
    schedule = Schedule(targets, store, announce)
    if not schedule.left:
        return schedule.found
    name = f"{socket.gethostname()}-{os.getpid()}"
    logs = store.root / "logs" / name
    with files.disk_errors("store", store.root):
        logs.mkdir(parents=True, exist_ok=True)
    job = pickle.dumps((store, make_worker))
    cores = shares(min(jobs, schedule.left))
    pool = _Pool([_Process(job, share, logs / f"{i}.log") for i, share in enumerate(cores)])
    with termination_raised():
        try:
            finish_all(schedule, pool)
            pool.dismiss()
        finally:
            pool.end()
    shutil.rmtree(logs, ignore_errors=True)
    with contextlib.suppress(OSError):  # others' logs are there
        logs.parent.rmdir()
    return schedule.found


def shares(jobs: int) -> list[list[int]]:
    """The cores of each of ``jobs`` workers: as many for each, none twice if they suffice."""
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    size = max(1, len(cores) // jobs)
    return [[cores[(i * size + j) % len(cores)] for j in range(size)] for i in range(jobs)]


def thread_limits(cores: int) -> dict[str, str]:
    """Environment of a process that is to keep to so many cores and to share a GPU."""
    return {
        "OMP_NUM_THREADS": str(cores),
        "TF_NUM_INTRAOP_THREADS": str(cores),
        "TF_NUM_INTEROP_THREADS": str(cores),
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        "TF_FORCE_GPU_ALLOW_GROWTH": os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH", "true"),
    }


class _Pool:
    """The ``Crew`` of this machine."""

    def __init__(self, processes: list[_Process]):
        self._processes = processes
        self._at_work: dict[Stage, _Process] = {}

    def free(self) -> int:
        return len(self._processes) - len(self._at_work)

    def start(self, stage: Stage) -> None:
        """Puts the first free process to the stage: it has met most of what stages share."""
        busy = set(self._at_work.values())
        process = next(process for process in self._processes if process not in busy)
        process.start(stage)
        self._at_work[stage] = process

    def wait(self) -> list[Stage]:
        ends = {end: stage for stage, at in self._at_work.items() for end in at.ends()}
        heard = {ends[end] for end in connection.wait(list(ends), timeout=_POLL)}
        return [stage for stage in self._at_work if stage in heard]

    def hear(self, stage: Stage) -> Outcome:
        return self._at_work.pop(stage).hear()

    def dismiss(self) -> None:
        """Lets the idle processes end by themselves, and waits for that, but not for long."""
        for process in self._processes:
            process.dismiss()
        for process in self._processes:
            process.join(5)

    def end(self) -> None:
        """Ends all processes, those at work after they have saved it; at once if hurried."""
        try:
            for process in self._processes:
                process.terminate()
            limit = time.monotonic() + _GRACE
            for process in self._processes:
                process.join(max(0.0, limit - time.monotonic()))
        finally:
            for process in self._processes:
                process.kill()


class _Process:
    """A worker process, started when there is something to do and again if it died.

    Args:
      job: the pickled store and maker of the worker.
      cores: it keeps to these.
      log: file with what it prints.
    """

    def __init__(self, job: bytes, cores: list[int], log: Path):
        self._log = log
        self._job = job
        self._cores = cores
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: connection.Connection | None = None

    def start(self, stage: Stage) -> None:
        """Gives the process a stage."""
        if self._process is None or not self._process.is_alive():
            self.kill()
            self._spawn()
        assert self._pipe is not None
        with contextlib.suppress(OSError):  # it has died since; hear() will say so
            self._pipe.send(stage)

    def ends(self) -> list:
        """What becomes ready when there is something to hear."""
        assert self._process is not None
        return [self._pipe, self._process.sentinel]

    def hear(self) -> Outcome:
        """What became of the stage; one of ``ends`` is ready."""
        assert self._process is not None
        assert self._pipe is not None
        with contextlib.suppress(OSError, EOFError):
            # A process that was forked in the worker may hold the pipe of a dead one open.
            if self._pipe.poll():
                return self._pipe.recv()
        self._process.join(10)  # the pipe closes a moment before the process ends
        how = _how_it_ended(self._process.exitcode)
        self.kill()
        return Outcome("died", message=f"{how} (log: {self._log})")

    def dismiss(self) -> None:
        """Lets the idle process end by itself."""
        if self._pipe is not None:
            self._pipe.close()

    def terminate(self) -> None:
        """Asks the process to save what it works on and to end."""
        if self._process is not None:
            self._process.terminate()

    def join(self, seconds: float) -> None:
        """Waits for the end of a process that was told to end, but not for long."""
        if self._process is not None:
            self._process.join(seconds)

    def kill(self) -> None:
        """Ends the process at once, whatever it does; the store bears it."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _spawn(self) -> None:
        # Not fork: a copy of a process in which TensorFlow runs hangs.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(theirs, self._job, self._cores, str(self._log))
        )
        # Ctrl-C reaches every process of the terminal; the workers leave it to this one.
        # Starting the tracker lifts the block, so it is started before.
        multiprocessing.resource_tracker.ensure_running()
        with _environment(thread_limits(len(self._cores))):
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
                self._process = process  # only now: one that has not started cannot be ended
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()


def _how_it_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    name = {s.value: s.name for s in signal.Signals}.get(-code, f"signal {-code}")
    if name == "SIGKILL":
        return "was killed by SIGKILL, perhaps for want of memory: fewer --jobs need less"
    return f"was killed by {name}"


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    # Set for the start alone: libraries read it when they are first imported, which may
    # be before a line of ours runs in the new process.
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# In the worker process --------------------------------------------------------


def _work(pipe: connection.Connection, job: bytes, cores: list[int], log: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # the cores may have been taken away
            os.sched_setaffinity(0, cores)
    made: list[Worker] = []

    def worker() -> Worker:
        if not made:
            store, make_worker = pickle.loads(job)
            made.append(make_worker(store))
        return made[0]

    with contextlib.suppress(Terminated, EOFError), termination_raised():
        while True:
            stage = pipe.recv()
            print(f"{stage.name} {stage.label}", flush=True)
            outcome = carry_out(stage, worker, f"log: {log}")
            print(outcome.trace or outcome.state, file=sys.stderr, flush=True)
            pipe.send(outcome)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
