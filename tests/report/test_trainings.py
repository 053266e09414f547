"""Sentences on early ends and averaged weights, and the numbers they come from."""

import pytest
import studies
from msgspec.structs import replace

from tf_lottery.report import values
from tf_lottery.report.measures import parse
from tf_lottery.report.trainings import averages, early_ends


def trainings(document):
    return [entry for entry in document.ledger if entry.label.startswith("train")]


def ended(document, *early):
    """The first trainings ended after these epochs of ten times as many FLOPs."""
    for entry, epochs in zip(trainings(document), early, strict=False):
        entry.epochs, entry.planned_epochs = epochs, 10
        entry.planned_flops = entry.flops * 10 / epochs
    return document


def average(document, which, lift=0.1):
    """All rows averaged; their raw weights are better by ``lift``, and their best is ``which``."""
    for row in document.rows:
        row.weights = which
        for record in row.curve:
            record.raw_natural = record.validation_natural + lift
            if record.validation_robust is not None:
                record.raw_robust = record.validation_robust + lift
    return document


def test_nothing_is_said_where_nothing_happened():
    document = studies.make_comparison()
    assert [*early_ends(document), *averages(document)] == []


def test_an_early_end_says_epochs_and_flops():
    (text,) = early_ends(ended(studies.make_comparison(), 4))
    assert f"{trainings(studies.make_comparison())[0].label}, seed 0: 4 of 10 epochs, 60" in text
    assert "Together" not in text
    (text,) = early_ends(ended(studies.make_comparison(), 4, 2))
    assert "2 of 10 epochs, 80" in text
    document = ended(studies.make_comparison(), 4)
    trainings(document)[0].planned_flops /= 100  # it went back, and was trained for longer
    assert not list(document.problems())
    assert "4 of 10 epochs, 0 % of its FLOPs saved" in next(early_ends(document))
    first, second = trainings(studies.make_comparison())[:2]
    spent = first.flops + second.flops
    planned = first.flops * 2.5 + second.flops * 5
    assert f"Together: {100 * (1 - spent / planned):.0f} %" in text


@pytest.mark.parametrize(
    ("epochs", "planned", "flops"), [(11, 10, 1e12), (10, 10, 1e12), (4, 10, 0)]
)
def test_an_early_end_that_is_none_is_no_document(epochs, planned, flops):
    document = studies.make_comparison()
    entry = trainings(document)[0]
    entry.epochs, entry.planned_epochs, entry.planned_flops = epochs, planned, flops
    assert any("not an early end" in problem for problem in document.problems())
    assert not list(ended(studies.make_comparison(), 4).problems())


def test_averages_name_those_whose_best_are_raw():
    (text,) = averages(average(studies.make_comparison(), "average"))
    assert "the raw ones nowhere" in text
    (text,) = averages(average(studies.make_comparison(), "raw"))
    assert "dense, seed 0; boosting, seed 0" in text


@pytest.mark.parametrize("quantity", ["validation_natural", "validation_robust"])
def test_the_best_epochs_value_is_that_of_the_best_weights(quantity):
    for which, lift in (("average", 0.0), ("raw", 0.1)):
        row = average(studies.make_comparison(), which).rows[0]
        plain = studies.make_comparison().rows[0]
        best = values.value(plain, parse(f"{quantity}@best"))
        assert values.value(row, parse(f"{quantity}@best")) == best + lift
        for at in (1, "last"):  # of the averages, as the curve
            measure = parse(f"{quantity}@{at}")
            assert values.value(row, measure) == values.value(plain, measure)
        distance = parse("distance@best")
        assert values.value(row, distance) == values.value(plain, distance)


def test_weights_that_do_not_fit_the_curve_are_a_problem():
    document = average(studies.make_comparison(), "average", 0.0)
    assert not list(document.problems())
    document.rows[0].weights = ""
    assert any("do not fit the curve" in problem for problem in document.problems())
    document = studies.make_comparison()
    document.rows[0] = replace(document.rows[0], weights="raw")
    assert any("do not fit the curve" in problem for problem in document.problems())
