"""How the command line ends: what is said, where it goes, what is saved, how it is started."""

import errno
import os
import pty
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, complaint, run_apart

from tf_lottery import files
from tf_lottery.errors import LotteryError, StoreError, UsageError
from tf_lottery.interruption import Terminated, termination_raised
from tf_lottery.main import main
from tf_lottery.options import command as flags
from tf_lottery.options.settings import differences

ROOT = Path(__file__).parents[1]
LONG = [*TINY, "--epochs=3000"]


def test_a_message_of_a_library_that_ends_the_process_is_shown(tmp_path):
    done = run_apart([*TINY, f"--workdir={tmp_path}/w"], {"TF_XLA_FLAGS": "--tf_xla_bogus=1"})
    assert done.returncode != 0
    assert "--tf_xla_bogus" in done.stderr


@pytest.mark.parametrize("end", ["os._exit(3)", "os.abort()", "os.kill(os.getpid(), 9)", "1 / 0"])
def test_what_was_kept_from_the_terminal_is_shown_however_the_process_ends(end):
    code = (
        "import os; from tf_lottery.terminal import silent_stderr\n"
        "with silent_stderr(): os.write(2, b'noise')\n"
        f"with silent_stderr(): os.write(2, b'last words'); {end}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "last words" in done.stderr
    assert "noise" not in done.stderr


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(closed, tmp_path):
    command = [sys.executable, "-m", "tf_lottery", *TINY, f"--workdir={tmp_path}/w"]
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *command], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "w" / "report.html").is_file()


def test_a_stream_that_is_closed_takes_no_number_that_a_file_gets():
    code = (
        "import os; from tf_lottery.terminal import open_streams; open_streams()\n"
        "assert os.open('/dev/null', os.O_RDONLY) > 2; print('x')"
    )
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code], cwd=ROOT
    )
    assert done.returncode == 0


def test_a_terminal_that_is_closed_ends_a_run_like_a_signal_to_end(tmp_path):
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        arguments = [*LONG, f"--workdir={tmp_path}/w"]
        os.execv(sys.executable, [sys.executable, "-m", "tf_lottery", *arguments])
    told = b""
    while b"Epoch 3/" not in told:
        told += os.read(terminal, 1000)
    os.close(terminal)
    limit = time.monotonic() + 120
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < limit:
        time.sleep(0.1)
    assert os.waitstatus_to_exitcode(ended[1]) == 128 + signal.SIGHUP
    assert list((tmp_path / "w" / "stages" / "partial").glob("*/checkpoints/*.json"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_to_end_unwind(number):
    before = signal.getsignal(number)
    with pytest.raises(Terminated) as caught, termination_raised():
        os.kill(os.getpid(), number)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) == before


def test_a_hang_up_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with termination_raised():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.mark.parametrize("words", ["filename", "text"])
def test_full_space_for_temporary_files_is_named(words, temporary, tmp_path):
    full = os.strerror(errno.ENOSPC)
    with (
        pytest.raises(StoreError, match=f"TMPDIR: no space left under {temporary}"),
        files.disk_errors("export_dir", tmp_path),
    ):
        raise {
            "text": RuntimeError(f"{temporary}/part-0; {full}"),
            "filename": OSError(errno.ENOSPC, full, str(temporary / "x")),
        }[words]


def test_a_write_that_fails_names_its_file(temporary, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="TMPDIR: no"), files.disk_errors("export_dir", tmp_path):
        files.write_atomically(temporary / "x", "text")
    with pytest.raises(StoreError, match="--export_dir: no"), files.disk_errors("export_dir", "."):
        files.write_atomically(tmp_path / "x", "text")


def test_a_full_root_that_lies_among_temporary_files_is_named(temporary):
    root = temporary / "run"
    with pytest.raises(StoreError, match="--store: no"), files.disk_errors("store", root):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root / "x"))
    hard = files.plain_name(temporary / "[x]")
    with pytest.raises(StoreError, match="--store: no"), files.disk_errors("store", "[x]"):
        raise RuntimeError(f"{hard}/part-0; {os.strerror(errno.ENOSPC)}")


@pytest.mark.parametrize("how", [["-m", "tf_lottery"], [str(ROOT / "tf_lottery" / "main.py")]])
def test_ways_to_start(how, tmp_path):
    environment = os.environ | ({"PYTHONPATH": str(ROOT)} if "-m" in how else {})
    done = subprocess.run(
        [sys.executable, *how, "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.stdout.startswith("tf_lottery ")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_a_flagfile_with_a_byte_order_mark(encoding, tmp_path):
    inner = tmp_path / "inner.flags"
    inner.write_bytes("--workdir=ünï\r\n".encode(encoding))
    outer = tmp_path / "outer.flags"
    outer.write_bytes(f"# ü\r\n--epochs=3\r\n--flagfile={inner}\n".encode(encoding))
    command = flags.parse([f"--flagfile={outer}"])
    assert (command.options["epochs"], command.workdir) == (3, "ünï")


def test_a_value_that_the_experiment_sets_is_told_to_be_its(capsys, folder):
    line = complaint(capsys, 2, ["--experiment=fig5", "--dataset=digits", "--mode=plan"])
    assert "--validation_examples: got 5000" in line
    assert "experiment fig5 sets that" in line
    assert "give --validation_examples" in line
    given = ["--experiment=fig5", "--dataset=digits", "--validation_examples=5000", "--mode=plan"]
    assert "sets that" not in complaint(capsys, 2, given)


def test_a_default_that_is_refused_is_told_to_be_one(capsys, folder):
    line = complaint(capsys, 2, [a for a in TINY if "batch" not in a] + ["--train_examples=20"])
    assert "--batch_size: got 64" in line
    assert "that is the default" in line


def test_other_settings_are_told_in_short(capsys, folder):
    assert main([*TINY, "--workdir=w"]) == 0
    line = complaint(
        capsys, 1, [*TINY, "--workdir=w", "--attacks=fgsm,autoattack", "--objective=pgd"]
    )
    assert "w/results.json holds the results of other settings" in line
    assert "attacks" in line
    assert len(line) < 600


def test_differences_name_what_differs():
    ours = {"attacks": [{"name": "a", "eps": 1}, {"name": "b"}], "x": "y" * 500}
    theirs = {"attacks": [{"name": "a", "eps": 2}], "x": ["z"] * 500}
    lines = differences(ours, theirs)
    assert lines[0] == "attacks.a.eps: 2 there, 1 now"
    assert lines[1].startswith("attacks.b")
    assert all(len(line) < 150 for line in lines)
    assert differences(ours, ours) == []


def test_an_evaluation_of_other_settings_says_which(capsys, folder):
    assert main([*TINY, "--workdir=w"]) == 0
    evaluate = [
        "--mode=evaluate", "--model_path=w/saved_model/dense", "--analysis_images=0",
        "--test_examples=5", "--evaluation_dir=e",
    ]  # fmt: skip
    assert main([*evaluate, "--attacks=fgsm"]) == 0
    line = complaint(capsys, 1, [*evaluate, "--attacks=fgsm", "--eval_eps=0.25", "--seed=3"])
    assert "attacks.fgsm.eps: 0.03" in line
    assert "seed: 0 there, 3 now" in line
    # A run's work directory holds many networks.
    line = complaint(capsys, 2, ["--mode=export", "--model_path=w", "--export_dir=x"])
    assert "one network to export, this is a run's work directory" in line
    assert not Path("x").exists()


@pytest.mark.parametrize("size", [0, -1])
def test_batches_of_no_image_are_refused_by_name(size, tiny_data, tiny_network):
    from tf_lottery.data.pipeline import steps_per_epoch
    from tf_lottery.evaluation import evaluate
    from tf_lottery.evaluation.curves import eps_curve, steps_curve
    from tf_lottery.evaluation.diagnosis import diagnose
    from tf_lottery.evaluation.packing import packed
    from tf_lottery.options.settings import ObjectiveConfig, TrainConfig, attack_from_name

    x, y = tiny_data.test_images[:4], tiny_data.test_labels[:4]
    network, attack = tiny_network(), attack_from_name("pgd2")
    for call in (
        lambda: evaluate(network, x, y, ["fgsm"], batch_size=size),
        lambda: diagnose(network, x, y, batch_size=size),
        lambda: eps_curve(network, x, y, attack, [0.1], batch_size=size),
        lambda: steps_curve(network, x, y, attack, batch_size=size),
        lambda: list(packed(4, size)),
        lambda: steps_per_epoch(4, size),
        lambda: TrainConfig(ObjectiveConfig("natural"), batch_size=size),
    ):
        with pytest.raises(UsageError, match=f"batch_size: got {size}"):
            call()


@pytest.mark.parametrize("labels", [np.array(["a", "b"]), np.array([0.5, 1]), np.array([None, 1])])
def test_labels_that_are_no_numbers_are_refused(labels):
    from tf_lottery.evaluation import evaluate

    with pytest.raises((ValueError, LotteryError), match=r"labels are .*; class numbers from 0"):
        evaluate(lambda x: x[:, 0, 0, :], np.zeros((2, 2, 2, 3), np.uint8), labels, [])
