"""What a run says of trainings that ended early and of averaged weights."""

import json

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.main import main
from tf_lottery.tickets import Ticket
from tf_lottery.training import callbacks

FLAGS = {
    "width_multiplier": 0.05, "train_examples": 64, "test_examples": 20, "batch_size": 16,
    "epochs": 8, "search_epochs": 2, "search_objective": "natural", "objective": "natural",
    "attacks": "", "compare": "dense,boosting", "warmup_epochs": 0,
    "patience": 2, "ema_decay": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _scripted():
    """No epoch is judged better than the first, nor the averaged weights than the raw ones."""
    measured = callbacks.History.on_epoch_end

    def record(self, epoch, logs=None):
        measured(self, epoch, {k: 0.5 if k.startswith("val_") else v for k, v in logs.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.History, "on_epoch_end", record)
        yield


@pytest.fixture(scope="module")
def run(_scripted, tmp_path_factory):
    work = tmp_path_factory.mktemp("run")
    assert main([*(f"--{k}={v}" for k, v in FLAGS.items()), f"--workdir={work}"]) == 0
    return work


def stages(run, kind):
    manifests = (json.loads(path.read_bytes()) for path in run.glob("stages/*/manifest.json"))
    return [found for found in manifests if found["kind"] == kind]


def test_the_ledger_says_what_was_not_run(run):
    results = json.loads((run / "results.json").read_text())
    trained = {e["label"]: e for e in results["ledger"] if e["kind"] == "train"}
    early = {label: e for label, e in trained.items() if label.startswith("train")}
    assert len(early) == 2
    for entry in early.values():
        assert (entry["epochs"], entry["planned_epochs"]) == (3, 8)
        assert entry["flops"] == entry["planned_flops"] * 3 / 8
        assert entry["examples"] == 3 * 64
    (search,) = (e for label, e in trained.items() if label not in early)
    assert "planned_epochs" not in search
    assert "weights" not in search
    for row in results["rows"]:
        assert (row["epochs"], row["stopped"]) == (3, True)
        assert row["train_flops"] == early[f"train: {row['name']}"]["flops"]


def test_the_report_says_so_too(run):
    report = (run / "report.md").read_text()
    assert "train: dense, seed 0: 3 of 8 epochs, 62 % of its FLOPs saved" in report
    assert "Weights were averaged" in report


def test_a_stop_is_announced(tmp_path, capfd):
    flags = {**FLAGS, "compare": "dense", "ema_decay": 0.0}
    assert main([*(f"--{k}={v}" for k, v in flags.items()), f"--workdir={tmp_path}"]) == 0
    said = capfd.readouterr()
    assert (
        "train: dense: stopped after epoch 3 of 8 by --patience=2, the best being epoch 1; "
        "62.5% of its FLOPs are saved"
    ) in said.err
    assert "Ended before the last planned epoch" in " ".join(said.out.split())
    results = json.loads((tmp_path / "results.json").read_text())
    assert "weights" not in results["rows"][0]
    assert "raw_natural" not in results["rows"][0]["curve"][0]


def test_averages_are_of_training_and_not_of_the_search(run):
    found = [stage["settings"]["train"] for stage in stages(run, "train")]
    assert sorted(train.get("ema_decay", 0) for train in found) == [0, 0.5, 0.5]
    results = json.loads((run / "results.json").read_text())
    for row in results["rows"]:
        assert row["weights"] == "average"  # as good as the raw ones
        assert all(record["raw_natural"] is not None for record in row["curve"])
    assert {e.get("weights") for e in results["ledger"] if e["label"].startswith("train")} == {
        "average"
    }
    for name in ("dense", "boosting"):
        metadata = json.loads((run / "saved_model" / name / "metadata.json").read_text())
        assert metadata["averaged"] is True


def test_pruned_weights_are_zero_in_what_is_kept(run):
    masks = Ticket.load(run / "tickets" / "boosting").masks
    (directory,) = (
        path.parent
        for path in run.glob("stages/*/manifest.json")
        if json.loads(path.read_bytes())["label"] == "train: boosting"
    )
    for file in ("best", "final"):
        values = weights.read_arrays(directory / f"{file}.npz")
        for layer, mask in masks.items():
            assert not values[f"{layer}/kernel"][~mask].any()
            assert np.count_nonzero(values[f"{layer}/kernel"]) == mask.sum()
