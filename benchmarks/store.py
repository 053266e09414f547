"""What a store of many finished stages costs to look at: list, plan, resume, schedule.

    python benchmarks/store.py [--stages=10000] [--repeats=3] [--output=FILE] [--keep=DIR]

Table 3 of the paper, with a network of a few hundred weights on the digits, is run for one
seed (half a minute); its stages are then copied to as many replicates as it takes, through
``Store.work``, so that every directory and manifest is what a run would have left. What is
measured goes in turns, several times each; the medians of wall and of processor seconds are
reported: on a machine that others use too, the second says more. Importing TensorFlow is in
none of them but stands in a row of its own.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tf_lottery.engine import remote_store
from tf_lottery.engine.order import Schedule
from tf_lottery.engine.processes import run_parallel
from tf_lottery.engine.remote_store import RemoteStore
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.engine.store import Store
from tf_lottery.lottery.plan import plan, plan_text
from tf_lottery.lottery.work import Workshop
from tf_lottery.machine import machine
from tf_lottery.main import main as command_line
from tf_lottery.options import command as flags
from tf_lottery.studies.study import Study
from tf_lottery.study_cli import make_design

_COMMON = (
    "--dataset=digits", "--train_examples=64", "--validation_examples=30", "--test_examples=20",
    "--width_multiplier=0.05", "--batch_size=16", "--epochs=2", "--search_epochs=1",
)  # fmt: skip
TABLE3 = (
    "--experiment=table3", *_COMMON, "--model=convnet", "--warmup_epochs=1",
    "--sweep_epochs=1,2", "--eps=0.1", "--steps=1", "--validation_attack=pgd1", "--attacks=pgd20",
)  # fmt: skip
# Six networks, more than a workshop keeps.
FIG6 = ("--experiment=fig6", *_COMMON, "--sweep_widths=1,2,4", "--sweep_depths=10,16")
SLOTS = 8  # stages at a time where a schedule is gone through


class Untouched:
    """A worker for stages that are all finished already."""

    def __init__(self, store: Store):
        self.store = store

    def perform(self, stage: Stage, directory: Path) -> None:
        raise AssertionError(f"{stage.name} was to be finished")


def make_study(arguments: tuple[str, ...], stages: int) -> tuple[Study, tuple[str, ...]]:
    """A study of at least so many stages, and the arguments that make it."""
    one = len(in_order(Study(make_design(flags.parse([*arguments]))).targets))
    chosen = (*arguments, f"--replicates={math.ceil(stages / one)}")
    return Study(make_design(flags.parse([*chosen]))), chosen


def by_seed(study: Study) -> list[list[Stage]]:
    """Stages of each replicate, in the same order in each."""
    transfers = study.transfers or [None] * len(study.seeds)
    result = []
    for seed, transfer in zip(study.seeds, transfers, strict=True):
        cells = [study.cells[arm.name, seed].entry for arm in study.design.arms]
        targets = [stage for cell in cells for stage in cell.evaluations.values()]
        result.append(in_order([*targets, *([transfer] if transfer else [])]))
    return result


def fill(study: Study, store: Store) -> None:
    """Runs the first replicate and finishes the others with copies of its files."""
    first, *others = by_seed(study)
    worker = Workshop(store, store.root.with_name("logs"))  # trainings keep theirs, packed
    run_stages(first, worker, lambda line: print(line, file=sys.stderr, flush=True))
    for stages in others:
        for source, stage in zip(first, stages, strict=True):
            copy(store, source, stage)


def copy(store: Store, source: Stage, stage: Stage) -> None:
    """Finishes ``stage`` with the files of ``source``, which are linked, not copied."""
    with store.work(stage) as directory:
        if directory is None:
            return
        for path in sorted(store.path(source).rglob("*")):
            target = directory / path.relative_to(store.path(source))
            if path.is_dir():
                target.mkdir()
            elif target.name != "manifest.json":
                os.link(path, target)


def go_through(schedule: Schedule) -> int:
    """Takes and finishes every stage, a few at a time; how many there were."""
    done = 0
    while schedule.left:
        running = []
        while len(running) < SLOTS and (stage := schedule.take()):
            running.append(stage)
        for stage in running:
            schedule.finished(stage)
        done += len(running)
    return done


class CountedFiles:
    """``tf.io.gfile`` that counts its calls: behind ``gs://`` each is one request or more."""

    def __init__(self, gfile):
        self._gfile = gfile
        self.calls: collections.Counter[str] = collections.Counter()

    def __getattr__(self, name: str):
        plain = getattr(self._gfile, name)
        if name == "get_registered_schemes":
            return plain

        def count(*arguments, **options):
            self.calls[name] += 1
            return plain(*arguments, **options)

        return count


@contextlib.contextmanager
def counted_files() -> Iterator[CountedFiles]:
    """Counts what remote stores ask for."""
    plain = remote_store._gfile
    counted = CountedFiles(plain())
    remote_store._gfile = lambda: counted
    try:
        yield counted
    finally:
        remote_store._gfile = plain


def processor_seconds() -> float:
    """Of this process and of those it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def import_tensorflow() -> None:
    """In a process of its own."""
    subprocess.run([sys.executable, "-c", "import tf_lottery.keras"], check=True)


def measure_in_turns(cases: dict[str, Callable[[], object]], repeats: int) -> list[dict]:
    """Median seconds of each case."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            wall, processor = time.perf_counter(), processor_seconds()
            case()
            spent = (time.perf_counter() - wall, processor_seconds() - processor)
            times[name].append(spent)
            print(f"{name}: {spent[0]:.2f} s, processor {spent[1]:.2f} s", file=sys.stderr)
    return [
        {
            "what": name,
            "seconds": statistics.median(wall for wall, _ in spent),
            "processor_seconds": statistics.median(processor for _, processor in spent),
            "repeats": repeats,
        }
        for name, spent in times.items()
    ]


def quietly(arguments: tuple[str, ...]) -> None:
    """The command line in this process, its text dropped."""
    with contextlib.redirect_stdout(io.StringIO()):
        code = command_line(list(arguments))
    if code:
        raise SystemExit(f"tf_lottery {' '.join(arguments)} ended with exit code {code}")


def local_cases(place: Path, stages: int) -> tuple[int, dict[str, Callable[[], object]]]:
    """What is measured on the filled store at ``place``, and how many stages it has."""
    study, arguments = make_study(TABLE3, stages)
    targets, store = study.targets, Store(place / "stages")
    empty = Store(place / "empty", read_only=True)
    shapes, _ = make_study(FIG6, stages)
    print(f"also planned: {len(in_order(shapes.targets))} stages of fig6", file=sys.stderr)

    def silent(line: str) -> None:
        del line

    def planned(which: Study, where: Store) -> str:
        return plan_text(plan(which.targets, Workshop(where)), which.baselines)

    def command(*more: str) -> Callable[[], None]:
        return lambda: quietly((*arguments, f"--store={store.root}", *more))

    def run_in_new_workdir() -> None:
        shutil.rmtree(place / "run", ignore_errors=True)
        command(workdir)()

    workdir = f"--workdir={place / 'run'}"
    return len(in_order(targets)), {
        "stages and keys": lambda: in_order(make_study(TABLE3, stages)[0].targets),
        "list the store": lambda: store.finished(in_order(targets)),
        "run_stages, all finished": lambda: run_stages(targets, Untouched(store), silent),
        "run_parallel, all finished": lambda: run_parallel(targets, store, Untouched, SLOTS),
        "schedule gone through, none finished": lambda: go_through(
            Schedule(targets, empty, silent)
        ),
        "plan, all finished": lambda: planned(study, store),
        "plan, none finished": lambda: planned(study, empty),
        "plan of six networks, none finished": lambda: planned(shapes, empty),
        "--mode=plan, all finished": command("--mode=plan"),
        "--mode=run, results and report anew": run_in_new_workdir,
        "--mode=run, again": command(workdir),
    }


def remote_rows(place: Path, stages: int) -> list[dict]:
    """Calls of a file system behind a URL, here ``file://``, until it is known what is done."""
    targets = make_study(TABLE3, stages)[0].targets
    url = f"file://{place / 'stages'}"
    rows = []
    for what, where in (("all finished", url), ("none finished", f"file://{place}/nothing")):
        store = RemoteStore(where, place / "cache", read_only=True)
        with counted_files() as counted:
            (row,) = measure_in_turns(
                {f"remote schedule, {what}": lambda s=store: Schedule(targets, s, lambda line: 0)},
                1,
            )
        rows.append({**row, "calls": dict(counted.calls)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, default=10_000, help="at least so many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write rows and machine as JSON")
    parser.add_argument("--keep", type=Path, help="directory for the store, used again if filled")
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        began = time.perf_counter()
        fill(make_study(TABLE3, chosen.stages)[0], Store(place / "stages"))
        filled = time.perf_counter() - began
        stages, cases = local_cases(place, chosen.stages)
        rows = measure_in_turns({"import TensorFlow": import_tensorflow, **cases}, chosen.repeats)
        rows += remote_rows(place, chosen.stages)
    print(f"{stages} finished stages (filled in {filled:.0f} s)")
    line = "{:<40}{:>10}{:>12}  {}".format
    print(line("", "seconds", "processor s", "calls"))
    for row in rows:
        calls = ", ".join(f"{count} {name}" for name, count in row.get("calls", {}).items())
        print(line(row["what"], f"{row['seconds']:.2f}", f"{row['processor_seconds']:.2f}", calls))
    if chosen.output:
        document = {"machine": machine(), "stages": stages, "slots": SLOTS, "rows": rows}
        chosen.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
