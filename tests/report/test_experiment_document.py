import copy
import json

import numpy as np
import pytest
from experiments import build_claim, build_experiment, build_figure
from tf_lottery.report.experiment import EXPERIMENT, read_experiment, write_experiment
from tf_lottery.report.experiment.problems import problem

from tf_lottery.errors import StoreError


@pytest.mark.parametrize("form", ["epochs", "sweep", "transfer"])
def test_round_trip(tmp_path, form):
    document = build_experiment(form, arms=4)
    path = write_experiment(tmp_path / EXPERIMENT, document)
    assert path == tmp_path / "experiment.json"
    assert read_experiment(path) == document


def test_keys_stand_in_reading_order_and_the_same_bytes_come_out(tmp_path):
    document = build_experiment(arms=2, seeds=(0,), epochs=1)
    shuffled = dict(reversed(document.items()))
    first = write_experiment(tmp_path / "a.json", document).read_bytes()
    assert write_experiment(tmp_path / "b.json", shuffled).read_bytes() == first
    keys = list(json.loads(first))
    assert keys[:4] == ["format", "package_version", "command", "experiment"]
    assert keys[-2:] == ["ledger", "document_digest"]


def test_numpy_numbers_become_plain(tmp_path):
    document = build_experiment(arms=2, seeds=(0,))
    document["arms"][0]["runs"][0]["train_seconds"] = np.float32(2.5)
    document["arms"][0]["runs"][0]["epochs"] = np.int64(10)
    read = read_experiment(write_experiment(tmp_path / EXPERIMENT, document))
    assert read["arms"][0]["runs"][0]["train_seconds"] == 2.5
    assert read["arms"][0]["runs"][0]["epochs"] == 10


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, "8", True, None])
def test_no_number_is_not_written(tmp_path, bad):
    document = build_experiment(arms=2, seeds=(0,))
    document["arms"][0]["runs"][0]["train_seconds"] = bad
    with pytest.raises(ValueError, match=r"train_seconds is .*, not 0 or more"):
        write_experiment(tmp_path / EXPERIMENT, document)
    assert list(tmp_path.iterdir()) == []


def test_nan_outside_the_known_keys_is_not_written_either(tmp_path):
    document = build_experiment(arms=2, seeds=(0,))
    document["settings"]["rate"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_experiment(tmp_path / EXPERIMENT, document)
    assert list(tmp_path.iterdir()) == []


def _set(*path):
    """Sets the value at the path, its last part."""
    *keys, last, value = path

    def change(document):
        for key in keys:
            document = document[key]
        document[last] = value

    return change


def _drop(*path):
    *keys, last = path

    def change(document):
        for key in keys:
            document = document[key]
        del document[last]

    return change


RUN = ("arms", 0, "runs", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("claims"), "lacks 'claims'"),
        (_drop("machine", "cpu"), "machine lacks 'cpu'"),
        (_drop("data", "validation"), "data lacks 'validation'"),
        (_drop("experiment", "question"), "experiment lacks 'question'"),
        (_set("experiment", "sweep", {}), "experiment: sweep lacks 'label', 'log'"),
        (_set("scale", None), "scale: None is no text"),
        (_set("seeds", []), "seeds: \\[\\] are not one whole number or more"),
        (_set("seeds", [0, 1]), "arm 'dense' has 3 runs for 2 seeds"),
        (_set("seeds", [0, 1, 5]), "runs\\[2\\] is of seed 2, not of 5"),
        (_set("attacks", [{"name": "x", "power": 1}]), "attacks\\[0\\]: unknown setting 'power'"),
        (_set("arms", []), "has no arms"),
        (_drop("arms", 1, "published"), "arms\\[1\\] lacks 'published'"),
        (_set("arms", 1, "name", "dense"), "arms: two of the same name"),
        (_set("arms", 1, "name", " "), "name ' ' is no text"),
        (_set("arms", 0, "kind", "tall"), "arm 'dense' is of unknown kind 'tall'"),
        (_set("arms", 0, "x", "3"), "x is '3', no number"),
        (_set("arms", 0, "published", {"accuracy": 1}), "unknown measure 'accuracy'"),
        (_set("arms", 0, "published", {"test@best": None}), "published test@best is None"),
        (_drop(*RUN, "stopped"), "runs\\[0\\] lacks 'stopped'"),
        (_set(*RUN, "density", 1.2), "density 1.2 outside"),
        (_set(*RUN, "best_epoch", 11), "best_epoch 11 of 10 epochs"),
        (_set(*RUN, "epochs", 9), "epochs do not rise from 1 to at most 9"),
        (_set(*RUN, "curve", 0, "epoch", 2), "epochs do not rise"),
        (_set(*RUN, "curve", 0, "epoch", 0), "epochs do not rise"),
        (_drop(*RUN, "curve", 3, "distance"), "curve\\[3\\] lacks 'distance'"),
        (_set(*RUN, "curve", 3, "validation_robust", 1.5), "validation_robust is 1.5"),
        (_set(*RUN, "curve", 3, "loss", "low"), "loss is 'low', not a number"),
        (_drop(*RUN, "test", "worst"), "test lacks 'worst'"),
        (_drop(*RUN, "test", "natural", "last"), "test: natural lacks 'last'"),
        (_set(*RUN, "test", "pgd20", "best", -0.1), "best is -0.1, not a share"),
        (_set(*RUN, "test", "examples", 0), "tested on 0 images"),
        (_set("baseline", "nobody"), "baseline: unknown 'nobody'"),
        (_set("claims", 0, "ours", "nobody"), "claim 'first': unknown 'nobody'"),
        (_set("claims", 0, "measure", "test@3"), "unknown measure 'test@3'"),
        (_set("claims", 0, "measure", "distance"), "'distance' says no epoch"),
        (_set("claims", 0, "expect", "equal"), "unknown expect 'equal'"),
        (_set("claims", 0, "margin", -1), "margin -1 is not 0 or more"),
        (_set("claims", 0, "theirs", None), "compares with neither an arm nor a value"),
        (_set("claims", 1, "id", "first"), "claims: two of the same name"),
        (_set("figures", 0, "name", "../up"), "its name is no file name"),
        (_set("figures", 0, "name", ".hidden"), "its name is no file name"),
        (_set("figures", 1, "name", "accuracy"), "figures: two of the same name"),
        (_set("figures", 0, "form", "pie"), "unknown form 'pie'"),
        (_set("figures", 0, "measures", []), "has no measures"),
        (_set("figures", 0, "measures", ["distance@1"]), "no measure of form 'epochs'"),
        (_set("figures", 0, "arms", ["nobody"]), "figure 'accuracy': unknown 'nobody'"),
        (_set("reference", "runs", "dense curve", 0, "natural", 2), "natural is 2, not a share"),
        (_drop("reference", "file"), "reference lacks 'file'"),
        (_drop("ledger", 0, "seed"), "ledger\\[0\\] lacks 'seed'"),
        (_set("ledger", 0, "models", ["nobody"]), "ledger\\[0\\]: unknown 'nobody'"),
        (_set("ledger", 0, "flops", "many"), "flops is 'many'"),
        (_set("arms", 3), "not in the expected form"),
        (_set("figures", None), "not in the expected form"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(tmp_path, change, message):
    document = build_experiment()
    assert problem(document) == ""
    change(document)
    with pytest.raises(ValueError, match=message) as error:
        write_experiment(tmp_path / EXPERIMENT, document)
    assert "\n" not in str(error.value)
    (tmp_path / EXPERIMENT).write_text(json.dumps(document))
    with pytest.raises(StoreError, match=message) as refused:
        read_experiment(tmp_path / EXPERIMENT)
    assert str(refused.value).startswith(str(tmp_path / EXPERIMENT))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("transfer", "examples"), "transfer lacks 'examples'"),
        (_set("transfer", "examples", 0), "measured on no images"),
        (_set("transfer", "arms", ["dense", "dense"]), "transfer: two of the same name"),
        (_set("transfer", "matrices", []), "0 matrices for 3 seeds"),
        (_set("transfer", "matrices", 1, [[0.5]]), "a matrix is not 3 x 3"),
        (_set("transfer", "matrices", 1, 0, 0, 1.01), "accuracy outside"),
        (_set("transfer", "matrices", 1, 0, 0, None), "accuracy outside"),
        (_set("transfer", "published", 0, 1, 58.69), "accuracy outside"),
        (_set("transfer", "published", [[0.5]]), "a matrix is not 3 x 3"),
        (_drop("transfer", "published"), "transfer lacks 'published'"),
    ],
)
def test_wrong_transfer(change, message):
    document = build_experiment("transfer")
    change(document)
    assert message in problem(document)


def test_what_may_be_null_or_absent():
    document = build_experiment(attacks=())
    document["baseline"] = document["transfer"] = document["reference"] = None
    for arm in document["arms"]:
        for run in arm["runs"]:
            run["test"] = None
            run["total_seconds_over_dense"] = run["total_flops_over_dense"] = None
            for record in run["curve"]:
                record["distance"] = record["validation_natural"] = record["loss"] = None
    document["arms"][0]["runs"][0]["curve"] = []
    # An attack and a sweep that only the paper has, and measures that nothing has.
    document["arms"][0]["published"] = {"test_cw@best": 0.5, "validation@best": 0.4}
    document["claims"] = [build_claim("dense", "boosting", measure="test_cw@best")]
    document["figures"] = [build_figure("sweep", ["run:epochs", "test_cw@last"])]
    assert problem(document) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        (b"\xff", "cannot be read"),
        ("{", "not JSON"),
        ('{"format": NaN}', "not JSON .*NaN is no JSON number"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not an experiment"),
        ('{"format": 1}', "not an experiment"),
        ('{"format": 2, "arms": []}', "format 2, this version reads 1: written by a newer"),
        ('{"format": "x", "arms": []}', "format 'x', this version reads 1: unknown"),
        ('{"format": 1, "arms": []}', "lacks 'package_version'"),
    ],
)
def test_damaged_files(tmp_path, text, message):
    path = tmp_path / EXPERIMENT
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StoreError, match=message) as error:
        read_experiment(path)
    assert "\n" not in str(error.value)


def test_checking_changes_nothing():
    document = build_experiment()
    before = copy.deepcopy(document)
    assert problem(document) == ""
    assert document == before
