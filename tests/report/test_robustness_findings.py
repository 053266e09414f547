import pytest

from tf_lottery.report.formats import percent
from tf_lottery.report.robustness.document import Check, Pair
from tf_lottery.report.robustness.findings import check_counts, claim, findings, limits
from tf_lottery.statistics import paired_difference, wilson


def _texts(document, topic):
    return [finding.text for finding in findings(document) if finding.topic == topic]


def _outcomes(document, topic):
    return [finding.outcome for finding in findings(document) if finding.topic == topic]


def _pair(only_a, only_b, p, n=1000):
    gap, low, high = paired_difference(only_a, only_b, n)
    return Pair(
        a="dense", b="boosting", measure="worst", examples=n, difference=gap, low=low, high=high,
        only_a=only_a, only_b=only_b, p=p,
    )  # fmt: skip


def test_robust_accuracy_comes_first_with_its_interval(make_evaluation):
    document = make_evaluation()
    model = document.models[0]
    low, high = wilson(model.worst, 1000)
    first = findings(document)[0]
    assert first.topic == "Robust accuracy"
    assert first.text.startswith(
        f"dense classifies {percent(model.worst)} % of 1,000 test images correctly under every "
        f"attack (95 % interval [{100 * low:.1f}, {100 * high:.1f}]), and "
        f"{percent(model.natural)} % of the clean ones"
    )


def test_a_single_attack_is_named(make_evaluation):
    text = _texts(make_evaluation(attacks=("pgd20",)), "Robust accuracy")[0]
    assert "correctly under pgd20 (" in text
    assert "every attack" not in text


def test_without_attacks_nothing_is_known(make_evaluation):
    document = make_evaluation(attacks=())
    texts = _texts(document, "Robust accuracy")
    assert texts[-1] == "No attack was run, so nothing is known about robustness."
    assert "correctly on clean images" in texts[0]
    assert _texts(document, "Diagnosis") == []


def test_doubtful_accuracies_are_marked_wherever_they_stand(make_evaluation):
    document = make_evaluation()
    assert _outcomes(document, "Robust accuracy") == ["note", "note", "warn"]
    assert _texts(document, "Robust accuracy")[2].endswith(
        "Its robust accuracy is not to be trusted: see the diagnosis."
    )
    for text in _texts(document, "Comparison"):
        doubted = text.endswith("but the robust accuracy of broken gradients is not to be trusted.")
        assert doubted == ("broken gradients" in text and "under every attack" in text)
    warning = _texts(document, "Diagnosis")[0]
    assert warning.startswith(
        "The robust accuracy of broken gradients is not to be trusted: 412 of 1,000 images"
    )
    assert "Random search breaks 187 images" in warning
    assert warning.endswith("5 of 8 checks pass, 2 warn, 1 skipped.")


def test_models_whose_checks_agree_share_a_line(make_evaluation):
    document = make_evaluation(models=("a", "b", "c"), warn=["b"])
    document.transfer = None
    assert _texts(document, "Diagnosis")[1:] == [
        "a, c: 7 of 8 checks pass, 1 skipped (half precision)."
    ]
    assert _outcomes(document, "Diagnosis") == ["warn", "pass"]


def test_a_missing_diagnosis_is_said(make_evaluation):
    document = make_evaluation()
    document.diagnosis, document.transfer = {}, None
    (text,) = _texts(document, "Diagnosis")
    assert "None was made" in text


@pytest.mark.parametrize(
    ("only_a", "only_b", "p", "outcome", "words"),
    [
        (40, 10, 0.0499, "ahead", "p = 0.0499): dense is higher."),
        (10, 40, 0.0005, "behind", "p < 0.001): dense is lower."),
        (40, 10, 0.05, "even", "p = 0.050): no difference can be claimed."),
        (10, 10, 0.01, "even", "no difference can be claimed."),
    ],
)
def test_p_alone_decides_a_claim(make_evaluation, only_a, only_b, p, outcome, words):
    document = make_evaluation(models=("dense", "boosting"))
    pair = _pair(only_a, only_b, p)
    document.pairs = [pair]
    assert claim(pair) == outcome
    (finding,) = [f for f in findings(document) if f.topic == "Comparison"]
    assert finding.outcome == outcome
    assert finding.text.endswith(words)
    points = f"{100 * pair.difference:+.1f}" if only_a != only_b else "0.0"
    assert f"{points} points, 95 % interval [{100 * pair.low:.1f}, " in finding.text
    counts = f"({only_a} of them right with dense alone, {only_b} with boosting alone;"
    assert f"on the same 1,000 images {counts}" in finding.text


def test_comparisons_are_under_the_strongest_attack_and_clean(make_evaluation):
    texts = _texts(make_evaluation(), "Comparison")
    assert len(texts) == 6
    assert all("under every attack" in text for text in texts[:3])
    assert all("on clean images" in text for text in texts[3:])


def test_many_pairs_are_counted(make_evaluation):
    document = make_evaluation(models=[f"m{i}" for i in range(12)], examples=300)
    pairs = [pair for pair in document.pairs if pair.measure == "worst"]
    assert len(pairs) == 66
    for i, pair in enumerate(pairs):
        pair.difference, pair.p = 8 / 300, 0.02 if i < 13 else 0.5
    texts = _texts(document, "Comparison")
    assert len(texts) == 2
    assert texts[0].startswith("Under every attack 13 of 66 pairs of models differ")
    assert "chance alone makes up to 3 do so" in texts[0]
    assert "For the other 53 no difference can be claimed." in texts[0]
    for pair in pairs:
        pair.p = 0.5
    assert _texts(document, "Comparison")[0] == (
        "Under every attack no difference can be claimed in any of 66 pairs of models "
        "(McNemar's exact test)."
    )


def test_transfer_that_beats_the_white_box_is_a_warning(make_evaluation):
    document = make_evaluation()
    warning = _texts(document, "Diagnosis")[-1]
    lowest = min(row[2] for row in document.transfer.accuracy[:2])
    assert warning.startswith(f"broken gradients is at {percent(lowest)} % on images crafted on ")
    assert "and at 80.0 % on those crafted on broken gradients itself" in warning
    # By less than the images can tell.
    matrix = document.transfer.accuracy
    matrix[2][2] = lowest + 0.02
    last = [f for f in findings(document) if f.topic == "Diagnosis"][-1]
    assert last.outcome == "pass"
    assert last.text.startswith("No model is fooled clearly more often")


def test_limits(make_evaluation):
    text = " ".join(limits(make_evaluation()))
    assert "not corrected for the number of comparisons" in text
    assert "upper bound" in text
    assert "Weak attacks" not in text
    alone = " ".join(limits(make_evaluation(models=("dense",), attacks=("fgsm", "noise"))))
    assert "A single model: nothing is compared." in alone
    assert "Weak attacks alone (fgsm, noise)" in alone
    assert "not corrected" not in alone


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        (["pass"] * 8, "all 8 checks pass"),
        (["pass"], "the one check passes"),
        (["pass", "warn", "skipped"], "1 of 3 checks pass, 1 warns, 1 skipped"),
        (["warn", "warn"], "0 of 2 checks pass, 2 warn"),
        ([], "no checks"),
    ],
)
def test_counts_of_checks(outcomes, words):
    assert (
        check_counts([Check(check="", outcome=o, text="", value=None) for o in outcomes]) == words
    )
