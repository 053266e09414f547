"""Bad input: one line on stderr, the right exit code, nothing half-written."""

import errno
import json
from pathlib import Path

import pytest
from command_line import TINY, complaint, run_apart

from tf_lottery.main import main

pytestmark = pytest.mark.usefixtures("folder")

USAGE = [
    (["--mode=walk"], "--mode", "walk", "plan"),
    (["--nosuch=1"], "nosuch", "nknown", ""),
    (["--model=alexnet"], "--model", "alexnet", "wide_resnet"),
    (["--objective=gradient"], "--objective", "gradient", "pgd"),
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


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["--version"], 0), (["--eps=2"], 2), (["--mode=report"], 1)],
)
def test_exit_codes_of_the_process(folder, arguments, code):
    done = run_apart(arguments)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == (1 if code else 0)
    assert bool(done.stdout) == (code == 0)


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
    loss, expected = (document["rows"][0]["curve"][0]["loss"] for document in (two, one))
    assert loss == pytest.approx(expected, abs=1e-5)


def test_the_console_script_is_the_same_main():
    import configparser

    parser = configparser.ConfigParser()
    parser.read(Path(__file__).parents[1] / "setup.cfg")
    scripts = parser["options.entry_points"]["console_scripts"].split()
    assert "".join(scripts) == "tf_lottery=tf_lottery.main:console"


def test_an_empty_command_line_is_a_question(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "--dataset" in out
    assert "--experiment" in out
