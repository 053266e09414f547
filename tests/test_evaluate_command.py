"""``--mode=evaluate`` from the command line to the files it leaves."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.keras import keras
from tf_lottery.main import main

SETTINGS = [
    "--dataset=digits",
    "--width_multiplier=0.25",
    "--epochs=2",
    "--search_epochs=1",
    "--eps=0.15",
    "--steps=3",
    "--test_examples=120",
    "--attacks=fgsm,pgd20",
    "--validation_attack=pgd3",
]


def run(*arguments):
    """Exit code and standard output of a command line in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main([*arguments])
    return code, out.getvalue()


class Done:
    """A finished run of a dense network and a ticket."""

    def __init__(self, workdir):
        self.workdir = Path(workdir)
        self.document = json.loads((self.workdir / "results.json").read_text())

    def row(self, kind):
        return next(row for row in self.document["rows"] if row["name"] == kind)

    def stage(self, label):
        (found,) = (
            path.parent
            for path in (self.workdir / "stages").glob("*/manifest.json")
            if json.loads(path.read_text())["label"] == label
        )
        return found


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "w"
    assert run(*SETTINGS, "--compare=dense,boosting", f"--workdir={workdir}")[0] == 0
    return Done(workdir)


EVALUATE = ["--mode=evaluate", *SETTINGS, "--analysis_images=0"]


def evaluated(directory):
    return json.loads((directory / "evaluation.json").read_text())


@pytest.mark.parametrize("what", ["saved_model", "stage"])
def test_evaluation_gives_the_results_accuracies(done, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    path = (
        done.workdir / "saved_model" / "boosting"
        if what == "saved_model"
        else done.stage("train: boosting")
    )
    code, out = run(*EVALUATE, f"--model_path={path}", "--workdir=w")
    assert code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
    directory = tmp_path / "w" / "evaluation"
    (model,) = evaluated(directory)["models"]
    row = done.row("boosting")
    assert model["natural"] == row["natural"]["best"]
    assert model["worst"] == pytest.approx(row["worst"]["best"])
    for name in ("fgsm", "pgd20"):
        assert model["robust"][name] == pytest.approx(row[name]["best"], abs=0.0051 / 10)
    for word in ("w/evaluation/report.html", f"{100 * row['natural']['best']:.1f}"):
        assert word in out


def test_a_whole_run_is_evaluated_pairwise_and_resumed(done, tmp_path, monkeypatch):
    """All models of a work directory: examples, pairs, transfer, curves, diagnosis."""
    where = f"--evaluation_dir={tmp_path}/e"
    arguments = [
        "--mode=evaluate", *SETTINGS, "--attacks=fgsm,apgd_ce", f"--model_path={done.workdir}",
        where, "--analysis_images=16", "--transfer_attack=pgd5",
    ]  # fmt: skip
    assert run(*arguments)[0] == 0
    directory = tmp_path / "e"
    document = evaluated(directory)
    names = ["dense", "boosting"]
    assert [model["name"] for model in document["models"]] == names
    for model in document["models"]:
        found = weights.read_arrays(directory / model["name"] / "examples.npz")
        label, clean = found["label"], found["clean_prediction"]
        assert (found["index"][:-1] != found["index"][1:]).all()
        assert model["natural"] == (clean == label).mean()
        right = (clean == label) & (found["prediction_apgd_ce"] == label)
        assert model["robust"]["apgd_ce"] == right.mean()
        by = found["broken_by_apgd_ce"]
        assert set(by) <= {"", "clean", "apgd_ce"}
        assert ((by == "") == right).all()
        distance = found["distance_apgd_ce"]
        assert (np.isnan(distance) == right).all()
        assert np.nanmax(distance) <= document["attacks"][1]["eps"] + 1e-5
        assert model["cost"]["apgd_ce"]["forward_passes"] > 0
        assert not (directory / model["name"] / "progress.npz").exists()
    first, second = (weights.read_arrays(directory / n / "examples.npz") for n in names[:2])
    pair = next(p for p in document["pairs"] if p["measure"] == "apgd_ce")
    assert (pair["a"], pair["b"]) == tuple(names[:2])
    ours, theirs = (
        (e["clean_prediction"] == e["label"]) & (e["prediction_apgd_ce"] == e["label"])
        for e in (first, second)
    )
    assert pair["only_a"] == (ours & ~theirs).sum()
    assert pair["only_b"] == (theirs & ~ours).sum()
    transfer = np.array(document["transfer"]["accuracy"])
    assert transfer.shape == (len(names), len(names))
    # The white box is at least as strong as any transfer, on the same model.
    assert (transfer.diagonal()[None] <= transfer + 0.1).all()
    assert set(document["diagnosis"]) == set(names)
    assert document["curves"]["eps"]["examples"] == 16
    for page in ("report.html", "report.md"):
        assert all(name in (directory / page).read_text() for name in names)
    assert (directory / "figures").is_dir()

    # A second time nothing is attacked, and other settings are kept apart.
    def fail(*args, **kwargs):
        raise AssertionError("attacked again")

    monkeypatch.setattr("tf_lottery.evaluation.evaluator.Evaluator.__call__", fail)
    monkeypatch.setattr("tf_lottery.evaluation.robustness.transfer_matrix", fail)
    assert run(*arguments)[0] == 0
    assert evaluated(directory)["models"] == document["models"]
    code, _ = run(*arguments, "--eval_eps=0.01")
    assert code == 1


def test_an_evaluation_at_another_radius_than_that_of_training_says_so(done, tmp_path):
    path = done.workdir / "saved_model" / "boosting"
    arguments = [*EVALUATE, "--attacks=", f"--model_path={path}", f"--workdir={tmp_path}"]
    code, out = run(*arguments)
    assert code == 0
    assert "was trained at eps" not in out
    code, out = run(*arguments, "--eval_eps=0.01")
    assert code == 0
    assert "was trained at eps" in out
    assert "attacked at 0.01 in linf" in out


def test_an_evaluation_on_another_data_set_than_that_of_training_says_so(done, tmp_path):
    other = altered(done, tmp_path / "elsewhere", lambda t: t["data"].update(name="cifar10"))
    same = f"--model_path={done.workdir / 'saved_model' / 'boosting'}"
    for model, noted in ((same, False), (other, True)):
        code, out = run(*EVALUATE, "--attacks=", model, f"--workdir={tmp_path / str(noted)}")
        assert code == 0
        line = "elsewhere was trained on cifar10 and is evaluated on digits; --dataset changes that"
        assert (line in out) == noted
        assert ("was trained on" in out) == noted


def altered(done, path, change):
    """A copy of the run's ticket network with another record."""
    shutil.copytree(done.workdir / "saved_model" / "boosting", path)
    metadata = json.loads((path / "metadata.json").read_text())
    change(metadata["training"])
    (path / "metadata.json").write_text(json.dumps(metadata))
    return f"--model_path={path}"


def test_without_flags_data_and_radius_are_those_of_the_run(done, tmp_path):
    given = ["--mode=evaluate", f"--model_path={done.workdir}", "--test_examples=40"]
    few = ["--attacks=fgsm", "--transfer_attack=", "--analysis_images=0"]
    code, out = run(*given, *few, f"--workdir={tmp_path}")
    assert code == 0
    assert "note: attacked on digits at eps 0.15, as trained; --dataset and --eval_eps" in out
    document = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert document["data"]["name"] == "digits"
    assert document["attacks"][0]["eps"] == 0.15
    # What is said goes before.
    code, out = run(*given, *few, "--eps=0.1", "--dataset=digits", f"--workdir={tmp_path}/other")
    assert code == 0
    assert "note: attacked on" not in out
    document = json.loads((tmp_path / "other" / "evaluation" / "evaluation.json").read_text())
    assert document["attacks"][0]["eps"] == 0.1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda training: training["data"].update(name="mnist"),
            "--dataset: the models were trained on digits and mnist: say which",
        ),
        (
            lambda training: training["train"]["objective"]["attack"].update(eps=0.25),
            "--eval_eps: the models were trained at eps 0.15 and 0.25: say which",
        ),
        (
            lambda training: training["data"].update(image_size=6),
            "--image_size: the models were trained with --image_size 0 and 6: say which",
        ),
    ],
)
def test_models_of_different_runs_need_to_be_told(done, tmp_path, capsys, change, line):
    other = altered(done, tmp_path / "other", change)
    both = f"{other},{done.workdir / 'saved_model' / 'dense'}"
    assert main(["--mode=evaluate", both, f"--workdir={tmp_path}/w"]) == 2
    assert line in capsys.readouterr().err


def test_warnings_are_shown_once_each_time(tmp_path, capfd):
    """Of a model that was never trained; when the result is read again, too."""
    pixels = keras.Input((8, 8, 1))
    x = keras.layers.Dense(10, "softmax")(keras.layers.Flatten()(pixels))
    keras.Model(pixels, x).save(tmp_path / "m.keras")
    arguments = [*EVALUATE, f"--model_path={tmp_path / 'm.keras'}", f"--workdir={tmp_path / 'w'}"]
    for _ in range(2):
        code, out = run(*arguments)
        assert code == 0
        assert (out + "".join(capfd.readouterr())).count("look like probabilities") == 1


REFUSED = {
    "two": "takes 2 inputs",
    "bytes": "takes uint8 images",
    "few": "--dataset: digits has labels up to 9, few tells 4 classes apart",
    "large": "--dataset: images of digits are (8, 8, 1), large takes (9, 9, 1)",
}


def other_models(network):
    pixels, other = keras.Input((8, 8, 1)), keras.Input((3,))
    yield "two", keras.Model([pixels, other], network(pixels))
    pixels = keras.Input((8, 8, 1), dtype="uint8")
    yield "bytes", keras.Model(pixels, network(keras.layers.Rescaling(1 / 255)(pixels)))
    yield "few", network
    yield "large", keras.Sequential([keras.Input((9, 9, 1)), keras.layers.Flatten()])


def test_what_a_model_takes_and_gives_is_told_before_anything_runs(
    done, tmp_path, tiny_network, capsys
):
    good = done.workdir / "saved_model" / "boosting"
    for name, model in other_models(tiny_network()):
        model.save(tmp_path / f"{name}.keras")
        capsys.readouterr()
        models = f"--model_path={good},{tmp_path / name}.keras"
        assert run(*EVALUATE, models, f"--workdir={tmp_path / 'w'}")[0] == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert REFUSED[name] in line
        assert not list((tmp_path / "w").rglob("model.json"))


def test_evaluation_of_a_ticket_is_of_its_untrained_weights(done, tmp_path):
    ticket = done.workdir / "tickets" / "boosting"
    code, out = run(*EVALUATE, f"--ticket={ticket}", f"--workdir={tmp_path}")
    assert code == 0
    assert "not trained" in out
    (model,) = evaluated(tmp_path / "evaluation")["models"]
    assert model["natural"] < 0.4


def test_what_cannot_be_evaluated(done, tmp_path, capsys):
    arguments = [*EVALUATE, f"--workdir={tmp_path}/w"]
    prune = done.stage("prune: boosting")
    assert run(*arguments, f"--model_path={prune}")[0] == 2
    assert "kind prune" in capsys.readouterr().err
    assert run(*arguments, f"--model_path={done.workdir / 'stages'}")[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--model_path" in line
    twice = done.workdir / "saved_model" / "boosting"
    assert run(*arguments, f"--model_path={twice},{twice}")[0] == 2
    assert "each model once" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
