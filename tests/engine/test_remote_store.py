"""A store behind a URL: what counts is whole, wherever the upload stops."""

import itertools
import json
import re
import shutil
import uuid

import pytest
from toys import TEN, maker, notes, ten, toy, values

from tf_lottery.engine.processes import run_parallel
from tf_lottery.engine.remote_store import RemoteStore, open_store
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.stage import Stage
from tf_lottery.engine.store import FORMAT, Store, seal
from tf_lottery.errors import StoreError, UsageError
from tf_lottery.keras import tf

STAGE = Stage("init", "initialise", {"seed": 3})
gfile = tf.io.gfile


@pytest.fixture(params=["ram", "file"])
def url(request, tmp_path):
    if request.param == "file":
        return f"file://{tmp_path}/remote"
    return f"ram://{uuid.uuid4().hex}/store"  # the file system lasts as long as the process


@pytest.fixture
def machine(tmp_path, url):
    """Opens the store as a machine would that has its own cache."""
    return lambda name: open_store(url, tmp_path / name)


def finish(store, stage=STAGE, content="hello"):
    with store.work(stage) as directory:
        (directory / "data.txt").write_text(content)
        (directory / "deep" / "er").mkdir(parents=True)
        (directory / "deep" / "er" / "data.bin").write_bytes(bytes(range(256)))
        (directory / "empty").touch()
    return store.path(stage)


def everything(url):
    return sorted(
        f"{folder.removeprefix(url).strip('/')}/{name}".lstrip("/")
        for folder, _, names in gfile.walk(url)
        for name in names
    )


def refuse(monkeypatch, name, when, error=None):
    """Makes one of the file system's functions fail for some paths."""
    plain = getattr(gfile, name)

    def act(*arguments, **options):
        if when(*map(str, arguments)):
            raise error or tf.errors.PermissionDeniedError(None, None, "no\nright")
        return plain(*arguments, **options)

    monkeypatch.setattr(gfile, name, act)


def test_paths_and_urls(tmp_path, url, monkeypatch):
    assert type(open_store(tmp_path / "a")) is Store
    assert type(open_store(str(tmp_path / "b"), read_only=True)) is Store
    assert not (tmp_path / "b").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    store = open_store(url + "/")
    assert type(store) is RemoteStore
    assert store.root.parent == tmp_path / "caches" / "tf_lottery"
    assert open_store(url).root == store.root
    assert open_store(url + "/2").root != store.root
    assert everything(url) == []  # the probe is gone


def test_what_one_machine_finishes_another_has(url, machine):
    one, two = machine("one"), machine("two")
    assert not two.has(STAGE)
    home = finish(one)
    assert home == one.root / STAGE.name
    assert two.has(STAGE)
    assert two.manifest(STAGE) == one.manifest(STAGE)
    assert not (two.root / STAGE.name).exists()  # looking fetches nothing
    copy = two.path(STAGE)
    assert copy == two.root / STAGE.name
    assert (copy / "data.txt").read_text() == "hello"
    assert (copy / "deep" / "er" / "data.bin").read_bytes() == bytes(range(256))
    assert (copy / "empty").read_bytes() == b""
    assert (copy / "manifest.json").read_bytes() == (home / "manifest.json").read_bytes()
    with two.work(STAGE) as directory:
        assert directory is None
    assert [p for p in (two.root / "partial").iterdir() if p.is_dir()] == []


def stops(monkeypatch, act):
    """Calls ``act(n)`` while the n-th copy or renaming fails, until none does: n, the error."""
    for n in itertools.count(1):
        changes = itertools.count(1)
        with monkeypatch.context() as patched:
            for name in ("copy", "rename"):
                refuse(patched, name, lambda *paths, n=n, changes=changes: next(changes) == n)
            try:
                act(n)
            except StoreError as error:
                message = str(error)
            else:
                return
        assert "\n" not in message
        yield n, message


def test_an_upload_that_stops_anywhere_counts_for_nothing_and_is_taken_up(
    url, machine, monkeypatch
):
    tries = []
    for n, message in stops(monkeypatch, lambda n: finish(machine(f"one{n}"))):
        tries.append(n)
        assert re.match(r"--store: .* cannot be written \(no right\)", message)
        assert url in message
        one = machine(f"one{n}")
        assert not one.has(STAGE)
        # The work itself was complete: only the upload is repeated.
        with one.work(STAGE) as directory:
            assert directory is None
        assert (machine(f"two{n}").path(STAGE) / "data.txt").read_text() == "hello"
        gfile.rmtree(f"{url}/{STAGE.name}")
    assert len(tries) > 4  # three files, the manifest


def test_a_fetch_that_stops_anywhere_leaves_nothing_half(machine, monkeypatch):
    finish(machine("one"))
    tries = []
    for n, message in stops(monkeypatch, lambda n: machine(f"two{n}").path(STAGE)):
        tries.append(n)
        assert "cannot be read" in message
        two = machine(f"two{n}")
        assert not (two.root / STAGE.name).exists()
        assert (two.path(STAGE) / "data.txt").read_text() == "hello"
    assert len(tries) == 3


def test_work_that_stopped_goes_on_in_the_cache(machine, url):
    one = machine("one")

    def stop():
        with one.work(STAGE) as directory:
            (directory / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert everything(url) == []
    with one.work(STAGE) as directory:
        assert (directory / "half").exists()
    assert machine("two").has(STAGE)


def test_a_directory_without_manifest_is_not_finished(url, machine):
    gfile.makedirs(f"{url}/{STAGE.name}/0123")
    with gfile.GFile(f"{url}/{STAGE.name}/0123/data.txt", "w") as file:
        file.write("junk")
    one = machine("one")
    assert not one.has(STAGE)
    with pytest.raises(StoreError, match=f"{STAGE.name}/manifest.json is missing"):
        one.manifest(STAGE)
    finish(one)
    assert (machine("two").path(STAGE) / "data.txt").read_text() == "hello"


def rewrite(url, content):
    gfile.remove(f"{url}/{STAGE.name}/manifest.json")  # ram:// would append
    with gfile.GFile(f"{url}/{STAGE.name}/manifest.json", "w") as file:
        file.write(content)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("{", "damaged"),
        ({"format": FORMAT + 1, "package_version": "99"}, r"newer tf_lottery \(99\)"),
        ({"key": "0" * 16}, "another stage"),
        ({"files": None}, "damaged"),
        ({"files": {"../../escaped": 1}}, "damaged"),
        ({"files": {"/tmp/escaped": 1}}, "damaged"),
        ({"folder": ".."}, "damaged"),
        ({"files": {"data.txt": 4}}, "has 5 bytes and should have 4"),
        ({"files": {"gone.txt": 4}}, "gone.txt is missing"),
    ],
)
def test_a_manifest_that_cannot_be_right(url, machine, change, match):
    one, two = machine("one"), machine("two")
    finish(one)
    manifest = one.manifest(STAGE)
    rewrite(url, change if isinstance(change, str) else json.dumps(seal(manifest | change)))
    with pytest.raises(StoreError, match=match) as caught:
        two.path(STAGE)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (two.root / STAGE.name).exists()


def test_two_machines_that_finish_the_same_stage_do_not_mix_their_files(url, machine):
    one, two = machine("one"), machine("two")
    with one.work(STAGE) as mine, two.work(STAGE) as theirs:
        (mine / "data.txt").write_text("first")
        (theirs / "data.txt").write_text("second")
    # The inner one ended first and counts, for the other machine too.
    for store in (one, two, machine("three")):
        assert (store.path(STAGE) / "data.txt").read_text() == "second"
    assert len(everything(url)) == 2  # nothing of the other is left


def test_what_vanished_from_the_url_is_put_back_from_the_cache(url, machine):
    finish(machine("one"))
    gfile.rmtree(f"{url}/{STAGE.name}")
    again = machine("one")  # as another process would see it
    assert not again.has(STAGE)
    with again.work(STAGE) as directory:
        assert directory is None
    assert (machine("two").path(STAGE) / "data.txt").read_text() == "hello"


def test_a_store_copied_to_the_url_by_hand(url, machine, tmp_path):
    home = finish(Store(tmp_path / "local"))
    one = machine("one")
    for path in home.rglob("*"):
        if path.is_file():
            target = f"{url}/{STAGE.name}/{path.relative_to(home)}"
            gfile.makedirs(target.rpartition("/")[0])
            gfile.copy(str(path), target)
    assert (one.path(STAGE) / "deep" / "er" / "data.bin").read_bytes() == bytes(range(256))


@pytest.mark.parametrize("url", ["nothing://bucket/store", "s4://x", "ram://", "://x"])
def test_a_url_without_file_system(url, tmp_path):
    with pytest.raises(UsageError, match=r"--store: got .*gs://") as caught:
        open_store(url, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_or_read(url, machine, monkeypatch, tmp_path):
    one = machine("one")
    refuse(monkeypatch, "makedirs", lambda path: path == url)
    refuse(monkeypatch, "exists", lambda path: path.startswith(url))
    with pytest.raises(StoreError, match=r"--store: .* cannot be written \(no right\)"):
        machine("two")
    with pytest.raises(StoreError, match=r"--store: .* cannot be read \(no right\)"):
        one.has(STAGE)
    open_store(url, tmp_path / "three", read_only=True)
    assert not (tmp_path / "three").exists()


def test_a_file_in_the_place_of_the_store(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"--store: file://.*cannot be written"):
        open_store(f"file://{tmp_path}/file/store", tmp_path / "cache")


def test_the_serial_executor_on_a_url(machine, tmp_path):
    one, record = machine("one"), tmp_path / "record"
    run_stages(ten(), maker(record)(one), lambda line: None)
    assert values(one, ten()) == TEN
    # Another machine goes on where the first was stopped, without its cache.
    tip = toy("tip", 1, *ten())
    two = machine("two")
    shutil.rmtree(one.root)
    run_stages([tip], maker(record)(two), lambda line: None)
    assert notes(record, "end") == [*notes(record, "end")[:10], "tip"]
    assert values(two, [tip])["tip"] == 1 + 3 * TEN["j"]


def test_a_worker_process_on_a_url(tmp_path):
    store = open_store(f"file://{tmp_path}/remote", tmp_path / "cache")
    targets = ten()
    run_parallel(targets, store, maker(tmp_path / "record"), 1, lambda line: None)
    assert values(open_store(store.url, tmp_path / "other"), targets) == TEN
    assert sorted(notes(tmp_path / "record", "end")) == list(TEN)
