"""The arithmetic of the benchmark's rows, and that it refuses sides that differ."""

import importlib

import pytest

from tf_lottery.models import forward_flops

training_step = importlib.import_module("training_step")
worker = importlib.import_module("worker")

SETTINGS = {
    "case": "pgd10",
    "model": "wide_resnet-28-2",
    "sparsity": 0.0,
    "batch_size": 4,
    "dtype_policy": "float32",
}


def measured():
    return training_step.Measured(
        first={"ours": 9.0, "torch_best": 4.5},
        seconds={"ours": [2.0, 4.0, 3.0], "torch_best": [4.0, 5.0, 3.0]},
        gflops={"ours": [100.0], "torch_best": [120.0]},
        peaks={"ours": 300.0, "torch_best": 400.0},
    )


def test_a_row_by_hand():
    (row,) = training_step.rows_of(SETTINGS, measured(), peak=120.0)
    flops = sum(forward_flops(worker.build("wide_resnet-28-2", 0.0)[0]).values())
    assert row["ours_seconds"] == 3.0
    assert row["peer_seconds"] == 4.0
    assert row["ratio"] == pytest.approx(0.8)  # of 0.5, 0.8 and 1.0, not 3 / 4
    assert row["gemm_fraction"] == pytest.approx(23 * flops * 4 / 3.0 / 120e9)
    assert row["ours_compile_seconds"] == 6.0
    assert row["peer_compile_seconds"] == 0.5
    assert (row["ours_peak_mb"], row["peer_peak_mb"], row["rounds"]) == (300.0, 400.0, 3)
    wanted = (
        "case model sparsity peer ours_seconds peer_seconds ratio gemm_fraction "
        "ours_peak_mb peer_peak_mb"
    )
    assert set(wanted.split()) <= set(row)
    assert len(training_step.line(row)) <= 120


@pytest.mark.parametrize(
    ("case", "other"), [("pgd10", 2.2), ("pgd10", 1.8), ("pgd20_evaluation", 6.0)]
)
def test_sides_that_compute_something_else_are_refused(case, other):
    ours = 3.0 if "evaluation" in case else 2.0
    with pytest.raises(ValueError, match="torch_best computed"):
        training_step.check_same({"ours": ours, "torch_best": other}, case, 64)


def test_rounding_is_allowed():
    training_step.check_same({"ours": 2.0, "torch_best": 2.01}, "pgd10", 64)
    training_step.check_same({"ours": 3.0, "torch_best": 4.0}, "pgd20_evaluation", 64)


def test_a_worker_answers_and_says_what_it_used():
    with training_step.Worker("ours") as side:
        assert side.wait() > 0
        assert side.run(case="gemm")["gflops"] > 0


def test_a_worker_that_dies_is_told():
    with training_step.Worker("ours") as side:
        side.wait()
        with pytest.raises(RuntimeError, match="the worker of ours died"):
            side.run(case="natural", model="no such model", sparsity=0.0, batch_size=1)


def test_memory_is_read_and_its_peak_forgotten():
    import numpy as np

    block = np.ones(2**25)  # 256 MiB
    assert worker.memory_mb("VmHWM") >= 256
    del block
    worker.forget_peak()
    assert worker.memory_mb("VmHWM") - worker.memory_mb("VmRSS") < 64
