"""Two processes on this machine train together, die, go on, and end where one process does.

The weights' tolerances are those of ``test_distribution.py``: here the search is natural
and the ticket's training follows the signs of gradients.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.main import main

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--width_multiplier=0.1",
    "--train_examples=320",
    "--validation_examples=101",
    "--test_examples=20",
    "--augment",
    "--search_epochs=4",
    "--epochs=2",
    "--batch_size=64",
    "--eps=0.1",
    "--steps=2",
    "--random_start",
    "--search_objective=natural",
    "--objective=pgd",
    "--attacks=fgsm",
    "--validation_attack=pgd2",
    "--compare=boosting",
]
# Of a test with the fixture: three runs of two processes and one more, on a loaded machine.
pytestmark = pytest.mark.timeout(4 * 1000)
CLOSE = {"rtol": 0, "atol": 1e-5}
SIGNS = {"rtol": 0, "atol": 5e-3}
LOST = "tf_lottery: worker {} of 2: another worker ended or cannot be reached; start all workers"


def free_ports():
    """Two ports that were free a moment ago."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


class Pair:
    """Two workers that were started with the same command, but for their ``--workdir``.

    Args:
      root: gets their work directories ``chief`` and ``other``, and ``watched-<i>``.
      fatal: the epoch in which each kills itself; -1: never.
      flags: more of them.

    Attributes:
      codes: exit codes.
      errors: what each wrote to stderr.
      seconds: from the end of the one to the end of the other.
    """

    def __init__(self, root, fatal=(-1, -1), flags=()):
        cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports()]}
        processes, ends = [], {}
        try:
            for i, name in enumerate(("chief", "other")):
                folder = root / f"watched-{i}"
                folder.mkdir(exist_ok=True)
                task = {"cluster": cluster, "task": {"type": "worker", "index": i}}
                script = Path(__file__).with_name("worker_process.py")
                given = [*FLAGS, "--distribute=multiworker", f"--workdir={root / name}", *flags]
                with open(folder / "out", "w") as out, open(folder / "err", "w") as err:
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, script, folder, str(fatal[i]), *given],
                            env=os.environ
                            | {"TF_CONFIG": json.dumps(task), "PYTHONPATH": str(ROOT)},
                            stdout=out,
                            stderr=err,
                        )
                    )
            limit = time.monotonic() + 1000
            while len(ends) < 2 and time.monotonic() < limit:
                for i, process in enumerate(processes):
                    if process.poll() is not None:
                        ends.setdefault(i, time.monotonic())
                time.sleep(0.05)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        self.codes = [process.returncode for process in processes]
        self.errors = [(root / f"watched-{i}" / "err").read_text() for i in range(2)]
        self.seconds = abs(ends[0] - ends[1]) if len(ends) == 2 else float("inf")


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Worker 1 dies in the search; the run goes on, and worker 0 dies; it goes on to its end."""
    root = tmp_path_factory.mktemp("workers")
    pairs = [Pair(root, (-1, 1), ["--worker_timeout=10"])]
    (history,) = root.glob("chief/stages/partial/train-*/history.json")
    rows = json.loads(history.read_text())
    pairs.append(Pair(root, (2, -1)))
    pairs.append(Pair(root))
    assert main([*FLAGS, f"--workdir={root / 'alone'}"]) == 0
    return root, pairs, rows


def test_the_death_of_a_worker_ends_the_run_with_one_line(story):
    _, (first, second, _), _ = story
    for pair, victim in ((first, 1), (second, 0)):
        survivor = 1 - victim
        assert pair.codes[victim] == -signal.SIGKILL
        assert pair.codes[survivor] == 1
        assert pair.errors[survivor].splitlines()[-1].startswith(LOST.format(survivor))
        # A timeout of 10 seconds, not of the 120 by default; a chief's death is noticed at once.
        assert pair.seconds < 100


def test_the_run_goes_on_after_the_last_finished_epoch(story):
    root, (_, _, third), rows = story
    assert third.codes == [0, 0]
    assert [row["epoch"] for row in rows] == [1]
    search, _ = trainings(root / "chief")
    history = json.loads((search / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert history[0] == rows[0]  # with the seconds measured then
    # Each process began with the epoch after.
    assert [row["startup_seconds"] > 0 for row in history] == [True, True, True, False]


def test_two_processes_end_where_one_does(story):
    root, _, _ = story
    ours, theirs = trainings(root / "chief"), trainings(root / "alone")
    assert [path.name for path in ours] == [path.name for path in theirs]
    for mine, other, tolerance in zip(ours, theirs, (CLOSE, SIGNS), strict=True):
        files = sorted(path.name for path in other.glob("*.npz"))
        assert sorted(path.name for path in mine.glob("*.npz")) == files
        assert "final.npz" in files
        for file in files:
            values = weights.read_arrays(mine / file)
            for key, expected in weights.read_arrays(other / file).items():
                np.testing.assert_allclose(values[key], expected, **tolerance, err_msg=key)
        rows, expected_rows = (
            json.loads((path / "history.json").read_text()) for path in (mine, other)
        )
        for row, expected in zip(rows, expected_rows, strict=True):
            for column in ("loss", "train_accuracy", "validation_natural", "validation_robust"):
                # A turned sign may judge an image of the 320 or 101 otherwise.
                np.testing.assert_allclose(row[column], expected[column], 0, tolerance["atol"])
    masks = [
        weights.read_arrays(root / name / "tickets" / "boosting" / "masks.npz")
        for name in ("chief", "alone")
    ]
    for layer, mask in masks[1].items():
        np.testing.assert_array_equal(masks[0][layer], mask)


def test_all_processes_have_the_weights_and_masks_of_the_chief(story):
    root, _, _ = story
    for number, training in enumerate(trainings(root / "chief")):
        both = [weights.read_arrays(root / f"watched-{i}" / f"{number}.npz") for i in (0, 1)]
        assert weights.digest(both[0]) == weights.digest(both[1])
        for key, value in weights.read_arrays(training / "final.npz").items():
            np.testing.assert_array_equal(both[0][key], value)
    masks = {key: value for key, value in both[1].items() if key.endswith("/mask")}
    assert 0.19 < sum(mask.sum() for mask in masks.values()) / sum(
        mask.size for mask in masks.values()
    ) < 0.21  # fmt: skip
    for key, mask in masks.items():
        kernel = both[1][key.replace("/mask", "/kernel")]
        assert not kernel[~mask].any()


def test_the_chief_alone_leaves_files(story):
    root, _, _ = story
    assert not (root / "other").exists()
    ours, theirs = (
        sorted(str(path.relative_to(root / name)) for path in (root / name).rglob("*"))
        for name in ("chief", "alone")
    )
    # Each start of a training has logs of its own, until its end.
    assert [name for name in ours if "events" not in name] == [
        name for name in theirs if "events" not in name
    ]


def trainings(workdir):
    """The finished training stages of a work directory: the search, the ticket's."""
    found = sorted(
        (len(json.loads(path.read_text())), path.parent)
        for path in workdir.glob("stages/train-*/history.json")
    )
    assert [length for length, _ in found] == [2, 4]
    return found[1][1], found[0][1]
