"""Pages made from results are up to date with them."""

import importlib.util
from pathlib import Path

import pytest

import tf_lottery
from tf_lottery.report.figures.pictures import read_pictures
from tf_lottery.report.pages import render
from tf_lottery.report.results import EXPERIMENT, PICTURES, RESULTS, find_results, read_results
from tf_lottery.report.robustness import EVALUATION, read_evaluation
from tf_lottery.report.robustness.figures import FIGURES
from tf_lottery.report.robustness.report import page as evaluation_page
from tf_lottery.report.study import page

DOCS = Path(tf_lottery.__file__).parents[1] / "docs"


def load(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def maker():
    return load("make_reproduction")


def test_the_pages_of_performance_and_scale_are_made_from_the_measurements(capsys):
    assert load("make_performance").main(["--check"]) == 0, capsys.readouterr().err


def test_the_page_of_the_papers_claims_is_made_from_the_results(maker, capsys):
    assert maker.main(["--check"]) == 0, capsys.readouterr().err


DIRECTORIES = sorted(
    {path.parent for name in (EXPERIMENT, RESULTS) for path in (DOCS / "results").glob(f"*/{name}")}
)


@pytest.mark.parametrize("path", DIRECTORIES, ids=lambda path: path.name)
def test_the_reports_of_studies_are_made_from_their_results(path, monkeypatch):
    monkeypatch.chdir(DOCS.parent)
    path = path.relative_to(DOCS.parent)
    document = read_results(find_results(path))
    # Drawing takes most of the time and is tested elsewhere; here it matters which figures.
    figures = {figure.name: path / "figures" / f"{figure.name}.png" for figure in document.figures}
    saved = {name: picture for name, picture in figures.items() if picture.exists()}
    assert {picture.stem for picture in (path / "figures").iterdir()} == set(saved)
    text = render(page(document, saved, read_pictures(path / PICTURES), path), "md")
    assert text == (path / "report.md").read_text()


EVALUATIONS = sorted(path.parent for path in (DOCS / "results").glob(f"*/*/{EVALUATION}"))


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: path.parent.name)
def test_the_reports_of_evaluations_are_made_from_their_results(path):
    document = read_evaluation(path / EVALUATION)
    told = evaluation_page(document, {name: path / "figures" / f"{name}.png" for name in FIGURES})
    assert render(told, "md") == (path / "report.md").read_text()


def test_an_outdated_page_is_told(maker, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(maker, "PAGE", tmp_path / "page.md")
    assert maker.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert maker.main([]) == 0
    assert maker.main(["--check"]) == 0
