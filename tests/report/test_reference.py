"""Published curves: what is read of a CSV file, what is refused, what they add to a study."""

from pathlib import Path

import pytest
import studies
from msgspec.structs import replace

from tf_lottery.errors import UsageError
from tf_lottery.report.overlay import lay_over
from tf_lottery.report.reference import read_reference
from tf_lottery.report.results import Point, Reference

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
    assert found == Reference(
        "curves.csv",
        {
            "b": [Point(1, 0.25, 0.125), Point(4, 1.0, 0.0)],
            "a/one": [Point(1, 0.5, None), Point(2, None, None)],
        },
    )
    assert list(found.runs) == ["b", "a/one"]
    assert read_reference(path, []).runs == {}


def test_columns_in_another_order_a_mark_and_other_line_ends(write):
    path = write(
        "valid_robust,valid_clean,note,epoch,run", '1,2,"x,y",0,r', encoding="utf-8-sig", end="\r\n"
    )
    assert read_reference(path, ["r"]).runs == {"r": [Point(1, 0.02, 0.01)]}


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
    found = read_reference(write(HEADER, *lines), ["r"]).runs["r"]
    assert found == [Point(int(epochs[row]) + 1, row / 100, None) for row in kept]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([""], "lacks the columns run, epoch, valid_clean, valid_robust"),
        (["run,epoch,valid_clean"], "lacks the columns valid_robust;"),
        ([HEADER, "r,0,0,1,", "r,1,0,x,"], "line 3: valid_clean is 'x', must be a number in 0..1"),
        ([HEADER, "r,0,0,1,-0.1"], "line 2: valid_robust is '-0.1'"),
        ([HEADER, "r,0,0,100.1,1"], "line 2: valid_clean is '100.1'"),
        ([HEADER, "r,0,0,nan,1"], "line 2: valid_clean is 'nan'"),
        ([HEADER, '"r",0,"a', 'b",x,1'], "line 3: valid_clean is 'x'"),
        ([HEADER, "r,1.0,0,1,"], "line 2: epoch is '1.0', must be an integer from 0 on"),
        ([HEADER, "r,-1,0,1,"], "line 2: epoch is '-1'"),
        ([HEADER, "r,,0,1,"], "line 2: epoch is ''"),
        ([HEADER, "r,0,0,1,", "r,2,0,1,", "r,1,0,1,"], "line 4: epoch 1 of r after its epoch 2"),
        ([HEADER, "r,0,0,1,", "r,1,0,1,", "r,1,0,1,"], "line 4: epoch 1 of r after its epoch 1"),
        ([HEADER, "r,0,0"], "line 2: must have 5 fields"),
        ([HEADER, "r,0,0,1,1,1"], "line 2: must have 5 fields"),
        ([HEADER, "other,0,0,1,1"], "has none of the runs r, s, t, ..."),
        ([HEADER, "r" * 140_000 + ",0,0,1,1"], "is no CSV"),
        ([HEADER, "r,9999999999999999999,0,1,"], "line 2: epoch is '9999999999999999999'"),
    ],
)
def test_errors_are_one_line_with_the_place(write, lines, said):
    path = write(*lines)
    with pytest.raises(UsageError) as caught:
        read_reference(path, ["r", "s", "t", "u"])
    text = str(caught.value)
    assert text.startswith(f"--reference_csv={path}: {said}")
    assert "\n" not in text
    assert caught.value.flag == "reference_csv"


def test_files_that_cannot_be_read(write, tmp_path):
    for path, said in (
        (tmp_path / "absent.csv", "no such file"),
        (tmp_path, "cannot be read"),
        (write(HEADER, "é,0,0,1,1", encoding="latin-1"), "is no UTF-8 text"),
        (write(HEADER, "r,0,0,1,1", encoding="utf-16"), "is no UTF-8 text"),
    ):
        with pytest.raises(UsageError, match=said):
            read_reference(path, ["r"])


def test_the_published_curves():
    if not PUBLISHED.exists():
        pytest.skip("the published curves are not part of the package")
    twice = "boost/resnet18/nat/pruned1_epoch100/init_pure/pruned_lr0.01"
    boosting = "boost/vgg16/boosting"
    runs = read_reference(PUBLISHED, [boosting, twice, "absent"]).runs
    for curve in runs.values():
        assert [point.epoch for point in curve] == list(range(1, 101))
    # VGG-16, natural: 79.7, 83.2 and 92.3 % after epochs 1, 5 and 100.
    assert [round(100 * runs[boosting][k - 1].natural, 1) for k in (1, 5, 100)] == [
        79.7, 83.2, 92.3,
    ]  # fmt: skip
    assert all(point.robust is None for point in runs[boosting])
    # The dense search, not the training after it, which begins at 78.8 %.
    assert runs[twice][0].natural == pytest.approx(0.465)


# In a study. -----------------------------------------------------------------------------


@pytest.fixture
def sweep():
    document = studies.make_sweep()
    for arm in document.arms:
        arm.published = {"test_natural@last": 0.9}
        arm.reference = f"{arm.kind} curve"
    return document


def curve(*points, run="boosting curve"):
    return Reference("curves.csv", {run: list(points)})


def test_a_sweep_shows_what_the_curves_say_at_its_epochs(sweep):
    before = studies.tree(sweep)
    found = lay_over(sweep, curve(Point(1, 0.7, None), Point(2, 0.72, None)))
    assert studies.tree(sweep) == before
    # Epoch 1 is in the figure's measures, 2 is not.
    for arm in found.arms:
        extra = {"validation_natural@1": 0.7} if arm.kind == "boosting" else {}
        assert arm.published == {"test_natural@last": 0.9, **extra}
    nothing = lay_over(sweep, curve(Point(1, None, 0.3), Point(4, 0.8, None)))
    assert nothing.arms == sweep.arms


def test_other_curves_take_the_place_of_the_first_and_none_take_them_away(sweep):
    first = lay_over(sweep, curve(Point(1, 0.7, None)))
    second = lay_over(first, curve(Point(1, 0.6, None)))
    assert second.arms[0].published["validation_natural@1"] == 0.6
    third = lay_over(second, curve(Point(1, 0.6, None), run="reinit curve"))
    assert third.arms[0].published == {"test_natural@last": 0.9}
    assert lay_over(third, None) == replace(sweep, reference=None)


def test_figures_over_epochs_read_the_curves_themselves():
    document = studies.make_experiment()
    document.arms[1].published = {"test_natural@best": 0.87}
    found = lay_over(document, curve(Point(1, 0.7, 0.3)))
    assert found.arms[1].published == {"test_natural@best": 0.87}
    assert found.reference.runs == {"boosting curve": [Point(1, 0.7, 0.3)]}
