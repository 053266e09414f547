"""Stages on a real Ray cluster of this machine; skipped where Ray is not installed."""

import importlib
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import toys
from toys import TEN, maker, notes, ten, toy, values

from tf_lottery.engine import ray as ray_cluster
from tf_lottery.engine.ray import run_on_ray
from tf_lottery.engine.stage import in_order
from tf_lottery.engine.store import Store
from tf_lottery.errors import LotteryError, StoreError, TicketError, UsageError

# For workers, and processes of their own, to find the stages of the tests.
_HERE = Path(toys.__file__).parent
PYTHONPATH = os.pathsep.join([str(_HERE), str(_HERE.parents[1])])


@pytest.fixture(scope="module", autouse=True)
def surroundings():
    """What Ray and the processes of the tests find in their environment."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", PYTHONPATH)
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Else Ray makes one and leaves it in the home directory.
        patched.setenv("RAY_AUTH_MODE", "token")
        patched.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        yield


@pytest.fixture(scope="module")
def cluster(surroundings):
    """A cluster of two cores that this process is connected to."""
    ray = pytest.importorskip("ray")
    before = signal.getsignal(signal.SIGTERM)
    start(ray)
    yield ray
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


def start(ray):
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


@pytest.fixture
def run(cluster, tmp_path):
    """Runs stages in ``tmp_path``; what was announced is in ``run.said``."""

    def run(targets, **options):
        make_worker = maker(tmp_path / "record")
        return run_on_ray(
            targets, tmp_path / "store", make_worker, announce=run.said.append, **options
        )

    run.said = []
    run.record = tmp_path / "record"
    run.store = Store(tmp_path / "store")
    return run


def test_ten_stages_on_two_workers_one_of_which_is_killed(run, cluster, tmp_path, capfd):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    targets = ten(
        b=partial(toys.meet, mine=mine, others=theirs),  # two at the same time
        c=partial(toys.meet, mine=theirs, others=mine),
        d=partial(toys.die, times=1),
    )
    found = run(targets)
    assert values(run.store, targets) == TEN == toys.serially(tmp_path, ten())
    assert sorted(notes(run.record, "end")) == list(TEN)
    assert sorted(notes(run.record, "begin")) == sorted([*TEN, "d"])
    done = notes(run.record, "end")
    for stage in in_order(targets):
        assert all(done.index(p.label) < done.index(stage.label) for p in stage.parents.values())
    assert set(found.values()) == {False}
    assert os.getpid() not in toys.processes(run.record)
    assert 2 <= len(toys.processes(run.record)) < 10  # workers live for many stages
    assert run.said[0] == "[1/10] started a"
    assert run.said[-1].startswith("[10/10] finished j in ")
    assert cluster.is_initialized()  # it was not started by the run
    assert capfd.readouterr() == ("", "")

    run.said.clear()
    assert set(run(targets).values()) == {True}
    assert run.said == []


def test_a_worker_keeps_to_its_cores(run, tmp_path):
    stages = [
        toy("first", 1, do=partial(toys.surroundings, mine=tmp_path / "1", others=tmp_path / "1")),
        toy("both", 2, do=partial(toys.surroundings, mine=tmp_path / "2", others=tmp_path / "2")),
    ]
    run(stages[:1])
    run(stages[1:], cpus_per_stage=2)
    for stage, cores in zip(stages, "12", strict=True):
        given = json.loads((run.store.path(stage) / "given.json").read_text())
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            assert given[name] == cores


def test_failures(run, tmp_path):
    bad = toy("bad", 1, do=partial(toys.fail, error=TicketError("a bad ticket")))
    slow = toy("slow", 2, do=partial(toys.nap, seconds=2))
    with pytest.raises(TicketError, match=r"^a bad ticket$") as caught:
        run([bad, slow, toy("rest", 3, bad), toy("other", 4, slow)])
    assert "toys.py" in str(caught.value.__cause__)
    assert notes(run.record, "end") == ["slow"]  # the running one ended, none was started
    with pytest.raises(LotteryError, match="odd: unexpected ValueError: two lines"):
        run([toy("odd", 5, do=partial(toys.fail, error=ValueError("two\nlines")))])
    with pytest.raises(LotteryError, match="fatal: given up by Ray after up to 3 tries") as caught:
        run([toy("fatal", 6, do=partial(toys.die, times=99))])
    assert "\n" not in str(caught.value)
    assert notes(run.record, "begin").count("fatal") == 3


def test_more_than_any_machine_has(run):
    with pytest.raises(UsageError, match=r"--ray_cpus=99 --ray_gpus=0: .*they have 2 CPUs"):
        run(ten(), cpus_per_stage=99)
    with pytest.raises(UsageError, match=r"--ray_cpus=1 --ray_gpus=1: .* and 0 GPUs"):
        run(ten(), gpus_per_stage=1)
    for options, flag in (({"cpus_per_stage": 0}, "cpus"), ({"gpus_per_stage": -1}, "gpus")):
        with pytest.raises(UsageError, match=f"--ray_{flag}: got"):
            run(ten(), **options)


def test_a_result_that_does_not_arrive_here(run, monkeypatch, tmp_path):
    monkeypatch.setattr(ray_cluster, "_SIGHT_SECONDS", 0.1)
    stage = toy("lost", 1)
    monkeypatch.setattr(Store, "has", lambda self, stage: False)
    with pytest.raises(StoreError, match=r"--store: .* has no finished lost here .* share"):
        run([stage])


def test_another_version_on_the_worker(tmp_path):
    outcome = ray_cluster._carry_out(b"", "0.0.1", toy("a", 1))
    assert (outcome.state, outcome.error) == ("failed", "UsageError")
    assert "and 0.0.1 where the run was started" in outcome.message


# Without a cluster ------------------------------------------------------------


def test_without_ray(monkeypatch, tmp_path):
    plain = importlib.import_module

    def missing(name):
        if name == "ray":
            raise ModuleNotFoundError(name)
        return plain(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match=r"Ray is not installed; install it with: pip install"):
        run_on_ray(ten(), tmp_path / "store", maker(tmp_path / "record"))
    assert not (tmp_path / "store").exists()


def alone(code, *arguments):
    """Runs Python in a process that is connected to no cluster."""
    code = (
        "import sys, toys; from tf_lottery.engine.ray import run_on_ray;"
        "from tf_lottery.engine import ray as ray_cluster;" + code
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=toys.PATIENCE,
    )


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense", "a:b:c"])
def test_no_cluster_at_the_address(address, tmp_path):
    pytest.importorskip("ray")
    began = time.monotonic()
    done = alone(
        "run_on_ray(toys.ten(), sys.argv[1], toys.maker('record'), sys.argv[2])",
        tmp_path / "store",
        address,
    )
    message = done.stderr.strip().splitlines()[-1]
    assert "UsageError: --ray_address: " in message
    assert repr(address) in message
    assert time.monotonic() - began < 100  # Ray itself tries for two minutes


def test_no_cluster_leaves_nothing_behind(tmp_path, capsys):
    from tf_lottery.main import main

    arguments = ["--executor=ray", "--ray_address=127.0.0.1:1", f"--workdir={tmp_path}/w/w"]
    assert main(["--train_examples=64", "--test_examples=20", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--ray_address: " in line
    assert list(tmp_path.iterdir()) == []


def test_something_else_at_the_address(tmp_path):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = alone(
            "ray_cluster._ANSWER_SECONDS = 2;"
            "run_on_ray(toys.ten(), sys.argv[1], toys.maker('record'), sys.argv[2])",
            tmp_path / "store",
            address,
        )
    message = done.stderr.strip().splitlines()[-1]
    assert f"no Ray cluster answers at {address!r} (no answer within 2 s)" in message


def test_a_cluster_the_run_starts_ends_with_it(tmp_path):
    pytest.importorskip("ray")
    done = alone(
        "run_on_ray([toys.toy('a', 1)], sys.argv[1], toys.maker(sys.argv[2]), announce=print);"
        "import ray; print(ray.is_initialized())",
        tmp_path / "store",
        tmp_path / "record",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1] == "False"
    assert all(line.startswith("[") for line in lines[:-1])  # Ray says nothing
    assert notes(tmp_path / "record", "end") == ["a"]
