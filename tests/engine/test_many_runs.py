"""Several runs on one store: each stage once, whoever dies or is taken for dead."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toys
from toys import TEN, Worker, notes, ten, toy, values

from tf_lottery.engine import locks
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.store import Store
from tf_lottery.errors import StoreError

HERE = Path(__file__).parent
RUN = """
import sys, toys
from pathlib import Path
root = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
toys.DRIVERS[sys.argv[2]](root)
"""


@pytest.fixture
def start():
    """Starts a driver of toys; it goes on when it is sent a line."""
    started = []

    def start(root, driver):
        path = os.pathsep.join(map(str, (HERE.parents[1], HERE)))
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(root), driver],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def go(processes):
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def results(processes):
    outputs = [process.communicate(timeout=toys.PATIENCE) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


@pytest.mark.parametrize("driver", ["serial", "parallel"])
def test_ten_runs_that_start_at_the_same_moment(tmp_path, start, driver):
    runs = [start(tmp_path, driver) for _ in range(10)]
    go(runs)
    assert results(runs) == [TEN] * 10
    record = tmp_path / "record"
    assert sorted(notes(record, "begin")) == sorted(notes(record, "end")) == sorted(TEN)


def test_a_killed_run_is_followed_by_one_of_those_that_wait(tmp_path, start):
    owner, *others = (start(tmp_path, "waiting") for _ in range(4))
    go([owner])
    toys.wait_for(tmp_path / "begun")
    go(others)
    lines = [process.stdout.readline() for process in others]
    while any(line.startswith("[") for line in lines):
        lines = [
            process.stdout.readline() if line.startswith("[") else line
            for process, line in zip(others, lines, strict=True)
        ]
    who = f"waiting for one: process {owner.pid} on {socket.gethostname()}, since "
    assert all(line.startswith(who) for line in lines)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    (tmp_path / "go").touch()
    assert results(others) == [{"one": 1, "two": 5}] * 3
    assert notes(tmp_path / "record", "begin").count("one") == 2
    assert sorted(notes(tmp_path / "record", "end")) == ["one", "two"]


def test_a_run_taken_for_dead_does_not_publish(tmp_path, monkeypatch):
    stage, said = toy("one", 1), []
    first, second = Store(tmp_path), Store(tmp_path)

    def other_host(directory):
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        monkeypatch.setattr(locks, "SILENCE", -1.0)
        with second.work(stage, said.append) as theirs:
            assert theirs == directory
            (theirs / "value.json").write_text("1")
        (second.path(stage) / "mark").touch()

    with (
        pytest.raises(StoreError, match=r"^one: taken over by .*; it is left to the other"),
        first.work(stage) as directory,
    ):
        other_host(directory)
    assert (first.path(stage) / "mark").exists()  # what the other made is there still
    assert len(said) == 1
    assert "taken over from process" in said[0]
    monkeypatch.undo()
    found = run_stages([stage], Worker(first, tmp_path / "record"), said.append)
    assert found == {stage.key: True}


def test_a_run_stopped_for_long_goes_on_as_if_nothing_had_been(tmp_path, start):
    owner, other = start(tmp_path, "waiting"), start(tmp_path, "waiting")
    go([owner])
    toys.wait_for(tmp_path / "begun")
    owner.send_signal(signal.SIGSTOP)
    go([other])
    while not other.stdout.readline().startswith("waiting for one"):
        pass
    (tmp_path / "go").touch()
    time.sleep(1)
    assert other.poll() is None
    owner.send_signal(signal.SIGCONT)
    assert results([owner, other]) == [{"one": 1, "two": 5}] * 2
    assert sorted(notes(tmp_path / "record", "begin")) == ["one", "two"]


def test_runs_without_flock(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    store, targets = Store(tmp_path / "store"), ten()
    run_stages(targets, Worker(store, tmp_path / "record"), lambda line: None)
    assert values(store, targets) == TEN
    assert list((tmp_path / "store" / "partial").iterdir()) == []


# The real command line ----------------------------------------------------------------

MINUTE = [
    "--width_multiplier=0.05", "--train_examples=64", "--test_examples=20", "--epochs=2",
    "--batch_size=16", "--objective=natural", "--search_objective=natural", "--attacks=",
    "--compare=dense", "--deterministic",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("shared", ["workdir", "store"])
def test_ten_command_lines_at_once(tmp_path, shared):
    workdirs = [tmp_path / ("w" if shared == "workdir" else f"w{i}") for i in range(10)]
    store = tmp_path / "store"
    option = f"--store={store}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "tf_lottery.main", *MINUTE, f"--workdir={workdir}", option],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
        )
        for workdir in workdirs
    ]
    outputs = [run.communicate(timeout=600)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * 10, outputs
    rows = [
        [(row["name"], row["natural"]) for row in document["rows"]]
        for document in (json.loads((w / "results.json").read_text()) for w in workdirs)
    ]
    assert rows == [rows[0]] * 10
    # A stage done twice would be published twice: its directory would be younger than the
    # results of the run that ended first.
    first = min((w / "results.json").stat().st_mtime for w in workdirs)
    manifests = list(store.glob("*/manifest.json"))
    assert manifests
    assert all(manifest.stat().st_mtime <= first for manifest in manifests)
    assert any("waiting for" in output for output in outputs)
    assert not [p for p in (store / "partial").iterdir() if p.is_dir()]
