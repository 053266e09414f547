"""Runs that fail half-way: one line on stderr, nothing half-written."""

import errno
import subprocess

import pytest
from command_line import TINY, complaint, run_apart

from tf_lottery import files
from tf_lottery.main import main

pytestmark = pytest.mark.usefixtures("folder")


def test_a_loss_that_is_not_finite(capsys, folder):
    arguments = [*TINY, "--epochs=3", "--learning_rate=1e20", "--warmup_epochs=0", "--workdir=w"]
    line = complaint(capsys, 1, arguments)
    assert "train: dense" in line
    assert "epoch 1" in line
    assert "step " in line
    assert "nan" in line or "inf" in line
    assert not (folder / "w" / "results.json").exists()


def test_a_layer_with_no_weight_left(capsys, folder):
    arguments = [*TINY, "--compare=boosting", "--sparsity=0.9999", "--workdir=w"]
    line = complaint(capsys, 1, arguments)
    assert "conv1" in line
    assert "--sparsity" in line
    assert not (folder / "w" / "results.json").exists()
    assert not list((folder / "w" / "stages").glob("prune-*"))


def test_no_space_left(capsys, monkeypatch, folder):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_atomically", full)
    line = complaint(capsys, 1, [*TINY, "--workdir=w"])
    assert "no space left" in line
    assert not (folder / "w" / "results.json").exists()
    assert not list((folder / "w").rglob("manifest.json"))


@pytest.mark.parametrize("size", ["16k", "200k"])
def test_a_full_work_directory(folder, size):
    # 16k is full at the first weights, 200k while TensorFlow itself writes.
    mount = folder / "small"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(mount)], capture_output=True
    )
    if made.returncode:
        pytest.skip("no right to mount")
    try:
        done = run_apart([*TINY, "--width_multiplier=0.2", f"--workdir={mount}/w"])
        assert done.returncode == 1
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert "space" in lines[0]
        assert "unexpected" not in lines[0]
        assert not (mount / "w" / "results.json").exists()
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_when_the_results_are_written(capsys, monkeypatch, folder):
    assert main([*TINY, "--workdir=w"]) == 0
    (folder / "w" / "results.json").unlink()
    from tf_lottery.report import json_document

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json_document, "write_atomically", full)
    line = complaint(capsys, 1, [*TINY, "--workdir=w"])
    assert "space" in line
    assert not (folder / "w" / "results.json").exists()


def test_surprises_are_one_line_too(capsys, monkeypatch):
    from tf_lottery import cli as commands

    def broken(command):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setitem(commands._MODES, "run", broken)
    assert main(["--mode=run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "RuntimeError: first line second line" in line
    assert "-v" in line


def test_an_interrupt_is_no_traceback(capsys, monkeypatch):
    from tf_lottery import cli as commands

    def interrupted(command):
        raise KeyboardInterrupt

    monkeypatch.setitem(commands._MODES, "run", interrupted)
    assert main(["--mode=run"]) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert "interrupted" in line


def test_a_failed_run_of_the_process_is_one_line(folder):
    # Libraries print on their own in a fresh process; none of it may reach the user.
    done = run_apart([*TINY, "--learning_rate=1e20", "--warmup_epochs=0", "--workdir=w"])
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "loss is" in done.stderr
