"""What becomes of claims, and which claims a comparison makes."""

import itertools

import pytest
import studies
from msgspec.structs import replace
from studies import claim, put

from tf_lottery.report import comparison
from tf_lottery.report.asked import Pair
from tf_lottery.report.verdicts import OUTCOMES, decide, tally, verdicts
from tf_lottery.statistics import difference, paired_difference

GRID = [i / 4 for i in range(-6, 7)]
INSIDE = {
    # Where the true difference must lie for the claim to hold, with the margin m.
    "more": lambda d, m: d > 0,
    "less": lambda d, m: d < 0,
    "not_less": lambda d, m: d >= -m,
    "same": lambda d, m: -m <= d <= m,
}


@pytest.mark.parametrize("expect", INSIDE)
def test_yes_only_where_the_whole_interval_says_so(expect):
    for low, high in itertools.combinations_with_replacement(GRID, 2):
        for margin in (0.0, 0.5, 1.0):
            points = [low + (high - low) * i / 50 for i in range(51)]
            points += [point for point in (-margin, margin) if low <= point <= high]
            holds = [INSIDE[expect](point, margin) for point in points]
            expected = "yes" if all(holds) else "not decided" if any(holds) else "no"
            if expect in ("more", "less") and low != high and 0 in (low, high):
                expected = "not decided"  # an interval that only touches 0
            assert decide(expect, low, high, margin) == expected, (low, high, margin)


@pytest.mark.parametrize(
    ("expect", "low", "high", "outcome"),
    [
        ("more", 0.0, 0.0, "no"), ("less", 0.0, 0.0, "no"), ("same", 0.0, 0.0, "yes"),
        ("more", float("inf"), float("inf"), "yes"), ("same", float("inf"), float("inf"), "no"),
        ("not_less", float("-inf"), float("-inf"), "no"),
    ],
)  # fmt: skip
def test_decisions_without_width(expect, low, high, outcome):
    assert decide(expect, low, high, 0.01) == outcome


def judged(document, *args, **changes):
    document.claims = [claim(*args, **changes)]
    (found,) = verdicts(document)
    assert found.outcome in OUTCOMES
    return found


def test_a_claim_with_its_numbers():
    document = studies.make_experiment()
    put(document, "boosting", "validation_natural@1", [0.50, 0.52, 0.54])
    put(document, "reinit", "validation_natural@1", [0.37, 0.37, 0.39])
    found = judged(document, "boosting", "reinit", text="it is ahead", paper="54 against 40 %")
    # Differences 13, 15, 15: mean 14.33, t 4.3027 * 1.1547 / sqrt(3) = 2.868
    assert found.text == "it is ahead: yes, +14.3 points [11.5, 17.2], 3 seeds"
    assert found.gap[:3] == pytest.approx((0.14333, 0.11465, 0.17202), abs=1e-5)
    assert "boosting 52.0 against reinit 37.7 %" in found.detail
    assert found.paper == "54 against 40 %"
    assert judged(document, "reinit", "boosting").outcome == "no"
    assert judged(document, "reinit", "boosting", expect="less").outcome == "yes"


def test_pairing_by_seed_decides_what_the_means_alone_would_not():
    document = studies.make_experiment()
    put(document, "boosting", "validation_natural@1", [0.30, 0.52, 0.70])
    put(document, "reinit", "validation_natural@1", [0.28, 0.502, 0.682])
    assert judged(document, "boosting", "reinit").outcome == "yes"
    put(document, "reinit", "validation_natural@1", [0.682, 0.28, 0.502])
    assert judged(document, "boosting", "reinit").outcome == "not decided"


def test_one_seed_has_an_interval_over_the_images_only():
    document = studies.make_experiment(seeds=(7,))
    put(document, "boosting", "validation_natural@1", [0.5])
    put(document, "reinit", "validation_natural@1", [0.48])
    found = judged(document, "boosting", "reinit")
    assert found.outcome == "not decided"
    assert found.gap[:3] == pytest.approx(difference(0.5, 500, 0.48, 500))
    assert "over the images only" in found.found
    put(document, "reinit", "validation_natural@1", [0.38])
    assert judged(document, "boosting", "reinit").outcome == "yes"


def test_pairs_decide_what_two_samples_would_not():
    document = studies.make_experiment(seeds=(7,))
    put(document, "boosting", "test_natural@last", [0.82])
    put(document, "dense", "test_natural@last", [0.80])
    asked = ("boosting", "dense", "test_natural@last")
    assert judged(document, *asked).outcome == "not decided"
    found = judged(document, *asked, pairs=(Pair(7, 1000, 30, 10),))
    assert found.outcome == "yes"
    assert found.gap[:3] == pytest.approx(paired_difference(30, 10, 1000))
    assert found.gap.basis == "pairs"
    assert judged(document, *asked, pairs=(Pair(7, 1000, 510, 490),)).outcome == "not decided"


def test_one_seed_and_no_accuracy_decides_nothing():
    found = judged(studies.make_experiment(seeds=(7,)), "boosting", "dense", "distance@1")
    assert found.outcome == "not decided"
    assert found.gap.low is None


def test_a_counted_cost_is_decided_by_one_seed_unless_a_run_was_stopped():
    document = studies.make_experiment(seeds=(7,))
    asked = {"measure": "run:total_flops_over_dense", "value": 1.0}
    found = judged(document, "boosting", **asked)  # 36 of search and 80 of training over 80
    assert (found.outcome, found.gap.basis) == ("yes", "counted")
    assert found.gap.mean == pytest.approx(0.45)
    assert found.found.startswith("1.45,")  # a ratio compared with 1 shows itself
    assert judged(document, "boosting", expect="less", **asked).outcome == "no"
    document.rows[0].stopped = True
    assert judged(document, "boosting", **asked).outcome == "not decided"


@pytest.mark.parametrize(
    ("expect", "margin", "outcome"),
    [("not_less", 0.02, "yes"), ("not_less", 0.01, "not decided"), ("not_less", 0.001, "no"),
     ("same", 0.012, "yes"), ("same", 0.001, "no")],
)  # fmt: skip
def test_margins(expect, margin, outcome):
    document = studies.make_experiment()
    put(document, "boosting", "validation_natural@3", [0.800, 0.802, 0.804])
    put(document, "dense", "validation_natural@3", [0.806, 0.810, 0.808])
    # Differences -6, -8, -4 thousandths: -0.6 points [-1.1, -0.1]
    asked = ("boosting", "dense", "validation_natural@3", expect)
    found = judged(document, *asked, margin=margin)
    assert found.outcome == outcome
    assert "-0.6 points [-1.1, -0.1]" in found.found
    assert f"{100 * margin:.1f} points" in found.detail


def test_equal_accuracies_in_every_seed_are_not_called_the_same_beyond_the_images():
    document = studies.make_experiment()
    for name in ("boosting", "dense"):
        put(document, name, "validation_natural@2", [0.1, 0.1, 0.1])
    asked = ("boosting", "dense", "validation_natural@2", "same")
    assert judged(document, *asked, margin=0.01).outcome == "not decided"
    assert judged(document, *asked, margin=0.05).outcome == "yes"


@pytest.mark.parametrize(
    "measure", ["validation@100", "validation_natural@11", "test_cw@best", "distance@11"]
)
def test_what_was_not_measured_says_so(measure):
    found = judged(studies.make_experiment(), "boosting", "dense", measure)
    assert (found.outcome, found.gap, found.found) == ("not measured", None, "")


def test_untested_arms_and_ratios_without_a_baseline_are_not_measured():
    document = studies.make_experiment()
    document.baseline = None
    for row in document.rows:
        row.tests, row.test_examples = {}, 0
        row.epochs_to_dense = row.total_flops_over_dense = None
    for measure in ("test@best", "run:epochs_to_dense", "run:total_flops_over_dense"):
        assert judged(document, "boosting", "dense", measure).outcome == "not measured"


def test_a_value_that_only_some_seeds_have():
    document = studies.make_experiment()
    row = document.runs("boosting")[2]
    row.curve = row.curve[:3]
    found = judged(document, "boosting", "dense", "validation_natural@5")
    assert found.gap.seeds == 2
    assert "not measured in 1 other" in found.found


REACHED, NEVER = [4.0, 4.5, 5.0], [None] * 3


@pytest.mark.parametrize(
    ("ours", "theirs", "expect", "outcome"),
    [
        (REACHED, NEVER, "less", "yes"), (REACHED, NEVER, "more", "no"),
        (NEVER, REACHED, "less", "no"), (NEVER, REACHED, "more", "yes"),
        (NEVER, REACHED, "same", "no"), (NEVER, REACHED, "not_less", "yes"),
        (NEVER, NEVER, "less", "not decided"), (NEVER, NEVER, "same", "not decided"),
        ([4.0, None, 5.0], [6.0, 7.0, 8.0], "less", "not decided"),
        ([4.0, None, 5.0], NEVER, "less", "not decided"),
        (REACHED, [6.0, 7.0, 8.5], "less", "yes"),
    ],
)  # fmt: skip
def test_never_is_later_than_any_number(ours, theirs, expect, outcome):
    document = studies.make_experiment()
    put(document, "boosting", "run:epochs_to_dense", ours)
    put(document, "reinit", "run:epochs_to_dense", theirs)
    found = judged(document, "boosting", "reinit", "run:epochs_to_dense", expect)
    assert found.outcome == outcome
    assert ("never" in found.detail) == (None in ours + theirs)
    assert "inf" not in found.text + found.detail
    against = judged(document, "reinit", None, "run:epochs_to_dense", expect, value=3.0)
    if theirs == NEVER:
        assert against.outcome == ("yes" if expect in ("more", "not_less") else "no")


def test_never_with_one_seed_decides_nothing():
    document = studies.make_experiment(seeds=(0,))
    found = judged(document, "boosting", "reinit", "run:epochs_to_dense", "less")
    assert found.outcome == "not decided"
    assert "1 seed" in found.found


def test_units_of_differences():
    document = studies.make_experiment()
    put(document, "dense", "run:epochs", [20, 21, 22])
    put(document, "boosting", "run:epochs", [11, 11, 11])
    document.rows[0].stopped = True
    found = judged(document, "boosting", "dense", "run:epochs", "less")
    assert found.found == "-10 epochs [-12.5, -7.5], 3 seeds"
    assert "points" not in judged(document, "boosting", "dense", "distance@5").found


def test_the_tally_counts_outcomes():
    found = verdicts(studies.make_experiment())
    assert [verdict.outcome for verdict in found] == ["yes", "not measured", "yes", "no", "yes"]
    assert tally(found) == "Of 5 claims 3 hold here, 1 does not, 1 was not measured."
    assert tally(found[:1]) == "The one claim holds here."
    assert tally([found[3]] * 2) == "Of 2 claims 2 do not hold here."
    assert tally([]).startswith("No claim")


# A comparison. ---------------------------------------------------------------------------


def sides(kinds, attacks=True):
    return {(c.ours, c.theirs, c.measure) for c in comparison.claims(kinds, attacks)}


def test_the_boosting_ticket_is_held_against_all_others():
    found = sides(studies.KINDS)
    for other in ("dense", "reinit", "winning"):
        assert ("boosting", other, "validation@1") in found
    for other in ("dense", "reinit", "random_mask", "winning"):
        assert ("boosting", other, "test@last") in found
    assert ("winning", "dense", "test@last") in found
    assert ("winning", "reinit", "test@last") not in found
    for kind in studies.KINDS[1:]:
        assert (kind, None, "run:flops_to_dense_over_dense") in found
    costs = [c for c in comparison.claims(studies.KINDS, True) if c.value is not None]
    assert {(c.expect, c.value) for c in costs} == {("less", 1.0)}
    assert "seconds" not in " ".join(c.measure for c in costs)  # they vary on a shared machine


def test_without_a_dense_network_nothing_is_held_against_it():
    assert sides(("boosting", "reinit")) == {
        ("boosting", "reinit", "validation@1"), ("boosting", "reinit", "test@last"),
        ("boosting", "reinit", "test@best"),
    }  # fmt: skip
    assert sides(("dense",)) == sides(("reinit", "random_mask")) == set()


def test_the_twin_is_what_the_ticket_is_held_against_and_no_ticket_itself():
    kinds = ("dense", "dense_twin", "boosting")
    found = sides(kinds)
    assert ("boosting", "dense_twin", "test@best") in found
    assert ("dense_twin", None, "run:total_flops_over_dense") in found
    assert not any(theirs == "boosting" for _, theirs, _ in found)
    (robust,) = [c for c in comparison.claims(kinds, True) if c.id == "last_dense_twin_dense"]
    assert (robust.expect, robust.margin) == ("not_less", 0.005)


def test_clean_images_are_a_claim_of_their_own_under_attack_only():
    natural = ("boosting", "dense", "test_natural@last")
    assert natural in sides(("dense", "boosting"))
    assert natural not in sides(("dense", "boosting"), attacks=False)


def test_a_kind_from_elsewhere_is_a_ticket():
    kind = "my.package:find"
    found = sides(("dense", kind, "reinit"))
    assert {(kind, "dense", "validation@1"), (kind, "dense", "test@last"),
            (kind, None, "run:total_flops_over_dense")} <= found  # fmt: skip
    document = studies.make_comparison(("dense", kind))
    assert all(kind in each.claim for each in verdicts(document))


@pytest.mark.parametrize("attacks", [("fgsm", "pgd20"), ("pgd20",), ()])
def test_every_claim_of_a_comparison_has_a_verdict(attacks):
    document = studies.make_comparison(studies.KINDS, attacks, pairs=True)
    assert len({each.id for each in document.claims}) == len(document.claims) > 10
    for asked, found in zip(document.claims, verdicts(document), strict=True):
        assert found.outcome != "not measured", asked
        assert found.gap is None or (found.gap.basis == "pairs") == bool(asked.pairs)
        unpaired = replace(document, claims=[replace(asked, pairs=())])
        (other,) = verdicts(unpaired)
        if asked.pairs:
            assert found.gap.high - found.gap.low < other.gap.high - other.gap.low


def unknown(document, name):
    """The document, the search of one arm of unknown cost."""
    blank = dict.fromkeys(
        ("total_over_dense", "total_flops_over_dense", "seconds_to_dense_over_dense",
         "flops_to_dense_over_dense")
    )  # fmt: skip
    rows = [
        replace(row, search_source="unknown", **blank) if row.name == name else row
        for row in document.rows
    ]
    return replace(document, rows=rows)


def test_no_saving_is_claimed_where_the_cost_of_the_search_is_unknown():
    document = unknown(studies.make_comparison(), "boosting")
    found = {verdict.id: verdict for verdict in verdicts(document)}
    for name in ("cost_boosting", "reach_boosting"):
        assert found[name].outcome == "not measured"
        assert "does not record" in found[name].detail
    assert found["reach_reinit"].outcome != "not measured"  # the others' costs are known
    assert found["last_boosting_dense"].outcome != "not measured"


@pytest.mark.parametrize("worse", [True, False])
def test_a_saving_at_a_lower_accuracy_says_so(worse):
    document = studies.make_comparison(attacks=())
    put(document, "boosting", "run:total_flops_over_dense", [0.6])
    put(document, "boosting", "test_natural@last", [0.5 if worse else 0.95])
    put(document, "dense", "test_natural@last", [0.9])
    verdict = next(v for v in verdicts(document) if v.id == "cost_boosting")
    assert verdict.outcome == "yes"
    assert ("do not buy the same" in verdict.detail) == worse
