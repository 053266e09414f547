"""Curves from a CSV file: what is read, what is left out, what each error says."""

from pathlib import Path

import pytest

from tf_lottery.errors import UsageError
from tf_lottery.report.reference import read_reference

PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "curves.csv"
HEADER = "run,epoch,lr,valid_clean,valid_robust"


@pytest.fixture
def write(tmp_path):
    """Writes a CSV file of the given lines and returns its path."""

    def make(*lines, encoding="utf-8", end="\n"):
        path = tmp_path / "curves.csv"
        path.write_bytes((end.join(lines) + end).encode(encoding))
        return path

    return make


def record(epoch, natural, robust=None):
    return {"epoch": epoch, "natural": natural, "robust": robust}


def test_shares_epochs_from_1_and_the_order_asked_for(write):
    path = write(
        HEADER,
        "a/one,0,0.1,50,",
        "b,0,0.1,25,12.5",
        "a/one,1,0.1,,",  # runs may alternate
        "b,3,0.01,100,0",  # not every epoch was measured
        "other,0,0.1,nonsense,999",  # not asked for
    )
    found = read_reference(path, iter(["b", "absent", "a/one", "b"]))
    assert found == {
        "file": "curves.csv",
        "runs": {
            "b": [record(1, 0.25, 0.125), record(4, 1.0, 0.0)],
            "a/one": [record(1, 0.5), record(2, None)],
        },
    }
    assert list(found["runs"]) == ["b", "a/one"]


def test_columns_in_another_order_a_mark_and_other_line_ends(write):
    path = write(
        "valid_robust,valid_clean,note,epoch,run", '1,2,"x,y",0,r', encoding="utf-8-sig", end="\r\n"
    )
    assert read_reference(path, ["r"])["runs"] == {"r": [record(1, 0.02, 0.01)]}


def test_nothing_asked_for_nothing_found(write):
    assert read_reference(write(HEADER, "r,0,0.1,1,1"), []) == {"file": "curves.csv", "runs": {}}


@pytest.mark.parametrize(
    ("epochs", "kept"),
    [
        ("012012", [0, 1, 2]),  # the first among equals
        ("0101234", [2, 3, 4, 5, 6]),  # killed and begun anew
        ("2342", [0, 1, 2]),
    ],
)
def test_the_longest_training_of_a_run_that_starts_over(write, epochs, kept):
    lines = [f"r,{epoch},0.1,{row}," for row, epoch in enumerate(epochs)]
    records = read_reference(write(HEADER, *lines), ["r"])["runs"]["r"]
    assert records == [record(int(epochs[row]) + 1, row / 100) for row in kept]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "lacks the columns run, epoch, valid_clean, valid_robust; expected: run, epoch, "),
        (["run,epoch,valid_clean"], "lacks the columns valid_robust; expected: run, epoch, valid_"),
        ([HEADER, "r,0,0,1,", "r,1,0,x,"], "line 3: valid_clean is 'x', must be a number in 0..10"),
        ([HEADER, "r,0,0,1,-0.1"], "line 2: valid_robust is '-0.1', must be a number in 0..100 or"),
        ([HEADER, "r,0,0,100.1,1"], "line 2: valid_clean is '100.1', must be a number in 0..100"),
        ([HEADER, "r,0,0,nan,1"], "line 2: valid_clean is 'nan', must be a number in 0..100"),
        ([HEADER, '"r",0,"a', 'b",x,1'], "line 3: valid_clean is 'x'"),
        ([HEADER, "r,1.0,0,1,"], "line 2: epoch is '1.0', must be an integer from 0 on"),
        ([HEADER, "r,-1,0,1,"], "line 2: epoch is '-1', must be an integer from 0 on"),
        ([HEADER, "r,,0,1,"], "line 2: epoch is '', must be an integer from 0 on"),
        ([HEADER, "r,0,0,1,", "r,2,0,1,", "r,1,0,1,"], "line 4: epoch 1 of r after its epoch 2"),
        ([HEADER, "r,0,0,1,", "r,1,0,1,", "r,1,0,1,"], "line 4: epoch 1 of r after its epoch 1"),
        ([HEADER, "r,0,0"], "line 2: must have 5 fields, as the header"),
        ([HEADER, "r,0,0,1,1,1"], "line 2: must have 5 fields, as the header"),
        ([HEADER, "other,0,0,1,1"], "has none of the runs r, s"),
        ([HEADER], "has none of the runs r, s"),
        ([HEADER, "r" * 140_000 + ",0,0,1,1"], "is no CSV (field larger than field limit"),
    ],
)
def test_errors(write, lines, message):
    path = write(*lines)
    with pytest.raises(UsageError) as caught:
        read_reference(path, ["r", "s"])
    text = str(caught.value)
    assert text.startswith(f"--reference_csv={path}: {message}")
    assert "\n" not in text
    assert caught.value.flag == "reference_csv"


def test_names_at_most_three_of_many_absent_runs(write):
    with pytest.raises(UsageError, match=r"has none of the runs a, b, c, \.\.\.$"):
        read_reference(write(HEADER), "abcde")


def test_files_that_cannot_be_read(write, tmp_path):
    def error(path):
        with pytest.raises(UsageError) as caught:
            read_reference(path, ["r"])
        return str(caught.value)

    absent = tmp_path / "absent.csv"
    assert error(absent) == f"--reference_csv={absent}: no such file"
    assert error(str(tmp_path)).startswith(f"--reference_csv={tmp_path}: cannot be read (Is a dir")
    path = write(HEADER, "é,0,0,1,1", encoding="latin-1")
    assert error(path) == f"--reference_csv={path}: is no UTF-8 text"
    path = write(HEADER, "r,0,0,1,1", encoding="utf-16")
    assert error(path) == f"--reference_csv={path}: is no UTF-8 text"


def test_the_published_curves():
    if not PUBLISHED.exists():
        pytest.skip("the published curves are not part of the package")
    twice = "boost/resnet18/nat/pruned1_epoch100/init_pure/pruned_lr0.01"
    boosting = "boost/vgg16/boosting"
    retrained = "nat_fgsm_madry/fgsm/init_enhance_madry_m0.01_warmup0.1_nn"
    runs = read_reference(PUBLISHED, [boosting, twice, retrained, "absent"])["runs"]
    assert list(runs) == [boosting, twice, retrained]
    for curve in runs.values():
        assert [r["epoch"] for r in curve] == list(range(1, 101))
    # VGG-16, natural: 79.7, 83.2 and 92.3 % after epochs 1, 5 and 100.
    assert [round(100 * runs[boosting][k - 1]["natural"], 1) for k in (1, 5, 100)] == [
        79.7, 83.2, 92.3,
    ]  # fmt: skip
    assert all(r["robust"] is None for r in runs[boosting])
    # The dense search, not the training after it, which begins at 78.8 %.
    assert runs[twice][0]["natural"] == pytest.approx(0.465)
    assert runs[twice][-1]["natural"] == pytest.approx(0.9208)
    # PGD training of a ticket found by FGSM: 35.0, 39.1, 46.7 (best) and 45.7 % (last).
    robust = [r["robust"] for r in runs[retrained]]
    values = [robust[0], robust[4], max(robust), robust[-1]]
    assert [round(100 * value, 1) for value in values] == [35.0, 39.1, 46.7, 45.7]
