"""Pages made from results are up to date with them."""

import importlib.util
from pathlib import Path

import pytest

import tf_lottery
from tf_lottery.files import write_atomically
from tf_lottery.report.experiment import EXPERIMENT, report

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


RESULTS = sorted(path.parent for path in (DOCS / "results").glob(f"*/{EXPERIMENT}"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_the_reports_of_experiments_are_made_from_their_results(path, tmp_path, monkeypatch):
    # Drawing takes most of the time and is tested elsewhere; here it matters which figures.
    drawn = {}

    def there(document, folder):
        for told in document["figures"]:
            drawn[told["name"]] = path / "figures" / f"{told['name']}.png"
        return drawn

    monkeypatch.setattr(report, "save_figures", there)
    write_atomically(tmp_path / EXPERIMENT, (path / EXPERIMENT).read_bytes())
    report.write_experiment_report(tmp_path)
    assert (tmp_path / "report.md").read_text() == (path / "report.md").read_text()
    names = {figure.name for figure in (path / "figures").iterdir()}
    assert names == {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}


def test_an_outdated_page_is_told(maker, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(maker, "PAGE", tmp_path / "page.md")
    assert maker.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert maker.main([]) == 0
    assert maker.main(["--check"]) == 0
