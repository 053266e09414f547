"""Work grows with the number of stages and no faster; counted, not timed."""

import importlib.util
import json
import pickle
import sys
import uuid
from pathlib import Path

import pytest
from toys import toy

import tf_lottery
from tf_lottery.engine import remote_store
from tf_lottery.engine.order import Schedule
from tf_lottery.engine.processes import run_parallel
from tf_lottery.engine.remote_store import RemoteStore
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.stage import in_order
from tf_lottery.engine.store import Store
from tf_lottery.errors import StoreError
from tf_lottery.keras import tf
from tf_lottery.lottery import plan as planning
from tf_lottery.lottery.plan import Speed, plan, plan_text
from tf_lottery.lottery.work import Workshop
from tf_lottery.options import command as flags
from tf_lottery.studies.study import Study
from tf_lottery.study_cli import make_design
from tf_lottery.tickets import NetworkSpec


def silent(line):
    del line


class Idle:
    """A worker for which there is nothing to do."""

    def __init__(self, store):
        self.store = store

    def perform(self, stage, directory):
        raise AssertionError(f"{stage.label} was finished")


def replicates(count):
    """As many times: a start, two trainings of it, four ends of each; 11 stages."""
    targets = []
    for seed in range(count):
        start = toy(f"{seed}", 10 * seed)
        trained = [toy(f"{seed}-{i}", 10 * seed + i, start) for i in (1, 2)]
        targets += [toy(f"{t.label}-{i}", i, t) for t in trained for i in range(4)]
    return targets


def chain(length):
    """One stage after the other, as in a search of many rounds."""
    stage = toy("0", 0)
    for i in range(1, length):
        stage = toy(str(i), i, stage)
    return stage


def finish(store, targets):
    stages = in_order(targets)
    for stage in stages:
        with store.work(stage) as directory:
            (directory / "ledger.json").write_text('{"seconds": 1.5, "flops": 8}')
    return stages


def calls(function):
    """How many calls, of Python and of C, a function makes in all."""
    count = 0

    def see(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def go_through(targets, store, slots=4):
    schedule = Schedule(targets, store, silent)
    while schedule.left:
        running = []
        while len(running) < slots and (stage := schedule.take()):
            running.append(stage)
        for stage in running:
            schedule.finished(stage)


def test_scheduling_four_times_the_stages_is_four_times_the_work(tmp_path):
    store = Store(tmp_path / "none", read_only=True)
    few, many = (calls(lambda n=n: go_through(replicates(n), store)) for n in (25, 100))
    assert many < 4.5 * few
    few, many = (calls(lambda n=n: go_through([chain(n)], store)) for n in (275, 1100))
    assert many < 4.5 * few


def test_so_is_finding_out_that_all_is_finished(tmp_path):
    works = []
    for count in (4, 16):
        store, targets = Store(tmp_path / str(count)), replicates(count)
        assert len(finish(store, targets)) == 11 * count
        works.append(calls(lambda s=store, t=targets: run_stages(t, Idle(s), silent)))
    assert works[1] < 4.5 * works[0]


def test_a_chain_may_be_longer_than_a_recursion(tmp_path):
    tip = chain(3 * sys.getrecursionlimit())
    stages = in_order([tip])
    assert [stage.label for stage in stages] == [str(i) for i in range(len(stages))]
    copy = pickle.loads(pickle.dumps(tip))
    assert [stage.key for stage in in_order([copy])] == [stage.key for stage in stages]
    go_through([tip], Store(tmp_path, read_only=True))


@pytest.fixture
def read(monkeypatch):
    """Names of the stages whose manifest was read, one for each time."""
    names = []
    plain = Store.manifest

    def manifest(store, stage):
        names.append(stage.name)
        return plain(store, stage)

    monkeypatch.setattr(Store, "manifest", manifest)
    return names


def test_each_manifest_is_read_once_to_find_that_nothing_is_left(tmp_path, read):
    store, targets = Store(tmp_path), replicates(3)
    names = [stage.name for stage in finish(store, targets)]
    run_stages(targets, Idle(store), silent)
    assert read == names
    read.clear()
    run_parallel(targets, store, Idle, 8)
    assert read == names
    read.clear()
    assert all(item.cached for item in plan(targets, Workshop(store)))
    assert read == names


FIG6 = (
    "--experiment=fig6", "--dataset=digits", "--train_examples=64", "--validation_examples=30",
    "--test_examples=20", "--width_multiplier=0.05", "--batch_size=16", "--epochs=1",
    "--search_epochs=1", "--sweep_widths=1,2,3,4,5", "--sweep_depths=10",
)  # fmt: skip


def test_a_plan_builds_each_network_once_however_many_replicates(tmp_path, monkeypatch):
    built = []
    plain = NetworkSpec.build

    def build(spec, *arguments):
        built.append(spec)
        return plain(spec, *arguments)

    monkeypatch.setattr(NetworkSpec, "build", build)
    monkeypatch.setattr(planning, "measure_speed", lambda *about: Speed(1e9, 1.0))
    study = Study(make_design(flags.parse([*FIG6, "--replicates=3"])))
    planned = plan(study.targets, Workshop(Store(tmp_path, read_only=True)))
    assert len({item.stage.runtime["config"].model for item in planned}) == 5
    assert len(built) == len(set(built)) == 5
    assert plan_text(planned, study.baselines).count("\n") > 3 * 5 * 4


@pytest.fixture(scope="module")
def benchmark_module():
    path = Path(tf_lottery.__file__).parents[1] / "benchmarks" / "store.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_the_store", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_finishes_every_replicate_with_the_files_of_the_first(
    tmp_path, benchmark_module
):
    study, arguments = benchmark_module.make_study(benchmark_module.TABLE3, 30)
    assert arguments[-1] == "--replicates=3"  # of 13 stages each
    store = Store(tmp_path)
    first, *others = benchmark_module.by_seed(study)
    assert [len(stages) for stages in others] == [len(first)] * 2 == [13] * 2
    assert len({stage.key for stages in (first, *others) for stage in stages}) == 39
    for number, stage in enumerate(first):
        with store.work(stage) as directory:
            (directory / "deep").mkdir()
            (directory / "deep" / "result").write_text(str(number))
            (directory / "ledger.json").write_text(json.dumps({"flops": number}))
    for stages in others:
        for source, stage in zip(first, stages, strict=True):
            benchmark_module.copy(store, source, stage)
    assert all(run_stages(study.targets, Idle(store), silent).values())
    for stages in others:
        for number, stage in enumerate(stages):
            assert (stage.kind, stage.label[:5]) == (first[number].kind, first[number].label[:5])
            assert (store.path(stage) / "deep" / "result").read_text() == str(number)
            manifest = store.manifest(stage)
            assert manifest["ledger"] == {"flops": number}
            sizes = {path: len(text) for path, text in (
                ("deep/result", str(number)), ("ledger.json", json.dumps({"flops": number})),
            )}  # fmt: skip
            assert manifest["files"] == sizes
    nothing = Store(tmp_path / "empty", read_only=True)
    assert benchmark_module.go_through(Schedule(study.targets, nothing, silent)) == 39


# Behind a URL -----------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """What was asked of the file system: (function, path) each time."""
    seen = []
    plain = remote_store._gfile()

    class Spy:
        def __getattr__(self, name):
            def call(path, *arguments, **options):
                seen.append((name, path))
                return getattr(plain, name)(path, *arguments, **options)

            return getattr(plain, name) if name == "get_registered_schemes" else call

    monkeypatch.setattr(remote_store, "_gfile", Spy)
    return seen


@pytest.fixture(params=["ram://{}/a[b]*c", "file://{}/a[b]*c"])
def url(request, tmp_path):
    """With what a pattern would take for its own."""
    return request.param.format(uuid.uuid4().hex if "ram" in request.param else tmp_path)


@pytest.fixture
def many(monkeypatch):
    """Stages that count as many."""
    monkeypatch.setattr(remote_store, "_MANY", 20)
    return replicates(2)


def test_many_stages_behind_a_url_are_one_listing(url, tmp_path, asked, many):
    targets = many
    missing = targets[::4]
    here = RemoteStore(url, tmp_path / "here")
    made = [s for s in in_order(targets) if s not in missing]
    finish(here, made)
    tf.io.gfile.makedirs(f"{url}/{missing[0].name}/abc")  # of an upload that goes on
    there = RemoteStore(url, tmp_path / "there", read_only=True)
    asked.clear()
    schedule = Schedule(targets, there, silent)
    assert schedule.found == {s.key: s not in missing for s in in_order(targets)}
    kinds = [name for name, _ in asked]
    assert kinds.count("glob") == 1
    assert kinds.count("GFile") == len(made)
    assert len(kinds) == 1 + len(made)
    asked.clear()
    assert [there.manifest(stage)["key"] for stage in made] == [stage.key for stage in made]
    assert all(map(there.has, made))
    assert asked == []


def test_few_stages_behind_a_url_are_asked_for_themselves(url, tmp_path, asked):
    # The listing of a store that many share may be longer than a few questions.
    targets = replicates(2)
    store = RemoteStore(url, tmp_path / "here", read_only=True)
    assert store.finished(in_order(targets)) == set()
    assert {name for name, _ in asked} == {"exists"}
    assert len(asked) == 22


def test_a_damaged_manifest_among_many_is_told(url, tmp_path, many):
    stages = finish(RemoteStore(url, tmp_path / "here"), many)
    with tf.io.gfile.GFile(f"{url}/{stages[17].name}/manifest.json", "w") as file:
        file.write("{")
    with pytest.raises(StoreError, match=f"{stages[17].key}.*damaged"):
        Schedule(many, RemoteStore(url, tmp_path / "there"), silent)


def test_manifests_are_not_sent_to_worker_processes(url, tmp_path, many):
    finish(RemoteStore(url, tmp_path / "here"), many)
    store = RemoteStore(url, tmp_path / "there")
    before = len(pickle.dumps(store))
    Schedule(many, store, silent)
    assert len(pickle.dumps(store)) < before + 40 * len(in_order(many))  # a key is 16 digits
    copy = pickle.loads(pickle.dumps(store))
    assert copy.manifest(many[0]) == store.manifest(many[0])
