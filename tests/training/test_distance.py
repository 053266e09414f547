"""The relative distance to another network, by hand and along a run."""

import doctest
import json
import types

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.keras import tf
from tf_lottery.options.settings import ObjectiveConfig, ScheduleConfig, TrainConfig
from tf_lottery.training import callbacks, distance, run
from tf_lottery.training.distance import RelativeDistance
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

CONFIG = TrainConfig(
    objective=ObjectiveConfig("natural"),
    epochs=2,
    batch_size=32,
    schedule=ScheduleConfig("constant", peak=0.05),
    keep_epochs=(1,),
)


def test_by_hand():
    reference = {"a": np.array([[3.0, 0.0]]), "b": np.array([0.0, 4.0])}
    kernels = {"b": tf.Variable([0.0, 4.0]), "a": tf.Variable([[3.0, 0.0]])}
    measure = RelativeDistance(reference, kernels)
    assert measure() == 0
    kernels["b"].assign([0.0, 0.0])  # pruned: sqrt(16) / sqrt(9 + 16)
    assert measure() == pytest.approx(0.8, abs=1e-12)
    kernels["a"].assign([[3.0, 12.0]])  # all layers together, not their mean
    assert measure() == pytest.approx(np.sqrt(16 + 144) / 5, abs=1e-12)
    kernels["a"].assign([[0.0, 0.0]])
    assert measure() == 1


def test_sums_in_double_precision():
    """In float32 a square of 2**25 swallows most of a thousand ones."""
    ones = np.ones(1000, np.float32)
    reference = np.concatenate([np.float32([2**12.5]), ones])
    kernel = np.concatenate([reference[:1], 2 * ones])
    expected = np.sqrt(1000 / (float(reference[0]) ** 2 + 1000))
    assert RelativeDistance({"k": reference}, {"k": kernel})() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"a": np.ones(2)}, "distance to another network: b in one of the two only"),
        ({"a": np.ones(2), "b": np.ones(3), "c": np.ones(1)}, "another network: c in one of"),
        ({"a": np.ones(2), "b": np.ones((3, 1))}, r"kernel of b has shape \(3,\), .*\(3, 1\)"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "the reference kernels have norm 0.0"),
        ({"a": np.ones(2), "b": np.full(3, np.nan)}, "the reference kernels have norm nan"),
    ],
)
def test_errors(reference, message):
    kernels = {"a": tf.Variable([1.0, 1.0]), "b": tf.Variable([1.0, 1.0, 1.0])}
    with pytest.raises(ValueError, match=message):
        RelativeDistance(reference, kernels)


def test_example():
    result = doctest.testmod(distance)
    assert result.attempted == 2
    assert result.failed == 0


def expected(reference, directory, name, kernels):
    """The distance of saved weights, as the paper writes it, in NumPy."""
    values = weights.read_arrays(directory / f"{name}.npz")
    full = np.concatenate([reference[k].ravel() for k in kernels]).astype(np.float64)
    ticket = np.concatenate([values[f"{k}/kernel"].ravel() for k in kernels]).astype(np.float64)
    return np.linalg.norm(full - ticket) / np.linalg.norm(full)


@pytest.fixture(scope="module")
def reference(tiny_network):
    """Kernels of another, dense, network."""
    from tf_lottery.pruning.masks import prunable_kernels

    return {name: k.numpy() for name, k in prunable_kernels(tiny_network(seed=8)).items()}


def test_every_epoch_of_a_run(sparse, tiny_data, tmp_path, reference):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    masked = sparse()
    directory = tmp_path / "run"
    directory.mkdir()
    rows = train(
        masked,
        tiny_data,
        CONFIG,
        seed=0,
        directory=directory,
        reporting=Reporting(verbose=0, distance_from=reference, log_directory=tmp_path / "log"),
    )
    for row, name in zip(rows, ("epoch-1", "final"), strict=True):
        value = expected(reference, directory, name, masked.kernels)
        assert row["distance"] == pytest.approx(value, rel=1e-12)
        assert type(row["distance"]) is float
    assert rows[0]["distance"] != rows[1]["distance"]
    assert json.loads((directory / "history.json").read_text()) == rows
    # Another initialisation is far away; what is pruned alone is a part of that.
    pruned = {name: reference[name] * ~mask for name, mask in masked.get_masks().items()}
    parts = [np.concatenate([a.ravel() for a in d.values()]) for d in (pruned, reference)]
    assert rows[0]["distance"] > np.linalg.norm(parts[0]) / np.linalg.norm(parts[1]) > 0.5
    events = EventAccumulator(str(tmp_path / "log"), size_guidance={"tensors": 0})
    events.Reload()
    shown = [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors("distance")]
    assert [step for step, _ in shown] == [1, 2]
    np.testing.assert_allclose([v for _, v in shown], [r["distance"] for r in rows], rtol=1e-6)


def test_a_resumed_run_measures_as_an_uninterrupted_one(
    sparse, tiny_data, tmp_path, reference, monkeypatch
):
    reporting = Reporting(verbose=0, distance_from=reference)
    options = {"seed": 0, "reporting": reporting}
    save = callbacks.Checkpoint.on_epoch_end

    def interrupt(self, epoch, logs=None):
        save(self, epoch, logs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Checkpoint, "on_epoch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(sparse(), tiny_data, CONFIG, directory=tmp_path, **options)
    masked = sparse()
    rows = train(masked, tiny_data, CONFIG, directory=tmp_path, **options)
    for row, name in zip(rows, ("epoch-1", "final"), strict=True):
        value = expected(reference, tmp_path, name, masked.kernels)
        assert row["distance"] == pytest.approx(value, rel=1e-12)


def test_measuring_is_in_no_measured_time(sparse, tiny_data, tmp_path, reference, monkeypatch):
    clock = types.SimpleNamespace(late=0.0)
    real = callbacks.time.perf_counter
    fake = types.SimpleNamespace(
        monotonic=callbacks.time.monotonic, perf_counter=lambda: real() + clock.late
    )
    monkeypatch.setattr(callbacks, "time", fake)

    class Slow(RelativeDistance):
        def __call__(self):
            clock.late += 10_000
            return super().__call__()

    monkeypatch.setattr(run, "RelativeDistance", Slow)
    rows = train(
        sparse(),
        tiny_data,
        CONFIG,
        seed=0,
        directory=tmp_path,
        reporting=Reporting(verbose=0, distance_from=reference),
    )
    assert clock.late == 20_000
    assert all(row["seconds"] + row["validation_seconds"] < 5_000 for row in rows)


def test_kernels_of_another_network_are_refused_before_training(
    sparse, tiny_data, tmp_path, reference
):
    wrong = {**reference, "conv1": reference["conv1"][..., 1:]}
    with pytest.raises(ValueError, match="kernel of conv1 has shape"):
        train(
            sparse(),
            tiny_data,
            CONFIG,
            seed=0,
            directory=tmp_path,
            reporting=Reporting(verbose=0, distance_from=wrong),
        )
    assert not list(tmp_path.iterdir())
