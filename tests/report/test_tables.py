"""The right numbers in the right cells: of pages, of the ledger, of a terminal."""

import re

import numpy as np
import pytest
import studies
from msgspec.structs import replace
from studies import put

from tf_lottery.report import formats, ledger, measures, tables, values
from tf_lottery.report.asked import Figure
from tf_lottery.report.measures import parse
from tf_lottery.report.summary import summary
from tf_lottery.statistics import half_width, wilson


def cell(document, arm, word):
    return tables.cell(document, document.arm(arm), parse(word))


def test_cells_are_means_with_their_interval():
    document = studies.make_experiment()
    found = [row.tests["natural"].best for row in document.runs("boosting")]
    assert cell(document, "boosting", "test_natural@best")[:2] == (
        f"{100 * np.mean(found):.1f}", f"±{100 * half_width(found):.1f}",
    )  # fmt: skip
    single = studies.make_experiment(seeds=(0,))
    low, high = wilson(single.runs("boosting")[0].tests["natural"].best, studies.TEST)
    assert (
        cell(single, "boosting", "test_natural@best").small == f"{100 * low:.1f}–{100 * high:.1f}"
    )
    assert cell(single, "boosting", "run:train_seconds")[:2] == ("80.0", "")


def test_identical_accuracies_have_the_interval_over_the_images():
    document = studies.make_experiment()
    put(document, "dense", "test_natural@last", [0.1] * 3)
    low, high = wilson(0.1, studies.TEST)
    found = cell(document, "dense", "test_natural@last")
    assert found[:2] == ("10.0", f"{100 * low:.1f}–{100 * high:.1f}")


def test_an_interval_that_was_cut_off_shows_its_wide_side():
    document = studies.make_experiment(seeds=(0, 1))
    put(document, "dense", "test_natural@last", [0.98, 0.99])
    assert cell(document, "dense", "test_natural@last")[:2] == ("98.5", "±6.4")


def test_never_and_not_at_all():
    document = studies.make_comparison(studies.KINDS)
    assert cell(document, "reinit", "run:epochs_to_dense").text == "never"
    assert cell(document, "reinit", "run:break_even").text == "never"
    assert cell(document, "random_mask", "run:break_even").text == "–"  # searched for nothing
    assert cell(document, "dense", "run:epochs_to_dense").text == "–"  # is the baseline
    assert cell(document, "boosting", "test_cw@best").text == "–"
    document.baseline = None
    assert cell(document, "reinit", "run:epochs_to_dense").text == "–"
    document.arm("reinit").baseline = "dense"
    assert cell(document, "reinit", "run:epochs_to_dense").text == "never"


def test_some_seeds_of_a_cell():
    document = studies.make_experiment()
    put(document, "boosting", "run:epochs_to_dense", [4.0, None, None])
    found = cell(document, "boosting", "run:epochs_to_dense")
    assert found[:2] == ("4", "1 of 3 seeds, else never")
    document.runs("boosting")[0].curve = []
    assert "2 of 3 seeds, else not measured" in cell(document, "boosting", "distance@1").small


COLUMNS = {
    ("", "Density, %"): "run:density",
    ("Validation, epoch 1", "natural"): "validation_natural@1",
    ("Validation, epoch 1", "robust"): "validation_robust@1",
    ("Epochs", "all"): "run:epochs",
    ("Epochs", "best"): "run:best_epoch",
    ("Seconds", "search"): "run:search_seconds",
    ("Seconds", "training"): "run:train_seconds",
    ("Seconds", "relative"): "run:total_over_dense",
    ("FLOPs", "search"): "run:search_flops",
    ("FLOPs", "training"): "run:train_flops",
    ("FLOPs", "relative"): "run:total_flops_over_dense",
    ("Passes", "search"): "run:search_passes",
    ("Passes", "training"): "run:train_passes",
    ("To the baseline's best accuracy", "epochs"): "run:epochs_to_dense",
    ("To the baseline's best accuracy", "seconds, relative"): "run:seconds_to_dense_over_dense",
    ("To the baseline's best accuracy", "FLOPs, relative"): "run:flops_to_dense_over_dense",
    ("Search paid for", "after retrainings"): "run:break_even",
}


def column(head):
    """The measure below a head."""
    group, name = head.group, head.name
    test = f"test_{group.removeprefix('Test, ')}@{name}"
    return parse(test if group.startswith("Test, ") else COLUMNS[group, name])


@pytest.mark.parametrize(
    "make",
    [studies.make_comparison, lambda: studies.make_comparison(attacks=()), studies.make_experiment,
     studies.make_sweep, studies.make_transfer],
)  # fmt: skip
def test_every_cell_is_the_mean_of_its_column(make):
    document = make()
    for grid in (tables.accuracies(document), tables.costs(document), tables.gains(document)):
        ours = [row for row in grid.rows if not row.soft]
        assert [row.name for row in ours] == [arm.name for arm in document.arms]
        assert {len(row.full) for row in grid.rows} == {len(grid.heads)}
        for row in ours:
            for measure, found in zip(map(column, grid.heads), row.full, strict=True):
                known = [values.value(run, measure) for run in document.runs(row.name)]
                known = [value for value in known if value is not None]
                if known:
                    assert found.text == measures.number(float(np.mean(known)), measure.unit)
                else:
                    assert found.text in ("never", formats.NONE)


def test_accuracies_have_a_column_a_test_and_epoch():
    heads = [(head.group, head.name) for head in tables.accuracies(studies.make_comparison()).heads]
    tests = [(f"Test, {name}", at) for name in ("natural", "fgsm", "pgd20", "worst")
             for at in ("best", "last")]  # fmt: skip
    assert heads[-8:] == tests
    single = tables.accuracies(studies.make_comparison(attacks=("pgd20",))).heads
    assert not any("worst" in head.group for head in single)  # it is pgd20


def test_the_papers_values_stand_below_the_arm():
    document = studies.make_experiment()
    rows = tables.accuracies(document).rows
    assert [row.soft for row in rows] == [False, False, False, True]
    heads = [(head.group, head.name) for head in tables.accuracies(document).heads]
    told = {head: c.text for head, c in zip(heads, rows[-1].full, strict=True) if c.text}
    assert told == {("Validation, epoch 1", "natural"): "54.0", ("Test, natural", "best"): "87.0"}
    others = tables.others(document)  # what has no column there
    assert "88.0" in [c.text for c in others.rows[-1].full]


def test_other_measures_are_those_that_hold_something_and_have_no_column_yet():
    document = studies.make_experiment()
    document.claims = [studies.claim("boosting", "dense", "distance@2")]
    document.arms[-1].published = {"test_cw@best": 0.5, "validation_natural": 0.3}
    words = ("validation_natural@1", "distance@3", "test@last", "distance@99", "run:epochs")
    document.figures = [Figure("f", "sweep", "F", words)]
    found = tables.others(document)
    assert len(found.heads) == 4  # distances after 2 and 3, cw, worst of the one attack
    reinit = next(row for row in found.rows if row.name == "reinit")
    mean = np.mean([row.curve[2].distance for row in document.runs("reinit")])
    assert f"{mean:.3f}" in [c.text for c in reinit.full]
    document.claims, document.figures, document.arms[-1].published = [], [], {}
    assert tables.others(document) is None


def test_costs_are_relative_only_where_there_is_something_to_relate_to():
    document = studies.make_experiment()

    def relative():
        return [h.group for h in tables.costs(document).heads if h.name == "relative"]

    assert relative() == ["Seconds", "FLOPs"]
    document.baseline = None
    assert relative() == ["FLOPs"]  # counted, of a dense training that was not run
    assert tables.gains(document) is None
    for row in document.rows:
        row.total_flops_over_dense = row.train_passes = None
    assert relative() == []
    assert "Passes" not in [head.group for head in tables.costs(document).heads]


def test_networks_are_named_where_they_differ():
    document = studies.make_experiment()
    assert {row.small for row in tables.costs(document).rows} == {""}
    document.arms[0].model = "resnet18"
    assert [row.small for row in tables.costs(document).rows] == [
        "resnet18", "vgg8-w0.25", "vgg8-w0.25",
    ]  # fmt: skip


def test_transfer_is_the_mean_over_the_seeds():
    document = studies.make_transfer()
    grid = tables.transfer(document)
    mean = np.mean(document.transfer.matrices, axis=0)
    for i, row in enumerate(grid.rows):
        assert [c.text for c in row.full] == [f"{100 * share:.1f}" for share in mean[i]]
        assert [c.own for c in row.full] == [i == j for j in range(3)]
    assert "58.7" in grid.rows[0].full[-1].small  # the paper's
    assert "58.7" not in grid.rows[0].full[1].small
    assert tables.transfer(studies.make_sweep()) is None


# The ledger. -----------------------------------------------------------------------------


def test_the_ledger_is_summed_up():
    document = studies.make_experiment()
    train, evaluate = ledger.by_kind(document)
    assert (train.kind, train.stages, train.cached) == ("train", 12, 3)
    assert (evaluate.kind, evaluate.stages, evaluate.cached) == ("evaluate", 9, 0)
    total, fresh = ledger.total(document), ledger.fresh(document)
    for key in ledger.SUMS:
        whole = sum(getattr(entry, key) for entry in document.ledger)
        assert total.sums[key] == train.sums[key] + evaluate.sums[key] == pytest.approx(whole)
    assert total.sums["seconds"] - fresh.sums["seconds"] == pytest.approx(3 * 36)
    shared = next(group for group in ledger.by_arm(document) if len(group.arms) > 1)
    assert (shared.arms, shared.stages) == (["boosting", "reinit"], 3)
    document.ledger = []
    assert ledger.by_kind(document) == []
    assert ledger.total(document).stages == 0


# A terminal. -----------------------------------------------------------------------------


def test_the_text_of_a_terminal_has_a_row_an_arm():
    document = studies.make_comparison(attacks=("pgd20",))
    lines = summary(document).splitlines()
    assert lines[0].split() == [
        "model", "density", "%", "epoch", "1", "natural", "pgd20", "epochs",
        "search", "s", "train", "s", "s/dense", "FLOPs/dense",
    ]  # fmt: skip
    for line, row in zip(lines[2:], document.rows, strict=False):
        assert line.split() == [
            row.name,
            f"{100 * row.density:.1f}",
            f"{100 * row.curve[0].validation_robust:.1f}",
            *(f"{100 * row.tests[name].best:.1f}/{100 * row.tests[name].last:.1f}"
              for name in ("natural", "pgd20")),
            "10",
            formats.seconds(row.search_seconds),
            "80.0",
            f"{row.total_over_dense:.2f}",
            f"{row.total_flops_over_dense:.2f}",
        ]  # fmt: skip
    assert len({len(line) for line in lines[:2]}) == 1


def test_the_text_of_a_terminal_tells_every_claim():
    document = studies.make_experiment()
    lines = summary(document).splitlines()
    assert lines[0] == "Fig. 1: Boosting tickets learn faster"
    assert document.study.scale in summary(document)
    assert "Of 5 claims 3 hold here, 1 does not, 1 was not measured." in lines
    told = [line.split("  ")[0] for line in lines if re.match(r"(yes|no|not \w+)  ", line)]
    assert told == ["yes", "not measured", "yes", "no", "yes"]


def test_the_text_of_a_terminal_is_printable_and_no_wider_than_it_must():
    document = studies.make_experiment()
    document.study.title = document.study.scale = "word " * 60
    document.attacks[0] = replace_attack(document.attacks[0], "pgd\x1b[2J")
    for row in document.rows:
        row.tests["pgd\x1b[2J"] = row.tests.pop("pgd20")
    document = studies.renamed(document, {"boosting": "red\x1b[31m\nline", "reinit": "x" * 300})
    document.claims = [replace(each, text="\x1b]0;title\x07" * 9) for each in document.claims]
    text = summary(document)
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert "red?[31m line" in text
    table_width = len(next(line for line in text.splitlines() if line.startswith("model")))
    assert max(map(len, text.splitlines())) <= max(100, table_width)


def replace_attack(attack, name):
    return type(attack)(name=name, steps=attack.steps)


def test_without_a_baseline_or_attacks_the_columns_are_fewer():
    document = studies.make_comparison(("boosting",), attacks=())
    for row in document.rows:
        row.total_flops_over_dense = None
    head = summary(document).splitlines()[0]
    assert "dense" not in head
    assert "worst" not in head
    assert "claim" not in summary(document)
