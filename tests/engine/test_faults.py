"""Full and failing disks, and crashes, at every point where something is written."""

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Disk
from toys import TEN, Worker, notes, ten, values

from tf_lottery import weights
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.store import Store
from tf_lottery.errors import StoreError
from tf_lottery.main import main

MINUTE = [
    "--width_multiplier=0.05", "--train_examples=64", "--test_examples=20", "--epochs=2",
    "--batch_size=16", "--objective=natural", "--search_objective=natural", "--attacks=",
    "--compare=dense,boosting", "--deterministic",
]  # fmt: skip


def raising(number):
    def fail():
        raise OSError(number, os.strerror(number))

    return fail


def crash():
    os._exit(9)


def run_toys(root):
    store, targets = Store(root / "store"), ten()
    run_stages(targets, Worker(store, root.parent / f"{root.name}-record"), lambda line: None)
    return values(store, targets)


def leavings(root):
    return [p.name for p in root.rglob("*") if p.name.endswith((".tmp", ".partial"))]


def paths(root):
    """All that lies below it, by name."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


def points(root):
    """How often an undisturbed run writes."""
    with Disk(root).watched() as disk:
        assert run_toys(root) == TEN
    assert disk.count > 80
    return disk.count


@pytest.mark.parametrize("number", [errno.ENOSPC, pytest.param(errno.EIO, marks=pytest.mark.slow)])
def test_a_disk_that_fails_at_any_point(tmp_path, number):
    for n in range(1, points(tmp_path / "whole") + 1):
        root = tmp_path / str(n)
        disk = Disk(root, n, raising(number), ever_after=number == errno.ENOSPC)
        with disk.watched(), pytest.raises(StoreError) as caught:
            run_toys(root)
        assert disk.count >= n
        message = str(caught.value)
        assert message.startswith("--store: "), n
        assert str(root / "store") in message
        assert "\n" not in message
        assert leavings(root) == [], n
        assert run_toys(root) == TEN, n
        assert leavings(root) == [], n


def test_a_crash_at_any_point(tmp_path):
    for n in range(1, points(tmp_path / "whole") + 1):
        root = tmp_path / str(n)
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException), Disk(root, n, crash).watched():
                run_toys(root)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, n
        assert run_toys(root) == TEN, n
        # Only the stage at work is done again, and nothing half written is in the store.
        assert len(notes(f"{root}-record", "begin")) <= len(TEN) + 1
        assert leavings(root) == [], n
        assert {p.name for p in (root / "store").glob("*/*")} >= {"manifest.json", "value.json"}
        assert not [p for p in (root / "store" / "partial").iterdir() if p.is_dir()]


def run(*arguments):
    """Exit code and standard error of a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return code, err.getvalue()


def train(workdir):
    return run(*MINUTE, f"--workdir={workdir}")


def numbers(workdir):
    """What two equal runs agree in: all but times and places."""
    document = json.loads((workdir / "results.json").read_text())
    names = ("name", "natural", "density", "epochs", "best_epoch", "train_flops", "search_flops")
    return [{name: row[name] for name in names} for row in document["rows"]]


def fails_and_goes_on(command, outcome, root, n, number, whole):
    """The ``n``-th operation below ``root`` fails; the next command ends like an undisturbed one.

    Args:
      command: runs it with ``root`` as its directory; exit code and standard error.
      outcome: what it left there.
      number: of the operating system's error.
      whole: outcome of an undisturbed one.
    """
    disk = Disk(root, n, raising(number), ever_after=number == errno.ENOSPC)
    with disk.watched():
        code, err = command(root)
    if disk.count < n:  # the order of TensorFlow's own files may differ by some
        assert code == 0
        return
    assert code == 1, (n, err)
    assert len(err.splitlines()) == 1, (n, err)
    assert "run the same command again" in err, (n, err)
    assert leavings(root) == [], n
    code, err = command(root)
    assert code == 0, (n, err)
    assert leavings(root) == [], n
    assert outcome(root) == whole, n


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "w"
    with Disk(root).watched() as disk:
        assert train(root)[0] == 0
    return disk.count, numbers(root), root


@pytest.mark.parametrize(
    ("part", "number"),
    [
        pytest.param(0.02, errno.ENOSPC, marks=pytest.mark.slow),
        (0.5, errno.EIO),
        pytest.param(0.98, errno.ENOSPC, marks=pytest.mark.slow),
    ],
)
def test_a_command_line_on_a_failing_disk(tmp_path, undisturbed, part, number):
    count, whole, _ = undisturbed
    n = max(1, round(part * count))
    fails_and_goes_on(train, numbers, tmp_path / "w", n, number, whole)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_command_line_on_a_disk_that_fails_at_any_point(tmp_path, undisturbed, number):
    count, whole, _ = undisturbed
    for n in range(1, count + 1):
        root = Path(tmp_path / str(n))
        fails_and_goes_on(train, numbers, root, n, number, whole)
        shutil.rmtree(root)
    print("points", count)


class Evaluating:
    """``--mode=evaluate`` of a trained network."""

    def __init__(self, trained):
        self.model = trained / "saved_model" / "boosting"

    def prepare(self, root):
        pass

    def __call__(self, root):
        return run(
            "--mode=evaluate", f"--model_path={self.model}", f"--evaluation_dir={root}",
            "--test_examples=20", "--attacks=fgsm,pgd2", "--eps=0.02", "--analysis_images=0",
            "--deterministic",
        )  # fmt: skip

    def outcome(self, root):
        models = json.loads((root / "evaluation.json").read_text())["models"]
        names = ("name", "natural", "robust", "worst")
        examples = weights.digest(weights.read_arrays(root / "boosting" / "examples.npz"))
        return [{name: model[name] for name in names} for model in models], examples, paths(root)


class Exporting:
    """``--mode=export`` of a trained network."""

    def __init__(self, trained):
        (self.stage,) = (
            path.parent
            for path in (trained / "stages").glob("train-*/manifest.json")
            if json.loads(path.read_text())["label"] == "train: boosting"
        )

    def prepare(self, root):
        pass

    def __call__(self, root):
        return run(
            "--mode=export", f"--model_path={self.stage}", f"--export_dir={root}/e",
            "--formats=saved_model,tflite",
        )  # fmt: skip

    def outcome(self, root):
        document = json.loads((root / "e" / "export.json").read_text())
        names = ("label", "file", "natural", "robust", "weights", "nonzero_weights")
        return [{name: row[name] for name in names} for row in document["rows"]], paths(root)


class Reporting:
    """``--mode=report`` of a run whose report was removed."""

    def __init__(self, trained):
        self.trained = trained

    def prepare(self, root):
        shutil.copytree(self.trained, root)
        (root / "report.html").unlink()

    def __call__(self, root):
        return run("--mode=report", f"--workdir={root}")

    def outcome(self, root):
        # The commands at its end say where it lies.
        text = (root / "report.md").read_text().partition("    tensorboard ")[0]
        return numbers(root), paths(root), text


@pytest.fixture(scope="module", params=[Evaluating, Exporting, Reporting])
def other(request, undisturbed, tmp_path_factory):
    """Another command, how often it writes, and what it leaves."""
    command, root = request.param(undisturbed[2]), tmp_path_factory.mktemp("other") / "w"
    command.prepare(root)
    with Disk(root).watched() as disk:
        code, err = command(root)
    assert code == 0, err
    assert disk.count > 10
    return command, disk.count, command.outcome(root)


@pytest.mark.parametrize(("part", "number"), [(0.1, errno.EIO), (0.9, errno.ENOSPC)])
def test_another_command_on_a_failing_disk(tmp_path, other, part, number):
    command, count, whole = other
    root, n = tmp_path / "w", round(part * count)
    command.prepare(root)
    fails_and_goes_on(command, command.outcome, root, n, number, whole)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_another_command_on_a_disk_that_fails_at_any_point(tmp_path, other, number):
    command, count, whole = other
    for n in range(1, count + 1):
        root = tmp_path / str(n)
        command.prepare(root)
        fails_and_goes_on(command, command.outcome, root, n, number, whole)
        shutil.rmtree(root)
    print("points", count)


# Runs the command on a disk of a few kB, then again when it has been made larger.
SMALL_DISK = """
mount -t tmpfs -o size="$1"k tmpfs "$2" || exit 99
root="$2"; shift 2
"$@"; first=$?
mount -o remount,size=200m "$root" || exit 98
echo again >&2
"$@"; second=$?
echo "codes $first $second" >&2
cp "$root/w/results.json" "$COPY"
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128, 256, 512, 768, 1024, 1536, 2048])
def test_a_command_line_on_a_file_system_that_is_full(tmp_path, undisturbed, size):
    # TensorFlow's C++ part writes checkpoints, SavedModels and TensorBoard's events here.
    disk = tmp_path / "disk"
    disk.mkdir()
    run = [sys.executable, "-m", "tf_lottery.main", *MINUTE, f"--workdir={disk}/w"]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", str(size), str(disk), *run],
        capture_output=True,
        text=True,
        timeout=590,
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parents[2]), "COPY": str(tmp_path / "results.json")},
    )
    if "codes" not in done.stderr:
        pytest.skip(f"no right to mount: {done.stderr}")
    first, again = done.stderr.rsplit("\nagain\n" if "\nagain\n" in done.stderr else "again\n", 1)
    assert "codes 1 0" in again or "codes 0 0" in again, done.stderr
    if "codes 1" in again:
        assert len(first.splitlines()) == 1, first
        assert "run the same command again" in first
    assert numbers(tmp_path) == undisturbed[1]
