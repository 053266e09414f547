"""Locks: who holds them, who waits, and what becomes of those of the dead."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from toys import PATIENCE

from tf_lottery.engine import locks
from tf_lottery.errors import StoreError

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from tf_lottery.engine import locks
locks.HEARTBEAT = 0.05
with locks.held(sys.argv[1], "the stage"):
    print("held", flush=True)
    time.sleep(600)
"""
# Holds a flock on a file that names another host; touches it if told to.
OTHER_HOST = """
import fcntl, json, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
owner = dict(host="elsewhere", boot="b", pid=7, what="the stage", since="noon", token="t")
file.write(json.dumps(owner) + "\\n")
file.flush()
print("held", flush=True)
while True:
    time.sleep(0.05)
    if sys.argv[2] == "alive":
        os.utime(file.fileno())
"""


@pytest.fixture
def start():
    """Starts a program and waits until it says that it holds the lock."""
    started = []

    def start(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(params=["flock", "no flock"])
def kind(request, monkeypatch):
    """With and without a file system that knows ``flock``."""
    if request.param == "no flock":
        without_flock(monkeypatch)
    return request.param


def without_flock(monkeypatch, number=errno.ENOLCK):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


class Waiter(threading.Thread):
    """Takes the lock in a thread, and gives it back at once."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.said, self.got = path, [], threading.Event()

    def run(self):
        with locks.held(self.path, "the stage", self.said.append):
            self.got.set()


def eventually(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_lock_is_held_by_one_at_a_time_and_whoever_waits_says_for_whom(tmp_path, kind):
    path = tmp_path / "lock"
    waiter = Waiter(path)
    with locks.held(path, "the stage"):
        assert locks.holder(path).pid == os.getpid()
        waiter.start()
        eventually(lambda: waiter.said)
        assert not waiter.got.wait(1.2)  # two more looks
    assert waiter.got.wait(PATIENCE)
    waiter.join(PATIENCE)
    (line,) = waiter.said
    assert line.startswith(
        f"waiting for the stage: process {os.getpid()} on {socket.gethostname()}, since 20"
    )
    assert locks.holder(path) is None
    assert path.exists() == (kind == "flock")


def test_the_file_says_who_holds_it_and_is_touched(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.02)
    path = tmp_path / "lock"
    with locks.held(path, "the stage") as lock:
        found = json.loads(path.read_text())
        assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
        assert found["what"] == "the stage"
        os.utime(path, (1, 1))
        eventually(lambda: path.stat().st_mtime > 1)
        assert not lock.lost


def test_half_of_what_a_file_says_is_nothing(tmp_path):
    path = tmp_path / "lock"
    with locks.held(path, "the stage"):
        whole = path.read_bytes()
        owner = locks.holder(path)
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for length in range(len(whole) - 1):
            path.write_bytes(whole[:length])
            assert str(locks.holder(path)) == "a process that has not said its name"
        path.write_bytes(whole)
        assert locks.holder(path) == owner


def test_a_killed_owner_leaves_the_lock_to_the_one_that_waits(tmp_path, start):
    path = tmp_path / "lock"
    owner, waiter = start(HOLD, path), Waiter(path)
    waiter.start()
    eventually(lambda: waiter.said)
    assert f"process {owner.pid} on {socket.gethostname()}" in waiter.said[0]
    assert not waiter.got.is_set()
    owner.send_signal(signal.SIGKILL)
    assert waiter.got.wait(PATIENCE)
    assert len(waiter.said) == 1


def test_a_stopped_owner_is_waited_for(tmp_path, start, monkeypatch):
    monkeypatch.setattr(locks, "SILENCE", 0.2)
    path = tmp_path / "lock"
    owner, waiter = start(HOLD, path), Waiter(path)
    owner.send_signal(signal.SIGSTOP)
    waiter.start()
    assert not waiter.got.wait(1.5)
    assert locks.holder(path).pid == owner.pid
    owner.send_signal(signal.SIGCONT)
    owner.terminate()
    assert waiter.got.wait(PATIENCE)


def test_a_silent_owner_of_another_host_is_replaced(tmp_path, start, monkeypatch):
    path = tmp_path / "lock"
    start(OTHER_HOST, path, "dead")
    assert locks.holder(path).host == "elsewhere"
    waiter = Waiter(path)
    waiter.start()
    eventually(lambda: waiter.said)
    assert waiter.said == ["waiting for the stage: process 7 on elsewhere, since noon has it"]
    assert not waiter.got.is_set()
    monkeypatch.setattr(locks, "SILENCE", 0.2)
    assert waiter.got.wait(PATIENCE)
    waiter.join(PATIENCE)
    assert waiter.said[1:] == [
        "the stage: taken over from process 7 on elsewhere, since noon, which shows no sign of life"
    ]
    assert locks.holder(path) is None
    assert [p.name for p in tmp_path.iterdir()] == ["lock"]


def test_a_living_owner_of_another_host_is_waited_for(tmp_path, start, monkeypatch):
    monkeypatch.setattr(locks, "SILENCE", 2.0)
    path = tmp_path / "lock"
    start(OTHER_HOST, path, "alive")
    waiter = Waiter(path)
    waiter.start()
    assert not waiter.got.wait(3.5)
    assert locks.holder(path).host == "elsewhere"


def test_one_of_many_that_wait_takes_over(tmp_path, start, monkeypatch):
    monkeypatch.setattr(locks, "SILENCE", 1.0)
    path, inside, most = tmp_path / "lock", [], []

    def take():
        with locks.held(path, "the stage", lambda line: None) as lock:
            inside.append(lock)
            most.append(len(inside))
            time.sleep(0.01)
            lock.check()
            inside.remove(lock)

    start(OTHER_HOST, path, "dead")
    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert most == [1] * 8


def test_what_was_taken_over_meanwhile_is_not_taken_over_again(tmp_path, start, monkeypatch):
    monkeypatch.setattr(locks, "SILENCE", 0.2)
    path, is_silent, others, mine = tmp_path / "lock", locks._is_silent, [], []

    def slowly(where, flocks):
        silent = is_silent(where, flocks)
        if silent and not others:  # another process is faster than the one that asked
            others.append(None)
            others[0] = locks.held(path, "the stage", lambda line: None)
        return silent

    monkeypatch.setattr(locks, "_is_silent", slowly)
    start(OTHER_HOST, path, "dead")
    thread = threading.Thread(
        target=lambda: mine.append(locks.held(path, "the stage", lambda line: None))
    )
    thread.start()
    eventually(lambda: others and others[0])
    thread.join(1)
    assert (mine, others[0].lost) == ([], False)
    others[0].release()
    thread.join(PATIENCE)
    assert not mine[0].lost
    mine[0].release()


def test_the_owner_that_comes_back_is_told(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    with locks.held(path, "the stage") as mine:
        mine.check()
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        monkeypatch.setattr(locks, "SILENCE", -1.0)
        with locks.held(path, "the stage", lambda line: None) as theirs:
            assert not theirs.lost
            with pytest.raises(StoreError, match=r"^the stage: taken over by process \d+ on else"):
                mine.check()
            mine.release()
            assert not theirs.lost  # the file of the other is not touched


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_without_flock_the_lock_of_a_dead_process_is_replaced(tmp_path, monkeypatch, number):
    without_flock(monkeypatch, number)
    monkeypatch.setattr(locks, "HEARTBEAT", 0.05)
    path = tmp_path / "lock"
    with locks.held(path, "the stage"):
        content = json.loads(path.read_text())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path.write_text(json.dumps(content | {"pid": dead.pid}))
    waiter = Waiter(path)
    waiter.start()
    assert waiter.got.wait(PATIENCE)
    waiter.join(PATIENCE)
    path.write_text(json.dumps(content))  # this process: alive, and waited for
    waiter = Waiter(path)
    waiter.start()
    assert not waiter.got.wait(1)


def test_another_error_of_flock_is_not_taken_for_a_lock(tmp_path, monkeypatch):
    without_flock(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        locks.held(tmp_path / "lock", "the stage")
    assert not (tmp_path / "lock").exists()
