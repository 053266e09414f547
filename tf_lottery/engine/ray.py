"""Independent stages side by side on a Ray cluster (extra ``ray``).

Results travel through the store alone, a directory that all machines share or a URL;
Ray carries the stages there and says how they fared.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import tf_lottery
from tf_lottery.engine.driver import finish_all
from tf_lottery.engine.order import RETRIES, Schedule
from tf_lottery.engine.outcome import Outcome, carry_out
from tf_lottery.engine.processes import thread_limits
from tf_lottery.engine.remote_store import open_store
from tf_lottery.engine.serial import Worker
from tf_lottery.engine.stage import Stage
from tf_lottery.engine.store import Store
from tf_lottery.errors import LotteryError, StoreError, UsageError
from tf_lottery.interruption import termination_raised

_log = logging.getLogger(__name__)
_REACH_SECONDS = 5  # for a connection to the address
_ANSWER_SECONDS = 60  # for a cluster to let a process join
_SIGHT_SECONDS = 60  # until a file shows on another machine; network disks cache listings
_POLL = 2.0  # seconds between looks at the size of the cluster, while stages are at work
_STORE_BYTES = 80 * 2**20  # Ray's shared memory, of which stages need next to nothing


def run_on_ray(
    targets: Iterable[Stage],
    store: str | Path,
    make_worker: Callable[[Store], Worker],
    address: str | None = None,
    cpus_per_stage: int = 1,
    gpus_per_stage: float = 0,
    announce: Callable[[str], None] = _log.info,
) -> dict[str, bool]:
    """Finishes every stage the targets need, as many at a time as the cluster holds.

    A stage whose worker or machine dies is done again, ``order.RETRIES`` times, from
    what it left if its new worker sees the same disk. Worker processes serve many stages,
    except with GPUs: a process cannot move to the GPU that its next stage is given.

    Args:
      targets: the stages wanted.
      store: a directory all machines share, or a URL.
      make_worker: called once in each worker process, with the store; picklable.
      address: ``HOST:PORT``, ``ray://HOST:PORT`` or ``auto``; ``None`` or ``local`` starts
        a cluster on this machine, for as long as the run takes. A cluster this process
        is connected to already is used and left as it is.
      cpus_per_stage: cores of each stage.
      gpus_per_stage: GPUs of each stage; a fraction lets several share one.
      announce: told of each stage as it starts and ends.

    Returns:
      For each stage key whether it was finished by another run.

    Raises:
      UsageError: Ray is not installed, no cluster answers at ``address``, or no machine
        has that many cores and GPUs.
      StoreError: a machine does not see the store.
      LotteryError: of the first stage that failed, after the running ones have ended;
        finished stages stay.
    """
    if cpus_per_stage < 1:
        raise UsageError.bad_value("ray_cpus", cpus_per_stage, "at least 1")
    if gpus_per_stage < 0:
        raise UsageError.bad_value("ray_gpus", gpus_per_stage, "at least 0")
    ray = _ray()
    place = str(store) if "://" in str(store) else os.path.abspath(store)
    here = open_store(place)
    schedule = Schedule(targets, here, _past_chatter(announce))
    if not schedule.left:
        return schedule.found
    with termination_raised(), contextlib.redirect_stdout(_Chatter()), _cluster(ray, address):
        job = ray.cloudpickle.dumps((place, make_worker))
        options: dict[str, Any] = {
            "num_cpus": cpus_per_stage,
            "num_gpus": gpus_per_stage,
            "max_retries": RETRIES,  # of tasks whose process or machine died
            "retry_exceptions": False,
            "runtime_env": {"env_vars": thread_limits(cpus_per_stage)},
        }
        remote = ray.remote(**options)(_carry_out).remote
        task = functools.partial(remote, job, tf_lottery.__version__)
        tasks = _Tasks(ray, task, here, (cpus_per_stage, gpus_per_stage))
        try:
            finish_all(schedule, tasks)
        finally:
            tasks.cancel()
    return schedule.found


class _Tasks:
    """The ``Crew`` of a cluster.

    Args:
      task: gives the cluster a stage; Ray's reference to its outcome.
      store: as this machine sees it.
      demand: cores and GPUs of each stage.
    """

    def __init__(self, ray, task: Callable[[Stage], Any], store: Store, demand: tuple[int, float]):
        self._ray = ray
        self._task = task
        self._store = store
        self._demand = demand
        self._at_work: dict[Stage, Any] = {}

    def free(self) -> int:
        """The machines may have become more or fewer since the last time."""
        cpus, gpus = self._demand
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        slots = 0
        for machine in machines:
            fitting = machine.get("CPU", 0) // cpus
            if gpus:
                fitting = min(fitting, machine.get("GPU", 0) // gpus)
            slots += int(fitting)
        if not slots and not self._at_work:
            found = ", ".join(
                f"{machine.get('CPU', 0):g} CPUs and {machine.get('GPU', 0):g} GPUs"
                for machine in machines
            )
            raise UsageError(
                f"--ray_cpus={cpus:g} --ray_gpus={gpus:g}: no machine of the cluster has as many; "
                f"they have {found or 'none'}"
            )
        return slots - len(self._at_work)

    def start(self, stage: Stage) -> None:
        self._at_work[stage] = self._task(stage)

    def wait(self) -> list[Stage]:
        stages = {reference: stage for stage, reference in self._at_work.items()}
        ready, _ = self._ray.wait(list(stages), timeout=_POLL)
        return [stages[reference] for reference in ready]

    def hear(self, stage: Stage) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(self._at_work.pop(stage))
        except self._ray.exceptions.RayError as error:
            raise LotteryError(
                f"{stage.label}: given up by Ray after up to {RETRIES + 1} tries "
                f"({type(error).__name__}: {_last_line(str(error))})"
            ) from error
        if outcome.state in ("done", "elsewhere") and not _appears(self._store, stage):
            raise _not_shared(self._store, stage, f"here ({socket.gethostname()})")
        return outcome

    def cancel(self) -> None:
        """Ends what is still at work, which is something only when the run is broken off."""
        for reference in self._at_work.values():
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody, prints nothing
    # Ray's own limit, of stages killed for want of memory, is none at all.
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UsageError(
            "--ray_address: Ray is not installed; install it with: pip install 'ray>=2.60'"
        ) from None


@contextlib.contextmanager
def _cluster(ray, address: str | None) -> Iterator[None]:
    """Connects to a cluster or starts one, and undoes that."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address in (None, "local"):
        quiet |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
        place = "local"
    else:
        assert address is not None
        place = address
        _check_answer(address)
    try:
        ray.init(address=place, **quiet)
    except Exception as error:
        raise _no_cluster(place, str(error)) from error
    try:
        with termination_raised():  # Ray has set a handler of its own, which prints
            yield
    finally:
        ray.shutdown()


def check_reachable(address: str | None) -> None:
    """Makes sure, within seconds, that Ray is installed and something listens at the address.

    Raises:
      UsageError: not so, or no address.
    """
    _ray()
    if address in (None, "local", "auto"):
        return
    assert address is not None
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError.bad_value(
            "ray_address", address, "HOST:PORT, ray://HOST:PORT, auto or local"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from None


def _check_answer(address: str) -> None:
    """Makes sure that a cluster answers.

    Ray itself tries for two minutes, and its C++ part may end the process; so the first
    try is that of another process.
    """
    check_reachable(address)
    code = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False); ray.shutdown()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, address],
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise _no_cluster(address, f"no answer within {_ANSWER_SECONDS} s") from None
    if done.returncode:
        raise _no_cluster(address, done.stderr)


def _no_cluster(address: str, output: str) -> UsageError:
    reason = _last_line(output)
    if address == "local":
        return UsageError(f"--ray_address=local: Ray could not be started ({reason})")
    return UsageError(
        f"--ray_address: no Ray cluster answers at {address!r} ({reason}); "
        "one with a token needs RAY_AUTH_MODE=token and the token here too"
    )


def _last_line(output: str) -> str:
    """What says most of a traceback; Ray's advice can be long."""
    return textwrap.shorten((output.strip().splitlines() or ["no reason given"])[-1], 200)


class _Chatter(io.TextIOBase):
    """Where Ray's threads print of dying workers, which the schedule tells in its words."""

    def write(self, text: str) -> int:
        if text.strip():
            _log.debug("%s", text.strip())
        return len(text)


def _past_chatter(announce: Callable[[str], None]) -> Callable[[str], None]:
    terminal = sys.stdout

    def say(line: str) -> None:
        with contextlib.redirect_stdout(terminal):
            announce(line)

    return say


def _appears(store: Store, stage: Stage) -> bool:
    end = time.monotonic() + _SIGHT_SECONDS
    while not store.has(stage):
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def _not_shared(store: Store, stage: Stage, machine: str) -> StoreError:
    return StoreError(
        f"--store: {store.root} has no finished {stage.label} {machine}; on a cluster the store "
        "must be a directory that all machines share, or a URL"
    )


# In the worker process --------------------------------------------------------

_workers: dict[bytes, Worker] = {}  # kept from stage to stage, with data and compiled graphs


def _carry_out(job: bytes, version: str, stage: Stage) -> Outcome:
    def worker() -> Worker:
        machine = f"on {socket.gethostname()}"
        if version != tf_lottery.__version__:
            raise UsageError(
                f"--ray_address: tf_lottery is {tf_lottery.__version__} {machine} and {version} "
                "where the run was started; install the same"
            )
        if job not in _workers:
            place, make_worker = pickle.loads(job)
            _workers.clear()
            _workers[job] = make_worker(open_store(place))
        store = _workers[job].store
        for parent in stage.parents.values():
            if not _appears(store, parent):
                raise _not_shared(store, parent, machine)
        return _workers[job]

    return carry_out(stage, worker, "-v shows the traceback")
