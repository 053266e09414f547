"""What version 0.1.0 wrote is read; what a newer version writes is refused in a clear line."""

import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest

from tf_lottery import lottery_config
from tf_lottery.data import load
from tf_lottery.engine.store import read_manifest, verify
from tf_lottery.errors import LotteryError
from tf_lottery.evaluation.loading import load_model
from tf_lottery.files import document_digest
from tf_lottery.report import robustness
from tf_lottery.report.results import find_results, read_results
from tf_lottery.report.study import write_report
from tf_lottery.tickets import Ticket

GOLDEN = Path(__file__).parent / "golden" / "0.1.0"
STAGES = sorted((GOLDEN / "stages").iterdir())
FIRST = STAGES[0].name


def manifest(home):
    key = types.SimpleNamespace(key=home.name.split("-")[1])
    return read_manifest((home / "manifest.json").read_bytes(), home, key)


def test_a_ticket():
    ticket = Ticket.load(GOLDEN / "ticket")
    assert ticket.digest == "faa64a9ea3b2d38de68301fd73b17e53aed0f950b4c44734bac07f94ab0dfd1d"
    assert (ticket.weights_kept, ticket.weights_total) == (127, 633)
    network = ticket.network().network  # the initialisation made again from its seed
    kernel = network.get_layer("conv1").kernel.numpy()
    assert np.count_nonzero(kernel) == np.count_nonzero(ticket.masks["conv1"])


@pytest.mark.parametrize("home", STAGES, ids=lambda home: home.name)
def test_a_stage(home):
    found = manifest(home)
    assert found["kind"] == home.name.split("-")[0]
    for name in found["files"]:
        verify(home, found, name)


def test_a_trained_network_is_as_accurate_as_it_was():
    data = load(
        lottery_config(
            dataset="digits", train_examples=64, validation_examples=30, test_examples=20
        ).data
    )
    checked = 0
    for home in STAGES:
        if home.name.startswith("evaluate") and manifest(home)["settings"]["weights"] == "best":
            told = json.loads((home / "evaluation.json").read_text())
            loaded = load_model(GOLDEN / "stages" / manifest(home)["parents"]["trained"])
            logits = loaded.model(data.test_images / np.float32(255), training=False).numpy()
            accuracy = (logits.argmax(1) == data.test_labels).mean()
            assert accuracy == pytest.approx(told["natural"])
            checked += 1
    assert checked == 2


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "g")
    return tmp_path / "g"


def test_results_and_their_report(copy):
    document = read_results(copy / "results.json")
    old = json.loads((copy / "results.json").read_text())
    for row, told in zip(document.rows, old["rows"], strict=True):
        assert row.name == told["name"]
        assert (row.tests["pgd2"].best, row.tests["worst"].last) == (
            told["pgd2"]["best"], told["worst"]["last"],
        )  # fmt: skip
        assert row.total_over_dense == told["total_over_dense"]
        assert [record.loss for record in row.curve] == [
            record["loss"] for record in old["curves"][row.name]
        ]
    assert find_results(copy) == copy / "results.json"
    write_report(copy)
    assert "<img" in (copy / "report.html").read_text()


def test_an_evaluation_and_its_report(copy):
    robustness.read_evaluation(copy / "evaluation" / "evaluation.json")
    robustness.write_robustness_report(copy / "evaluation")
    assert (copy / "evaluation" / "report.html").exists()


def test_an_experiment_and_its_report(copy):
    (copy / "results.json").unlink()  # a work directory holds one or the other
    assert find_results(copy) == copy / "experiment.json"
    document = read_results(copy / "experiment.json")
    old = json.loads((copy / "experiment.json").read_text())
    assert document.study.id == "fig3"
    for arm in old["arms"]:
        for row, run in zip(document.runs(arm["name"]), arm["runs"], strict=True):
            assert row.seed == run["seed"]
            assert row.tests["natural"].last == run["test"]["natural"]["last"]
            assert row.total_over_dense == run["total_seconds_over_dense"]
            assert row.search_passes == run["search_passes"]
    write_report(copy)
    assert (copy / "report.html").exists()


def newer(path, digest):
    """The document in the next format, as its writer would leave it."""
    document = json.loads(path.read_text())
    document["format"] += 2
    if digest:
        rest = {name: value for name, value in document.items() if name != digest}
        document[digest] = document_digest(rest)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("name", "digest", "read"),
    [
        ("ticket/ticket.json", "document_digest", lambda place: Ticket.load(place / "ticket")),
        ("results.json", "", lambda place: read_results(place / "results.json")),
        (
            "evaluation/evaluation.json",
            "",
            lambda place: robustness.read_evaluation(place / "evaluation" / "evaluation.json"),
        ),
        ("experiment.json", "", lambda p: read_results(p / "experiment.json")),
        (f"stages/{FIRST}/manifest.json", "", lambda place: manifest(place / "stages" / FIRST)),
    ],
)  # fmt: skip
def test_a_newer_format_says_to_update(copy, name, digest, read):
    newer(copy / name, digest)
    with pytest.raises(LotteryError, match="update") as caught:
        read(copy)
    assert "\n" not in str(caught.value)
