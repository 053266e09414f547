"""Shrunk images from a training to its evaluation and export."""

import json

import numpy as np
import pytest

from tests.command_line import complaint
from tf_lottery import weights
from tf_lottery.api import find_ticket
from tf_lottery.main import main
from tf_lottery.options.build import lottery_config
from tf_lottery.tickets import Ticket

SETTINGS = [
    "--dataset=digits", "--width_multiplier=0.1", "--epochs=1", "--train_examples=320",
    "--test_examples=40", "--attacks=fgsm", "--eps=0.1", "--validation_attack=pgd2", "--steps=2",
]  # fmt: skip
EVALUATE = ["--mode=evaluate", *SETTINGS, "--analysis_images=0"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "w"
    run = [*SETTINGS, "--compare=dense,boosting", "--image_size=4", f"--workdir={workdir}"]
    assert main(run) == 0
    return workdir


def test_networks_and_ticket_are_of_the_smaller_images(workdir):
    assert Ticket.load(workdir / "tickets" / "boosting").spec.input_shape == (4, 4, 1)
    document = json.loads((workdir / "results.json").read_text())
    assert document["settings"]["data"]["image_size"] == 4
    for row in document["rows"]:
        assert row["test_examples"] == 40


def test_an_evaluation_finds_the_same_with_the_flag(workdir, tmp_path, capsys):
    model = f"--model_path={workdir / 'saved_model' / 'dense'}"
    where = f"--evaluation_dir={tmp_path / 'e'}"
    assert main([*EVALUATE, model, where, "--image_size=4"]) == 0
    (entry,) = json.loads((tmp_path / "e" / "evaluation.json").read_text())["models"]
    rows = json.loads((workdir / "results.json").read_text())["rows"]
    dense = next(row for row in rows if row["name"] == "dense")
    assert entry["natural"] == dense["natural"]["best"]
    (stored,) = (
        path.parent / "examples.npz"
        for path in (workdir / "stages").glob("evaluate-*/manifest.json")
        if json.loads(path.read_text())["label"] == "evaluate: dense (best epoch)"
    )
    ours = weights.read_arrays(tmp_path / "e" / "dense" / "examples.npz")
    np.testing.assert_array_equal(ours["index"], weights.read_arrays(stored)["index"])

    line = complaint(capsys, 2, [*EVALUATE, model, f"--evaluation_dir={tmp_path / 'f'}"])
    words = "(8, 8, 1), dense takes (4, 4, 1); trained with --image_size=4"
    assert f"--dataset: images of digits are {words}" in line


def test_an_export_measures_at_the_recorded_size(workdir, tmp_path):
    (stage,) = (
        path.parent
        for path in (workdir / "stages").glob("train-*/manifest.json")
        if json.loads(path.read_text())["label"] == "train: dense"
    )
    target = tmp_path / "e"
    assert main(["--mode=export", f"--model_path={stage}", f"--export_dir={target}"]) == 0
    document = json.loads((target / "export.json").read_text())
    assert document["accuracy"]["examples"] == 360
    assert document["rows"][0]["natural"] is not None


def test_a_ticket_without_a_search_says_the_size_too(tmp_path, capsys):
    options = {"dataset": "digits", "width_multiplier": 0.1, "image_size": 4, "search": "random"}
    find_ticket(lottery_config(**options), tmp_path / "s").save(tmp_path / "t")
    export = ["--mode=export", *SETTINGS, f"--ticket={tmp_path / 't'}", "--formats=tflite_int8"]
    assert main([*export, f"--export_dir={tmp_path / 'e'}"]) == 0
    where = [f"--ticket={tmp_path / 't'}", f"--evaluation_dir={tmp_path / 'v'}"]
    assert "trained with --image_size=4" in complaint(capsys, 2, [*EVALUATE, *where])


def test_another_size_is_another_network(workdir, tmp_path, capsys):
    ticket = f"--ticket={workdir / 'tickets' / 'boosting'}"
    run = [*SETTINGS, "--compare=boosting", ticket, f"--workdir={tmp_path / 'w'}"]
    assert "for convnet-w0.1 on raw (4, 4, 1) pixels" in complaint(capsys, 1, run)
    assert "--image_size: got 9" in complaint(capsys, 2, [*run, "--image_size=9"])
