import numpy as np
import pytest
from experiments import build_experiment, build_figure
from tf_lottery.report.experiment import costs, experiment_table, tables
from tf_lottery.report.experiment.measures import parse
from tf_lottery.report.experiment.statistics import half_width

from tf_lottery.statistics import wilson


def _cell(document, arm, word):
    return tables.cell(document, document["arms"][arm], parse(word))


def test_cells_are_means_with_their_interval():
    document = build_experiment()
    values = [run["test"]["natural"]["best"] for run in document["arms"][1]["runs"]]
    cell = _cell(document, 1, "test_natural@best")
    assert cell.text == f"{100 * np.mean(values):.1f}"
    assert cell.small == f"±{100 * half_width(values):.1f}"
    single = build_experiment(seeds=(0,))
    share = single["arms"][1]["runs"][0]["test"]["natural"]["best"]
    low, high = wilson(share, 1000)
    assert _cell(single, 1, "test_natural@best").small == f"{100 * low:.1f}–{100 * high:.1f}"
    assert _cell(single, 1, "run:train_seconds").small == ""


def test_identical_accuracies_have_the_interval_over_the_images():
    document = build_experiment()
    for run in document["arms"][0]["runs"]:
        run["test"]["natural"]["last"] = 0.1
    low, high = wilson(0.1, 1000)
    assert _cell(document, 0, "test_natural@last") == (
        "10.0",
        f"{100 * low:.1f}–{100 * high:.1f}",
    )


def test_an_interval_that_was_cut_off_shows_its_wide_side():
    document = build_experiment(seeds=(0, 1))
    for run, share in zip(document["arms"][0]["runs"], (0.98, 0.99), strict=True):
        run["test"]["natural"]["last"] = share
    assert _cell(document, 0, "test_natural@last") == ("98.5", "±6.4")


def test_never_and_not_at_all():
    document = build_experiment(arms=5)
    by_name = {arm["name"]: arm for arm in document["arms"]}

    def text(name, word):
        return tables.cell(document, by_name[name], parse(word))

    assert text("re-initialised", "run:epochs_to_dense") == ("never", "")
    assert text("dense", "run:epochs_to_dense") == ("–", "")
    assert text("re-initialised", "run:break_even") == ("never", "")
    assert text("random mask", "run:break_even") == ("–", "")  # no search to pay for
    assert text("dense", "validation_natural@99") == ("–", "")
    by_name["boosting"]["runs"][0]["epochs_to_dense"] = None
    for run in by_name["boosting"]["runs"][1:]:
        run["epochs_to_dense"] = 5.0
    assert text("boosting", "run:epochs_to_dense") == ("5", "2 of 3 seeds, else never")
    document["baseline"] = None
    assert text("re-initialised", "run:epochs_to_dense") == ("–", "")


def test_columns_of_the_accuracies():
    table = tables.accuracies(build_experiment(attacks=("fgsm", "pgd20")))
    assert table.heads[:3] == [
        ("", "Density, %"), ("Validation, epoch 1", "natural"), ("Validation, epoch 1", "robust"),
    ]  # fmt: skip
    assert [group for group, _ in table.heads[3::2]] == [
        "Test, natural", "Test, fgsm", "Test, pgd20", "Test, worst",
    ]  # fmt: skip
    assert table.top == [
        ("Density, %", 0), ("Validation, epoch 1", 2), ("Test, natural", 2), ("Test, fgsm", 2),
        ("Test, pgd20", 2), ("Test, worst", 2),
    ]  # fmt: skip
    assert table.bottom == ["natural", "robust", *["best", "last"] * 4]
    assert all(len(row.cells) == len(table.heads) for row in table.rows)


def test_columns_of_natural_training_and_of_untested_arms():
    document = build_experiment(attacks=())
    heads = [name for _, name in tables.accuracies(document).heads]
    assert heads == ["Density, %", "natural", "best", "last"]
    for arm in document["arms"]:
        for run in arm["runs"]:
            run["test"] = None
    assert [name for _, name in tables.accuracies(document).heads] == ["Density, %", "natural"]


def test_the_papers_values_have_a_row_of_their_own():
    document = build_experiment()
    document["arms"][1]["published"] = {"validation@1": 0.5, "test@best": 0.4, "run:epochs": 100}
    table = tables.accuracies(document)
    assert [row.name for row in table.rows] == [
        "dense", "boosting", "paper (full scale)", "re-initialised",
    ]  # fmt: skip
    # "validation" is the robust one here.
    assert [cell.text for cell in table.rows[2].cells] == ["", "", "50.0", "", "", "", ""]
    assert [row.paper for row in table.rows] == [False, False, True, False]
    paper = tables.costs(document).rows[2]
    assert paper.paper
    assert [cell.text for cell in paper.cells][:2] == ["100", ""]
    others = tables.others(document)
    assert [name for _, name in others.heads] == [
        "Worst-case test accuracy, best epoch, %", "Worst-case test accuracy, last epoch, %",
    ]  # fmt: skip
    assert [cell.text for cell in others.rows[2].cells] == ["40.0", ""]


def test_other_measures_are_those_of_figures_claims_and_paper_that_hold_something():
    document = build_experiment()
    document["claims"] = []
    document["arms"][1]["published"] = {"test_cw@best": 0.5, "validation_natural": 0.3}
    words = ["validation_natural@1", "distance@3", "test@last", "distance@99"]
    document["figures"] = [build_figure("sweep", words)]
    heads = [name for _, name in tables.others(document).heads]
    assert heads == [
        "Relative l_2 distance to the full network's weights after epoch 3",
        "Test accuracy under cw, best epoch, %",
        "Worst-case test accuracy, last epoch, %",
    ]
    document["arms"][1]["published"], document["figures"] = {}, []
    assert tables.others(document) is None


def test_costs_relative_to_the_baseline_only_with_one():
    document = build_experiment()
    heads = tables.costs(document).heads
    assert ("FLOPs", "relative") in heads
    assert len(tables.gains(document).rows) == 3
    document["baseline"] = None
    for arm in document["arms"]:
        for run in arm["runs"]:
            run["total_flops_over_dense"] = None
    assert not any(name == "relative" for _, name in tables.costs(document).heads)
    assert tables.gains(document) is None


def test_networks_are_named_where_they_differ():
    document = build_experiment()
    assert {row.small for row in tables.costs(document).rows} == {""}
    document["arms"][0]["model"] = "resnet18"
    assert [row.small for row in tables.costs(document).rows][:2] == ["resnet18", "vgg8-w0.25"]


def test_the_ledger_is_summed_up():
    document = build_experiment()
    train, evaluate = costs.by_kind(document)
    assert (train.kind, train.stages, train.cached) == ("train", 12, 3)
    assert (evaluate.kind, evaluate.stages, evaluate.cached) == ("evaluate", 9, 0)
    entries = document["ledger"]
    total, fresh = costs.total(document), costs.fresh(document)
    for key in costs.SUMS:
        assert total.sums[key] == pytest.approx(sum(entry[key] for entry in entries))
        assert train.sums[key] + evaluate.sums[key] == pytest.approx(total.sums[key])
    assert total.sums["seconds"] - fresh.sums["seconds"] == pytest.approx(3 * 36)
    assert fresh.stages == 18
    shared = next(group for group in costs.by_arm(document) if len(group.arms) > 1)
    assert (shared.arms, shared.stages) == (["boosting", "re-initialised"], 3)
    assert len(costs.by_arm(document)) == 1 + 2 * 3
    document["ledger"] = []
    assert costs.by_kind(document) == []
    assert costs.total(document).stages == 0


def test_the_text_of_a_terminal():
    document = build_experiment()
    text = experiment_table(document)
    lines = text.splitlines()
    assert lines[0] == "Fig. 1: Boosting tickets learn faster"
    assert lines[1].startswith("scale: reduced: vgg8")
    head = next(line for line in lines if line.startswith("arm "))
    assert head.split() == [
        "arm", "density", "%", "epoch", "1", "natural", "pgd20", "epochs", "search", "s", "train",
        "s", "s/baseline", "FLOPs/baseline",
    ]  # fmt: skip
    rows = lines[lines.index(head) : lines.index(head) + 5]
    assert len({len(line) for line in rows}) == 1
    boosting = next(line for line in rows if line.startswith("boosting"))
    best, last = (
        100 * np.mean([run["test"]["natural"][at] for run in document["arms"][1]["runs"]])
        for at in ("best", "last")
    )
    assert f" {best:.1f}/{last:.1f} " in boosting
    assert "Of 5 claims 3 hold here, 1 does not, 1 was not measured." in lines
    assert any(line.startswith("yes           boosting beats re-initialised") for line in lines)
    assert "means\nover 3 seeds" in text


def test_the_text_of_the_papers_own_scale_and_of_hostile_names():
    document = build_experiment(seeds=(0,), attacks=(), arms=2)
    document["scale"] = ""
    document["claims"] = []
    document["arms"][0]["name"] = "red\x1b[31m\nline"
    document["baseline"] = None
    text = experiment_table(document)
    assert "scale: at the paper's own scale" in text
    assert "No claim" in text
    assert "\x1b" not in text
    assert "red?[31m line" in text
    assert "baseline" not in text
