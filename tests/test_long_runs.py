"""Long runs in one process: nothing piles up, nothing is traced again."""

import dataclasses
import gc
import os
from pathlib import Path

import numpy as np
import pytest

from tf_lottery import lottery_config
from tf_lottery.data import ImageData
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.store import Store
from tf_lottery.lottery.graph import entries
from tf_lottery.lottery.work import Workshop
from tf_lottery.models import build_model
from tf_lottery.options.settings import (
    ObjectiveConfig,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
)
from tf_lottery.pruning.masks import wrap
from tf_lottery.training import callbacks
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting

FGSM = TrainConfig(
    objective=ObjectiveConfig("fgsm", attack_from_name("fgsm", eps=0.05)),
    epochs=1,
    batch_size=8,
    schedule=ScheduleConfig("constant", peak=1e-3),
    validation_attack=attack_from_name("pgd2", eps=0.05),
)


def data(images=16):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (images, 8, 8, 1)).astype(np.uint8)
    y = np.arange(images, dtype=np.int32) % 4
    return ImageData("t", x, y, y, x, y, y, x, y, y, tuple("abcd"), (0.5,), (0.5,))


def network():
    return wrap(build_model("convnet", (8, 8, 1), 4, 0, width_multiplier=0.05))


def live_graphs():
    from tensorflow.python.framework.func_graph import FuncGraph

    gc.collect()
    return sum(isinstance(thing, FuncGraph) for thing in gc.get_objects())


def resident_mb():
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_no_graph_of_a_finished_training_stays(tmp_path):
    counts = []
    for i in range(3):
        place = tmp_path / str(i)
        place.mkdir()
        train(network(), data(), FGSM, seed=i, directory=place, reporting=Reporting(verbose=0))
        counts.append(live_graphs())
    assert counts[2] == counts[1] == counts[0]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_ten_thousand_steps(tmp_path, monkeypatch):
    """500 epochs of 20 steps."""
    seen = []
    save = callbacks.Checkpoint.on_epoch_end

    def watch(self, epoch, logs=None):
        save(self, epoch, logs)
        if (epoch + 1) % 50 == 0:
            function = self.model.train_function
            traced = self.model.train_tf_function.experimental_get_tracing_count()
            assert function is not None
            files = sum(1 for path in tmp_path.rglob("*") if path.is_file())
            seen.append((resident_mb(), open_files(), traced, files))

    monkeypatch.setattr(callbacks.Checkpoint, "on_epoch_end", watch)
    config = dataclasses.replace(FGSM, epochs=500)
    (tmp_path / "run").mkdir()
    train(
        network(),
        data(160),
        config,
        seed=0,
        directory=tmp_path / "run",
        reporting=Reporting(verbose=0, log_directory=tmp_path / "log"),
    )
    assert len(seen) == 10
    memory, descriptors, traced, files = zip(*seen, strict=True)
    assert max(memory[1:]) < 1.05 * memory[1]
    assert set(traced) == {1}
    assert len(set(descriptors)) == 1
    assert max(files) - min(files) <= 1
    log = sum(path.stat().st_size for path in (tmp_path / "log").rglob("*") if path.is_file())
    assert log < 5e6
    print(f"MB {memory[1]:.0f} to {max(memory[1:]):.0f}, log {log / 1e6:.1f} MB")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_two_hundred_stages(tmp_path):
    """Comparisons of ten stages each, in one process and one store."""
    shop = Workshop(Store(tmp_path / "stages"), tmp_path / "log")
    seen, done = [], 0
    for seed in range(22):
        config = lottery_config(
            dataset="digits", train_examples=64, validation_examples=30, test_examples=20,
            model="convnet", width_multiplier=0.05, batch_size=16, epochs=2, search_epochs=1,
            eps=0.1, steps=1, attacks=("pgd2",), validation_attack="pgd1",
            compare=("dense", "boosting"), seed=seed,
        )  # fmt: skip
        targets = [stage for entry in entries(config) for stage in entry.stages]
        found = run_stages(targets, shop, lambda line: None)
        done += len(found)
        seen.append((resident_mb(), open_files(), live_graphs()))
    assert done >= 200
    memory, descriptors, graphs = zip(*seen[3:], strict=True)
    assert max(memory) < 1.05 * memory[0]
    assert len(set(descriptors)) == len(set(graphs)) == 1
    print(f"{done} stages, MB {memory[0]:.0f} to {max(memory):.0f}")
