import pytest

from tf_lottery.options.settings import KINDS
from tf_lottery.report import findings
from tf_lottery.report.limits import limits

ATTACKS = ("fgsm", "pgd20", "pgd100", "cw")


def _text(document):
    return " ".join(limits(document))


def _under(document, name, **accuracies):
    row = next(row for row in document["rows"] if row["name"] == name)
    for key, (best, last) in accuracies.items():
        assert key in row
        row[key] = {"best": best, "last": last}


def test_limits_are_notes_among_the_findings(make_document):
    document = make_document()
    found = [f for f in findings(document) if f.topic == "Limits"]
    assert [f.text for f in found] == list(limits(document))
    assert {f.outcome for f in found} == {"note"}


@pytest.mark.parametrize("kinds", [KINDS, ("dense",)])
def test_limits_are_always_stated(make_document, kinds):
    text = _text(make_document(kinds))
    assert "One seed (0); seed noise not measured." in text
    assert "not corrected for the number of comparisons" in text
    assert "Seconds on a shared machine vary from run to run; FLOPs do not" in text
    assert ("Unstructured masks save no arithmetic" in text) == (kinds == KINDS)


def test_seconds_of_an_earlier_run_are_named(make_document):
    note = "Some stages were finished by an earlier run: their seconds were measured then."
    document = make_document()
    cached = [entry for entry in document["ledger"] if entry["cached"]]
    assert [entry["label"] for entry in cached] == ["search: boosting"]
    assert note in _text(document)
    cached[0]["kind"] = "evaluate"
    assert note not in _text(document)
    cached[0].update(kind="train", models=["another"])
    assert note not in _text(document)
    cached[0].update(models=["another", "boosting"], cached=False)
    assert note not in _text(document)


def test_saturation_is_suspected_above_five_points(make_document):
    document = make_document(("dense", "boosting"), ATTACKS)
    for name in ("dense", "boosting"):
        _under(document, name, pgd20=(0.5, 0.5), pgd100=(0.48, 0.48), cw=(0.44, 0.43))
    assert "gradients may vanish" not in _text(document)
    _under(document, "boosting", cw=(0.45, 0.42))
    assert (
        "pgd100 is 6.0 points above cw for boosting (last epoch): cross-entropy gradients may "
        "vanish; trust the lower number."
    ) in _text(document)
    _under(document, "dense", cw=(0.3, 0.45))
    assert "18.0 points above cw for dense (best epoch), 6.0 points above cw" in _text(document)


def test_a_weak_cross_entropy_attack_is_no_saturation(make_document):
    document = make_document(("dense",), ATTACKS)
    _under(document, "dense", fgsm=(0.9, 0.9), pgd20=(0.8, 0.8), pgd100=(0.5, 0.5), cw=(0.5, 0.5))
    assert "gradients may vanish" not in _text(document)
    single = make_document(("dense",), ("fgsm", "cw"))
    _under(single, "dense", fgsm=(0.9, 0.9), cw=(0.1, 0.1))
    assert "gradients may vanish" not in _text(single)


def test_rewinding_sets_epochs_apart(make_document):
    document = make_document(KINDS)
    assert "already trained" not in _text(document)
    document["settings"]["prune"] = {"rewind_epoch": 0}
    assert "already trained" not in _text(document)
    document["settings"]["prune"]["rewind_epoch"] = 2
    assert (
        "boosting, winning and random_mask start from weights already trained for 2 epochs of the "
        "search, dense and reinit start untrained: comparisons at an epoch are 2 epochs apart."
    ) in _text(document)
    document["rows"] = [row for row in document["rows"] if row["kind"] in ("boosting", "reinit")]
    document["settings"]["prune"]["rewind_epoch"] = 1
    assert "boosting starts from weights already trained for 1 epoch" in _text(document)
    document["rows"] = document["rows"][:1]
    assert "already trained" not in _text(document)


@pytest.mark.parametrize(("name", "noted"), [("constant", True), ("step", False)])
def test_a_rate_that_never_decays_is_named(make_document, name, noted):
    document = make_document()
    assert "never decays" not in _text(document)
    document["settings"]["train"] = {"schedule": {"name": name, "peak": 0.1}}
    assert ("never decays from its peak" in _text(document)) == noted
