"""``results.json``: what is written is read again, and what contradicts itself is refused."""

import contextlib
import json
import math
import os
import random

import numpy as np
import pytest
import studies
from msgspec.structs import replace

from tf_lottery.errors import StoreError
from tf_lottery.files import document_digest
from tf_lottery.report.json_document import plain
from tf_lottery.report.results import read_results, write_results

MAKERS = {
    "comparison": studies.make_comparison,
    "pairs": lambda: studies.make_comparison(seeds=(0, 1), pairs=True),
    "natural": lambda: studies.make_comparison(attacks=()),
    "experiment": studies.make_experiment,
    "sweep": studies.make_sweep,
    "transfer": studies.make_transfer,
}


@pytest.fixture
def place(tmp_path):
    return tmp_path / "results.json"


def refused(place, tree):
    """The one line that says why a file of this tree is not read."""
    place.write_text(json.dumps(tree))
    with pytest.raises(StoreError) as error:
        read_results(place)
    said = str(error.value)
    assert said.startswith(f"{place}: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_what_is_written_is_read_again(place, make):
    document = make()
    before = plain(document)
    assert write_results(place, document) == place
    assert read_results(place) == document
    assert plain(document) == before
    first = place.read_bytes()
    assert write_results(place, read_results(place)).read_bytes() == first


def test_accuracies_are_keys_of_a_row(place):
    document = studies.make_comparison()
    write_results(place, document)
    stored = json.loads(place.read_text())
    assert list(stored)[:2] == ["format", "package_version"]
    assert stored["format"] == 2
    for row, told in zip(document.rows, stored["rows"], strict=True):
        keys = list(told)
        assert {
            "name", "kind", "model", "dataset", "seed", "density", "epochs", "search_seconds",
            "train_seconds", "search_flops", "train_flops", "total_over_dense",
        } <= set(keys)  # fmt: skip
        start = keys.index("natural")
        assert keys[start : start + 5] == ["natural", "fgsm", "pgd20", "worst", "epochs"]
        for name in ("natural", "fgsm", "pgd20", "worst"):
            test = row.tests[name]
            assert told[name] == {"best": test.best, "last": test.last}
        assert "tests" not in told
    assert "worst" not in studies.tree(studies.make_comparison(attacks=()))["rows"][0]


def test_the_digest_tells_a_changed_file(place):
    write_results(place, studies.make_comparison())
    stored = json.loads(place.read_text())
    digest = stored.pop("document_digest")
    assert digest == document_digest(stored)
    stored["rows"][0]["natural"]["best"] = 0.999
    assert "changed since it was written" in refused(place, {**stored, "document_digest": digest})
    place.write_text(json.dumps(stored))  # by hand, without a digest
    assert read_results(place).rows[0].tests["natural"].best == 0.999


def test_numbers_of_numpy_become_plain_ones(place):
    document = studies.make_comparison()
    document.rows[0].train_seconds = np.float32(0.5)
    document.rows[0].epochs = np.int64(10)
    row = read_results(write_results(place, document)).rows[0]
    assert (row.train_seconds, row.epochs) == (0.5, 10)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_written(place, number):
    for spoil in (
        lambda d: setattr(d.rows[0], "train_seconds", number),
        lambda d: setattr(d.rows[0].curve[0], "loss", number),
        lambda d: d.settings.update(rate=number),
    ):
        document = studies.make_comparison()
        spoil(document)
        with pytest.raises(ValueError, match=r"JSON|float"):
            write_results(place, document)
        assert not place.exists()


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_not_read(place, word):
    document = studies.make_comparison()
    document.rows[0].train_seconds = 123.25
    text = json.dumps(studies.tree(document))
    assert text.count("123.25") == 1
    place.write_text(text.replace("123.25", word))
    with pytest.raises(StoreError, match="number"):
        read_results(place)


def test_a_training_of_any_size_is_written(place):
    document = studies.make_comparison()
    document.rows[0].train_flops = document.ledger[0].flops = 3.1e21  # ImageNet, PGD
    assert read_results(write_results(place, document)) == document


def test_a_failing_write_leaves_the_old_file(place, monkeypatch):
    before = write_results(place, studies.make_comparison()).read_bytes()

    def fail(source, target):
        raise OSError(5, "disk gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        write_results(place, studies.make_sweep())
    assert place.read_bytes() == before
    assert [entry.name for entry in place.parent.iterdir()] == ["results.json"]


def at(*path):
    """Sets the value at a path of a tree, the last part; ``...`` removes it."""
    *keys, last, value = path

    def change(tree):
        for key in keys:
            tree = tree[key]
        if value is ...:
            del tree[last]
        else:
            tree[last] = value

    return change


PAIR = {"seed": 0, "examples": 1000, "only_ours": 5, "only_theirs": 5}

# What is changed in the tree of a comparison, and what the message names.
CONTRADICTIONS = [
    (at("claims", ...), "claims"),
    (at("machine", "cpu", ...), "cpu"),
    (at("data", "digest", 3), "data.digest"),
    (at("study", "title", ...), "title"),
    (at("seeds", []), "no seeds"),
    (at("seeds", [0, 0]), "seeds"),
    (at("seeds", [0, 1]), "'dense' has rows of the seeds"),
    (at("seeds", ["0"]), "seeds"),
    (at("attacks", 0, "method", "x"), "method"),
    (at("attacks", 0, "name", "pgd20"), "attacks"),
    (at("attacks", 0, "name", "natural"), "natural"),
    (at("attacks", 0, "name", "epochs"), "rows[0]"),
    (at("arms", []), "no arms"),
    (at("arms", 3), "arms"),
    (at("arms", 1, "series", ...), "series"),
    (at("arms", 1, "name", "dense"), "arms: two"),
    (at("arms", 1, "name", " "), "unknown 'boosting'"),
    (at("arms", 1, "kind", "winning"), "arm 'boosting': a row is of another"),
    (at("arms", 1, "model", "resnet18"), "arm 'boosting': a row is of another"),
    (at("arms", 1, "sparsity", 1.2), "arms[1].sparsity"),
    (at("arms", 1, "x", "3"), "arms[1].x"),
    (at("arms", 1, "published", {"accuracy": 1}), "'accuracy'"),
    (at("arms", 1, "published", {"test@best": None}), "published"),
    (at("arms", 1, "baseline", "nobody"), "arm 'boosting': baseline: unknown 'nobody'"),
    (at("baseline", "nobody"), "baseline: unknown 'nobody'"),
    (at("rows", 0, "name", "nobody"), "rows: unknown 'nobody'"),
    (at("rows", 0, "seed", 5), "'dense' has rows of the seeds [5]"),
    (at("rows", 0, "seed", ...), "seed"),
    (at("rows", 0, "kind", "boosting"), "arm 'dense': a row is of another"),
    (at("rows", 0, "density", 1.2), "rows[0].density"),
    (at("rows", 0, "train_seconds", -1.0), "rows[0].train_seconds"),
    (at("rows", 0, "train_seconds", "8"), "rows[0].train_seconds"),
    (at("rows", 0, "train_seconds", True), "rows[0].train_seconds"),
    (at("rows", 0, "train_flops", None), "rows[0].train_flops"),
    (at("rows", 0, "total_over_dense", ...), "total_over_dense"),
    (at("rows", 0, "search_source", "x"), "rows[0].search_source"),
    (at("rows", 0, "best_epoch", 11), "row 'dense', seed 0: best_epoch 11"),
    (at("rows", 0, "epochs", 9), "row 'dense', seed 0"),
    (at("rows", 0, "curve", 0, "epoch", 2), "row 'dense', seed 0: curve"),
    (at("rows", 0, "curve", 0, "epoch", 0), "epoch"),
    (at("rows", 0, "curve", 3, "seconds", ...), "curve[3]"),
    (at("rows", 0, "curve", 3, "validation_robust", 1.5), "curve[3].validation_robust"),
    (at("rows", 0, "curve", 3, "loss", "low"), "curve[3].loss"),
    (at("rows", 0, "test_examples", 0), "row 'dense', seed 0 was tested on 0"),
    (at("rows", 0, "natural", ...), "row 'dense', seed 0 lacks the accuracy of natural"),
    (at("rows", 0, "pgd20", ...), "lacks the accuracy of pgd20"),
    (at("rows", 0, "worst", ...), "lacks the accuracy of worst"),
    (at("rows", 0, "fgsm", "last", ...), "last"),
    (at("rows", 0, "fgsm", "last", 75.0), "last"),
    (at("rows", 1, "layers", 0, "kept", 289), "layer 'conv1' keeps 289 of 288"),
    (at("rows", 1, "layers", 0, "weights", 0), "layers[0].weights"),
    (at("claims", 0, "ours", "nobody"), "claim 'first_boosting_dense': unknown 'nobody'"),
    (at("claims", 0, "theirs", "nobody"), "claim 'first_boosting_dense': unknown 'nobody'"),
    (at("claims", 0, "theirs", None), "neither"),
    (at("claims", 0, "value", 0.5), "both"),
    (at("claims", 0, "measure", "test@3"), "'test@3'"),
    (at("claims", 0, "measure", "validation"), "'validation' says no epoch"),
    (at("claims", 0, "expect", "equal"), "claims[0].expect"),
    (at("claims", 0, "margin", -1), "claims[0].margin"),
    (at("claims", 1, "id", "first_boosting_dense"), "claims: two"),
    (at("claims", 0, "pairs", [PAIR]), "pairs of what are not two networks on test images"),
    (at("claims", 2, "pairs", [PAIR, PAIR]), "pairs are not of the seeds [0]"),
    (at("claims", 2, "pairs", [{**PAIR, "seed": 1}]), "pairs are not of the seeds [0]"),
    (at("claims", 2, "pairs", [{**PAIR, "examples": 500}]), "do not fit 1000 images"),
    (at("claims", 2, "pairs", [{**PAIR, "only_ours": 999}]), "do not fit 1000 images"),
    (at("claims", 2, "pairs", [{**PAIR, "only_ours": -1}]), "only_ours"),
    (at("figures", None), "figures"),
    (at("figures", 0, "name", "../up"), "'../up'"),
    (at("figures", 0, "name", ""), "figure ''"),
    (at("figures", 0, "name", "x" * 300), "file name"),
    (at("figures", 1, "name", "cost"), "figures: two"),
    (at("figures", 0, "form", "pie"), "figures[0].form"),
    (at("figures", 0, "measures", []), "'accuracy_per_epoch' has no measures"),
    (at("figures", 0, "measures", ["distance@1"]), "'distance@1' is no measure of form 'epochs'"),
    (at("figures", 0, "measures", ["accuracy"]), "'accuracy'"),
    (at("figures", 0, "arms", ["nobody"]), "unknown 'nobody'"),
    (at("figures", 0, "arms", ["dense", "dense"]), "two of the same"),
    (at("reference", {"file": "c", "runs": {"r": [{"epoch": 1, "natural": 2, "robust": None}]}}),
     "natural"),
    (at("ledger", 0, "models", ["nobody"]), "ledger[0]: unknown 'nobody'"),
    (at("ledger", 0, "flops", "many"), "ledger[0].flops"),
    (at("ledger", 0, "seconds", ...), "ledger[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "place_named"), CONTRADICTIONS)
def test_what_contradicts_itself_is_named(place, change, place_named):
    tree = studies.tree(studies.make_comparison())
    change(tree)
    assert place_named in refused(place, tree)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (at("transfer", "examples", 0), "transfer.examples"),
        (at("transfer", "arms", ["dense", "dense", "reinit"]), "transfer: two"),
        (at("transfer", "arms", ["dense", "nobody", "reinit"]), "transfer: unknown 'nobody'"),
        (at("transfer", "matrices", []), "0 matrices for 3 seeds"),
        (at("transfer", "matrices", 1, [[0.5]]), "not 3 x 3"),
        (at("transfer", "matrices", 1, 0, 0, 1.01), "matrices"),
        (at("transfer", "matrices", 1, 0, 0, None), "matrices"),
        (at("transfer", "published", 0, 1, 58.69), "published"),
        (at("transfer", "published", [[0.5]]), "not 3 x 3"),
    ],
)
def test_a_matrix_that_does_not_fit_is_named(place, change, said):
    tree = studies.tree(studies.make_transfer())
    change(tree)
    assert said in refused(place, tree)


def test_a_contradiction_is_not_written_either(place):
    document = studies.make_comparison()
    document.rows[0].density = 1.5
    with pytest.raises(ValueError, match="density"):
        write_results(place, document)
    document = studies.make_comparison()
    document.attacks[0] = replace_name(document.attacks[0], "seed")
    with pytest.raises(ValueError, match="'seed'"):
        write_results(place, document)
    assert not place.exists()


def replace_name(attack, name):
    return type(attack)(**{**plain(attack), "name": name})


def test_what_may_be_absent(place):
    document = studies.make_experiment(attacks=())
    document.baseline = document.reference = None
    document.claims = [studies.claim("dense", "boosting", "test_cw@best")]  # only the paper has cw
    document.figures = [replace(document.figures[0], form="sweep", measures=("run:epochs",))]
    document.arms[0].published = {"test_cw@best": 0.5, "validation@best": 0.4}
    for row in document.rows:
        row.tests, row.test_examples, row.curve, row.layers = {}, 0, [], []
        row.total_over_dense = row.total_flops_over_dense = row.search_passes = None
    assert read_results(write_results(place, document)) == document


def test_keys_of_a_later_version_are_ignored(place):
    document = studies.make_comparison()
    tree = studies.tree(document)
    tree["mood"] = tree["rows"][0]["mood"] = tree["arms"][0]["mood"] = {"good": 1}
    place.write_text(json.dumps(tree))
    assert read_results(place) == document


@pytest.mark.parametrize(
    ("found", "said"),
    [(3, "newer tf_lottery"), (0, "older tf_lottery"), ("x", "unknown"), (None, "unknown"),
     (2.0, "format"), ([], "unknown")],
)  # fmt: skip
def test_other_formats(place, found, said):
    assert said in refused(place, studies.tree(studies.make_comparison()) | {"format": found})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"\xff", "cannot be read"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a results file"),
        (b'{"format": 2}', "not a results file"),
        (b'{"ledger": []}', "not a results file"),
        (b'{"format": 2, "ledger": []}', "not in the expected form"),
        (b'{"format": 1, "ledger": []}', "not in the expected form"),
    ],
)
def test_what_is_no_results_file(place, content, said):
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(StoreError, match=said) as error:
        read_results(place)
    assert "\n" not in str(error.value)


ODD = [None, True, 0, -1, 2**63, 10**400, 1e308, "", "a\x00b", "<b>", [], {}, [[]], {"": {}}, [1]]


def test_whatever_stands_in_a_file_only_store_errors_come_out(place):
    """Every place of a tree, with something else in it or nothing."""
    choose, survived = random.Random(0), 0
    for make in MAKERS.values():
        whole = studies.tree(make())
        for _ in range(150):
            tree = json.loads(json.dumps(whole))
            parent, key = tree, None
            while isinstance(parent, (dict, list)) and parent:
                here = parent
                key = choose.choice(list(here) if isinstance(here, dict) else range(len(here)))
                if choose.random() < 0.2:
                    break
                parent = here[key]
            if isinstance(here, dict) and choose.random() < 0.3:
                del here[key]
            else:
                here[key] = choose.choice(ODD)
            place.write_text(json.dumps(tree))
            with contextlib.suppress(StoreError):
                read_results(place)
                survived += 1
    assert 20 < survived < 600
