import pytest

from tf_lottery.reporting import findings
from tf_lottery.reporting.intervals import difference
from tf_lottery.reporting.verdict import headline_attack


def _texts(document, topic=None):
    return [f.text for f in findings(document) if topic in (None, f.topic)]


def _row(document, name):
    return next(row for row in document["rows"] if row["name"] == name)


def _set(document, name, **accuracies):
    for key, share in accuracies.items():
        _row(document, name)[key] = {"best": share, "last": share}


def _only(document, start):
    found = [f for f in findings(document) if f.text.startswith(start)]
    assert len(found) == 1, found
    return found[0]


def _first(document, label, share):
    document["curves"][label][0]["validation_robust"] = share


def test_first_epoch_win(make_document):
    document = make_document()
    _first(document, "boosting", 0.6)
    _first(document, "reinit", 0.366)
    _, low, high = difference(0.6, 180, 0.366, 180)
    start = "After epoch 1 the boosting ticket is at 60.0 % robust validation accuracy, the same"
    finding = _only(document, start)
    assert finding.outcome == "ahead"
    assert finding.text == (
        f"{start} mask re-initialised at 36.6 % (+23.4 points, 95 % interval "
        f"[{100 * low:.1f}, {100 * high:.1f}])."
    )


def test_first_epoch_loss_and_tie(make_document):
    document = make_document()
    _first(document, "boosting", 0.3)
    _first(document, "reinit", 0.5)
    _first(document, "dense", 0.31)
    lost, tied = (f for f in findings(document) if f.topic == "First epoch")
    assert lost.outcome == "behind"
    assert "(-20.0 points" in lost.text
    assert tied.outcome == "even"
    assert tied.text.endswith("]): no difference can be claimed.")


def test_first_epoch_uses_the_images_really_validated_on(make_document):
    document = make_document()
    _first(document, "boosting", 0.6)
    _first(document, "dense", 0.45)
    outcome = {}
    for images in (None, 20):
        document["data"]["validation_used"] = images
        found = [f for f in findings(document) if "the dense network at 45.0" in f.text]
        outcome[images] = found[0].outcome
    assert outcome == {None: "ahead", 20: "even"}


def test_natural_runs_speak_of_plain_accuracy(make_document):
    document = make_document(attacks=())
    first = _texts(document, "First epoch")
    assert all("robust" not in text for text in first)
    assert len(first) == 2
    assert "No attack was run, so nothing is known about robustness." in _texts(document)
    assert headline_attack(document) is None


def test_final_tie(make_document):
    document = make_document()
    gap, low, high = difference(240 / 360, 360, 241 / 360, 360)
    finding = _only(document, "At the end, boosting minus dense: -0.3 points robust")
    assert finding.outcome == "even"
    assert finding.text == (
        f"At the end, boosting minus dense: {100 * gap:.1f} points robust (pgd20) "
        "(66.7 against 66.9 %) on 360 test images, 95 % interval "
        f"[{100 * low:.1f}, {100 * high:.1f}]: no difference can be claimed."
    )


@pytest.mark.parametrize(
    ("share", "outcome", "end"), [(0.9, "ahead", "is higher."), (0.2, "behind", "is lower.")]
)
def test_final_win_and_loss(make_document, share, outcome, end):
    document = make_document()
    _set(document, "boosting", pgd20=share)
    finding = next(
        f for f in findings(document) if f.text.startswith("At the end, boosting minus dense")
    )
    assert finding.outcome == outcome
    assert finding.text.endswith(f"boosting {end}")


def test_equal_accuracies_read_as_plus_zero(make_document):
    document = make_document()
    _set(document, "boosting", pgd20=0.5)
    _set(document, "dense", pgd20=0.5)
    assert "boosting minus dense: +0.0 points robust" in _texts(document, "Final accuracy")[0]


def test_robust_is_the_attack_with_most_steps_whatever_it_shows(make_document):
    document = make_document(attacks=("fgsm", "pgd20", "pgd100", "cw"))
    assert headline_attack(document) == "pgd100"
    document["attacks"][3]["restarts"] = 5  # 150 steps of cw
    assert headline_attack(document) == "cw"


def test_speed(make_document):
    texts = _texts(make_document(), "Time")
    assert texts[0] == (
        "The boosting ticket reached the dense run's best validation accuracy after 5.2 of 20 "
        "epochs (the dense run in epoch 18); search included that is 0.61 of the dense run's "
        "time to its own best."
    )
    assert texts[1] == (
        "The same mask re-initialised never reached the dense run's best validation accuracy "
        "in its 20 epochs."
    )


def test_speed_that_costs_more_than_it_saves_is_worse(make_document):
    document = make_document()
    _row(document, "boosting")["seconds_to_dense_over_dense"] = 1.4
    assert _only(document, "The boosting ticket reached").outcome == "behind"


@pytest.mark.parametrize(
    ("share", "outcome", "claim"),
    [
        (
            1.26,
            "behind",
            "took 1.26x the dense run's seconds and 1.33x its FLOPs: no time is saved",
        ),
        (1.001, "even", "took 1.00x the dense run's seconds and 1.33x its FLOPs: no time is saved"),
        (0.51, "ahead", "FLOPs: 49 % of the time is saved at equal epochs."),
    ],
)
def test_cost_at_equal_epochs(make_document, share, outcome, claim):
    document = make_document()
    _row(document, "boosting")["total_over_dense"] = share
    finding = _only(document, "If search is included, the full boosting run")
    assert finding.outcome == outcome
    assert claim in finding.text
    assert finding.text.endswith("at equal epochs.")


def test_cost_names_unequal_epochs(make_document):
    document = make_document()
    _row(document, "boosting").update(total_over_dense=0.7, epochs=8)
    finding = _only(document, "If search is included")
    assert finding.text.endswith("30 % of the time is saved at 8 against 20 epochs.")


def test_time_saved_at_lower_accuracy_is_no_win(make_document):
    document = make_document()
    _row(document, "boosting")["total_over_dense"] = 0.5
    _set(document, "boosting", pgd20=0.2)
    finding = _only(document, "If search is included")
    assert finding.outcome == "note"
    assert "its accuracy is lower" in finding.text


def test_a_given_ticket_has_no_search(make_document):
    document = make_document()
    _row(document, "boosting")["search_seconds"] = 0.0
    assert _only(document, "The full boosting run, which needed no search here, took")
    assert "; without any search that is 0.61" in _only(document, "The boosting ticket").text


def test_without_dense_nothing_is_said_against_it(make_document):
    document = make_document(("boosting", "reinit"))
    texts = _texts(document)
    assert any(text.startswith("There is no dense run here") for text in texts)
    assert not _texts(document, "Time")
    assert all("minus dense" not in text for text in texts)
    assert any("boosting minus reinit" in text for text in texts)


def test_single_dense_model(make_document):
    found = findings(make_document(("dense",)))
    assert {f.topic for f in found} == {"Limits"}
    assert any("nothing is compared" in f.text for f in found)
    assert all("Unstructured" not in f.text for f in found)


def test_limits_are_always_stated(make_document):
    text = " ".join(_texts(make_document(), "Limits"))
    assert "One seed (0); seed noise not measured." in text
    assert "Unstructured masks save no arithmetic" in text
    assert "not corrected for the number of comparisons" in text


def test_only_equals_are_compared(make_document):
    document = make_document()
    _row(document, "dense")["seed"] = 1
    assert all("minus dense" not in text for text in _texts(document))
    assert any(text.startswith("2 seeds; models are compared") for text in _texts(document))
    other = make_document()
    _row(other, "reinit")["density"] = 0.5
    assert all("minus reinit" not in text for text in _texts(other))


def test_two_tickets_of_a_kind_are_told_apart(make_document):
    document = make_document()
    twin = dict(_row(document, "boosting"), name="boosting-0.1", density=0.1)
    document["rows"].append(twin)
    document["curves"]["boosting-0.1"] = document["curves"]["boosting"]
    first = _texts(document, "First epoch")
    assert any("the boosting ticket (boosting-0.1) is at" in text for text in first)
    assert any("boosting-0.1 minus dense" in text for text in _texts(document))


def test_best_epoch_that_is_the_last_is_not_reported_twice(make_document):
    document = make_document(epochs=5)
    assert sum(text.startswith("At the best validation epoch") for text in _texts(document)) == 1
    for row in document["rows"]:
        row["best_epoch"] = 5
    assert not any(text.startswith("At the best validation epoch") for text in _texts(document))


def test_a_single_epoch_is_not_reported_twice(make_document):
    texts = _texts(make_document(epochs=1))
    assert sum("boosting minus dense" in text and "robust" in text for text in texts) == 1
    assert any("in its 1 epoch." in text for text in texts)
