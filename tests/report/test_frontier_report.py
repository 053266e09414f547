"""Accuracy against cost: the frontier by hand, its words and its figure."""

import numpy as np
import pytest
import studies
from msgspec.structs import replace

from tf_lottery.report.asked import Claim, Figure, Pair
from tf_lottery.report.captions import caption
from tf_lottery.report.figures.drawing import draw
from tf_lottery.report.figures.frontier import FRONTIER
from tf_lottery.report.frontier import frontier_answers, places, unbeaten
from tf_lottery.report.measures import parse
from tf_lottery.report.results import Accuracy
from tf_lottery.report.summary import summary

Y, X = "test_autoattack@best", "run:total_flops_over_dense"
# name -> kind, series, budget, FLOPs and seconds over dense, correct images of 1000 in each seed
ARMS = {
    "dense": ("dense", "dense", 1.0, 1.0, 1.0, (270, 274, 272)),
    "cheap: 1/8": ("dense_twin", "cheap", 0.125, 0.124, 0.2, (250, 255, 252)),
    "cheap: 1/4": ("dense_twin", "cheap", 0.25, 0.249, 0.3, (269, 274, 270)),
    "ticket: 1/8": ("boosting", "ticket", 0.125, 0.12, 0.3, (255, 262, 258)),
    "ticket: 1/4": ("boosting", "ticket", 0.25, 0.248, 0.4, (260, 268, 263)),
    "other: 1/4": ("random", "other", 0.25, 0.26, 0.4, (276, 281, 277)),
    "control: 1/8": ("reinit", "control", 0.125, 0.123, 0.3, (299, 299, 298)),
    "late: 1": ("boosting", "late", 1.0, 1.2, 1.3, (290, 291, 292)),
}


def figure(**changes):
    given = Figure("frontier", "frontier", "Title", (Y, X), "FLOPs over dense", log_x=True)
    return replace(given, **changes)


@pytest.fixture
def document():
    arms = [
        studies.make_arm(kind, name, series=series, x=budget)
        for name, (kind, series, budget, *_) in ARMS.items()
    ]
    found = studies.make_study(arms, attacks=("autoattack",))
    rows = []
    for row in found.rows:
        _, _, _, flops, seconds, right = ARMS[row.name]
        share = right[found.seeds.index(row.seed)] / 1000
        told = Accuracy(share, share)
        tests = {**row.tests, "autoattack": told, "worst": told}
        rows.append(
            replace(row, tests=tests, total_flops_over_dense=flops, total_over_dense=seconds)
        )
    found.rows = rows
    found.figures = [figure(), figure(name="seconds", measures=(Y, "run:total_over_dense"))]
    assert list(found.problems()) == []
    return found


def test_places_are_by_cost(document):
    found = places(document, document.arms, parse(Y), parse(X))
    assert [place.arm.name for place in found] == sorted(ARMS, key=lambda name: ARMS[name][3])
    cheap = next(place for place in found if place.arm.name == "cheap: 1/8")
    assert cheap.accuracy == pytest.approx(np.mean([250, 255, 252]) / 1000)
    assert cheap.low < cheap.accuracy < cheap.high


def test_what_none_cheaper_beats(document):
    best = unbeaten(places(document, document.arms, parse(Y), parse(X)))
    assert [place.arm.name for place in best] == [
        "ticket: 1/8", "control: 1/8",
    ]  # fmt: skip


def test_the_answers(document):
    found = {answer.question: answer.text for answer in frontier_answers(document)}
    assert list(found) == [
        "The cheapest as robust as the baseline?", "And with a ticket?",
        "For 12.5 % of the FLOPs at most?", "For 25 % of the FLOPs at most?",
    ]  # fmt: skip
    first = found["The cheapest as robust as the baseline?"]
    # Gaps of cheap: 1/4 are -1, 0 and -2 images of 1000.
    assert first == (
        "By the means, of 6 cheaper ones, control: 1/8, for 0.12 of its FLOPs and 0.30 of its "
        "seconds: +2.7 points [2.1, 3.2] against dense (3 seeds), and so says the whole interval."
    )
    assert found["And with a ticket?"].startswith(
        "By the means, of 3 cheaper ones, other: 1/4, for 0.26 of its FLOPs and 0.40 of its "
        "seconds: +0.6 points"
    )
    assert found["For 12.5 % of the FLOPs at most?"] == (
        "The best of 1 dense networks is cheap: 1/8 (25.2 % for 0.124), the best of 1 tickets "
        "ticket: 1/8 (25.8 % for 0.12): +0.6 points [0.4, 0.8] (3 seeds)."
    )
    # What cost more than its budget is not among those within.
    text = found["For 25 % of the FLOPs at most?"]
    assert "the best of 2 dense networks is cheap: 1/4" in text.lower()
    assert "the best of 2 tickets ticket: 1/4 (26.4 % for 0.248)" in text
    text = " ".join(summary(document).split())
    assert first in text


def test_a_mean_that_is_good_by_chance_is_told_from_an_interval(document):
    document.arms = [arm for arm in document.arms if arm.kind != "reinit"]
    rows = []
    for row in document.rows:
        if row.name == "cheap: 1/8":  # -0.3 points, +-4
            share = {0: 0.27, 1: 0.29, 2: 0.247}[row.seed]
            row = replace(row, tests={**row.tests, "autoattack": Accuracy(share, share)})
        rows.append(row)
    document.rows = rows
    text = frontier_answers(document)[0].text
    assert text.startswith("By the means, of 5 cheaper ones, cheap: 1/8, for 0.12 of its FLOPs")
    assert "; by the whole interval cheap: 1/4, for 0.25 of its FLOPs" in text


def test_nothing_is_as_robust(document):
    document.rows = [
        replace(row, tests={**row.tests, "autoattack": Accuracy(0.9, 0.9)})
        if row.kind == "dense" else row
        for row in document.rows
    ]  # fmt: skip
    assert frontier_answers(document)[0].text == "None of 6: all end more than 0.5 points below it."


def test_of_another_study_there_are_none(document):
    document.figures = []
    assert frontier_answers(document) == []


def test_one_seed_has_an_interval_over_the_images(document):
    document.rows = [row for row in document.rows if row.seed == 0]
    document.seeds = [0]
    document.arms = [arm for arm in document.arms if arm.kind == "dense" or "cheap" in arm.name]
    document.rows = [row for row in document.rows if row.kind == "dense" or "cheap" in row.name]
    document.ledger, document.figures = [], document.figures[:1]
    text = frontier_answers(document)[0].text
    assert "1 seed, interval over the images only" in text
    assert "of none is the whole interval that good" in text
    # Image by image, where a claim is about the two.
    document.claims = [
        Claim("cheap", "as robust", "cheap: 1/4", "dense", Y, "not_less", margin=0.005,
              pairs=(Pair(0, 1000, 0, 1),))
    ]  # fmt: skip
    assert list(document.problems()) == []
    text = frontier_answers(document)[0].text
    assert (
        "cheap: 1/4, for 0.25 of its FLOPs: -0.1 points [-0.4, 0.2] against dense (1 seed" in text
    )
    assert "over the images, one by one" in text
    assert "and so says the whole interval" in text


def test_where_nothing_is_cheaper_or_measured_that_is_said(document):
    keep = ("dense", "late: 1")
    document.arms = [arm for arm in document.arms if arm.name in keep]
    document.rows = [row for row in document.rows if row.name in keep]
    for answer in frontier_answers(document):
        assert answer.text == "Not measured: no such network is cheaper than the baseline."
    assert len(frontier_answers(document)) == 2


def test_half_a_point_is_no_more_than_half_a_point(document):
    rows = []
    for row in document.rows:
        if row.name in ("dense", "cheap: 1/8"):
            share = 0.275 if row.name == "dense" else 0.270
            row = replace(row, tests={**row.tests, "autoattack": Accuracy(share, share)})
        rows.append(row)
    document.rows = rows
    document.arms = [arm for arm in document.arms if arm.series in ("dense", "cheap")]
    assert "cheaper ones, cheap: 1/8" in frontier_answers(document)[0].text


def test_the_figure(document):
    picture = draw(document, document.figures[0])
    (ax,) = picture.axes
    assert ax.get_xscale() == "log"
    told = {line.get_label(): line for line in ax.get_lines()}
    np.testing.assert_allclose(told[FRONTIER].get_xdata(), [0.12, 0.123])
    names = [text.get_text() for text in picture.legends[0].get_texts()]
    assert set(names) == {FRONTIER, "dense", "cheap", "ticket", "other", "control", "late"}
    (bars,) = (c for c in ax.containers if c.get_label() == "cheap")
    np.testing.assert_allclose(bars.lines[0].get_xdata(), [0.124, 0.249])
    np.testing.assert_allclose(bars.lines[0].get_ydata(), [25.2333, 27.1], atol=1e-3)
    words = caption(document, document.figures[0], None)
    assert "ticket: 1/8, control: 1/8" in words.text
    assert "cheap: 25.2 at 0.12, 27.1 at 0.25" in words.alt
    # The frontier is of all arms, whichever a figure shows.
    document.figures = [figure(arms=("dense", "cheap: 1/8"))]
    (ax,) = draw(document, document.figures[0]).axes
    told = {line.get_label(): line for line in ax.get_lines()}
    assert len(told[FRONTIER].get_xdata()) == 2


@pytest.mark.parametrize("measures", [(Y,), (X, Y), (Y, "run:epochs"), ("validation_robust", X)])
def test_measures_that_are_none(document, measures):
    document.figures = [figure(measures=measures)]
    assert any("an accuracy and a cost" in problem for problem in document.problems())
