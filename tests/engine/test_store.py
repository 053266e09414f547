"""A stage is finished entirely or not at all."""

import json
import multiprocessing
import os
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from toys import PATIENCE

from tf_lottery import files
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.stage import Stage
from tf_lottery.engine.store import FORMAT, Store, seal
from tf_lottery.errors import StoreError

STAGE = Stage("init", "initialise", {"seed": 3})


def finish(store, stage=STAGE, content="hello", ledger=None):
    with store.work(stage) as directory:
        (directory / "data.txt").write_text(content)
        if ledger is not None:
            (directory / "ledger.json").write_text(json.dumps(ledger))
    return store.path(stage)


def test_a_finished_stage_explains_itself(tmp_path):
    store = Store(tmp_path)
    assert not store.has(STAGE)
    child = Stage("train", "train: dense", {"lr": 0.5}, {"start": STAGE})
    finish(store)
    path = finish(store, child, ledger={"seconds": 2.5})
    assert store.has(child)
    assert path == tmp_path / child.name
    assert (path / "data.txt").read_text() == "hello"
    manifest = store.manifest(child)
    assert manifest == json.loads((path / "manifest.json").read_text())
    assert manifest["settings"] == {"lr": 0.5}
    assert manifest["parents"] == {"start": STAGE.name}
    assert (manifest["kind"], manifest["key"], manifest["label"]) == (
        "train", child.key, "train: dense",
    )  # fmt: skip
    assert manifest["ledger"] == {"seconds": 2.5}
    assert manifest["format"] == FORMAT
    assert store.manifest(STAGE)["ledger"] == {}


def test_an_exception_leaves_no_finished_stage_and_keeps_the_partial_work(tmp_path):
    store = Store(tmp_path)

    def crash():
        with store.work(STAGE) as directory:
            (directory / "checkpoint").write_text("half")
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        crash()
    assert not store.has(STAGE)
    assert not store.path(STAGE).exists()
    with store.work(STAGE) as directory:
        assert (directory / "checkpoint").read_text() == "half"
    assert store.has(STAGE)
    assert not (tmp_path / "partial" / STAGE.name).exists()


def test_a_directory_without_manifest_is_not_finished_and_is_replaced(tmp_path):
    store = Store(tmp_path)
    store.path(STAGE).mkdir()
    (store.path(STAGE) / "junk").touch()
    assert not store.has(STAGE)
    path = finish(store)
    assert sorted(p.name for p in path.iterdir()) == ["data.txt", "manifest.json"]


def test_a_stage_that_only_lacked_its_name_is_not_done_again(tmp_path):
    store = Store(tmp_path)
    # The process died between the manifest and the rename.
    finish(store).rename(tmp_path / "partial" / STAGE.name)
    assert not store.has(STAGE)
    with store.work(STAGE) as directory:
        assert directory is None
    assert store.has(STAGE)
    assert (store.path(STAGE) / "data.txt").read_text() == "hello"


def test_a_strange_manifest_in_partial_work_does_not_count(tmp_path):
    store = Store(tmp_path)
    partial = tmp_path / "partial" / STAGE.name
    partial.mkdir(parents=True)
    (partial / "manifest.json").write_text("{}")
    assert not store.has(STAGE)
    finish(store)
    assert store.manifest(STAGE)["key"] == STAGE.key
    assert store.manifest(STAGE)["files"] == {"data.txt": 5}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "null", '{"no": "format"}', '{"format": "x"}']
)
def test_a_damaged_manifest(tmp_path, content):
    store = Store(tmp_path)
    (finish(store) / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match="damaged") as caught:
        store.manifest(STAGE)
    assert "remove" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_no_text(tmp_path):
    store = Store(tmp_path)
    (finish(store) / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="damaged"):
        store.manifest(STAGE)


def edit(store, **changes):
    path = store.path(STAGE) / "manifest.json"
    path.write_text(json.dumps(seal(json.loads(path.read_text()) | changes)))


OTHERS = [
    (FORMAT + 1, "99.0", r"newer tf_lottery \(99\.0\), in format 2.* update tf_lottery or"),
    (FORMAT - 1, "0.0.1", r"older tf_lottery \(0\.0\.1\), in format 0; this one reads 1: choose"),
]


@pytest.mark.parametrize(("number", "version", "match"), OTHERS)
def test_a_stage_of_another_version_is_told_and_kept(tmp_path, number, version, match):
    store = Store(tmp_path)
    path = finish(store)
    edit(store, format=number, package_version=version)
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    with pytest.raises(StoreError, match=match) as caught:
        store.manifest(STAGE)
    assert "\n" not in str(caught.value)
    # Nor is anything of it run or written over.
    done = []
    worker = SimpleNamespace(store=store, perform=lambda stage, directory: done.append(stage.label))
    first = Stage("init", "another", {"seed": 4})
    with pytest.raises(StoreError, match=match):
        run_stages([first, STAGE], worker, done.append)
    assert done == []
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before


@pytest.mark.parametrize(("number", "version", "match"), OTHERS)
def test_what_another_version_had_as_good_as_finished_is_kept(tmp_path, number, version, match):
    store = Store(tmp_path)
    path = finish(store)
    edit(store, format=number, package_version=version)
    partial = tmp_path / "partial" / STAGE.name
    path.rename(partial)  # it died before the rename
    before = {p.name: p.read_bytes() for p in partial.iterdir()}
    with pytest.raises(StoreError, match=match), store.work(STAGE):
        raise AssertionError("no work is to be done")
    assert {p.name: p.read_bytes() for p in partial.iterdir()} == before


def test_a_manifest_of_another_stage(tmp_path):
    store = Store(tmp_path)
    finish(store)
    edit(store, key="0" * 16)
    with pytest.raises(StoreError, match="another stage"):
        store.manifest(STAGE)


def test_a_missing_manifest(tmp_path):
    with pytest.raises(StoreError, match="missing"):
        Store(tmp_path).manifest(STAGE)


def test_other_errors_of_the_work_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), Store(tmp_path).work(STAGE) as directory:
        (directory / "nowhere" / "x").write_text("")


def test_a_full_file_system(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True
    )
    if made.returncode:
        pytest.skip("no right to mount")
    try:
        store = Store(mount)
        with pytest.raises(StoreError, match="no space left"), store.work(STAGE) as directory:
            files.write_atomically(directory / "big", b"x" * 10**6)
        assert not store.has(STAGE)
        assert not list((mount / "partial" / STAGE.name).iterdir())
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_root_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"--store: .*cannot be written"):
        Store(tmp_path / "file" / "store")


def test_another_that_probes_the_root_at_the_same_time(tmp_path, monkeypatch):
    # Threads, and containers that share a store, may have the same process id.
    touch = Path.touch

    def touch_and_lose(path, *args, **kwargs):
        touch(path, *args, **kwargs)
        os.unlink(path)

    monkeypatch.setattr(Path, "touch", touch_and_lose)
    Store(tmp_path)


def test_a_stage_is_busy_while_it_is_worked_on(tmp_path):
    store, other = Store(tmp_path), Stage("init", "another", {"seed": 4})
    assert not store.busy(STAGE)
    with store.work(STAGE):
        assert store.busy(STAGE)
        assert Store(tmp_path, read_only=True).busy(STAGE)
        assert not store.busy(other)
    assert not store.busy(STAGE)


def test_looking_creates_nothing(tmp_path):
    store = Store(tmp_path / "new", read_only=True)
    assert not store.has(STAGE)
    assert not (tmp_path / "new").exists()


def _contend(root, name, barrier, log):
    barrier.wait(PATIENCE)
    store = Store(root)
    with store.work(STAGE) as directory:
        if directory is None:
            return
        with open(log, "a") as file:
            file.write(f"{name}\n")
        time.sleep(0.2)
        (directory / "data.txt").write_text(name)


@pytest.mark.parametrize("way", ["threads", "processes"])
def test_two_that_want_the_same_stage_do_it_once(tmp_path, way):
    log = tmp_path / "log"
    if way == "threads":
        barrier, make = threading.Barrier(4), threading.Thread
    else:
        # Not "fork": other tests of this process may have started TensorFlow's threads.
        context = multiprocessing.get_context("spawn")
        barrier, make = context.Barrier(3), context.Process
    workers = [
        make(target=_contend, args=(tmp_path / "store", str(i), barrier, log))
        for i in range(barrier.parties)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    done = log.read_text().split()
    assert len(done) == 1
    store = Store(tmp_path / "store")
    assert (store.path(STAGE) / "data.txt").read_text() == done[0]


# The local executor -----------------------------------------------------------


class Worker:
    def __init__(self, store, broken=()):
        self.store, self.broken, self.done = store, broken, []

    def perform(self, stage, directory):
        for parent in stage.parents.values():
            assert self.store.has(parent)
        if stage.label in self.broken:
            raise StoreError(f"{stage.label} broke")
        self.done.append(stage.label)


def graph():
    root = Stage("init", "root", {})
    mid = Stage("train", "mid", {}, {"start": root})
    return root, mid, Stage("prune", "tip", {}, {"trained": mid})


def test_stages_run_once_and_in_order(tmp_path):
    root, mid, tip = graph()
    said = []
    worker = Worker(Store(tmp_path))
    cached = run_stages([tip, mid], worker, said.append)
    assert worker.done == ["root", "mid", "tip"]
    assert said == ["[1/3] root", "[2/3] mid", "[3/3] tip"]
    assert cached == dict.fromkeys((root.key, mid.key, tip.key), False)
    again = Worker(Store(tmp_path))
    said.clear()
    assert run_stages([tip], again, said.append) == dict.fromkeys(cached, True)
    assert (again.done, said) == ([], [])


def test_after_a_failure_only_the_rest_is_done(tmp_path):
    root, mid, tip = graph()
    with pytest.raises(StoreError, match="tip broke"):
        run_stages([tip], Worker(Store(tmp_path), broken=("tip",)), lambda line: None)
    again = Worker(Store(tmp_path))
    cached = run_stages([tip], again, lambda line: None)
    assert again.done == ["tip"]
    assert cached == {root.key: True, mid.key: True, tip.key: False}
