import json
from pathlib import Path

import pytest
from evaluations import build_content

import tf_lottery
from tf_lottery.errors import StoreError
from tf_lottery.report.robustness import read_evaluation, write_evaluation

DOCS = Path(tf_lottery.__file__).parents[1] / "docs" / "results"


@pytest.fixture
def document(make_evaluation):
    return make_evaluation(examples=200)


def test_round_trip_and_order(tmp_path, document):
    path = write_evaluation(tmp_path / "evaluation.json", document)
    assert read_evaluation(path) == document
    stored = json.loads(path.read_text())
    assert list(stored)[:3] == ["format", "kind", "package_version"]
    assert list(stored["models"][0])[:4] == ["name", "what", "examples", "natural"]
    assert stored["attacks"] == build_content(examples=200)["attacks"]


@pytest.mark.parametrize(
    "path", sorted(DOCS.glob("*/evaluation/evaluation.json")), ids=lambda path: path.parts[-3]
)
def test_nothing_of_an_older_file_is_lost(tmp_path, path):
    stored = json.loads(path.read_text())
    again = json.loads(write_evaluation(tmp_path / "e.json", read_evaluation(path)).read_text())
    for content in (stored, again):
        content.pop("document_digest", None)
        for model in content["models"]:
            model.setdefault("training_eps", None)
    assert again == stored


def test_contradictions_are_not_written(tmp_path, document):
    document.models[1].natural = 1.5
    with pytest.raises(ValueError, match=r"at `\$.models\[1\].natural`"):
        write_evaluation(tmp_path / "evaluation.json", document)
    document.models[1].natural, document.models[1].worst = 0.5, 0.6
    with pytest.raises(ValueError, match="model 'boosting': worst is above"):
        write_evaluation(tmp_path / "evaluation.json", document)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(kind="results"), r"'results' - at `\$.kind`"),
        (lambda d: d.pop("pairs"), "missing required field `pairs`"),
        (lambda d: d["attacks"][0].update(name="worst"), "an attack is called 'worst'"),
        (lambda d: d["attacks"].append(d["attacks"][0]), "two attacks have the same name"),
        (lambda d: d.update(models=[]), "has no models"),
        (lambda d: d["models"][1].update(name="dense"), "two models have the same name"),
        (lambda d: d["models"][0].update(examples=0), r"models\[0\].examples"),
        (lambda d: d["models"][0]["robust"].pop("fgsm"), "robust lacks 'fgsm'"),
        (lambda d: d["models"][0]["robust"].update(old=0.1), "robust: unknown 'old'"),
        (lambda d: d["models"][0]["robust"].update(fgsm=52.6), r"models\[0\].robust"),
        (lambda d: d["models"][0].update(worst=0.6), "worst is above the lowest"),
        (lambda d: d["models"][0]["standing"].update(fgsm=201), "exceed 200 images"),
        (lambda d: d["models"][0]["broken_by"]["fgsm"].update(fgsm=-1), "broken_by"),
        (lambda d: d["models"][0]["cost"].pop("natural"), "cost lacks 'natural'"),
        (lambda d: d["models"][0]["cost"]["fgsm"].update(seconds=-1), "seconds"),
        (lambda d: d["pairs"][0].update(b="nobody"), r"pairs\[0\]: unknown 'nobody'"),
        (lambda d: d["pairs"][0].update(b="dense"), "compares 'dense' with itself"),
        (lambda d: d["pairs"][0].update(measure="cw"), r"pairs\[0\]: unknown 'cw'"),
        (lambda d: d["pairs"][0].update(only_a=100), "contradict each other"),
        (lambda d: d["pairs"][0].update(low=0.9), "outside its interval"),
        (lambda d: d["pairs"][0].update(p=1.1), r"pairs\[0\].p"),
        (lambda d: d["transfer"]["accuracy"].pop(), "not 3 x 3"),
        (lambda d: d["transfer"]["accuracy"][1].append(0.5), "not 3 x 3"),
        (lambda d: d["transfer"]["models"].__setitem__(0, "boosting"), "one of them twice"),
        (lambda d: d["transfer"]["attack"].update(eps=2), "eps: got 2"),
        (lambda d: d["curves"]["eps"]["values"].reverse(), "values do not increase"),
        (lambda d: d["curves"]["eps"]["accuracy"]["dense"].pop(), "'dense' is not 8 shares"),
        (lambda d: d["curves"]["steps"]["accuracy"].update(x=[]), "curves.steps: unknown 'x'"),
        (lambda d: d["curves"]["eps"]["rises"].update(dense=[[1, 2]]), "length 3, got 2"),
        (lambda d: d["curves"]["eps"]["rises"].update(dense=[[1, 2, 0]]), "rises of 'dense'"),
        (lambda d: d["diagnosis"].update(nobody=[]), "diagnosis: unknown 'nobody'"),
        (lambda d: d["diagnosis"]["dense"][0].update(check="x"), "of 'dense': unknown 'x'"),
        (
            lambda d: d["diagnosis"]["dense"][0].update(outcome="x"),
            r"diagnosis\[...\]\[0\].outcome",
        ),
    ],
)
def test_broken_documents_are_named(tmp_path, change, message):
    path = tmp_path / "evaluation.json"
    broken = build_content(examples=200)
    change(broken)
    path.write_text(json.dumps(broken))
    with pytest.raises(StoreError, match=message) as caught:
        read_evaluation(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_measures(make_evaluation):
    assert make_evaluation().measures == ["natural", "fgsm", "pgd20", "autoattack", "worst"]
    assert make_evaluation(attacks=("pgd20",)).measures == ["natural", "pgd20"]
    assert make_evaluation(attacks=()).measures == ["natural"]


def test_strongest_is_the_worst_of_all_where_every_model_has_it(make_evaluation):
    document = make_evaluation()
    assert document.strongest == "worst"
    document.models[2].worst = None
    assert document.strongest == "autoattack"
    for model in document.models:
        model.robust["fgsm"] = 0.0
    assert document.strongest == "fgsm"
    assert make_evaluation(attacks=("square",)).strongest == "square"
    assert make_evaluation(attacks=()).strongest is None


def test_a_single_warning_suffices(document):
    assert document.warned == ["broken gradients"]
    document.diagnosis["dense"][5].outcome = "warn"
    assert document.warned == ["dense", "broken gradients"]
    del document.diagnosis["broken gradients"]
    assert document.warned == ["dense"]
