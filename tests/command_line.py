"""The command line as tests call it, on a study of seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def run_apart(arguments, variables=None):
    """The command line in a process of its own, as a user starts it."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | (variables or {})
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.run(
        [sys.executable, "-m", "tf_lottery.main", *arguments],
        capture_output=True,
        text=True,
        env=environment,
    )


def stage(workdir, label):
    """Directory and manifest of the finished stage of that label."""
    for path in (workdir / "stages").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["label"] == label:
            return path.parent, manifest
    raise AssertionError(label)
