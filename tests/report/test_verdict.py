import pytest
from tf_lottery.report.verdict import headline, headline_words

from tf_lottery.options.settings import KINDS
from tf_lottery.report import findings
from tf_lottery.statistics import difference


def _texts(document, topic=None):
    return [f.text for f in findings(document) if topic in (None, f.topic)]


def _row(document, name):
    return next(row for row in document["rows"] if row["name"] == name)


def _set(document, name, **accuracies):
    for key, share in accuracies.items():
        assert key in _row(document, name)
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
    tied, lost = (f for f in findings(document) if f.topic == "First epoch")
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
    assert headline(document) is None


def test_final_tie(make_document):
    document = make_document()
    gap, low, high = difference(239 / 360, 360, 240 / 360, 360)
    finding = _only(document, "At the end, boosting minus dense: -0.3 points robust")
    assert finding.outcome == "even"
    assert finding.text == (
        f"At the end, boosting minus dense: {100 * gap:.1f} points robust (worst of fgsm, "
        "pgd20) (66.4 against 66.7 %) on 360 test images, 95 % interval "
        f"[{100 * low:.1f}, {100 * high:.1f}]: no difference can be claimed."
    )


@pytest.mark.parametrize(
    ("share", "outcome", "end"), [(0.9, "ahead", "is higher."), (0.2, "behind", "is lower.")]
)
def test_final_win_and_loss(make_document, share, outcome, end):
    document = make_document()
    _set(document, "boosting", worst=share)
    finding = next(
        f for f in findings(document) if f.text.startswith("At the end, boosting minus dense")
    )
    assert finding.outcome == outcome
    assert finding.text.endswith(f"boosting {end}")


def test_equal_accuracies_read_as_plus_zero(make_document):
    document = make_document()
    _set(document, "boosting", worst=0.5)
    _set(document, "dense", worst=0.5)
    assert "boosting minus dense: +0.0 points robust" in _texts(document, "Final accuracy")[0]


def test_robust_is_the_worst_of_all_attacks(make_document):
    document = make_document(attacks=("fgsm", "pgd20", "pgd100", "cw"))
    _set(document, "boosting", fgsm=0.1, pgd20=0.1, pgd100=0.1, cw=0.1, worst=0.6)
    _set(document, "dense", fgsm=0.9, pgd20=0.9, pgd100=0.9, cw=0.9, worst=0.5)
    finding = _only(document, "At the end, boosting minus dense: +10.0 points robust")
    assert "robust (worst of fgsm, pgd20, pgd100, cw) (60.0 against 50.0 %)" in finding.text
    assert finding.outcome == "ahead"


def test_robust_under_one_attack_has_its_name(make_document):
    document = make_document(attacks=("pgd20",))
    assert headline_words(document) == "pgd20"
    assert any("points robust (pgd20) (" in text for text in _texts(document))
    assert all("worst of" not in text for text in _texts(document))


def test_boosting_against_winning(make_document):
    document = make_document(KINDS)
    _first(document, "boosting", 0.6)
    _first(document, "winning", 0.3)
    _set(document, "winning", worst=0.9)
    first = _only(
        document,
        "After epoch 1 the boosting ticket is at 60.0 % robust validation accuracy, the winning",
    )
    assert first.outcome == "ahead"
    for when in ("At the end", "At the best validation epoch"):
        assert _only(document, f"{when}, boosting minus winning").outcome == "behind"
    for row in document["rows"]:
        row["best_epoch"] = row["epochs"]
    assert sum("minus winning" in text for text in _texts(document)) == 1
    assert all("minus winning" not in text for text in _texts(make_document()))


def test_speed(make_document):
    document = make_document()
    finding = _only(document, "The boosting ticket reached")
    assert finding.outcome == "ahead"
    assert finding.text == (
        "The boosting ticket reached the dense run's best validation accuracy after 5.2 of 20 "
        "epochs (the dense run in epoch 18); search included that is 0.57x the dense run's "
        "FLOPs to its own best (0.61x its seconds, as measured)."
    )


@pytest.mark.parametrize(
    ("flops", "seconds", "outcome"),
    [(1.4, 0.5, "behind"), (0.5, 1.4, "ahead"), (1.004, 0.5, "even"), (None, 0.5, "note")],
)
def test_costs_are_judged_by_flops_never_by_seconds(make_document, flops, seconds, outcome):
    document = make_document()
    row = _row(document, "boosting")
    row.update(flops_to_dense_over_dense=flops, seconds_to_dense_over_dense=seconds)
    assert _only(document, "The boosting ticket reached").outcome == outcome
    row.update(total_flops_over_dense=flops, total_over_dense=seconds)
    full = [f for f in findings(document) if "the full boosting run" in f.text]
    assert [f.outcome for f in full] == ([outcome] if flops else [])


def _validation(document, name, share):
    for record in document["curves"][name]:
        record["validation_robust"] = share


@pytest.mark.parametrize(
    ("ours", "images", "outcome"),
    [(0.45, 180, "behind"), (0.56, 180, "note"), (0.56, 18000, "behind"), (0.45, 18, "note")],
)
def test_never_reached_is_worse_only_beyond_noise(make_document, ours, images, outcome):
    document = make_document()
    document["data"]["validation_used"] = images
    _validation(document, "reinit", ours)
    _validation(document, "dense", 0.6)
    _, low, high = difference(0.6, images, ours, images)
    assert (low > 0) == (outcome == "behind")
    finding = _only(document, "The same mask re-initialised never reached")
    assert finding.outcome == outcome
    assert finding.text == (
        "The same mask re-initialised never reached the dense run's best validation accuracy "
        f"in its 20 epochs: it missed it by {100 * (0.6 - ours):.1f} points (95 % interval "
        f"[{100 * low:.1f}, {100 * high:.1f}])"
        + (", which is within noise." if outcome == "note" else ".")
    )


@pytest.mark.parametrize(
    ("share", "outcome", "claim"),
    [
        (1.26, "behind", "1.26x the dense run's FLOPs (1.26x its seconds, as measured): no FLOPs"),
        (1.001, "even", "took 1.00x the dense run's FLOPs (1.26x its seconds, as measured): no"),
        (0.51, "ahead", "as measured): 49 % of the FLOPs are saved at equal epochs."),
    ],
)
def test_cost_at_equal_epochs(make_document, share, outcome, claim):
    document = make_document()
    _row(document, "boosting")["total_flops_over_dense"] = share
    finding = _only(document, "Search included, the full boosting run")
    assert finding.outcome == outcome
    assert claim in finding.text
    assert finding.text.endswith("at equal epochs.")


def test_cost_names_unequal_epochs(make_document):
    document = make_document()
    _row(document, "boosting").update(total_flops_over_dense=0.7, epochs=8)
    finding = _only(document, "Search included, the full")
    assert finding.text.endswith("30 % of the FLOPs are saved at 8 against 20 epochs.")


def test_work_saved_at_lower_accuracy_is_no_win(make_document):
    document = make_document()
    _row(document, "boosting")["total_flops_over_dense"] = 0.5
    _set(document, "boosting", worst=0.2)
    finding = _only(document, "Search included, the full")
    assert finding.outcome == "note"
    assert "its accuracy is lower" in finding.text


def test_a_given_ticket_brings_its_recorded_search_cost(make_document):
    document = make_document()
    _row(document, "boosting").update(search_source="ticket", total_flops_over_dense=0.8)
    full = _only(document, "With the search's cost as recorded in the ticket, the full boosting")
    assert full.outcome == "ahead"
    reached = _only(document, "The boosting ticket reached")
    assert "; with the search's cost as recorded in the ticket that is 0.57x" in reached.text
    assert reached.outcome == "ahead"
    assert all("needed no search" not in text for text in _texts(document))


@pytest.mark.parametrize("unknown", ["search_seconds", "search_flops"])
def test_a_ticket_without_a_search_cost_saves_nothing(make_document, unknown):
    document = make_document()
    _row(document, "boosting").update(
        {"search_source": "ticket", unknown: 0, "total_flops_over_dense": 0.7}
    )
    found = [f for f in findings(document) if f.topic == "Cost" and "re-init" not in f.text]
    assert len(found) == 2
    for finding in found:
        assert finding.outcome == "note"
        assert finding.text.endswith(
            ": the ticket records no search cost, so no saving can be claimed."
        )
        assert "are saved" not in finding.text
    assert "; the search left out that is 0.57x" in found[0].text


def test_without_dense_nothing_is_said_against_it(make_document):
    document = make_document(("boosting", "reinit"))
    texts = _texts(document)
    assert any(text.startswith("There is no dense run here") for text in texts)
    assert not _texts(document, "Cost")
    assert all("minus dense" not in text for text in texts)
    assert any("boosting minus reinit" in text for text in texts)


def test_single_dense_model(make_document):
    found = findings(make_document(("dense",)))
    assert {f.topic for f in found} == {"Limits"}
    assert any("nothing is compared" in f.text for f in found)
    assert all("Unstructured" not in f.text for f in found)


def test_only_equals_are_compared(make_document):
    document = make_document()
    _row(document, "dense")["seed"] = 1
    assert all("minus dense" not in text for text in _texts(document))
    assert any(text.startswith("2 seeds; models are compared") for text in _texts(document))
    other = make_document()
    _row(other, "reinit")["density"] = 0.5
    assert all("minus reinit" not in text for text in _texts(other))


def test_densities_a_weight_apart_are_equal(make_document):
    document = make_document()
    _row(document, "reinit")["density"] = 0.20001
    assert any("minus reinit" in text for text in _texts(document))


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
    assert any("in its 1 epoch: it missed" in text for text in texts)
