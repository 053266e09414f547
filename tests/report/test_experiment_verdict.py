import pytest
from experiments import build_claim, build_experiment
from tf_lottery.report.experiment import verdicts
from tf_lottery.report.experiment.verdict import decide, tally

from tf_lottery.statistics import difference


@pytest.mark.parametrize(
    ("expect", "low", "high", "outcome"),
    [
        ("more", 0.01, 0.02, "yes"),
        ("more", -0.01, 0.02, "not decided"),
        ("more", 0.0, 0.02, "not decided"),
        ("more", -0.02, -0.01, "no"),
        ("more", 0.0, 0.0, "no"),
        ("less", -0.02, -0.01, "yes"),
        ("less", -0.02, 0.01, "not decided"),
        ("less", 0.01, 0.02, "no"),
        ("less", 0.0, 0.0, "no"),
        ("not_less", -0.009, 0.5, "yes"),
        ("not_less", -0.011, 0.5, "not decided"),
        ("not_less", -0.5, -0.011, "no"),
        ("same", -0.009, 0.009, "yes"),
        ("same", -0.009, 0.011, "not decided"),
        ("same", -0.5, 0.5, "not decided"),
        ("same", 0.011, 0.5, "no"),
        ("same", -0.5, -0.011, "no"),
        ("same", 0.0, 0.0, "yes"),
    ],
)
def test_decisions(expect, low, high, outcome):
    assert decide(expect, low, high, 0.01) == outcome


def _curves(document, arm, epoch, shares):
    (arm,) = [entry for entry in document["arms"] if entry["name"] == arm]
    for run, share in zip(arm["runs"], shares, strict=True):
        run["curve"][epoch - 1]["validation_natural"] = share


def _one(document, *args, **changes):
    document["claims"] = [build_claim(*args, **changes)]
    (verdict,) = verdicts(document)
    return verdict


def test_the_sentence_of_a_claim():
    document = build_experiment()
    _curves(document, "boosting", 1, [0.50, 0.52, 0.54])
    _curves(document, "re-initialised", 1, [0.37, 0.37, 0.39])
    verdict = _one(
        document, "boosting", "re-initialised", text="boosting beats re-initialised after epoch 1"
    )
    # Differences 13, 15, 15: mean 14.33, t 4.3027 * 1.1547 / sqrt(3) = 2.868
    assert verdict.text == (
        "boosting beats re-initialised after epoch 1: yes, +14.3 points [11.5, 17.2], 3 seeds"
    )
    assert verdict.detail == (
        "Natural validation accuracy after epoch 1: boosting 52.0 against re-initialised 37.7 %."
    )
    assert verdict.paper == "54 against 40 %"
    assert verdict.gap.mean == pytest.approx(0.14333, abs=1e-5)


def test_pairing_by_seed_decides_what_the_means_alone_would_not():
    document = build_experiment()
    _curves(document, "boosting", 1, [0.30, 0.52, 0.70])
    _curves(document, "re-initialised", 1, [0.28, 0.502, 0.682])
    assert _one(document, "boosting", "re-initialised").outcome == "yes"
    _curves(document, "re-initialised", 1, [0.682, 0.28, 0.502])
    assert _one(document, "boosting", "re-initialised").outcome == "not decided"


@pytest.mark.parametrize(("expect", "outcome"), [("more", "no"), ("less", "yes")])
def test_a_claim_that_fails_says_so(expect, outcome):
    document = build_experiment()
    verdict = _one(document, "re-initialised", "boosting", text="it is ahead", expect=expect)
    assert verdict.text.startswith(f"it is ahead: {outcome}, -29.")


def test_one_seed_has_an_interval_over_the_images_only():
    document = build_experiment(seeds=(7,))
    _curves(document, "boosting", 1, [0.5])
    _curves(document, "re-initialised", 1, [0.48])
    verdict = _one(document, "boosting", "re-initialised")
    assert verdict.outcome == "not decided"
    assert verdict.found.endswith("1 seed, interval over the images only")
    assert verdict.gap[:3] == pytest.approx(difference(0.5, 500, 0.48, 500))
    _curves(document, "re-initialised", 1, [0.38])
    assert _one(document, "boosting", "re-initialised").outcome == "yes"


def test_one_seed_and_no_accuracy_decides_nothing():
    document = build_experiment(seeds=(7,))
    verdict = _one(document, "boosting", "dense", measure="distance@1")
    assert verdict.outcome == "not decided"
    assert verdict.found.endswith("1 seed, no interval")
    assert verdict.gap.low is None


def test_a_counted_cost_is_decided_by_one_seed_unless_a_run_was_stopped():
    document = build_experiment(seeds=(7,))
    claim = {"value": 1.0, "measure": "run:total_flops_over_dense", "expect": "more"}
    verdict = _one(document, "boosting", **claim)
    assert verdict.outcome == "yes"
    assert verdict.found == "+0.46, counted, the same for any seed"
    assert verdict.detail.endswith("over the baseline's: boosting 1.46 against 1.00.")
    document["arms"][0]["runs"][0]["stopped"] = True
    assert _one(document, "boosting", **claim).outcome == "not decided"


def test_margins():
    document = build_experiment()
    _curves(document, "boosting", 3, [0.800, 0.802, 0.804])
    _curves(document, "dense", 3, [0.806, 0.810, 0.808])
    claim = {"measure": "validation_natural@3", "expect": "not_less"}
    # Differences -6, -8, -4 thousandths: -0.6 points [-1.1, -0.1]
    verdict = _one(document, "boosting", "dense", margin=0.02, **claim)
    assert verdict.outcome == "yes"
    assert verdict.found == "-0.6 points [-1.1, -0.1], 3 seeds"
    assert verdict.detail.endswith("dense 80.8 % (not less: by no more than 2.0 points).")
    assert _one(document, "boosting", "dense", margin=0.01, **claim).outcome == "not decided"
    assert _one(document, "boosting", "dense", margin=0.001, **claim).outcome == "no"
    claim["expect"] = "same"
    verdict = _one(document, "boosting", "dense", margin=0.012, **claim)
    assert verdict.outcome == "yes"
    assert verdict.detail.endswith("(the same: within ±1.2 points).")
    assert _one(document, "boosting", "dense", margin=0.001, **claim).outcome == "no"


def test_equal_accuracies_in_every_seed_are_not_called_the_same_beyond_the_images():
    document = build_experiment()
    for name in ("boosting", "dense"):
        _curves(document, name, 2, [0.1, 0.1, 0.1])
    claim = {"measure": "validation_natural@2", "expect": "same"}
    verdict = _one(document, "boosting", "dense", margin=0.01, **claim)
    assert verdict.outcome == "not decided"
    assert "3 seeds with identical values" in verdict.found
    assert _one(document, "boosting", "dense", margin=0.05, **claim).outcome == "yes"


def test_compared_with_a_value():
    document = build_experiment()
    _curves(document, "boosting", 1, [0.50, 0.52, 0.54])
    verdict = _one(document, "boosting", value=0.4)
    assert verdict.outcome == "yes"
    assert verdict.found == "+12.0 points [7.0, 17.0], 3 seeds"
    assert verdict.detail.endswith("boosting 52.0 against 40.0 %.")


@pytest.mark.parametrize(
    "measure", ["validation@100", "validation_natural@11", "test_cw@best", "distance@11"]
)
def test_what_was_not_measured_is_no_exception(measure):
    verdict = _one(build_experiment(), "boosting", "dense", text="a", measure=measure)
    assert verdict.text == "a: not measured"
    assert verdict.detail.endswith("was not measured.")
    assert verdict.gap is None


def test_untested_arms_and_ratios_without_a_baseline():
    document = build_experiment()
    document["baseline"] = None
    for arm in document["arms"]:
        for run in arm["runs"]:
            run["test"] = None
            run["epochs_to_dense"] = run["total_flops_over_dense"] = None
    for measure in ("test@best", "run:epochs_to_dense", "run:total_flops_over_dense"):
        assert _one(document, "boosting", "dense", measure=measure).outcome == "not measured"


def test_a_curve_that_only_some_seeds_have():
    document = build_experiment()
    document["arms"][1]["runs"][2]["curve"] = document["arms"][1]["runs"][2]["curve"][:3]
    verdict = _one(document, "boosting", "dense", measure="validation_natural@5")
    assert verdict.gap.seeds == 2
    assert verdict.found.endswith("2 seeds (not measured in 1 other)")


def _reach(document, ours, theirs):
    for name, values in (("boosting", ours), ("re-initialised", theirs)):
        (arm,) = [entry for entry in document["arms"] if entry["name"] == name]
        for run, value in zip(arm["runs"], values, strict=True):
            run["epochs_to_dense"] = value


@pytest.mark.parametrize(
    ("ours", "theirs", "expect", "outcome", "words"),
    [
        ([4, 4.5, 5], [None] * 3, "less", "yes", "the other never got there, 3 seeds"),
        ([4, 4.5, 5], [None] * 3, "more", "no", "the other never got there, 3 seeds"),
        ([None] * 3, [4, 4.5, 5], "less", "no", "never reached, 3 seeds"),
        ([None] * 3, [4, 4.5, 5], "more", "yes", "never reached, 3 seeds"),
        ([None] * 3, [4, 4.5, 5], "same", "no", "never reached, 3 seeds"),
        ([None] * 3, [None] * 3, "less", "not decided", "neither got there in every seed"),
        ([4, None, 5], [6, 7, 8], "less", "not decided", "not reached in 1 of 3 seeds"),
    ],
)
def test_never_is_later_than_any_number(ours, theirs, expect, outcome, words):
    document = build_experiment()
    _reach(document, ours, theirs)
    verdict = _one(
        document, "boosting", "re-initialised", measure="run:epochs_to_dense", expect=expect
    )
    assert verdict.outcome == outcome
    assert verdict.found.startswith(words)
    assert "never" in verdict.detail
    assert "inf" not in verdict.text + verdict.detail


def test_never_in_words():
    document = build_experiment()
    _reach(document, [4, None, 6], [None] * 3)
    verdict = _one(document, "boosting", "re-initialised", measure="run:epochs_to_dense")
    assert verdict.detail == (
        "Epochs to the baseline's best validation accuracy: boosting never in 1 of 3 seeds, else "
        "5 epochs against re-initialised never in 3 of 3 seeds."
    )
    verdict = _one(document, "re-initialised", value=3.0, measure="run:epochs_to_dense")
    assert (verdict.outcome, verdict.found) == ("yes", "never reached, 3 seeds")
    assert verdict.detail.endswith("never in 3 of 3 seeds against 3.")


def test_never_with_one_seed_decides_nothing():
    document = build_experiment(seeds=(0,))
    verdict = _one(
        document, "boosting", "re-initialised", measure="run:epochs_to_dense", expect="less"
    )
    assert verdict.outcome == "not decided"
    assert verdict.found == "the other never got there, 1 seed"


def test_epochs_and_ratios_have_their_own_units():
    document = build_experiment()
    for arm, epochs in zip(document["arms"], (20, 11, 16), strict=True):
        for i, run in enumerate(arm["runs"]):
            run["epochs"], run["stopped"] = epochs + i * (arm["name"] == "dense"), True
    verdict = _one(document, "boosting", "dense", measure="run:epochs", expect="less")
    assert verdict.found == "-10 epochs [-12.5, -7.5], 3 seeds"
    verdict = _one(document, "boosting", "dense", measure="distance@5", expect="more")
    assert verdict.detail.startswith("Relative l_2 distance")
    assert "points" not in verdict.found


def test_the_tally():
    document = build_experiment()
    assert tally(verdicts(document)) == ("Of 5 claims 3 hold here, 1 does not, 1 was not measured.")
    found = verdicts(document)
    assert tally(found[:1]) == "The one claim holds here."
    no = [verdict for verdict in found if verdict.outcome == "no"]
    assert tally(no) == "The one claim does not hold here."
    assert tally(no * 2) == "Of 2 claims 2 do not hold here."
    assert tally([]).startswith("No claim")
