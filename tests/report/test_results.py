import copy
import json
import math
import os

import numpy as np
import pytest

from tf_lottery.errors import StoreError
from tf_lottery.files import write_atomically
from tf_lottery.options.settings import DataConfig
from tf_lottery.report import (
    check_same_settings,
    read_pictures,
    read_results,
    table,
    write_results,
)


def test_round_trip_and_order(tmp_path, make_document):
    document = make_document()
    path = write_results(tmp_path / "results.json", document)
    assert read_results(path) == document
    stored = json.loads(path.read_text())
    assert list(stored)[:3] == ["format", "package_version", "command"]
    row = list(stored["rows"][0])
    assert row[:2] == ["name", "kind"]
    start = row.index("natural")
    assert row[start : start + 5] == ["natural", "fgsm", "pgd20", "worst", "epochs"]


def test_numpy_numbers_become_plain_ones(tmp_path, make_document):
    document = make_document()
    document["rows"][0]["natural"]["best"] = np.float32(0.5)
    document["rows"][0]["epochs"] = np.int64(20)
    row = read_results(write_results(tmp_path / "results.json", document))["rows"][0]
    assert (row["natural"]["best"], row["epochs"]) == (0.5, 20)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_no_nan_is_written(tmp_path, make_document, number):
    document = make_document()
    document["curves"]["dense"][0]["loss"] = number
    with pytest.raises(ValueError):
        write_results(tmp_path / "results.json", document)
    assert list(tmp_path.iterdir()) == []


def test_incomplete_document_is_not_written(tmp_path, make_document):
    document = make_document()
    del document["rows"][1]["density"]
    with pytest.raises(ValueError, match=r"rows\[1\] lacks 'density'"):
        write_results(tmp_path / "results.json", document)


def test_failing_replace_leaves_the_old_file(tmp_path, make_document, monkeypatch):
    path = write_results(tmp_path / "results.json", make_document())
    before = path.read_bytes()

    def fail(source, target):
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        write_results(path, make_document(("dense",)))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_written_file_obeys_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        path = write_atomically(tmp_path / "new" / "file", "x")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644


def _break(path, document, change):
    broken = copy.deepcopy(document)
    change(broken)
    path.write_text(json.dumps(broken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "format 2, .*newer tf_lottery"),
        (lambda d: d.update(format="x"), "format 'x', this version reads 1: unknown"),
        (lambda d: d.pop("format"), "not a results file"),
        (lambda d: d.pop("ledger"), "lacks 'ledger'"),
        (lambda d: d["rows"][0].pop("seed"), r"rows\[0\] lacks 'seed'"),
        (lambda d: d["rows"][2].pop("pgd20"), "row 'reinit' lacks .* of pgd20"),
        (lambda d: d["rows"][2].pop("worst"), "row 'reinit' lacks .* of worst"),
        (lambda d: d["rows"][0]["worst"].update(best=-0.1), "worst outside"),
        (lambda d: d["rows"][0].pop("flops_to_dense_over_dense"), "lacks 'flops_to_dense"),
        (lambda d: d["rows"][0].pop("search_source"), "lacks 'search_source'"),
        (lambda d: d["rows"][0].update(search_source="x"), "unknown search_source 'x'"),
        (lambda d: d["rows"][0].update(kind="best"), "unknown kind 'best'"),
        (lambda d: d["rows"][0]["fgsm"].update(last=75.0), "fgsm outside"),
        (lambda d: d["rows"][1].update(name="dense"), "same name"),
        (lambda d: d["rows"][0].update(test_examples=0), "no images"),
        (lambda d: d["curves"]["dense"][3].pop("seconds"), r"curves\['dense'\]\[3\] lacks"),
        (lambda d: d["layers"]["reinit"][0].pop("kept"), "lacks 'kept'"),
        (lambda d: d["machine"].pop("cpu"), "machine lacks 'cpu'"),
        (lambda d: d.update(rows=[]), "no rows"),
        (lambda d: d.update(rows=3), "expected form"),
    ],
)
def test_broken_documents_are_named(tmp_path, make_document, change, message):
    path = tmp_path / "results.json"
    _break(path, make_document(), change)
    with pytest.raises(StoreError, match=message) as caught:
        read_results(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"format": NaN}', "\x00"])
def test_no_json(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"not JSON|not a results file") as caught:
        read_results(path)
    assert "\n" not in str(caught.value)


def test_missing_or_unreadable(tmp_path):
    with pytest.raises(StoreError, match="no such file"):
        read_results(tmp_path / "results.json")
    with pytest.raises(StoreError, match="cannot be read"):
        read_results(tmp_path)


def test_table_shows_every_number(make_document):
    document = make_document(("dense", "boosting", "winning"))
    lines = table(document).splitlines()
    assert lines[0].split() == [
        "model", "density", "%", "natural", "fgsm", "pgd20", "worst",
        "epochs", "search", "s", "train", "s", "total/dense",
    ]  # fmt: skip
    for line, row in zip(lines[2:], document["rows"], strict=False):
        accuracies = [
            f"{100 * row[key]['best']:.1f}/{100 * row[key]['last']:.1f}"
            for key in ("natural", "fgsm", "pgd20", "worst")
        ]
        total = (row["search_seconds"] + row["train_seconds"]) / 100
        train = row["train_seconds"]
        assert line.split() == [
            row["name"],
            f"{100 * row['density']:.1f}",
            *accuracies,
            "20",
            f"{row['search_seconds']:.1f}",
            "100" if train == 100 else f"{train:.1f}",
            f"{total:.2f}",
        ]
    assert len({len(line) for line in lines[:-1]}) == 1  # aligned
    # The widest interval is that of the share nearest to 1/2: 237/360 = 65.8 %.
    z2 = 1.959964**2
    share = 237 / 360
    half = math.sqrt(z2) * math.sqrt(share * (1 - share) / 360 + z2 / (4 * 360**2)) / (1 + z2 / 360)
    assert lines[-1].endswith(
        f"worst: correct under every attack; 95 % interval up to +-{100 * half:.1f} points."
    )


def test_table_without_dense_or_attacks(make_document):
    lines = table(make_document(("boosting",), attacks=())).splitlines()
    assert lines[2].split() == ["boosting", "20.0", "95.8/95.3", "20", "40.0", "86.0", "–"]


def test_worst_of_one_attack_is_no_column(make_document):
    text = table(make_document(attacks=("pgd20",)))
    assert "pgd20" in text
    assert "worst" not in text


def test_natural_rows_need_no_worst(tmp_path, make_document):
    path = write_results(tmp_path / "results.json", make_document(attacks=()))
    assert "worst" not in read_results(path)["rows"][0]


def test_same_settings_pass(tmp_path, make_document):
    document = make_document()
    check_same_settings(tmp_path / "nowhere", document["settings"])
    path = write_results(tmp_path / "results.json", document)
    document["settings"]["search"]["schedule"]["peak"] = 0.01
    document["settings"]["seed"] = 0.0  # the same setting as 0
    check_same_settings(tmp_path, document["settings"])
    check_same_settings(path, document["settings"])


def test_other_settings_are_named_in_one_line(tmp_path, make_document):
    document = make_document()
    write_results(tmp_path / "results.json", document)
    ours = copy.deepcopy(document["settings"])
    ours["search"]["schedule"]["peak"] = 0.05
    with pytest.raises(StoreError) as caught:
        check_same_settings(tmp_path, ours)
    message = str(caught.value)
    assert "search.schedule.peak: 0.01 there, 0.05 now" in message
    assert "--workdir" in message
    assert "seed" not in message
    assert "\n" not in message


def test_many_differences_are_cut(tmp_path, make_document):
    document = make_document()
    document["settings"] = {f"k{i}": i for i in range(9)}
    write_results(tmp_path / "results.json", document)
    with pytest.raises(StoreError, match="k3: 3 there, 4 now; and 5 more"):
        check_same_settings(tmp_path, {f"k{i}": i + 1 for i in range(9)})


def test_settings_may_be_a_dataclass(tmp_path, make_document):
    document = make_document()
    document["settings"] = {
        "name": "digits",
        "train_examples": 0,
        "validation_examples": 0,
        "test_examples": 0,
        "augment": False,
    }
    write_results(tmp_path / "results.json", document)
    check_same_settings(tmp_path, DataConfig())
    with pytest.raises(StoreError, match='name: "digits" there, "mnist" now'):
        check_same_settings(tmp_path, DataConfig("mnist"))


def test_pictures_round_trip(tmp_path, make_pictures):
    assert read_pictures(tmp_path / "pictures.npz") is None
    pictures = make_pictures(channels=3)
    np.savez(tmp_path / "pictures.npz", **pictures)
    read = read_pictures(tmp_path / "pictures.npz")
    assert read.keys() == pictures.keys()
    for key, array in pictures.items():
        np.testing.assert_array_equal(read[key], array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "lacks label"),
        ({"clean": np.zeros((3, 8, 8, 1), np.float32)}, "wrong shape"),
        ({"adversarial": np.zeros((2, 8, 8, 1), np.uint8)}, "wrong shape"),
        ({"clean_prediction": np.array([0, 1, 3])}, "range"),
        ({"label": np.array([object()] * 3)}, "cannot be read"),
    ],
)
def test_damaged_pictures(tmp_path, make_pictures, change, message):
    pictures = {k: v for k, v in (make_pictures() | change).items() if v is not None}
    np.savez(tmp_path / "pictures.npz", **pictures)
    with pytest.raises(StoreError, match=message):
        read_pictures(tmp_path / "pictures.npz")


def test_truncated_pictures(tmp_path, make_pictures):
    path = tmp_path / "pictures.npz"
    np.savez(path, **make_pictures())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StoreError, match="cannot be read"):
        read_pictures(path)
