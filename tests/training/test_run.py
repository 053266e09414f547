"""Whole runs on tiny data: what is left behind, interruption, precision, TensorBoard."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.errors import FrozenError, NonFiniteError, UsageError
from tf_lottery.keras import keras, tf
from tf_lottery.options.settings import (
    ObjectiveConfig,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
    derive_seed,
)
from tf_lottery.training import callbacks, checkpoints, guards, run
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

QUIET = Reporting(verbose=0)
FGSM = ObjectiveConfig("fgsm", attack_from_name("fgsm", eps=0.05))
ROBUST = TrainConfig(
    objective=FGSM,
    epochs=3,
    batch_size=32,
    schedule=ScheduleConfig("step", peak=0.1, warmup_start=0.02, warmup_epochs=1),
    weight_decay=1e-3,
    validation_attack=attack_from_name("pgd2", eps=0.05),
    keep_epochs=(1,),
)
NATURAL = TrainConfig(
    objective=ObjectiveConfig("natural"),
    epochs=3,
    batch_size=32,
    schedule=ScheduleConfig("constant", peak=0.05),
)
ROW = {
    "epoch", "learning_rate", "loss", "train_accuracy", "gradient_norm", "validation_natural",
    "validation_robust", "raw_natural", "raw_robust", "weights", "validation_fgsm", "collapsed",
    "rollbacks", "overfit_rollbacks", "attack", "seconds", "startup_seconds",
    "validation_seconds", "distance", "input_gradients", "mask_distance", "validation_loss",
}  # fmt: skip


def files(directory):
    """What a run left, but for the checkpoints, which are the caller's to remove."""
    return sorted(name for name in os.listdir(directory) if name != "checkpoints")


class Recorder(keras.callbacks.Callback):
    """Weights after every epoch, and every checkpoint as a file says it."""

    def __init__(self, masked, directory):
        super().__init__()
        self.masked, self.directory = masked, directory
        self.weights, self.checkpoints = [], []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(weights.get_weights(self.masked.network))
        position = checkpoints.newest(self.directory)
        assert (position.epoch, position.step) == (epoch + 1, 0)
        path = str(self.directory / "checkpoints" / position.name)
        reader = tf.train.load_checkpoint(path)
        self.checkpoints.append(
            {
                name: reader.get_tensor(name)
                for name, _ in tf.train.list_variables(path)
                if "/" in name
            }
        )


@pytest.fixture(scope="module")
def finished(sparse, tiny_data, tmp_path_factory):
    """One adversarial run of three epochs, watched from outside."""
    directory = tmp_path_factory.mktemp("run")
    logs = tmp_path_factory.mktemp("tensorboard") / "train-abc"
    masked = sparse()
    recorder = Recorder(masked, directory)
    fit = keras.Model.fit

    def watched(model, *args, callbacks, **options):
        return fit(model, *args, callbacks=[*callbacks, recorder], **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "fit", watched)
        rows = train(
            masked,
            tiny_data,
            ROBUST,
            seed=7,
            directory=directory,
            reporting=Reporting(
                verbose=0, log_directory=logs, log_settings={"model": "convnet", "sparsity": 0.4}
            ),
        )
    return directory, masked, rows, recorder, logs


def test_history(finished):
    directory, _, rows, _, _ = finished
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(set(row) == ROW for row in rows)
    np.testing.assert_allclose([row["learning_rate"] for row in rows], [0.02, 0.1, 0.01], 1e-6)
    assert json.loads((directory / "history.json").read_text()) == rows
    for row in rows:
        assert row["distance"] is None
        assert 0 <= row["validation_robust"] <= row["validation_natural"] <= 1
        assert row["seconds"] > 0
        assert row["validation_seconds"] > 0
    assert rows[0]["startup_seconds"] > 0
    assert [row["startup_seconds"] for row in rows[1:]] == [0, 0]
    assert rows[0]["startup_seconds"] <= rows[0]["seconds"]


def test_learning_happened(finished):
    _, _, rows, recorder, _ = finished
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert np.any(recorder.weights[0]["conv1/kernel"] != recorder.weights[2]["conv1/kernel"])


def test_files_left(finished):
    directory, masked, rows, recorder, _ = finished
    assert files(directory) == ["best.npz", "epoch-1.npz", "final.npz", "history.json"]
    best = callbacks.best_epoch(rows)
    assert rows[best - 1]["validation_robust"] == max(r["validation_robust"] for r in rows)
    for name, epoch in (("best", best), ("final", 3), ("epoch-1", 1)):
        read = weights.read_arrays(directory / f"{name}.npz")
        assert weights.digest(read) == weights.digest(recorder.weights[epoch - 1]), name
        for layer, mask in masked.get_masks().items():
            assert not read[f"{layer}/kernel"][~mask].any()
            assert read[f"{layer}/kernel"][mask].all()
        assert read["bn2/gamma"][3] == read["bn2/beta"][3] == 0


def test_every_checkpoint_file_holds_zeros(finished, sparse):
    """Read back by tf.train's own reader: kernels, masks and momentum."""
    _, masked, _, recorder, _ = finished
    assert len(recorder.checkpoints) == 3
    masks = {f"{name}": mask for name, mask in masked.get_masks().items()}
    for saved, expected in zip(recorder.checkpoints, recorder.weights, strict=True):
        values = list(saved.values())
        for layer, mask in masks.items():
            kernel = expected[f"{layer}/kernel"]
            same_shape = [v for v in values if v.shape == mask.shape]
            # The kernel itself, its mask, its momentum; and nothing that leaks.
            assert any(np.array_equal(v, kernel) for v in same_shape), layer
            assert any(np.array_equal(v, mask.astype("float32")) for v in same_shape), layer
            assert len(same_shape) >= 3, layer
            assert all(not v[~mask].any() for v in same_shape), layer
        assert any("momentum" in name or "_variables" in name for name in saved)


def test_best_epoch_is_the_earliest_among_equals():
    def rows(*pairs):
        return [
            {"epoch": i, "validation_natural": n, "validation_robust": r}
            for i, (n, r) in enumerate(pairs, 1)
        ]

    assert callbacks.best_epoch(rows((0.9, 0.1), (0.5, 0.4), (0.6, 0.4))) == 2
    assert callbacks.best_epoch(rows((0.5, None), (0.9, None), (0.9, None))) == 2


def test_validation_images_limits_the_validation(sparse, tiny_data, tmp_path):
    limited = dataclasses.replace(NATURAL, epochs=1, validation_images=7)
    rows = train(sparse(), tiny_data, limited, seed=0, directory=tmp_path, reporting=QUIET)
    assert rows[0]["validation_robust"] is None
    sevenths = rows[0]["validation_natural"] * 7
    assert abs(sevenths - round(sevenths)) < 1e-4


def test_same_seed_same_run_other_seed_another(sparse, tiny_data, tmp_path):
    digests = []
    for i, seed in enumerate((1, 1, 2)):
        (tmp_path / str(i)).mkdir()
        config = dataclasses.replace(NATURAL, epochs=1)
        train(sparse(), tiny_data, config, seed=seed, directory=tmp_path / str(i), reporting=QUIET)
        digests.append(weights.read_arrays(tmp_path / str(i) / "final.npz"))
    for name, value in digests[0].items():
        np.testing.assert_allclose(value, digests[1][name], atol=1e-6, err_msg=name)
    assert np.abs(digests[0]["conv1/kernel"] - digests[2]["conv1/kernel"]).max() > 1e-4


def test_augmentation_changes_the_run(sparse, tiny_data, tmp_path):
    results = []
    for augment in (False, True):
        directory = tmp_path / str(augment)
        directory.mkdir()
        config = dataclasses.replace(NATURAL, epochs=1)
        train(
            sparse(),
            tiny_data,
            config,
            seed=1,
            directory=directory,
            augment=augment,
            reporting=QUIET,
        )
        results.append(weights.read_arrays(directory / "final.npz")["conv1/kernel"])
    assert np.abs(results[0] - results[1]).max() > 1e-4


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize("where", ["History", "KeepWeights", "Checkpoint", "after the checkpoint"])
def test_interrupted_run_goes_on_as_if_nothing_happened(
    sparse, tiny_data, tmp_path, monkeypatch, finished, where
):
    """Stopped in epoch 2, before or after each callback's work of that epoch."""
    directory, _, whole_rows, _, _ = finished
    cls = getattr(callbacks, where, callbacks.Checkpoint)
    original = cls.on_epoch_end

    def interrupt(self, epoch, logs=None):
        if where == "after the checkpoint" or epoch != 1:
            original(self, epoch, logs)
        if epoch == 1:
            raise InterruptionError

    with monkeypatch.context() as patch:
        patch.setattr(cls, "on_epoch_end", interrupt)
        with pytest.raises(InterruptionError):
            train(sparse(), tiny_data, ROBUST, seed=7, directory=tmp_path, reporting=QUIET)
    finished_epochs = checkpoints.newest(tmp_path).epoch
    assert finished_epochs == (2 if where == "after the checkpoint" else 1)
    masked = sparse()
    rows = train(masked, tiny_data, ROBUST, seed=7, directory=tmp_path, reporting=QUIET)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert files(tmp_path) == files(directory)
    for name in ("final", "best", "epoch-1"):
        got = weights.read_arrays(tmp_path / f"{name}.npz")
        for key, value in weights.read_arrays(directory / f"{name}.npz").items():
            np.testing.assert_allclose(got[key], value, atol=2e-5, err_msg=f"{name} {key}")
    for row, whole in zip(rows, whole_rows, strict=True):
        np.testing.assert_allclose(row["loss"], whole["loss"], atol=1e-4)


_RESUME = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
from tf_lottery.options.settings import *
from tf_lottery import weights
from tf_lottery.data import ImageData
from tf_lottery.models import build_model
from tf_lottery.pruning.masks import wrap
from tf_lottery.training import checkpoints, guards
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

root = Path(sys.argv[1])
rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (64, 8, 8, 1)).astype(np.uint8), np.arange(64, dtype=np.int32) % 4
data = ImageData("t", x, y, y, x, y, y, x, y, y, tuple("abcd"), (0.5,), (0.5,))
config = TrainConfig(ObjectiveConfig("pgd", attack_from_name("pgd2")), epochs=3, batch_size=16)
masks = {}

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
    return weights.digest(weights.read_arrays(root / name / "final.npz"))

whole = go("whole")
original = guards.NonFiniteGuard.on_train_batch_end
def stop(self, batch, logs=None):
    if self._epoch == 1 and batch == 2:
        raise KeyboardInterrupt
guards.NonFiniteGuard.on_train_batch_end = stop
try:
    go("cut")
    raise SystemExit("was not interrupted")
except KeyboardInterrupt:
    guards.NonFiniteGuard.on_train_batch_end = original
position = checkpoints.newest(root / "cut")
assert (position.epoch, position.step) == (1, 3), position  # 2, counted from 0, was done
print("same" if go("cut") == whole else "different")
"""


def test_resumed_run_is_bit_identical_where_operations_are_deterministic(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _RESUME, str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "same"


def test_stale_files_of_a_first_attempt_do_not_survive(sparse, tiny_data, tmp_path):
    """A directory with kept weights but no checkpoint starts anew."""
    weights.write_arrays(tmp_path / "epoch-9.npz", {"x": np.zeros(1)})
    config = dataclasses.replace(NATURAL, epochs=1)
    train(sparse(), tiny_data, config, seed=0, directory=tmp_path, reporting=QUIET)
    assert files(tmp_path) == ["best.npz", "final.npz", "history.json"]


@pytest.mark.parametrize("keep_epochs", [(), (1,)])
def test_finishing_is_repeatable_after_a_crash_at_the_very_end(
    sparse, tiny_data, tmp_path, monkeypatch, keep_epochs
):
    config = dataclasses.replace(NATURAL, epochs=1, keep_epochs=keep_epochs)
    options = {"seed": 0, "directory": tmp_path, "reporting": QUIET}

    def crash(*_, **__):
        raise InterruptionError

    with monkeypatch.context() as patch:
        patch.setattr(run, "_place", crash)
        with pytest.raises(InterruptionError):
            train(sparse(), tiny_data, config, **options)
    trained = weights.digest(weights.read_arrays(tmp_path / "final.npz"))
    for _ in range(2):  # after the crash, and once more after it is done
        masked = sparse()
        assert len(train(masked, tiny_data, config, **options)) == 1
        for name in ("best", "final"):
            assert weights.digest(weights.read_arrays(tmp_path / f"{name}.npz")) == trained
        got = weights.get_weights(masked.network)
        assert weights.digest(got) == trained


# --- failures -------------------------------------------------------------------------


def test_non_finite_loss_names_stage_epoch_and_step(sparse, tiny_data, tmp_path):
    config = dataclasses.replace(NATURAL, schedule=ScheduleConfig("constant", peak=1e20))
    with pytest.raises(NonFiniteError, match=r"^search of tiny: .*epoch 1, step [2-3]\b"):
        train(
            sparse(),
            tiny_data,
            config,
            seed=0,
            directory=tmp_path,
            reporting=Reporting(stage="search of tiny", verbose=0),
        )


def test_weights_that_break_in_the_last_step_are_not_kept(sparse, tiny_data, tmp_path):
    """The loss of the last step is still finite; what that step leaves behind is not."""
    config = dataclasses.replace(
        NATURAL, epochs=1, batch_size=96, schedule=ScheduleConfig("constant", peak=3e38)
    )
    masked = sparse()
    masked.network.get_layer("bn3").gamma.assign(np.full(6, 100.0))
    with pytest.raises(NonFiniteError):
        train(masked, tiny_data, config, seed=0, directory=tmp_path, reporting=QUIET)
    assert not (tmp_path / "final.npz").exists()


def test_batch_larger_than_the_training_set(sparse, tiny_data, tmp_path):
    config = dataclasses.replace(NATURAL, batch_size=97)
    with pytest.raises(UsageError, match=r"--batch_size: got 97.*96"):
        train(sparse(), tiny_data, config, seed=0, directory=tmp_path, reporting=QUIET)


def test_an_attack_on_another_function_stops_the_training(sparse, tiny_data, tmp_path, monkeypatch):
    def doubled(network):
        return lambda images: 2 * network(images, training=False)

    monkeypatch.setattr("tf_lottery.models.frozen_check.frozen_logits", doubled)
    with pytest.raises(FrozenError, match=r"at layer 'logits' \(Dense\) outputs"):
        train(sparse(), tiny_data, ROBUST, seed=0, directory=tmp_path, reporting=QUIET)
    once = dataclasses.replace(NATURAL, epochs=1)  # without an attack there is none to be wrong
    train(sparse(), tiny_data, once, seed=0, directory=tmp_path, reporting=QUIET)


# --- precision ------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(sparse, tiny_network, tiny_data, tmp_path, policy):
    config = dataclasses.replace(ROBUST, epochs=2, dtype_policy=policy, batch_size=48)
    masked = sparse(dtype_policy=policy)
    twin = tiny_network(seed=99)
    before = weights.get_weights(masked.network)
    rows = train(
        masked,
        tiny_data,
        config,
        seed=0,
        directory=tmp_path,
        validation_network=twin,
        reporting=QUIET,
    )
    assert np.isfinite(rows[-1]["loss"])
    after = weights.get_weights(masked.network)
    assert all(value.dtype == np.float32 for value in after.values())
    assert np.any(after["conv1/kernel"] != before["conv1/kernel"])
    for layer, mask in masked.get_masks().items():
        assert not after[f"{layer}/kernel"][~mask].any()
    # Validation was done by the twin, with the trained weights.
    for name, value in weights.get_weights(twin).items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    predicted = twin(tiny_data.validation_images / np.float32(255), training=False).numpy()
    natural = (predicted.argmax(1) == tiny_data.validation_labels).mean()
    np.testing.assert_allclose(rows[-1]["validation_natural"], natural, atol=1e-6)


def test_float16_run_resumes_with_its_loss_scale(
    sparse, tiny_network, tiny_data, tmp_path, monkeypatch
):
    config = dataclasses.replace(NATURAL, epochs=2, dtype_policy="mixed_float16", keep_epochs=(1,))

    def interrupt(self, epoch, logs=None):
        if epoch == 1:
            raise InterruptionError

    options = {"seed": 0, "directory": tmp_path, "reporting": QUIET}
    with monkeypatch.context() as patch:
        patch.setattr(guards.NonFiniteGuard, "on_epoch_end", interrupt)
        with pytest.raises(InterruptionError):
            train(sparse(dtype_policy="mixed_float16"), tiny_data, config,
                  validation_network=tiny_network(), **options)  # fmt: skip
    rows = train(sparse(dtype_policy="mixed_float16"), tiny_data, config,
                 validation_network=tiny_network(), **options)  # fmt: skip
    assert [row["epoch"] for row in rows] == [1, 2]


# --- TensorBoard ----------------------------------------------------------------------


def test_tensorboard_files(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    _, masked, rows, _, logs = finished
    events = EventAccumulator(str(logs), size_guidance={"tensors": 0})
    events.Reload()

    def scalars(tag):
        return {
            e.step: float(tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)
        }

    for tag, column in {
        "accuracy/train": "train_accuracy",
        "accuracy/validation_natural": "validation_natural",
        "accuracy/validation_robust": "validation_robust",
        "loss/train": "loss",
        "learning_rate": "learning_rate",
    }.items():
        expected = {row["epoch"]: row[column] for row in rows}
        found = scalars(tag)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
    for layer, mask in masked.get_masks().items():
        np.testing.assert_allclose(scalars(f"density/{layer}")[0], mask.mean(), rtol=1e-5)
    # Histograms (first and last epoch) count the kept weights alone.
    histogram = events.Tensors("kernel/conv3")
    assert [e.step for e in histogram] == [1, 3]
    buckets = tensor_util.make_ndarray(histogram[-1].tensor_proto)
    assert buckets[:, 2].sum() == masked.get_masks()["conv3"].sum()
    images = events.Tensors("images/clean_above_adversarial")
    assert [e.step for e in images] == [1, 3]
    width, height, png = tensor_util.make_ndarray(images[0].tensor_proto)[:3]
    assert (int(width), int(height)) == (8 * 8 * 12, 2 * 8 * 12)  # enlarged by 12
    assert png.startswith(b"\x89PNG")
    content = events.PluginTagToContent("hparams")
    assert b"sparsity" in content["_hparams_/session_start_info"]


def test_seeds_of_a_run_have_distinct_purposes():
    seeds = {derive_seed(0, name) for name in ("init", "order", "augmentation", "attack")}
    assert len(seeds) == 4
