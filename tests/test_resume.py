"""Runs that are killed, and runs in a directory where another one was."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tf_lottery import weights
from tf_lottery.main import main
from tf_lottery.training import checkpoints

SMALL = [
    "--width_multiplier=0.125",
    "--train_examples=512",
    "--test_examples=100",
    "--epochs=4",
    "--search_epochs=4",
    "--eps=0.15",
    "--steps=2",
    "--attacks=fgsm",
    "--validation_attack=pgd2",
    "--compare=boosting",
    "--deterministic",
    "--batch_size=16",
]


MINUTE = [
    "--width_multiplier=0.05",
    "--train_examples=64",
    "--test_examples=20",
    "--epochs=2",
    "--batch_size=16",
    "--objective=natural",
    "--search_objective=natural",
    "--attacks=",
    "--compare=dense",
]


def run(*arguments):
    """Exit code and standard output of a command line in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*arguments])
    return code, out.getvalue()


def start(workdir, *flags):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-m", "tf_lottery.main", *flags, f"--workdir={workdir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # Whoever runs these tests in the background ignores Ctrl-C; this process does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(workdir, *flags):
    """Runs to the end; seconds it took."""
    began = time.monotonic()
    process = start(workdir, *flags)
    out, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, out + complaints
    return time.monotonic() - began


def kill_after(seconds, process):
    """Whether the process was killed then; it may have ended before."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return True
    return False


TIMED = ("seconds", "command", "machine", "cached", "document_digest")


def without_times(value, words=TIMED):
    """JSON without what a clock or a path says: the entries with one of ``words`` in the name."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(word in k for word in words)}
        return {k: without_times(v, words) for k, v in kept.items()}
    return [without_times(item, words) for item in value] if isinstance(value, list) else value


def contents(workdir):
    """Everything a run left that has to be the same, by name."""
    found = {"results.json": without_times(json.loads((workdir / "results.json").read_text()))}
    for path in sorted((workdir / "stages").rglob("*")):
        name = str(path.relative_to(workdir))
        if path.suffix == ".npz":
            found[name] = weights.digest(weights.read_arrays(path))
        elif path.name == "history.json":
            found[name] = without_times(json.loads(path.read_text()))
        elif path.name.startswith("variables.data"):
            found[name] = path.read_bytes()
    for path in sorted((workdir / "tickets").rglob("masks.npz")):
        found[str(path.relative_to(workdir))] = path.read_bytes()
    return found


def soak(tmp_path, kills, seed, *flags):
    """A run is killed so many times at random moments; then it ends like another one."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    length = finish(whole, *flags)
    choose, done = random.Random(seed), 0
    while done < kills:
        if kill_after(choose.uniform(0.3, 1.0) * length, start(killed, *flags)):
            done += 1
        else:  # ended before: the machine was busier when the length was taken
            shutil.rmtree(killed)
            length, done = 0.8 * length, 0
    finish(killed, *flags)
    assert contents(killed) == contents(whole)
    # Nothing of the interrupted work is left.
    assert not [p for p in (killed / "stages" / "partial").iterdir() if p.is_dir()]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_thirty_times_ends_like_an_uninterrupted_one(tmp_path):
    flags = [*SMALL, "--checkpoint_minutes=0.002"]
    flags[flags.index("--epochs=4")] = "--epochs=60"
    whole, choose, killed, rounds = tmp_path / "whole", random.Random(0), 0, 0
    length = finish(whole, *flags)
    idle = finish(whole, *flags)  # the same command with nothing left to do
    while killed < 30:
        work = tmp_path / str(rounds)
        while killed < 30:
            # Soon after it began, so that it is killed often on its way.
            seconds = idle * 0.8 + choose.uniform(0, (length - idle) / 4)
            if not kill_after(seconds, start(work, *flags)):
                break
            killed += 1
        finish(work, *flags)
        assert contents(work) == contents(whole)
        rounds += 1
    print("killed", killed, "rounds", rounds, "seconds", length, idle)


def test_a_run_killed_now_and_then_ends_like_an_uninterrupted_one(tmp_path):
    flags = [*MINUTE, "--deterministic", "--compare=boosting", "--checkpoint_minutes=0.0001"]
    soak(tmp_path, 2, 0, *flags)


def everything(directory):
    """Contents of all files below a directory that say no time, by name."""
    found = {}
    # A SavedModel is written in no fixed order: its size differs by a byte or two.
    words = (*TIMED, "latency", "bytes")
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        if "tensorboard" in path.parts:
            continue
        if path.suffix == ".json":
            value = without_times(json.loads(path.read_text()), words)
        elif path.suffix == ".npz":
            value = weights.digest(weights.read_arrays(path))
        elif path.suffix == ".tflite" or path.name.startswith("variables.data"):
            value = path.read_bytes()
        else:
            value = None
        found[str(path.relative_to(directory))] = value
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", ["evaluate", "export", "report"])
def test_other_commands_that_are_killed_end_like_uninterrupted_ones(tmp_path, mode):
    finish(tmp_path / "run", *SMALL)
    model = tmp_path / "run" / "saved_model" / "boosting"
    stage = next((tmp_path / "run" / "stages").glob("train-*"))
    places = {name: tmp_path / name for name in ("whole", "killed")}
    if mode == "report":
        for place in places.values():
            shutil.copytree(tmp_path / "run", place)
            (place / "report.html").unlink()

    def command(place):
        return {
            "evaluate": [
                "--mode=evaluate", f"--model_path={model}", f"--evaluation_dir={place}/e",
                "--test_examples=300", "--attacks=fgsm,pgd20,apgd_ce", "--eps=0.15",
                "--deterministic",
            ],
            "export": [
                "--mode=export", f"--model_path={stage}", f"--export_dir={place}/e",
                "--test_examples=50", "--formats=saved_model,tflite",
            ],
            "report": ["--mode=report"],
        }[mode]  # fmt: skip

    length = finish(places["whole"], *command(places["whole"]))
    whole, choose, killed = everything(places["whole"]), random.Random(0), 0
    for _ in range(5):
        place = places["killed"]
        if kill_after(choose.uniform(0.3, 0.9) * length, start(place, *command(place))):
            killed += 1
            if not (place / "e" / "export.json").exists():  # what is there is not done again
                finish(place, *command(place))
        assert everything(place) == whole
        if mode != "report":
            shutil.rmtree(place)
    assert killed >= 3
    print("killed", killed)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_asked_to_end_it_saves_and_says_how_to_go_on(tmp_path, number, code, said):
    flags = [*MINUTE, "--epochs=1000", "--train_examples=1000"]
    process = start(tmp_path / "w", *flags)
    try:
        partial = tmp_path / "w" / "stages" / "partial"
        end = time.monotonic() + 300
        while not list(partial.glob("train-*/checkpoints/*.json")) and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == code, complaints
    assert complaints.splitlines()[-1] == (
        f"tf_lottery: {said}; the same command goes on where it was saved last"
    )
    (stage,) = (path for path in partial.glob("train-*") if path.is_dir())
    position = checkpoints.newest(stage)
    assert position.epoch >= 1
    history = json.loads((stage / "history.json").read_text())
    assert position.epoch == len(history) or position.step  # what was trained is there


def test_killed_while_a_finished_training_removes_its_checkpoints(tmp_path, monkeypatch):
    remove, interrupted = shutil.rmtree, []

    def die_half_way(path, *args, **kwargs):
        if Path(path).name != "checkpoints":
            return remove(path, *args, **kwargs)
        interrupted.append(path)
        for file in Path(path).glob("*.data-*"):  # TensorFlow still finds an index then
            file.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", die_half_way)
        assert run(*MINUTE, f"--workdir={tmp_path}/w")[0] == 130
    assert len(interrupted) == 1
    (history,) = (tmp_path / "w" / "stages" / "partial").glob("train-*/history.json")
    before = json.loads(history.read_text())
    assert run(*MINUTE, f"--workdir={tmp_path}/w")[0] == 0
    # Goes on with what was trained, the measured seconds included.
    (row,) = json.loads((tmp_path / "w" / "results.json").read_text())["rows"]
    for column in ("loss", "seconds", "validation_seconds"):
        assert [r[column] for r in row["curve"]] == [r[column] for r in before]


def test_logs_of_an_earlier_run_in_the_same_place_are_not_mixed_in(tmp_path):
    # What the message on other settings tells a user to do: remove results.json.
    work = tmp_path / "w"
    assert run(*MINUTE, f"--workdir={work}")[0] == 0
    (work / "results.json").unlink()
    assert run(*MINUTE, "--seed=1", f"--workdir={work}")[0] == 0
    assert len(list((work / "tensorboard" / "train-dense").glob("events*"))) == 1
    for stage in (work / "stages").glob("train-*"):
        with tarfile.open(stage / "tensorboard.tar") as logs:
            assert sum("events" in name for name in logs.getnames()) == 1


def test_outputs_of_kinds_no_longer_compared_do_not_stay(tmp_path):
    work = tmp_path / "w"
    assert run(*MINUTE, "--compare=dense,boosting", f"--workdir={work}")[0] == 0
    (work / "results.json").unlink()
    assert run(*MINUTE, f"--workdir={work}")[0] == 0
    assert [p.name for p in (work / "saved_model").iterdir()] == ["dense"]
    assert not (work / "tickets" / "boosting").exists()
