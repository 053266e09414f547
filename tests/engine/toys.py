"""Stages that add numbers, for tests of the executors; importable in worker processes."""

import functools
import json
import os
import signal
import sys
import time
from pathlib import Path

from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.stage import Stage
from tf_lottery.engine.store import Store
from tf_lottery.terminal import say

PATIENCE = 300  # seconds after which something hangs, on a slow machine too


class Worker:
    """Notes ``begin`` and ``end`` of each stage, with its process, in the file ``record``."""

    def __init__(self, store, record):
        self.store, self.record = store, record

    def perform(self, stage, directory):
        self.note("begin", stage)
        parents = stage.parents.values()
        values = [json.loads((self.store.path(p) / "value.json").read_text()) for p in parents]
        if "do" in stage.runtime:
            stage.runtime["do"](directory)
        value = stage.settings["n"] + 3 * sum(values)
        (directory / "value.json").write_text(json.dumps(value))
        self.note("end", stage)

    def note(self, what, stage):
        with open(self.record, "a") as file:  # each line in one write
            file.write(f"{what} {stage.label} {os.getpid()}\n")


def maker(record):
    return functools.partial(Worker, record=str(record))


def notes(record, what):
    """Labels of the stages that began or ended, in that order."""
    if not Path(record).exists():
        return []
    lines = [line.split() for line in Path(record).read_text().splitlines()]
    return [label for kind, label, _ in lines if kind == what]


def processes(record):
    return {int(line.split()[2]) for line in Path(record).read_text().splitlines()}


def toy(label, n, *parents, do=None, kind="train"):
    runtime = {} if do is None else {"do": do}
    roles = {f"parent{i}": parent for i, parent in enumerate(parents)}
    return Stage(kind, label, {"n": n}, roles, runtime)


def ten(**actions):
    """Ten stages: two searches of three and two stages, their ends compared."""

    def make(label, n, *parents):
        return toy(label, n, *parents, do=actions.get(label))

    a = make("a", 1)
    b, c = make("b", 2, a), make("c", 3, a)
    d, e = make("d", 4, b), make("e", 5, c)
    f, g = make("f", 6, d), make("g", 7, a)
    h, i = make("h", 8, f, g), make("i", 9, e, g)
    return [make("j", 10, h, i)]


# b=2+3=5, c=3+3=6, d=4+15=19, e=5+18=23, f=6+57=63, g=7+3=10,
# h=8+3*(63+10)=227, i=9+3*(23+10)=108, j=10+3*(227+108)=1015
TEN = dict(zip("abcdefghij", (1, 5, 6, 19, 23, 63, 10, 227, 108, 1015), strict=True))


def values(store, targets):
    from tf_lottery.engine.stage import in_order

    return {
        stage.label: json.loads((store.path(stage) / "value.json").read_text())
        for stage in in_order(targets)
    }


def serially(root, targets):
    store = Store(root / "serial")
    run_stages(targets, Worker(store, root / "serial-record"), lambda line: None)
    return values(store, targets)


# What a stage may do while it is at work -------------------------------------


def wait_for(path):
    end = time.monotonic() + PATIENCE
    while not Path(path).exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.01)


def meet(directory, mine, others):
    """Ends only if another stage is at work at the same time."""
    Path(mine).touch()
    wait_for(others)


def nap(directory, seconds):
    time.sleep(seconds)


def begin_and_nap(directory, begun, seconds):
    Path(begun).touch()
    time.sleep(seconds)


def die(directory, times, how=signal.SIGKILL):
    """Dies the first ``times`` times; counts in what it leaves in its directory."""
    count = directory / "tries"
    tries = len(count.read_text()) if count.exists() else 0
    if tries < times:
        count.write_text("x" * (tries + 1))
        print("about to die", flush=True)
        os.kill(os.getpid(), how)


def leave(directory, code):
    os._exit(code)


def fail(directory, error, after=None):
    if after is not None:
        wait_for(after)
    raise error


def hang(directory, begun):
    (directory / "half").write_text("half")
    Path(begun).touch()
    time.sleep(PATIENCE)


def surroundings(directory, mine, others):
    """Writes what its process was given; meets, so that two processes are asked."""
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    found = {name: os.environ.get(name) for name in names}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    found |= {"cores": cores, "level": os.environ.get("TF_CPP_MIN_LOG_LEVEL")}
    (directory / "given.json").write_text(json.dumps(found))
    print("printed by a stage")
    print("complained by a stage", file=sys.stderr)
    meet(directory, mine, others)


# Drivers of their own ---------------------------------------------------------


def drive(root, jobs, targets):
    """What a command line would do; prints which stages it did itself."""
    from tf_lottery.engine.processes import run_parallel

    root = Path(root)
    store = Store(root / "store")
    found = run_parallel(targets, store, maker(root / "record"), jobs, lambda line: None)
    print(json.dumps(found))


def drive_ten(root):
    drive(root, 2, ten(**{label: functools.partial(nap, seconds=0.1) for label in "bcdefghi"}))


def drive_hanging(root):
    marks = [Path(root) / name for name in ("one", "two")]
    stages = [toy(m.name, i, do=functools.partial(hang, begun=m)) for i, m in enumerate(marks)]
    drive(root, 2, stages)


# Runs beside each other on one store, each of which prints the values at its end ------


def _end(store, targets):
    print(json.dumps(values(store, targets)))


def run_serially(root):
    store, targets = Store(root / "store"), ten()
    run_stages(targets, Worker(store, root / "record"), say)
    _end(store, targets)


def run_in_processes(root):
    from tf_lottery.engine.processes import run_parallel

    store, targets = Store(root / "store"), ten()
    run_parallel(targets, store, maker(root / "record"), 2, say)
    _end(store, targets)


def wait_until_told(directory, begun, go):
    Path(begun).touch()
    wait_for(go)


def run_waiting(root):
    """Two stages; the first ends when there is a file ``go``."""
    one = toy("one", 1, do=functools.partial(wait_until_told, begun=root / "begun", go=root / "go"))
    store, targets = Store(root / "store"), [toy("two", 2, one)]
    run_stages(targets, Worker(store, root / "record"), say)
    _end(store, targets)


DRIVERS = {"serial": run_serially, "parallel": run_in_processes, "waiting": run_waiting}
