"""Published curves that are laid over an experiment's results, and taken away again."""

import copy
import json

import pytest
from experiments import build_experiment, build_figure
from tf_lottery.report.experiment import (
    EXPERIMENT,
    lay_over,
    read_experiment,
    write_experiment,
)

from tf_lottery.main import main


def row(epoch, natural, robust=None):
    return {"epoch": epoch, "natural": natural, "robust": robust}


def curves(*rows, run="boosting curve"):
    return {"file": "curves.csv", "runs": {run: list(rows)}}


def of(document, name):
    return next(arm for arm in document["arms"] if arm["name"] == name)


@pytest.fixture
def sweep():
    document = build_experiment("sweep", arms=4, epochs=5)
    for arm in document["arms"]:
        arm["published"] = {"test_natural@last": 0.9}
    return document


def test_a_sweep_shows_what_the_curves_say_at_its_epochs(sweep):
    before = copy.deepcopy(sweep)
    reference = curves(row(1, 0.7), row(2, 0.72), row(5, 0.8))
    found = lay_over(sweep, reference)
    assert sweep == before
    assert found["reference"] == reference
    boosting, other = found["arms"][0], found["arms"][-2]
    assert (boosting["kind"], other["kind"]) == ("boosting", "reinit")
    # Epochs 1 and 5 are in the figure's measures, 2 is not.
    assert boosting["published"] == {
        "validation_natural@1": 0.7, "validation_natural@5": 0.8, "test_natural@last": 0.9,
    }  # fmt: skip
    assert other["published"] == {"test_natural@last": 0.9}


def test_other_curves_take_the_place_of_the_first_and_none_take_them_away(sweep):
    first = lay_over(sweep, curves(row(1, 0.7), row(5, 0.8)))
    second = lay_over(first, curves(row(1, 0.6)))
    assert of(second, first["arms"][0]["name"])["published"] == {
        "validation_natural@1": 0.6, "test_natural@last": 0.9,
    }  # fmt: skip
    assert lay_over(second, None) == sweep | {"reference": None}


def test_what_a_curve_does_not_hold_is_not_published(sweep):
    found = lay_over(sweep, curves(row(1, None), row(4, 0.8)))
    assert found["arms"][0]["published"] == {"test_natural@last": 0.9}


def test_figures_over_epochs_read_the_curves_themselves():
    document = build_experiment(arms=2)
    document["arms"][1]["published"] = {"test_natural@best": 0.87}
    found = lay_over(document, curves(row(1, 0.7, 0.3)))
    assert found["arms"][1]["published"] == {"test_natural@best": 0.87}
    assert found["reference"]["runs"] == {"boosting curve": [row(1, 0.7, 0.3)]}


@pytest.fixture
def workdir(tmp_path):
    document = build_experiment(arms=2, epochs=3, seeds=(0, 1)) | {"reference": None}
    document["arms"][1]["published"] = {"test_natural@best": 0.87}
    document["figures"] = [build_figure("epochs", ["validation_natural"], "accuracy")]
    write_experiment(tmp_path / "w" / EXPERIMENT, document)
    return tmp_path / "w"


def test_mode_report_draws_the_curves_of_a_file(workdir, tmp_path, capsys):
    assert main(["--mode=report", f"--workdir={workdir}"]) == 0
    picture = workdir / "figures" / "accuracy.png"
    plain, before = picture.read_bytes(), read_experiment(workdir / EXPERIMENT)
    assert "curves.csv" not in (workdir / "report.md").read_text()
    path = tmp_path / "curves.csv"
    path.write_text(
        "run,epoch,valid_clean,valid_robust\nboosting curve,0,70,30\nboosting curve,1,75,31\n"
    )
    command = ["--mode=report", f"--workdir={workdir}", f"--reference_csv={path}"]
    capsys.readouterr()
    assert main(command) == 0
    assert "curves.csv has no run dense curve: drawn without" in capsys.readouterr().out
    assert picture.read_bytes() != plain
    assert "(curves.csv)" in (workdir / "report.md").read_text()
    after = read_experiment(workdir / EXPERIMENT)
    assert after["reference"]["runs"] == {"boosting curve": [row(1, 0.7, 0.3), row(2, 0.75, 0.31)]}
    assert {k: v for k, v in after.items() if k != "reference"} == {
        k: v for k, v in before.items() if k != "reference"
    }
    # They stay with the results until others come, or none.
    assert main(["--mode=report", f"--workdir={workdir}", "--reference_csv="]) == 0
    assert picture.read_bytes() == plain
    assert read_experiment(workdir / EXPERIMENT) == before
    # A bad file changes nothing.
    path.write_text("run,epoch\n")
    text = (workdir / EXPERIMENT).read_bytes()
    capsys.readouterr()
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lacks the columns valid_clean, valid_robust" in line
    assert (workdir / EXPERIMENT).read_bytes() == text


def test_an_experiment_without_curves_of_its_own_says_so(workdir, tmp_path, capsys):
    document = json.loads((workdir / EXPERIMENT).read_text())
    for arm in document["arms"]:
        arm["reference"] = None
    write_experiment(workdir / EXPERIMENT, document)
    path = tmp_path / "curves.csv"
    path.write_text("run,epoch,valid_clean,valid_robust\nx,0,70,\n")
    assert main(["--mode=report", f"--workdir={workdir}", f"--reference_csv={path}"]) == 0
    assert "--reference_csv is not used" in capsys.readouterr().out


def test_a_comparison_has_no_published_curves(tmp_path, capsys):
    assert main(["--mode=report", f"--workdir={tmp_path}", "--reference_csv=x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--reference_csv goes with an experiment" in line
