import copy
import json
import math
import os

import numpy as np
import pytest

from tf_lottery.errors import StoreError
from tf_lottery.report.robustness import read_evaluation, write_evaluation
from tf_lottery.report.robustness.document import measures, strongest, warned


@pytest.fixture
def document(make_evaluation):
    return make_evaluation(examples=200)


def test_round_trip_and_order(tmp_path, document):
    path = write_evaluation(tmp_path / "evaluation.json", document)
    assert read_evaluation(path) == document
    stored = json.loads(path.read_text())
    assert list(stored)[:3] == ["format", "kind", "package_version"]
    assert list(stored["models"][0])[:4] == ["name", "what", "examples", "natural"]


def test_additions_are_kept(tmp_path, document):
    document["models"][0]["digest"] = "cd" * 32
    path = write_evaluation(tmp_path / "evaluation.json", document)
    assert read_evaluation(path) == document


def test_numpy_numbers_become_plain_ones(tmp_path, document):
    document["models"][0]["standing"]["fgsm"] = np.int64(7)
    document["transfer"]["accuracy"] = np.array(document["transfer"]["accuracy"])
    found = read_evaluation(write_evaluation(tmp_path / "evaluation.json", document))
    assert found["models"][0]["standing"]["fgsm"] == 7
    assert found["transfer"]["accuracy"][0][0] == 0.45


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_no_nan_is_written(tmp_path, document, number):
    document["diagnosis"]["dense"][0]["value"] = number
    with pytest.raises(ValueError):
        write_evaluation(tmp_path / "evaluation.json", document)
    assert list(tmp_path.iterdir()) == []


def test_contradictions_are_not_written(tmp_path, document):
    document["models"][1]["natural"] = 1.5
    with pytest.raises(ValueError, match="model 'boosting': accuracy of natural outside"):
        write_evaluation(tmp_path / "evaluation.json", document)


def test_failing_replace_leaves_the_old_file(tmp_path, document, monkeypatch):
    path = write_evaluation(tmp_path / "evaluation.json", document)
    before = path.read_bytes()

    def fail(source, target):
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", fail)
    document["settings"]["seed"] = 1
    with pytest.raises(OSError, match="disk gone"):
        write_evaluation(path, document)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "format 2, .*newer tf_lottery"),
        (lambda d: d.update(format="x"), "format 'x', this version reads 1: unknown"),
        (lambda d: d.pop("format"), "not an evaluation"),
        (lambda d: d.update(kind="results"), "not an evaluation"),
        (lambda d: d.pop("pairs"), ": lacks 'pairs'"),
        (lambda d: d["machine"].pop("devices"), "machine lacks 'devices'"),
        (lambda d: d["data"].pop("digest"), "data lacks 'digest'"),
        (lambda d: d["attacks"][0].update(method="magic"), r"attacks\[0\]: attack method"),
        (lambda d: d["attacks"][0].pop("name"), r"attacks\[0\] lacks 'name'"),
        (lambda d: d["attacks"][0].update(name="worst"), "an attack is called 'worst'"),
        (lambda d: d["attacks"].append(d["attacks"][0]), "two attacks have the same name"),
        (lambda d: d.update(models=[]), "has no models"),
        (lambda d: d.update(models=3), "expected form"),
        (lambda d: d["models"][0].pop("what"), r"models\[0\] lacks 'what'"),
        (lambda d: d["models"][1].update(name="dense"), "two models have the same name"),
        (lambda d: d["models"][0].update(examples=0), "tested on no images"),
        (lambda d: d["models"][0]["robust"].pop("fgsm"), "robust lacks 'fgsm'"),
        (lambda d: d["models"][0]["robust"].update(old=0.1), "robust: unknown 'old'"),
        (lambda d: d["models"][0]["robust"].update(fgsm=52.6), "of fgsm outside"),
        (lambda d: d["models"][0].update(worst=0.6), "worst is above the lowest"),
        (lambda d: d["models"][0]["standing"].update(fgsm=201), "do not fit 200 images"),
        (lambda d: d["models"][0]["broken_by"]["fgsm"].update(fgsm=-1), "do not fit"),
        (lambda d: d["models"][0]["cost"].pop("natural"), "cost lacks 'natural'"),
        (lambda d: d["models"][0]["cost"]["fgsm"].update(seconds=-1), "cost of fgsm below 0"),
        (lambda d: d["pairs"][0].update(b="nobody"), r"pairs\[0\]: unknown 'nobody'"),
        (lambda d: d["pairs"][0].update(b="dense"), "compares 'dense' with itself"),
        (lambda d: d["pairs"][0].update(measure="cw"), "unknown measure 'cw'"),
        (lambda d: d["pairs"][0].update(only_a=100), "contradict each other"),
        (lambda d: d["pairs"][0].update(low=0.9), "outside its interval"),
        (lambda d: d["pairs"][0].update(p=1.1), "p outside"),
        (lambda d: d["transfer"].pop("models"), "transfer lacks 'models'"),
        (lambda d: d["transfer"]["accuracy"].pop(), "not 3 x 3"),
        (lambda d: d["transfer"]["accuracy"][1].append(0.5), "not 3 x 3"),
        (lambda d: d["transfer"]["accuracy"][1].__setitem__(0, -1), "transfer: accuracy outside"),
        (lambda d: d["transfer"]["attack"].update(eps=2), "transfer: attack: eps: got 2"),
        (lambda d: d["transfer"].update(examples=0), "transfer was measured on no images"),
        (lambda d: d["curves"].pop("steps"), "curves lacks 'steps'"),
        (lambda d: d["curves"]["eps"]["values"].reverse(), "values do not increase"),
        (lambda d: d["curves"]["eps"]["accuracy"]["dense"].pop(), "'dense' is not 8 shares"),
        (lambda d: d["curves"]["steps"]["accuracy"].update(x=[]), "accuracy: unknown 'x'"),
        (lambda d: d["curves"]["eps"]["rises"].update(dense=[[1, 2]]), "rises of 'dense'"),
        (lambda d: d["diagnosis"].update(nobody=[]), "diagnosis: unknown 'nobody'"),
        (lambda d: d["diagnosis"]["dense"][0].pop("text"), "lacks 'text'"),
        (lambda d: d["diagnosis"]["dense"][0].update(check="x"), "unknown check 'x'"),
        (lambda d: d["diagnosis"]["dense"][0].update(outcome="x"), "unknown outcome 'x'"),
    ],
)
def test_broken_documents_are_named(tmp_path, document, change, message):
    path = tmp_path / "evaluation.json"
    broken = copy.deepcopy(document)
    change(broken)
    path.write_text(json.dumps(broken))
    with pytest.raises(StoreError, match=message) as caught:
        read_evaluation(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"format": NaN}', "\x00"])
def test_no_json(tmp_path, text):
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"not JSON|not an evaluation") as caught:
        read_evaluation(path)
    assert "\n" not in str(caught.value)


def test_missing_or_unreadable(tmp_path):
    with pytest.raises(StoreError, match="no such file; a finished --mode=evaluate"):
        read_evaluation(tmp_path / "evaluation.json")
    with pytest.raises(StoreError, match="cannot be read"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(transfer=None),
        lambda d: d.update(curves=None),
        lambda d: d["curves"].update(eps=None),
        lambda d: d.update(diagnosis={}, pairs=[]),
        lambda d: d["models"][0].update(worst=None),
    ],
)
def test_what_was_not_measured_is_null(tmp_path, document, change):
    change(document)
    assert read_evaluation(write_evaluation(tmp_path / "evaluation.json", document)) == document


def test_measures(make_evaluation):
    assert measures(make_evaluation()) == ["natural", "fgsm", "pgd20", "autoattack", "worst"]
    assert measures(make_evaluation(attacks=("pgd20",))) == ["natural", "pgd20"]
    assert measures(make_evaluation(attacks=())) == ["natural"]


def test_strongest_is_the_worst_of_all_where_every_model_has_it(make_evaluation):
    document = make_evaluation()
    assert strongest(document) == "worst"
    document["models"][2]["worst"] = None
    assert strongest(document) == "autoattack"
    for model in document["models"]:
        model["robust"]["fgsm"] = 0.0
    assert strongest(document) == "fgsm"
    assert strongest(make_evaluation(attacks=("square",))) == "square"
    assert strongest(make_evaluation(attacks=())) is None


def test_a_single_warning_suffices(document):
    assert warned(document) == ["broken gradients"]
    document["diagnosis"]["dense"][5]["outcome"] = "warn"
    assert warned(document) == ["dense", "broken gradients"]
    del document["diagnosis"]["broken gradients"]
    assert warned(document) == ["dense"]
