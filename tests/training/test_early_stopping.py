"""Runs that end before their last epoch, also when they were interrupted on the way."""

import dataclasses
import json

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.errors import UsageError
from tf_lottery.keras import keras
from tf_lottery.options.settings import ObjectiveConfig, ScheduleConfig, TrainConfig
from tf_lottery.training import callbacks, checkpoints, guards
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

NATURAL = TrainConfig(
    objective=ObjectiveConfig("natural"),
    epochs=8,
    batch_size=32,
    schedule=ScheduleConfig("cosine", peak=0.05),
    patience=2,
)
# The best is epoch 2's: as much in epoch 3 is no new best, and epoch 4 is the second
# without one. Epoch 5 would have been better than all.
SCRIPT = (0.25, 0.5, 0.5, 0.25, 0.75, 0.75, 0.75, 0.75)
LAST, BEST = 4, 2


def rows(*accuracies):
    """History rows of natural, or of (natural, robust), accuracies."""
    pairs = [a if isinstance(a, tuple) else (a, None) for a in accuracies]
    return [
        {"epoch": i, "validation_natural": natural, "validation_robust": robust}
        for i, (natural, robust) in enumerate(pairs, 1)
    ]


@pytest.mark.parametrize(
    ("accuracies", "patience", "stops"),
    [
        ((), 1, False),
        ((0.0,), 1, False),  # nothing right is the best so far all the same
        ((0.5, 0.6), 1, False),
        ((0.5, 0.5), 1, True),  # as good is not better
        ((0.5, 0.4), 1, True),
        ((0.5, 0.4), 2, False),
        ((0.5, 0.4, 0.45), 2, True),  # better than the last, not than the best
        ((0.5, 0.4, 0.51), 2, False),
        ((0.5, 0.4, 0.51, 0.3), 2, False),  # counted anew after each best
        ((0.5, 0.4, 0.51, 0.3, 0.51), 2, True),
        ((0.5,) * 50, 0, False),
        (((0.9, 0.1), (0.5, 0.2)), 1, False),  # robust accuracy decides where there is one
        (((0.5, 0.2), (0.9, 0.1)), 1, True),
    ],
)
def test_stopped_early(accuracies, patience, stops):
    assert callbacks.stopped_early(rows(*accuracies), patience) is stops


@pytest.fixture
def scripted(monkeypatch):
    """Runs from here on are judged by ``SCRIPT``, whatever they learn."""
    measured = callbacks.History.on_epoch_end

    def record(self, epoch, logs=None):
        measured(self, epoch, {**logs, "val_natural": SCRIPT[epoch]})

    monkeypatch.setattr(callbacks.History, "on_epoch_end", record)


def go(masked, data, directory, config=NATURAL, **told):
    directory.mkdir(exist_ok=True)
    return train(
        masked, data, config, seed=3, directory=directory, reporting=Reporting(verbose=0, **told)
    )


def test_a_run_stops_and_leaves_what_a_run_leaves(scripted, sparse, tiny_data, tmp_path):
    masked = sparse()
    found = go(masked, tiny_data, tmp_path / "stopped")
    assert [row["epoch"] for row in found] == [1, 2, 3, 4]
    assert [row["validation_natural"] for row in found] == list(SCRIPT[:LAST])
    assert json.loads((tmp_path / "stopped" / "history.json").read_text()) == found
    # The rates are those of all eight epochs; a row has that of its third and last step.
    steps = np.arange(1, LAST + 1) * 3 - 1
    expected = 0.05 * 0.5 * (1 + np.cos(np.pi * steps / (8 * 3)))
    np.testing.assert_allclose([row["learning_rate"] for row in found], expected, rtol=1e-5)
    # The same steps without early stopping: its fourth and second epoch.
    whole = dataclasses.replace(NATURAL, patience=0, keep_epochs=(BEST, LAST))
    assert len(go(sparse(), tiny_data, tmp_path / "whole", whole)) == 8
    for name, epoch in (("final", LAST), ("best", BEST)):
        got = weights.read_arrays(tmp_path / "stopped" / f"{name}.npz")
        kept = weights.read_arrays(tmp_path / "whole" / f"epoch-{epoch}.npz")
        for key, value in kept.items():
            np.testing.assert_allclose(got[key], value, atol=2e-5, err_msg=f"{name} {key}")
    trained = weights.get_weights(masked.network)
    final = weights.read_arrays(tmp_path / "stopped" / "final.npz")
    assert weights.digest(trained) == weights.digest(final)


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize(
    ("where", "epoch", "saved"),
    [
        ("NonFiniteGuard", LAST - 1, LAST - 2),
        ("History", LAST, LAST - 1),  # judged, not saved: trained again
        ("StopEarly", LAST, LAST - 1),
        ("KeepWeights", LAST, LAST - 1),
        ("Checkpoint", LAST - 1, LAST - 1),
        ("Checkpoint", LAST, LAST),  # saved: nothing is left to train
    ],
)
def test_an_interrupted_run_stops_at_the_same_epoch(
    scripted, sparse, tiny_data, tmp_path, monkeypatch, where, epoch, saved
):
    """Killed right after the work of a callback."""
    cls = getattr(callbacks, where, guards.NonFiniteGuard)
    work = cls.on_epoch_end

    def interrupt(self, number, logs=None):
        work(self, number, logs)
        if number + 1 == epoch:
            raise InterruptionError

    with monkeypatch.context() as patch:
        patch.setattr(cls, "on_epoch_end", interrupt)
        with pytest.raises(InterruptionError):
            go(sparse(), tiny_data, tmp_path / "cut")
    assert checkpoints.newest(tmp_path / "cut").epoch == saved

    trained = []
    fit = keras.Model.fit
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", lambda *a, **k: (trained.append(1), fit(*a, **k))[1])
        masked = sparse()
        found = go(masked, tiny_data, tmp_path / "cut")
    assert trained == ([] if saved == LAST else [1])
    assert [row["epoch"] for row in found] == [1, 2, 3, 4]
    whole = go(sparse(), tiny_data, tmp_path / "whole")
    np.testing.assert_allclose(
        [row["loss"] for row in found], [row["loss"] for row in whole], atol=1e-4
    )
    for name in ("final", "best"):
        got = weights.read_arrays(tmp_path / "cut" / f"{name}.npz")
        for key, value in weights.read_arrays(tmp_path / "whole" / f"{name}.npz").items():
            np.testing.assert_allclose(got[key], value, atol=2e-5, err_msg=f"{name} {key}")
    final = weights.read_arrays(tmp_path / "cut" / "final.npz")
    assert weights.digest(weights.get_weights(masked.network)) == weights.digest(final)


def test_a_real_run_stops_when_it_has_learnt_all_it_can(sparse, tiny_data, tmp_path):
    config = dataclasses.replace(NATURAL, epochs=60, patience=3)
    found = go(sparse(), tiny_data, tmp_path, config)
    assert 4 <= len(found) < 60
    assert found[-1]["epoch"] == callbacks.best_epoch(found) + 3
    assert callbacks.stopped_early(found, 3)
    assert not any(callbacks.stopped_early(found[:n], 3) for n in range(len(found)))


def test_patience_longer_than_the_run_changes_nothing(scripted, sparse, tiny_data, tmp_path):
    found = go(sparse(), tiny_data, tmp_path, dataclasses.replace(NATURAL, patience=8))
    assert len(found) == 8
    assert not callbacks.stopped_early(found, 8)


def test_an_epoch_to_rewind_to_that_was_never_reached(scripted, sparse, tiny_data, tmp_path):
    config = dataclasses.replace(NATURAL, keep_epochs=(6,))
    for _ in range(2):  # again when run again, without training
        with pytest.raises(
            UsageError, match=r"^--rewind_epoch: got 6, .* 4: search ended there by --patience=2$"
        ):
            go(sparse(), tiny_data, tmp_path / "6", config, stage="search")
    assert not (tmp_path / "6" / "final.npz").exists()
    go(sparse(), tiny_data, tmp_path / "4", dataclasses.replace(NATURAL, keep_epochs=(LAST,)))
    assert (tmp_path / "4" / "epoch-4.npz").exists()


def test_tensorboard_shows_pictures_of_the_epoch_that_turned_out_the_last(
    scripted, sparse, tiny_data, tmp_path
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    go(sparse(), tiny_data, tmp_path / "run", log_directory=tmp_path / "log")
    events = EventAccumulator(str(tmp_path / "log"), size_guidance={"tensors": 0})
    events.Reload()
    assert [e.step for e in events.Tensors("kernel/conv3")] == [1, LAST]
    assert [e.step for e in events.Tensors("loss/train")] == [1, 2, 3, 4]
