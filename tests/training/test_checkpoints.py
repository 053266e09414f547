"""Trainings that are killed anywhere, and checkpoints that are damaged."""

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.options.build import AttackOptions
from tf_lottery.options.settings import ObjectiveConfig, ScheduleConfig, TrainConfig
from tf_lottery.training import callbacks, checkpoints
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

QUIET = Reporting(verbose=0)
NATURAL = TrainConfig(
    objective=ObjectiveConfig("natural"),
    epochs=3,
    batch_size=32,
    schedule=ScheduleConfig("constant", peak=0.05),
)


class Killed(BaseException):
    """Nothing may save on it: so ends a process that is killed."""


def digest(directory, name="final"):
    return weights.digest(weights.read_arrays(directory / f"{name}.npz"))


@pytest.fixture(scope="module")
def cut(sparse, tiny_data, tmp_path_factory):
    """A training killed in the last step of epoch 3, saved after every step."""
    directory = tmp_path_factory.mktemp("cut")
    config = dataclasses.replace(NATURAL, checkpoint_minutes=1e-9)
    kill = lambda self, step: self.model.steps_done() == 3 and self._epoch == 2  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        original = callbacks.Checkpoint.on_train_batch_end

        def end(self, batch, logs=None):
            if kill(self, batch):
                raise Killed
            original(self, batch, logs)

        patch.setattr(callbacks.Checkpoint, "on_train_batch_end", end)
        with pytest.raises(Killed):
            train(sparse(), tiny_data, config, seed=0, directory=directory, reporting=QUIET)
    return directory


def test_free_training_goes_on_with_its_perturbation(sparse, tiny_data, tmp_path):
    """Killed in the midst of the replays of a batch, in the second epoch."""
    free = AttackOptions(eps=0.1, replays=4).objective("free")
    config = dataclasses.replace(NATURAL, objective=free, checkpoint_minutes=1e-9)
    ends = {}
    for name, kill_at in (("whole", None), ("cut", (1, 2))):
        (tmp_path / name).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            original = callbacks.Checkpoint.on_train_batch_end

            def end(self, batch, logs=None, kill_at=kill_at, original=original):
                original(self, batch, logs)
                if kill_at == (self._epoch, self.model.steps_done()):
                    raise Killed

            patch.setattr(callbacks.Checkpoint, "on_train_batch_end", end)
            with pytest.raises(Killed) if kill_at else contextlib.nullcontext():
                train(
                    sparse(), tiny_data, config, seed=0, directory=tmp_path / name,
                    reporting=QUIET,
                )  # fmt: skip
        if kill_at:
            position = checkpoints.newest(tmp_path / name)
            assert (position.epoch, position.step) == kill_at
            train(sparse(), tiny_data, config, seed=0, directory=tmp_path / name, reporting=QUIET)
        ends[name] = weights.read_arrays(tmp_path / name / "final.npz")
    for name, value in ends["whole"].items():
        np.testing.assert_allclose(ends["cut"][name], value, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def whole(sparse, tiny_data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    train(sparse(), tiny_data, NATURAL, seed=0, directory=directory, reporting=QUIET)
    return directory


def resume(cut, place, sparse, data, damage):
    """What is said, and the directory, of the training gone on with after the damage."""
    shutil.copytree(cut, place)
    damage(place)
    said = []
    train(
        sparse(),
        data,
        NATURAL,
        seed=0,
        directory=place,
        reporting=Reporting(verbose=0, announce=said.append),
    )
    return said


def test_two_of_each_kind_of_checkpoint_are_kept(cut):
    names = sorted(path.stem for path in (cut / "checkpoints").glob("*.json"))
    assert names == [
        "ckpt-000001-000000000",
        "ckpt-000002-000000000",
        "ckpt-000002-000000001",
        "ckpt-000002-000000002",
    ]
    # And no file of others.
    assert {path.name.split(".")[0] for path in (cut / "checkpoints").iterdir()} == set(names)


DAMAGES = {
    "a flipped byte": lambda path: path.write_bytes(
        (c := path.read_bytes())[: len(c) // 2] + bytes([c[len(c) // 2] ^ 1]) + c[len(c) // 2 + 1 :]
    ),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("suffix", [".data-00000-of-00001", ".index", ".json"])
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_not_used(cut, tmp_path, suffix, how):
    shutil.copytree(cut, tmp_path / "t")
    path = tmp_path / "t" / "checkpoints" / f"ckpt-000002-000000002{suffix}"
    DAMAGES[how](path)
    said = []
    position = checkpoints.newest(tmp_path / "t", said.append)
    assert (position.epoch, position.step) == (2, 1)
    if (suffix, how) == (".json", "missing"):  # as if it had not been written
        assert said == []
    else:
        word = "missing" if how == "missing" else "damaged"
        assert said == [f"{path} is {word}: going on from step 1 of epoch 3"]


def test_weights_that_a_checkpoint_needs_are_verified_too(cut, tmp_path):
    shutil.copytree(cut, tmp_path / "t")
    kept = list((tmp_path / "t").glob("epoch-*.npz"))
    assert kept
    for path in kept:
        path.unlink()
    said = []
    assert checkpoints.newest(tmp_path / "t", said.append) is None
    assert len(said) == 1
    assert f"{kept[0]} is missing" in said[0]
    assert said[0].endswith("starting this training again")


@pytest.mark.parametrize("damaged", [0, 1, 3, 4])
def test_the_end_is_the_same_whichever_checkpoint_is_left(
    cut, whole, sparse, tiny_data, tmp_path, damaged
):
    """The newest ``damaged`` checkpoints are of no use."""

    def damage(directory):
        written = sorted((directory / "checkpoints").glob("*.index"), reverse=True)
        for path in written[:damaged]:
            DAMAGES["a flipped byte"](path)

    said = resume(cut, tmp_path / "t", sparse, tiny_data, damage)
    assert len(said) == bool(damaged)
    for name, value in weights.read_arrays(whole / "final.npz").items():
        got = weights.read_arrays(tmp_path / "t" / "final.npz")[name]
        np.testing.assert_allclose(got, value, atol=2e-5, err_msg=name)
    ours, theirs = (
        json.loads((place / "history.json").read_text()) for place in (tmp_path / "t", whole)
    )
    assert [row["epoch"] for row in ours] == [1, 2, 3]
    for mine, other in zip(ours, theirs, strict=True):
        for column in ("loss", "train_accuracy", "validation_natural", "gradient_norm"):
            np.testing.assert_allclose(mine[column], other[column], atol=1e-4)


def test_no_minutes_no_checkpoints_within_epochs(sparse, tiny_data, tmp_path):
    config = dataclasses.replace(NATURAL, epochs=1, checkpoint_minutes=0.0)
    train(sparse(), tiny_data, config, seed=0, directory=tmp_path, reporting=QUIET)
    (path,) = (tmp_path / "checkpoints").glob("*.json")
    assert path.stem == "ckpt-000001-000000000"


_SOAK = """
import json, sys
from pathlib import Path
import numpy as np
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
from tf_lottery.options.settings import *
from tf_lottery import files, weights
from tf_lottery.data import ImageData
from tf_lottery.models import build_model
from tf_lottery.pruning.masks import wrap
from tf_lottery.training import callbacks, checkpoints, guards
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

root, kills = Path(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (64, 8, 8, 1)).astype(np.uint8), np.arange(64, dtype=np.int32) % 4
data = ImageData("t", x, y, y, x, y, y, x, y, y, tuple("abcd"), (0.5,), (0.5,))
config = TrainConfig(
    ObjectiveConfig("fgsm", attack_from_name("fgsm")), epochs=6, batch_size=8,
    schedule=ScheduleConfig("cyclic"), validation_attack=attack_from_name("pgd2"),
    keep_epochs=(2,), checkpoint_minutes=1e-9, ema_decay=float(sys.argv[4]),
)

class Killed(BaseException):
    pass

def start():
    tf.keras.utils.set_random_seed(1)
    masked = wrap(build_model("convnet", (8, 8, 1), 4, 0, width_multiplier=0.1))
    r = np.random.default_rng(1)
    masked.set_masks({k: r.random(tuple(v.shape)) < 0.6 for k, v in masked.kernels.items()})
    return masked

def go(name):
    (root / name).mkdir(exist_ok=True)
    options = dict(seed=5, directory=root / name, augment=True, reporting=Reporting(verbose=0))
    train(start(), data, config, **options)

def result(name):
    arrays = [weights.digest(weights.read_arrays(root / name / f"{w}.npz"))
              for w in ("final", "best", "epoch-2")]
    rows = json.loads((root / name / "history.json").read_text())
    return arrays, [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]

# Every place where a process can die is a call of one of these.
PLACES = [
    (guards.NonFiniteGuard, "on_train_batch_end"), (guards.NonFiniteGuard, "on_epoch_end"),
    (callbacks.History, "on_epoch_begin"), (callbacks.History, "on_test_begin"),
    (callbacks.History, "on_epoch_end"), (callbacks.KeepWeights, "on_epoch_end"),
    (callbacks.Checkpoint, "on_epoch_end"), (checkpoints.Checkpoints, "_clean"),
    (files, "write_atomically"), (checkpoints, "_sync"), (checkpoints.Checkpoints, "restore"),
]
calls, deadly = 0, None

def watched(original, before):
    def call(*args, **kwargs):
        global calls
        calls += 1
        now = calls
        if now == deadly and before:
            raise Killed
        result = original(*args, **kwargs)
        if now == deadly:
            raise Killed
        return result
    return call

go("whole")
originals = [(owner, name, getattr(owner, name)) for owner, name in PLACES]
counted, killed = None, 0
choice = np.random.default_rng(int(sys.argv[3]))
while True:
    before = bool(choice.integers(2))
    for owner, name, original in originals:
        setattr(owner, name, watched(original, before))
    calls, deadly = 0, int(choice.integers(1, 600 // kills)) if killed < kills else None
    try:
        go("killed")
        break
    except Killed:
        killed += 1
assert result("killed") == result("whole"), "another result"
print("killed", killed)
"""


def soak(place, kills, seed, decay=0.0):
    done = subprocess.run(
        [sys.executable, "-c", _SOAK, str(place), str(kills), str(seed),
         str(decay)],
        capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1])


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_killed_now_and_then_the_end_is_bit_identical(tmp_path, decay):
    assert soak(tmp_path, kills=4, seed=0, decay=decay) >= 2


@pytest.mark.slow
def test_killed_thirty_times_the_end_is_bit_identical(tmp_path):
    assert soak(tmp_path, kills=30, seed=1) >= 25
