"""Results that 0.1.0 wrote say the same numbers in the format of today."""

import json
from pathlib import Path

import pytest
from msgspec import to_builtins

from tf_lottery.report import summary, tables
from tf_lottery.report.json_document import plain
from tf_lottery.report.limits import limits
from tf_lottery.report.results import read_results, write_results
from tf_lottery.report.upgrade import upgraded
from tf_lottery.report.verdicts import verdicts

HOME = Path(__file__).resolve().parents[2]
FILES = [
    *sorted(HOME.glob("docs/results/*/results.json")),
    *sorted(HOME.glob("docs/results/*/experiment.json")),
    *sorted((HOME / "tests/golden/0.1.0").glob("*.json")),
]
FILES = [path for path in FILES if json.loads(path.read_text())["format"] == 1]
# Of an epoch; no report has ever told them.
DROPPED = {"validation_fgsm", "collapsed", "gradient_norm", "rollbacks", "startup_seconds",
           "input_gradients"}  # fmt: skip
RENAMED = {"total_seconds_over_dense": "total_over_dense"}


def old_rows(old):
    """(name, seed, fields, tests, curve) of every run in a file of 0.1.0."""
    attacks = ["natural", *(attack["name"] for attack in old["attacks"]), "worst"]
    for row in old.get("rows", []):
        tests = {name: row[name] for name in attacks if name in row}
        fields = {key: value for key, value in row.items() if key not in tests}
        yield row["name"], row["seed"], fields, tests, old["curves"][row["name"]]
    for arm in old.get("arms", []):
        for run in arm["runs"]:
            fields = {key: v for key, v in run.items() if key not in ("test", "curve")}
            tests = {name: run["test"][name] for name in attacks if name in run["test"]}
            assert run["test"]["examples"] > 0
            fields["test_examples"] = run["test"]["examples"]
            yield arm["name"], run["seed"], fields, tests, run["curve"]


def test_there_are_files_of_both_kinds():
    assert {path.name for path in FILES} == {"results.json", "experiment.json"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_number_is_kept(path):
    old, document = json.loads(path.read_text()), read_results(path)
    found = list(old_rows(old))
    assert len(found) == len(document.rows)
    for row, (name, seed, fields, tests, curve) in zip(document.rows, found, strict=True):
        assert (row.name, row.seed) == (name, seed)
        for key, value in fields.items():
            assert getattr(row, RENAMED.get(key, key)) == value, key
        assert to_builtins(row.tests) == tests
        for record, told in zip(row.curve, curve, strict=True):
            assert {key: getattr(record, key) for key in told.keys() - DROPPED} == {
                key: value for key, value in told.items() if key not in DROPPED
            }
    for entry, told in zip(document.ledger, old["ledger"], strict=True):
        assert {key: getattr(entry, key) for key in told} == told
    for key in ("settings", "machine", "data", "command", "package_version"):
        known = to_builtins(getattr(document, key))
        assert {name: known[name] for name in old[key]} == old[key] if key in (
            "settings", "machine", "data",
        ) else known == old[key]  # fmt: skip
    if "arms" in old:
        assert document.seeds == old["seeds"]
        assert document.baseline == old["baseline"]
        assert document.study.scale == old["scale"]
        assert to_builtins(document.transfer) == old["transfer"]
        assert [claim.id for claim in document.claims] == [claim["id"] for claim in old["claims"]]
        for arm, told in zip(document.arms, old["arms"], strict=True):
            assert (arm.x, arm.series, arm.kind) == (told["x"], told["series"], told["kind"])
            assert sorted(arm.published.values()) == sorted(told["published"].values())
    else:
        assert document.study.id == "comparison"
        assert document.baseline == "dense"
        for row in document.rows:
            assert plain(row.layers) == old["layers"].get(row.name, [])
        curves = set(old["curves"]) - {row.name for row in document.rows}
        assert set(document.searches) == curves


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_they_can_be_told_and_written_anew(tmp_path, path):
    document = read_results(path)
    again = read_results(write_results(tmp_path / "results.json", document))
    assert again == document
    assert len(verdicts(document)) == len(document.claims)
    assert all(" is missing for " not in text for text in limits(document))
    for arm in document.arms:
        shown = summary.summary(document)
        assert arm.name[:36] in shown
    assert len(tables.accuracies(document).rows) >= len(document.arms)


GOLDEN = HOME / "tests" / "golden" / "0.1.0"


def old(**row):
    tree = json.loads((GOLDEN / "results.json").read_text())
    tree["rows"][1] |= row
    return tree


def test_a_ticket_that_did_not_say_its_cost_saves_nothing():
    tree = upgraded(old(search_source="ticket", search_seconds=0, search_flops=0))
    row = tree["rows"][1]
    assert row["search_source"] == "unknown"
    assert row["total_flops_over_dense"] is row["total_over_dense"] is None
    kept = upgraded(old(search_source="ticket", search_seconds=1.0, search_flops=10))["rows"][1]
    assert kept["search_source"] == "ticket"
    assert kept["total_flops_over_dense"] == 1.5


def test_an_early_stop_is_told_by_the_settings():
    tree = old()
    assert [row["stopped"] for row in upgraded(tree)["rows"]] == [False, False]
    tree["settings"]["ticket_train"]["epochs"] = 3
    assert [row["stopped"] for row in upgraded(tree)["rows"]] == [False, True]
