"""A limit is stated exactly where its cause is there."""

import pytest
import studies
from msgspec.structs import replace

from tf_lottery.report.limits import limits, unmeasured
from tf_lottery.report.results import Accuracy


def text(document):
    return " ".join(limits(document))


def without_baseline(document):
    document.baseline = None


def without_counted(document):
    document.baseline = None
    for row in document.rows:
        row.total_flops_over_dense = None


def settings(document, **changes):
    document.settings.update(changes)


# Words of the limit, and what brings it into or takes it out of a plain comparison.
CAUSES = [
    ("Not the paper's settings", False, lambda d: setattr(d.study, "scale", "reduced: vgg8")),
    ("vgg8", False, lambda d: setattr(d.study, "scale", "reduced: vgg8")),
    ("not corrected for", True, lambda d: d.claims.__delitem__(slice(1, None))),
    ("No dense network was trained", False, without_baseline),
    ("There is no baseline", False, without_counted),
    ("Catastrophic overfitting", False,
     lambda d: setattr(d.ledger[1], "collapsed_epochs", [3, 4])),
    ("epoch 3, 4", False, lambda d: setattr(d.ledger[1], "collapsed_epochs", [3, 4])),
    ("half the rate", False, lambda d: setattr(d.ledger[1], "rollbacks", 2)),
    ("never decays", False, lambda d: settings(d, train={"schedule": {"name": "constant"}})),
    ("never decays", False, lambda d: settings(d, options={"schedule": "constant"})),
    ("already trained for 2 epochs", False, lambda d: settings(d, prune={"rewind_epoch": 2})),
    ("already trained for all of the search, dense and reinit start", False,
     lambda d: settings(d, prune={"rewind_epoch": "current"})),
    ("cut from the initialisation by SNIP, without a search training (--search=snip)", False,
     lambda d: settings(d, prune={"search": "snip"})),
    ("searched only until its mask had settled", False,
     lambda d: settings(d, options={"search": "early"})),
    ("already trained for 1 epoch ", False, lambda d: settings(d, options={"rewind_epoch": 1})),
    ("on 100 of 500 images", False, lambda d: setattr(d.data, "validation_used", 100)),
    ("records no search cost", False,
     lambda d: setattr(d.rows[1], "search_source", "unknown")),
    ("earlier run", True, lambda d: [setattr(e, "cached", False) for e in d.ledger]),
    ("Unstructured masks", True, lambda d: [setattr(r, "density", 1.0) for r in d.rows]),
    ("Seconds on a shared machine", True, None),
    ("image by image", False, lambda d: setattr(
        d, "claims", studies.make_comparison(pairs=True).claims)),
]  # fmt: skip


@pytest.mark.parametrize(("words", "there", "cause"), CAUSES)
def test_a_limit_has_its_cause(words, there, cause):
    document = studies.make_comparison()
    assert (words in text(document)) == there
    if cause is not None:
        cause(document)
        assert (words in text(document)) == (not there)


def test_seeds():
    one, few, many = (
        text(studies.make_comparison(("dense", "boosting"), seeds=range(seeds), epochs=1))
        for seeds in (1, 3, 5)
    )
    assert "One seed (0)" in one
    assert "t-interval" not in one
    assert "3 seeds" in few
    assert "With so few" in few
    assert "5 seeds" in many
    assert "With so few" not in many


def test_attacks():
    assert "upper bound" in text(studies.make_comparison())
    assert "No attack was run" not in text(studies.make_comparison())
    natural = text(studies.make_comparison(attacks=()))
    assert "No attack was run" in natural
    assert "upper bound" not in natural


def test_a_single_model():
    found = text(studies.make_comparison(("dense",)))
    assert "nothing is compared" in found
    for words in ("Unstructured", "corrected", "already trained"):
        assert words not in found


def test_validation_is_spoken_of_where_it_is_shown():
    document = studies.make_comparison()
    assert "measured on 500 images" in text(document)
    document.figures = [figure for figure in document.figures if figure.form == "cost"]
    document.claims = [each for each in document.claims if each.measure.startswith("test")]
    assert "Validation accuracies" not in text(document)


def test_rewinding_sets_kinds_apart():
    document = studies.make_comparison(studies.KINDS)
    document.settings["prune"] = {"rewind_epoch": 2}
    found = text(document)
    for kinds in ("boosting, winning and random_mask start", "dense and reinit start"):
        assert kinds in found
    more = studies.make_comparison(("dense", "dense_twin", "early", "flying_bird"))
    more.settings["prune"] = {"rewind_epoch": 2}
    assert "early starts from weights already" in text(more)
    assert "dense, dense_twin and flying_bird start untrained" in text(more)
    tickets = studies.make_comparison(("boosting", "winning"))
    tickets.settings["prune"] = {"rewind_epoch": 2}
    assert "already trained" not in text(tickets)  # all of them are


def test_a_given_ticket_was_not_found_as_the_settings_say():
    document = studies.make_comparison()
    settings(document, prune={"search": "random"})
    assert "drawn at random" in text(document)
    for row in document.rows:
        row.search_source = "ticket"
    assert "drawn at random" not in text(document)


def attacked(arms, **accuracies):
    """A comparison whose arms have these accuracies, best and last epoch."""
    document = studies.make_comparison(arms, tuple(accuracies))
    for row in document.rows:
        row.tests.update({name: Accuracy(*both) for name, both in accuracies.items()})
    return document


def test_vanishing_gradients_are_suspected_above_five_points():
    even = {"pgd20": (0.5, 0.5), "pgd100": (0.48, 0.48), "cw": (0.44, 0.43)}
    document = attacked(("dense", "boosting"), **even)
    assert "vanish" not in text(document)
    document.rows[1].tests["cw"] = Accuracy(0.45, 0.42)
    (found,) = [limit for limit in limits(document) if "vanish" in limit]
    assert "pgd100 is 6.0 points above cw for boosting (last epoch)" in found
    document.rows[0].tests["cw"] = Accuracy(0.3, 0.45)
    assert "18.0 points above cw for dense (best epoch), 6.0" in text(document)


@pytest.mark.parametrize(
    "accuracies",
    [
        # Too few steps are no sign of vanishing gradients.
        {"pgd20": (0.9, 0.9), "pgd100": (0.5, 0.5), "cw": (0.5, 0.5)},
        {"fgsm": (0.9, 0.9), "cw": (0.1, 0.1)},
    ],
)
def test_a_weak_attack_on_the_cross_entropy_is_no_saturation(accuracies):
    assert "vanish" not in text(attacked(("dense",), **accuracies))


def test_a_distance_that_older_trainings_lack_is_explained():
    document = studies.make_experiment()
    assert list(unmeasured(document)) == []
    for row in document.runs("boosting"):
        for record in row.curve:
            record.distance = None
    (told,) = unmeasured(document)
    assert "boosting" in told
    for entry in document.ledger:
        assert (entry.stage in told) == (entry.label == "train: boosting")
    assert told in list(limits(document))
    document.figures = [replace(document.figures[0])]  # nobody asks for the distance
    assert list(unmeasured(document)) == []
