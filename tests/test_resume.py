"""Runs that are killed, and runs in a directory where another one was."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.main import main

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


def run(*arguments):
    """Exit code and standard output of a command line in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*arguments])
    return code, out.getvalue()


def start(workdir):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-m", "tf_lottery.main", *SMALL, f"--workdir={workdir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def kill_when(workdir, condition):
    """Starts the run and kills it as soon as the condition holds; False if it ended before."""
    process = start(workdir)
    try:
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if condition():
                process.send_signal(signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.005)
        return False
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_like_an_uninterrupted_one(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output

    def epochs_begun(search):
        # Rows of the running training, of the search or (after it) the retraining.
        finished = list((killed / "stages").glob("train-*/manifest.json"))
        if search == bool(finished):
            return 0
        running = list((killed / "stages" / "partial").glob("train-*/checkpoints/checkpoint"))
        return max(
            (len(p.read_text().split("all_model_checkpoint_paths")) for p in running), default=0
        )

    assert kill_when(killed, lambda: epochs_begun(search=True) >= 2)
    assert not (killed / "results.json").exists()
    assert kill_when(killed, lambda: epochs_begun(search=False) >= 2)
    process = start(killed)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output

    ours = json.loads((killed / "results.json").read_text())
    theirs = json.loads((whole / "results.json").read_text())
    for mine, other in zip(ours["rows"], theirs["rows"], strict=True):
        for name in ("natural", "fgsm"):
            assert mine[name] == pytest.approx(other[name], abs=1e-6)
        for name in ("density", "epochs", "best_epoch", "train_flops", "search_flops"):
            assert mine[name] == other[name]
    for label, rows in theirs["curves"].items():
        assert [row["epoch"] for row in ours["curves"][label]] == [1, 2, 3, 4]
        for mine, other in zip(ours["curves"][label], rows, strict=True):
            assert mine["loss"] == pytest.approx(other["loss"], abs=1e-6)
            assert mine["validation_robust"] == pytest.approx(other["validation_robust"], abs=1e-6)
    stages = {p.parent.name for p in (whole / "stages").glob("*/manifest.json")}
    assert stages == {p.parent.name for p in (killed / "stages").glob("*/manifest.json")}
    for stage in stages:
        for path in (whole / "stages" / stage).glob("*.npz"):
            if path.name == "examples.npz":
                continue
            mine = weights.read_arrays(killed / "stages" / stage / path.name)
            for name, value in weights.read_arrays(path).items():
                np.testing.assert_allclose(mine[name], value, atol=1e-6)
    # Nothing of the interrupted work is left.
    assert not [p for p in (killed / "stages" / "partial").iterdir() if p.is_dir()]


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
    assert json.loads((tmp_path / "w" / "results.json").read_text())["curves"]["dense"] == before


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
