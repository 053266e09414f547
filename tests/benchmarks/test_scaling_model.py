"""The formulas of benchmarks/scaling_model.py by hand."""

import importlib

import pytest

from tf_lottery.engine.stage import Stage
from tf_lottery.keras import keras
from tf_lottery.lottery.costs import training_cost
from tf_lottery.options.build import lottery_config

model = importlib.import_module("scaling_model")


@pytest.mark.parametrize(
    ("objective", "steps", "passes"),
    [("natural", 0, 3), ("fgsm", 1, 5), ("pgd", 10, 23), ("pgd", 7, 17)],
)
def test_passes_are_the_ledgers(objective, steps, passes):
    config = lottery_config(objective=objective, steps=max(1, steps), epochs=2, batch_size=32).train
    cost = training_cost(config, 100, 7)  # three batches of 32 an epoch
    assert cost.flops == 2 * 96 * passes * 7
    assert model.passes(steps) == passes


def test_seconds_of_a_step():
    cluster = model.Cluster(1e9, 2e9, 5e8, 4, 0.001, 0.01)
    # 23 passes of 1e6 on 80 images, 8 GPUs of 1e9.
    assert model.compute_seconds(1e6, 10, 80, cluster, 8) == pytest.approx(23 * 80e6 / 8e9)
    # A million floats, 4 MB, two GPUs: half of it there and half of it back, a message each.
    assert model.all_reduce_seconds(10**6, cluster, 2) == pytest.approx(4e6 / 2e9 + 2 * 0.001)
    # Three hosts of four: 2 * 3/4 and 6 messages inside, 2 * 2/3 and 4 messages between.
    expected = 1.5 * 4e6 / 2e9 + 6 * 0.001 + 4 / 3 * 4e6 / 5e8 + 4 * 0.01
    assert model.all_reduce_seconds(10**6, cluster, 12) == pytest.approx(expected)
    assert model.all_reduce_seconds(10**6, cluster, 1) == 0
    assert model.efficiency(3.0, 1.0) == 0.75


def test_bytes_moved():
    x = pixels = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(2, 3, padding="same", use_bias=False)(x)  # 16 in, 32 out
    x = keras.layers.ReLU()(x)  # 32, 32
    x = keras.layers.Dense(3)(keras.layers.Flatten()(x))  # 32, 32; 32, 3
    found = model.traffic(keras.Model(pixels, x))
    forward = 4 * (16 + 32 + 64 + 64 + 35)
    assert found.forward == forward
    assert found.weights == 4 * (48 + 35)
    kept = 4 * (16 + 32 + 32)  # pixels, ReLU's output, the same flat
    assert found.backward == forward + kept
    # PGD-2: three passes each way; six readings and a writing of the weights, 14 to update.
    activations = 3 * forward + 3 * (forward + kept) + found.weights
    assert model.step_bytes(found, 10, 2, 5) == 5 * activations + 21 * 4 * 10


def stages():
    """Two chains: 1 - 4 and 2 - 3 - 2; and a stage of 1 that waits for both."""

    def stage(label, seconds, *parents):
        roles = {str(i): parent for i, parent in enumerate(parents)}
        return Stage("train", label, {"seconds": seconds, "label": label}, roles)

    a = stage("a2", 4, stage("a1", 1))
    b = stage("b3", 2, stage("b2", 3, stage("b1", 2)))
    return [stage("c", 1, a, b)]


def seconds(stage):
    return stage.settings["seconds"]


def test_when_stages_end():
    assert model.critical_path(stages(), seconds) == 2 + 3 + 2 + 1
    assert model.makespan(stages(), seconds, 1) == 13
    assert model.makespan(stages(), seconds, 2) == 8  # the shorter chain beside the longer
    assert model.makespan(stages(), seconds, 9) == 8


def test_the_papers_seconds():
    rates = model.paper_rate(13e9)
    # 351 batches of 128 an epoch.
    assert rates["dense"] == pytest.approx(100 * 351 * 128 * 23 * 13e9 / 134_764)
    assert rates["40"] == pytest.approx(40 * 351 * 128 * 23 * 13e9 / 54_090)


def test_a_batch_smaller_than_the_gpus_is_told():
    table = model.parallel_table(1e9, 10**6, model.FP32)
    assert [line.split(" | ")[1] for line in table.splitlines()[2:]] == ["128"] * 6
    assert "| 512 | 128 | less than an image a GPU |" in table
    assert table.count("less than an image") == 1
