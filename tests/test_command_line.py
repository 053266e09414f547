"""Bad input: one line on stderr, the right exit code, nothing half-written."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tf_lottery import files, weights
from tf_lottery.main import main

TINY = [
    "--width_multiplier=0.05",
    "--train_examples=64",
    "--validation_examples=20",
    "--test_examples=10",
    "--batch_size=16",
    "--epochs=1",
    "--objective=natural",
    "--search_objective=natural",
    "--attacks=",
    "--compare=dense",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in an empty directory of its own."""
    work = tmp_path / "here"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def complaint(capsys, code, arguments):
    """The one line that a failing command line leaves on stderr."""
    capsys.readouterr()
    assert main(arguments) == code
    text = capsys.readouterr().err
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("tf_lottery: ")
    assert "Traceback" not in text
    assert "unexpected" not in text
    return lines[0]


USAGE = [
    (["--mode=walk"], "--mode", "walk", "plan"),
    (["--nosuch=1"], "nosuch", "nknown", ""),
    (["--model=alexnet"], "--model", "alexnet", "wide_resnet"),
    (["--objective=trades"], "--objective", "trades", "pgd"),
    (["--attacks=fgsm,deepfool"], "--attacks", "'deepfool'", "pgd<N>"),
    (["--compare=dense,lucky"], "--compare", "'lucky'", "random_mask"),
    (["--score=taylor"], "--score", "taylor", "magnitude"),
    (["--scope=channel"], "--scope", "channel", "global"),
    (["--sparsity=1.0"], "--sparsity", "1.0", "[0, 1)"),
    (["--sparsity=-0.1"], "--sparsity", "-0.1", "[0, 1)"),
    (["--eps=2"], "--eps", "2.0", "[0, 1]"),
    (["--eps=-0.1"], "--eps", "-0.1", "[0, 1]"),
    (["--steps=-1"], "--steps", "-1", "1 or more"),
    (["--epochs=-1"], "--epochs", "-1", "1 or more"),
    (["--epochs=0"], "--epochs", "0", "1 or more"),
    (["--search_epochs=-2"], "--search_epochs", "-2", "1 or more"),
    (["--epochs=many"], "--epochs", "many", ""),
    (["--model=vgg", "--depth=9"], "--depth", "9", "7, 8, 11, 16"),
    (["--width_multiplier=0"], "--width_multiplier", "0", "more than 0"),
    (["--batch_size=-4"], "--batch_size", "-4", "more than 0"),
    (["--seed=-1"], "--seed", "-1", "0 or more"),
    (["--dtype_policy=float16"], "--dtype_policy", "float16", "mixed_bfloat16"),
    (["--flagfile=missing.flags"], "--flagfile", "missing.flags", ""),
    (["extra"], "extra", "", ""),
    (["--dataset=No Such Set"], "--dataset", "No Such Set", "cifar10"),
    (["--mode=evaluate"], "--mode=evaluate", "--model_path", "--ticket"),
    (["--mode=export"], "--mode=export", "--model_path", "--ticket"),
    (["--mode=inspect"], "--mode=inspect", "--ticket", ""),
    (["--mode=evaluate", "--model_path=missing"], "--model_path", "missing", "existing"),
    (["--mode=evaluate", "--model_path=a", "--ticket=b"], "--model_path", "'a'", "existing"),
    (["--mode=export", "--model_path=a", "--ticket=b"], "--mode=export", "a and b", ""),
    (["--mode=export", "--model_path=a,b"], "--mode=export", "a and b", ""),
    (
        ["--mode=evaluate", "--model_path=a", "--transfer_attack=x"],
        "--transfer_attack",
        "'x'",
        "pgd<N>",
    ),
    (["--attacks=cw_l2"], "--attacks", "linf", "--eval_norm=l2"),
    (["--eval_norm=l1"], "--eval_norm", "l1", "l2"),
    (["--eval_step_size=0"], "--eval_step_size", "0", "more than 0"),
    (["--eval_norm=l2", "--eval_eps=-1"], "--eval_eps", "-1", "0 or more"),
    (["--mode=evaluate", "--model_path=.", "--analysis_images=-1"], "--analysis_images", "-1", "0"),
    (["--mode=evaluate", "--model_path=.", "--eval_batch_size=-1"], "--eval_batch_size", "-1", "0"),
    (["--devices=2"], "--devices", "", "--distribute"),
    (["--distribute=mirrored", "--devices=-1"], "--devices", "-1", "0 or more"),
    (["--distribute=mirrored", "--mode=evaluate"], "--distribute", "evaluate", "--mode=run"),
    (["--distribute=multiworker"], "--distribute=multiworker", "TF_CONFIG", "HOST:PORT"),
]


@pytest.mark.parametrize(("arguments", "flag", "got", "allowed"), USAGE, ids=lambda v: str(v)[:40])
def test_usage_errors(capsys, folder, arguments, flag, got, allowed):
    line = complaint(capsys, 2, arguments)
    for part in (flag, got, allowed):
        assert part in line
    assert list(folder.iterdir()) == []


NEED_DATA = [
    (["--dataset=imagenot"], 2, "--dataset", "'imagenot'"),
    (["--dataset=cifra10"], 2, "--dataset", "cifar10"),
    (["--validation_examples=5000"], 2, "--validation_examples", "5000"),
    (["--train_examples=5000"], 2, "--train_examples", "5000"),
    (["--test_examples=5000"], 2, "--test_examples", "5000"),
    (["--train_examples=30", "--batch_size=31"], 2, "--batch_size", "31"),
]


@pytest.mark.parametrize("mode", ["run", "plan"])
@pytest.mark.parametrize(("arguments", "code", "flag", "got"), NEED_DATA, ids=lambda v: str(v)[:40])
def test_errors_that_need_the_data_leave_nothing_behind(
    capsys, folder, arguments, code, flag, got, mode
):
    line = complaint(capsys, code, [f"--mode={mode}", *arguments, "--workdir=w/deep"])
    assert flag in line
    assert got in line
    assert list(folder.iterdir()) == []


def test_a_data_dir_without_the_set(capsys, folder, monkeypatch):
    # No network: the attempt to download has to fail at once, whatever this machine has.
    import socket

    def offline(*args, **kwargs):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", offline)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    (folder / "empty").mkdir()
    line = complaint(capsys, 1, ["--dataset=cifar10", "--data_dir=empty", "--workdir=w"])
    assert "--dataset=cifar10" in line
    assert "empty" in line
    assert [path.name for path in folder.iterdir()] == ["empty"]
    assert list((folder / "empty").iterdir()) == []


@pytest.mark.parametrize("text", ["eps=0.1\n", "--nosuch=1\n", "--eps\n", "--sparsity=3\n"])
def test_a_flagfile_with_a_bad_line(capsys, folder, text):
    (folder / "bad.flags").write_text(f"# a comment\n--epochs=3\n{text}--seed=3\n")
    line = complaint(capsys, 2, ["--flagfile=bad.flags"])
    assert text.split("=")[0].strip().lstrip("-") in line
    assert [path.name for path in folder.iterdir()] == ["bad.flags"]


@pytest.mark.parametrize("flag", ["workdir", "store"])
def test_a_place_that_cannot_be_written(capsys, folder, flag):
    (folder / "file").write_text("kept")
    line = complaint(capsys, 1, [f"--{flag}=file/inside"])
    assert f"--{flag}" in line
    assert "file/inside" in line
    assert (folder / "file").read_text() == "kept"
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_a_work_directory_that_is_a_file(capsys, folder):
    (folder / "w").touch()
    assert "--workdir" in complaint(capsys, 1, ["--workdir=w"])


def test_no_space_left(capsys, monkeypatch, folder):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_atomically", full)
    line = complaint(capsys, 1, [*TINY, "--workdir=w"])
    assert "no space left" in line
    assert not (folder / "w" / "results.json").exists()
    assert not list((folder / "w").rglob("manifest.json"))


def run_apart(arguments):
    """The command line in a process of its own, as a user starts it."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.run(
        [sys.executable, "-m", "tf_lottery.main", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )


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
    from tf_lottery.reporting import json_document

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json_document, "write_atomically", full)
    line = complaint(capsys, 1, [*TINY, "--workdir=w"])
    assert "space" in line
    assert not (folder / "w" / "results.json").exists()


def test_results_of_other_settings(capsys, folder):
    assert main([*TINY, "--workdir=w"]) == 0
    before = (folder / "w" / "results.json").read_bytes()
    line = complaint(capsys, 1, [*TINY, "--workdir=w", "--seed=3", "--epochs=2"])
    assert "seed: 0 there, 3 now" in line
    assert "train.epochs: 1 there, 2 now" in line
    assert "--workdir" in line
    assert (folder / "w" / "results.json").read_bytes() == before
    # A second complaint of a damaged file, which must not be written over.
    (folder / "w" / "results.json").write_text("{")
    assert "results.json" in complaint(capsys, 1, [*TINY, "--workdir=w"])
    assert (folder / "w" / "results.json").read_text() == "{"


# Tickets ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def ticket(tmp_path_factory):
    """A saved ticket of the tiny digits network, with random masks."""
    from tf_lottery.config import ModelConfig
    from tf_lottery.pruning.masks import prunable_kernels
    from tf_lottery.tickets import NetworkSpec, Ticket

    spec = NetworkSpec(ModelConfig("convnet", width_multiplier=0.05), (8, 8, 1), 10)
    network = spec.build(3)
    rng = np.random.default_rng(0)
    masks = {
        name: rng.random(tuple(kernel.shape)) < 0.5
        for name, kernel in prunable_kernels(network).items()
    }
    digest = weights.digest(weights.get_weights(network))
    made = Ticket(spec, "digits", 3, digest, masks)
    return made.save(tmp_path_factory.mktemp("ticket") / "t")


@pytest.fixture
def copied(ticket, folder):
    shutil.copytree(ticket, folder.parent / "ticket")
    return folder.parent / "ticket"


NO_NORMALIZE = "--nonormalize"


def test_a_good_ticket_is_inspected(capsys, copied):
    assert main(["--mode=inspect", f"--ticket={copied}"]) == 0
    text = capsys.readouterr().out
    assert "conv1" in text
    assert "density" in text


def test_a_ticket_for_another_architecture(capsys, folder, copied):
    arguments = [*TINY, NO_NORMALIZE, "--compare=dense,boosting", "--width_multiplier=0.1"]
    line = complaint(capsys, 1, [*arguments, f"--ticket={copied}", "--workdir=w"])
    assert "--ticket" in line
    assert "convnet-w0.05" in line
    assert "convnet-w0.1" in line
    # Told before anything is trained.
    assert list(folder.iterdir()) == []


def damage_flip(path):
    content = bytearray((path / "masks.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "masks.npz").write_bytes(content)


def damage_flip_json(path):
    text = (path / "ticket.json").read_text()
    (path / "ticket.json").write_text(text.replace('"seed": 3', '"seed": 2', 1))


def damage_truncate(path):
    content = (path / "masks.npz").read_bytes()
    (path / "masks.npz").write_bytes(content[: len(content) // 2])


def damage_truncate_json(path):
    text = (path / "ticket.json").read_text()
    (path / "ticket.json").write_text(text[: len(text) // 2])


def damage_newer(path):
    document = json.loads((path / "ticket.json").read_text())
    document |= {"format": 99, "package_version": "99.0"}
    (path / "ticket.json").write_text(json.dumps(document))


def damage_missing(path):
    (path / "masks.npz").unlink()


DAMAGES = [
    (damage_flip, "damaged"),
    (damage_flip_json, "damaged"),
    (damage_truncate, "damaged"),
    (damage_truncate_json, "damaged"),
    (damage_newer, "99.0"),
    (damage_missing, "masks.npz"),
]


@pytest.mark.parametrize("mode", ["run", "plan", "inspect", "evaluate", "export"])
@pytest.mark.parametrize(("damage", "word"), DAMAGES, ids=lambda v: getattr(v, "__name__", v))
def test_damaged_tickets(capsys, folder, copied, damage, word, mode):
    damage(copied)
    arguments = [*TINY, NO_NORMALIZE, f"--mode={mode}", f"--ticket={copied}", "--workdir=w"]
    line = complaint(capsys, 1, [*arguments, "--compare=boosting"])
    assert word in line
    assert "ticket" in line
    assert list(folder.iterdir()) == []


# Failing runs -----------------------------------------------------------------


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


def test_no_results_to_report(capsys, folder):
    line = complaint(capsys, 1, ["--mode=report", "--workdir=w"])
    assert "results.json" in line
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("word", ["-v", "--verbose"])
def test_verbose_shows_the_traceback(capsys, word):
    assert main([word, "--sparsity=3"]) == 2
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert text.splitlines()[-1].startswith("tf_lottery: --sparsity")


def test_surprises_are_one_line_too(capsys, monkeypatch):
    from tf_lottery import commands

    def broken(command):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setitem(commands._MODES, "run", broken)
    assert main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "RuntimeError: first line second line" in line
    assert "-v" in line


def test_an_interrupt_is_no_traceback(capsys, monkeypatch):
    from tf_lottery import commands

    def interrupted(command):
        raise KeyboardInterrupt

    monkeypatch.setitem(commands._MODES, "run", interrupted)
    assert main([]) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert "interrupted" in line


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["--version"], 0), (["--eps=2"], 2), (["--mode=report"], 1)],
)
def test_exit_codes_of_the_process(folder, arguments, code):
    done = run_apart(arguments)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == (1 if code else 0)
    assert bool(done.stdout) == (code == 0)


def test_a_failed_run_of_the_process_is_one_line(folder):
    # Libraries print on their own in a fresh process; none of it may reach the user.
    done = run_apart([*TINY, "--learning_rate=1e20", "--warmup_epochs=0", "--workdir=w"])
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "loss is" in done.stderr


def test_a_tpu_that_is_not_there_is_one_line(folder):
    done = run_apart([*TINY, "--distribute=tpu", "--workdir=w"])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("tf_lottery: --tpu: no TPU answers at 'local' (")
    assert list(folder.iterdir()) == []


def test_devices_are_no_part_of_a_result(folder):
    done = run_apart([*TINY, "--distribute=mirrored", "--devices=2", "--workdir=two"])
    assert done.returncode == 0, done.stderr
    assert main([*TINY, "--workdir=one"]) == 0
    two, one = (json.loads((folder / name / "results.json").read_text()) for name in ("two", "one"))
    assert two["settings"] == one["settings"]
    assert [entry["stage"] for entry in two["ledger"]] == [
        entry["stage"] for entry in one["ledger"]
    ]
    assert "--distribute=mirrored" in two["command"]
    loss, expected = (document["curves"]["dense"][0]["loss"] for document in (two, one))
    assert loss == pytest.approx(expected, abs=1e-5)


def test_the_console_script_is_the_same_main():
    import configparser

    parser = configparser.ConfigParser()
    parser.read(Path(__file__).parents[1] / "setup.cfg")
    scripts = parser["options.entry_points"]["console_scripts"].split()
    assert "".join(scripts) == "tf_lottery=tf_lottery.main:console"
