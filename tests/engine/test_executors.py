"""Stages in worker processes: each once, whoever dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import toys
from toys import TEN, maker, notes, ten, toy, values

from tf_lottery import errors
from tf_lottery.engine.order import PAUSE, RETRIES, Schedule
from tf_lottery.engine.outcome import Outcome, failure
from tf_lottery.engine.processes import run_parallel, shares
from tf_lottery.engine.stage import in_order
from tf_lottery.engine.store import FORMAT, Store
from tf_lottery.errors import DataError, LotteryError, StoreError, TicketError, UsageError


@pytest.fixture
def run(tmp_path):
    """Runs stages in ``tmp_path``; what was announced is in ``run.said``."""

    def run(targets, jobs=2, make_worker=None):
        make_worker = make_worker or maker(tmp_path / "record")
        return run_parallel(targets, Store(tmp_path / "store"), make_worker, jobs, run.said.append)

    run.said = []
    run.record = tmp_path / "record"
    run.store = Store(tmp_path / "store")
    return run


# The order ---------------------------------------------------------------------


def schedule(targets, store, said=None):
    return Schedule(targets, store, (said if said is not None else []).append)


def test_parents_first_then_the_longest_chain(tmp_path):
    targets = ten()
    plan = schedule(targets, Store(tmp_path))
    order = []
    while plan.left:
        order.append(plan.take())
        plan.finished(order[-1])
    # Stages to the end, the first included: a 6, b 5, c 4, d 4, e 3, f 3, g 3, h 2, i 2, j 1.
    # Of equals the one that a serial run does first: a b d f g h c e i j.
    assert "".join(stage.label for stage in order) == "abdcfgehij"


def test_a_stage_waits_for_its_parents_and_is_taken_once(tmp_path):
    plan = schedule(ten(), Store(tmp_path))
    a = plan.take()
    assert a.label == "a"
    assert plan.take() is None
    plan.finished(a)
    assert [plan.take().label for _ in range(3)] == ["b", "c", "g"]
    assert plan.take() is None
    assert plan.left == 9


@pytest.fixture
def clock(monkeypatch):
    """The schedule's seconds, in a list of one."""
    now = [100.0]
    fake = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("tf_lottery.engine.order.time", fake)
    return now


def test_what_is_told(tmp_path, clock):
    store, said = Store(tmp_path), []
    first, second = toy("one", 1), toy("two", 2)
    with store.work(first):
        pass
    plan = schedule([first, second], store, said)
    stage = plan.take()
    plan.died(stage, "was killed by SIGSEGV")
    assert plan.take() is stage
    plan.postpone(stage)
    assert plan.take() is None
    clock[0] += PAUSE
    assert plan.take() is stage
    plan.postpone(stage)  # is told once
    clock[0] += PAUSE
    assert plan.take() is stage
    plan.finished(stage)
    assert said == [
        "[2/2] started two",
        "[2/2] the worker of two was killed by SIGSEGV; starting it again",
        "[2/2] another run is at two; waiting for it",
        "[2/2] finished two in 0 s, 0 left",
    ]
    assert plan.found == {first.key: True, second.key: False}


@pytest.mark.parametrize(
    ("change", "match"),
    [({"format": FORMAT + 1, "package_version": "99"}, r"newer tf_lottery \(99\)"),
     ({"format": None}, "damaged")],
)  # fmt: skip
def test_a_finished_stage_that_cannot_be_used_is_told_before_anything_runs(run, change, match):
    (tip,) = targets = ten()
    with run.store.work(tip):
        pass
    path = run.store.path(tip) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match=match) as caught:
        run(targets)
    assert "\n" not in str(caught.value)
    assert not run.record.exists()


# Errors that cross processes ------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_every_error_of_ours_comes_back_as_it_was(kind):
    if not issubclass(kind, LotteryError):
        return
    error = failure(Outcome("failed", kind.__name__, "text"))
    assert type(error) is kind
    assert str(error) == "text"


# Worker processes ----------------------------------------------------------------


def test_the_results_are_those_of_the_serial_executor_and_each_stage_is_done_once(run, tmp_path):
    targets = ten()
    found = run(targets)
    assert values(run.store, targets) == TEN == toys.serially(tmp_path, targets)
    assert sorted(notes(run.record, "begin")) == sorted(notes(run.record, "end")) == list(TEN)
    done = notes(run.record, "end")
    for stage in in_order(targets):
        assert all(done.index(p.label) < done.index(stage.label) for p in stage.parents.values())
    assert set(found.values()) == {False}
    assert len(toys.processes(run.record)) <= 2  # workers live for many stages
    assert os.getpid() not in toys.processes(run.record)
    assert [line.split("]")[0] for line in run.said if "started" in line] == [
        f"[{i}/10" for i in range(1, 11)
    ]
    assert run.said[-1].startswith("[10/10] finished j in ")
    assert run.said[-1].endswith(" 0 left")
    assert not (run.store.root / "logs").exists()

    run.said.clear()
    assert set(run(targets).values()) == {True}
    assert (run.said, len(notes(run.record, "begin"))) == ([], 10)


def meeting(root, do=toys.meet):
    one, two = root / "one", root / "two"
    return [
        toy("first", 1, do=partial(do, mine=one, others=two)),
        toy("second", 2, do=partial(do, mine=two, others=one)),
    ]


def test_two_stages_are_at_work_at_the_same_time(run, tmp_path):
    run(meeting(tmp_path))
    assert len(toys.processes(run.record)) == 2


def test_one_job_does_one_stage_at_a_time(run, tmp_path):
    run(ten(), jobs=1)
    lines = [line.split() for line in run.record.read_text().splitlines()]
    assert [what for what, *_ in lines] == ["begin", "end"] * 10
    assert len(toys.processes(run.record)) == 1


def test_workers_get_their_share_of_the_machine_and_their_own_output(run, tmp_path, capfd):
    before = dict(os.environ)
    stages = meeting(tmp_path, toys.surroundings)
    run(stages)
    assert dict(os.environ) == before
    given = [json.loads((run.store.path(s) / "given.json").read_text()) for s in stages]
    if hasattr(os, "sched_getaffinity"):
        cores = os.sched_getaffinity(0)
        size = max(1, len(cores) // 2)
        for one in given:
            assert len(one["cores"]) == size
            assert set(one["cores"]) <= cores
        if len(cores) > 1:
            assert not set(given[0]["cores"]) & set(given[1]["cores"])
        for one in given:
            for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
                assert one[name] == str(size)
    assert [one["level"] for one in given] == [os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")] * 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("cores", "jobs", "expected"),
    [
        (8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (8, 3, [[0, 1], [2, 3], [4, 5]]),
        (2, 3, [[0], [1], [0]]),
        (1, 1, [[0]]),
    ],
)
def test_shares(monkeypatch, cores, jobs, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert shares(jobs) == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs a choice of cores")
def test_one_stage_has_the_machine_however_many_jobs_may_run(run, tmp_path):
    mark = tmp_path / "mark"
    only = toy("only", 1, do=partial(toys.surroundings, mine=mark, others=mark))
    run([only], jobs=8)
    given = json.loads((run.store.path(only) / "given.json").read_text())
    assert given["cores"] == sorted(os.sched_getaffinity(0))


# Workers that die -----------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_its_stage_goes_on(run, tmp_path):
    targets = ten(d=partial(toys.die, times=2))
    run(targets)
    assert values(run.store, targets) == TEN
    assert notes(run.record, "begin").count("d") == 3
    assert sorted(notes(run.record, "end")) == list(TEN)
    (d,) = [stage for stage in in_order(targets) if stage.label == "d"]
    assert (run.store.path(d) / "tries").read_text() == "xx"  # one directory all the time
    assert len([line for line in run.said if "worker of d was killed by SIGKILL" in line]) == 2


def test_ctrl_c_is_not_for_the_workers(run):
    run([toy("one", 1, do=partial(toys.die, times=1, how=signal.SIGINT))])
    assert notes(run.record, "begin") == notes(run.record, "end") == ["one"]


@pytest.mark.parametrize(
    ("do", "how"),
    [
        (partial(toys.die, times=99), "was killed by SIGKILL"),
        (partial(toys.die, times=99, how=signal.SIGSEGV), "was killed by SIGSEGV"),
        (partial(toys.leave, code=7), "ended with exit code 7"),
    ],
)
def test_a_stage_that_always_kills_its_worker(run, do, how):
    targets = ten(d=do)
    with pytest.raises(LotteryError, match=f"d: its worker process died 3 times.* {how}") as caught:
        run(targets)
    message = str(caught.value)
    assert "\n" not in message
    log = Path(message.rpartition("log: ")[2].removesuffix(")"))
    assert " d\n" in log.read_text()
    if "SIGSEGV" in how:
        assert "in die" in log.read_text()  # where it happened
    assert notes(run.record, "begin").count("d") == RETRIES + 1
    assert not run.store.busy(in_order(targets)[3])
    # What ran beside it ended; what it left is finished by the next run.
    assert set(notes(run.record, "begin")) - set(notes(run.record, "end")) == {"d"}
    again = ten()
    run(again)
    assert values(run.store, again) == TEN


# Stages that fail ------------------------------------------------------------------


def test_a_failed_stage_lets_the_running_ones_end(run, tmp_path):
    mark = tmp_path / "mark"
    bad = toy("bad", 1, do=partial(toys.fail, error=TicketError("a bad ticket"), after=mark))
    slow = toy("slow", 2, do=partial(toys.begin_and_nap, begun=mark, seconds=1))
    with pytest.raises(TicketError, match=r"^a bad ticket$") as caught:
        run([bad, slow, toy("rest", 3, bad)])
    assert "toys.py" in str(caught.value.__cause__)
    assert notes(run.record, "end") == ["slow"]
    assert run.store.has(slow)


def test_an_unexpected_error_is_one_line_and_its_traceback_in_the_log(run):
    with pytest.raises(LotteryError) as caught:
        run([toy("odd", 1, do=partial(toys.fail, error=ValueError("two\nlines")))])
    assert type(caught.value) is LotteryError
    message = str(caught.value)
    assert message.startswith("odd: unexpected ValueError: two lines (log: ")
    log = Path(message.rpartition("log: ")[2].removesuffix(")"))
    assert "in fail" in log.read_text()
    assert "Traceback" in log.read_text()


def _no_worker(store):
    raise DataError("no data here")


def test_a_worker_that_cannot_be_made(run):
    with pytest.raises(DataError, match=r"^no data here$"):
        run(ten(), make_worker=_no_worker)


def test_a_full_disk_in_a_worker(run):
    full = OSError(28, "No space left on device")
    with pytest.raises(StoreError, match="--store: no space left under"):
        run([toy("big", 1, do=partial(toys.fail, error=full))])


@pytest.mark.parametrize("jobs", [0, -1])
def test_jobs_below_one(run, jobs):
    with pytest.raises(UsageError, match=f"--jobs: got {jobs}, must be at least 1"):
        run(ten(), jobs=jobs)


# Drivers that end early, drivers side by side --------------------------------------


def driver(function, root):
    """A process that calls a function of ``toys``."""
    here = Path(toys.__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1])])
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys, toys; toys.{function}(sys.argv[1])", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,  # a process group, as a terminal makes one
        # Whoever runs these tests in the background ignores Ctrl-C; this process does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_do_not_outlive_their_driver(run, tmp_path, number):
    process = driver("drive_hanging", tmp_path)
    try:
        for name in ("one", "two"):
            toys.wait_for(tmp_path / name)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as Ctrl-C does
        else:
            process.send_signal(number)
        _, complaints = process.communicate(timeout=toys.PATIENCE)
        end = time.monotonic() + toys.PATIENCE
        pids = toys.processes(run.record)
        while not all(map(gone, pids)) and time.monotonic() < end:
            assert number == signal.SIGKILL  # else they end before the driver does
            time.sleep(0.05)
        assert len(pids) == 2
        assert all(map(gone, pids))
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    assert (
        process.returncode == {signal.SIGINT: -2, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    )
    if number != signal.SIGINT:
        assert complaints == ""
    else:
        assert complaints.count("KeyboardInterrupt") == 1  # the driver's own
    halves = sorted((tmp_path / "store" / "partial").glob("*/half"))
    assert [path.read_text() for path in halves] == ["half"] * 2
    assert not list((tmp_path / "store").glob("train-*"))


def test_two_runs_that_share_a_store_do_each_stage_once(run, tmp_path):
    drivers = [driver("drive_ten", tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=toys.PATIENCE) for process in drivers]
    assert [process.returncode for process in drivers] == [0, 0], outputs
    assert sorted(notes(run.record, "begin")) == sorted(notes(run.record, "end")) == list(TEN)
    assert values(run.store, ten()) == TEN
    found = [json.loads(out) for out, _ in outputs]
    for stage in in_order(ten()):
        assert [one[stage.key] for one in found].count(False) == 1  # whose work it was


def test_a_stage_another_run_is_at_does_not_hold_up_the_others(run, tmp_path):
    taken, free = toy("taken", 1), toy("free", 2)
    with run.store.work(taken):
        pass
    (run.store.path(taken) / "manifest.json").unlink()
    said = []

    def announce(line):
        said.append(line)
        if "finished free" in line:
            work.__exit__(None, None, None)

    work = run.store.work(taken)
    work.__enter__()
    found = run_parallel([taken, free], run.store, maker(run.record), 1, announce)
    assert notes(run.record, "end") == ["free"]
    assert found == {taken.key: True, free.key: False}
    (line,) = (line for line in said if "another run is at taken" in line)
    here = f"process {os.getpid()} on {socket.gethostname()}, since "
    assert line.startswith(f"[1/2] another run is at taken ({here}")
    assert line.endswith("; waiting for it")
    assert "[1/2] another run finished taken, 0 left" in said
