"""Pages made from results are up to date with them."""

import importlib.util
from pathlib import Path

import pytest

import tf_lottery

DOCS = Path(tf_lottery.__file__).parents[1] / "docs"


@pytest.fixture
def maker():
    spec = importlib.util.spec_from_file_location(
        "make_reproduction", DOCS / "make_reproduction.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_papers_claims_is_made_from_the_results(maker, capsys):
    assert maker.main(["--check"]) == 0, capsys.readouterr().err


def test_an_outdated_page_is_told(maker, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(maker, "PAGE", tmp_path / "page.md")
    assert maker.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert maker.main([]) == 0
    assert maker.main(["--check"]) == 0
