import pytest

from tf_lottery.report.formats import interval, p_words, percent, point_interval, points
from tf_lottery.report.robustness import robustness_table

TWELVE = [f"model number {i} of twelve" for i in range(12)]
MANY = ("fgsm", "pgd20", "mim", "apgd_ce", "apgd_t", "fab_t", "square", "noise", "autoattack")


@pytest.mark.parametrize(
    "arguments",
    [{}, {"models": TWELVE}, {"attacks": MANY}, {"attacks": ()}, {"models": ("dense",)}],
)
def test_no_line_is_longer_than_a_terminal(make_evaluation, arguments):
    lines = robustness_table(make_evaluation(**arguments)).splitlines()
    assert max(map(len, lines)) <= 100
    assert not any(line.endswith(" ") for line in lines)


def test_accuracies_stand_in_columns_above_their_intervals(make_evaluation):
    document = make_evaluation()
    lines = robustness_table(document).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("model"))
    names = ["natural", "fgsm", "pgd20", "autoattack", "worst"]
    assert lines[head].split() == ["model", *names]
    ends = [lines[head].index(name) + len(name) for name in names]
    for i, model in enumerate(document.models):
        row, below = lines[head + 2 + 2 * i : head + 4 + 2 * i]
        assert row.startswith(model.name)
        shares = [model.natural, *model.robust.values(), model.worst]
        for end, share in zip(ends, shares, strict=True):
            assert row[:end].endswith(f" {percent(share)}")
            assert below[:end].endswith(f" {interval(share, 1000)}")
    assert "on 1,000 test images of cifar10" in lines[0]


def test_more_attacks_than_fit_go_below_with_the_names_again(make_evaluation):
    lines = robustness_table(make_evaluation(attacks=MANY)).splitlines()
    heads = [line.split()[1:] for line in lines if line.startswith("model ")]
    assert len(heads) == 2
    assert [*heads[0], *heads[1]] == ["natural", *MANY, "worst"]
    assert sum(line.startswith("boosting  ") for line in lines) == 2 + 1  # and in transfer


def test_every_attack_is_explained(make_evaluation):
    text = " ".join(robustness_table(make_evaluation(norm="l2")).split())
    assert "fgsm 1 step of 0.5 on the cross-entropy, l_2 radius 0.5" in text
    assert "autoattack AutoAttack: apgd_ce, apgd_t, fab_t, square, l_2 radius 0.5" in text


@pytest.mark.parametrize("models", [("a", "b"), ("dense", "boosting", "broken gradients")])
def test_every_pair_has_a_line(make_evaluation, models):
    document = make_evaluation(models=models)
    text = robustness_table(document)
    squeezed = " ".join(text.split())
    for pair in document.pairs:
        gap, bounds = points(pair.difference), point_interval(pair.low, pair.high)
        words = "no difference can be claimed"
        if pair.p < 0.05:
            words = f"{pair.a} is {'higher' if pair.difference > 0 else 'lower'}"
        assert f"{pair.measure} {gap} {bounds} {p_words(pair.p)} {words}" in squeezed
        assert f"{pair.a} - {pair.b}" in text


def test_many_pairs_are_summed_up(make_evaluation):
    text = robustness_table(make_evaluation(models=TWELVE))
    assert "of 66 pairs of models differ" in text
    assert "Table 2" not in text
    assert text.count(" - model") == 0


def test_transfer_marks_the_white_box(make_evaluation):
    document = make_evaluation()
    lines = robustness_table(document).splitlines()
    matrix = document.transfer.accuracy
    head = next(i for i, line in enumerate(lines) if line.split() == [
        "dense", "boosting", "broken", "gradients"
    ])  # fmt: skip
    for i, name in enumerate(document.transfer.models):
        cells = [percent(share) + "*" * (i == j) for j, share in enumerate(matrix[i])]
        assert lines[head + 1 + i].removeprefix(name).split() == cells
    assert "on 500 images" in lines[head - 2]


def test_warnings_are_told_and_passes_counted(make_evaluation):
    lines = robustness_table(make_evaluation()).splitlines()
    assert "dense: 7 of 8 checks pass, 1 skipped" in lines
    warning = lines.index(
        "WARN broken gradients: Black box beats gradients. Random search breaks 187 images that "
        "PGD does not."
    )
    assert lines[warning + 1] == "broken gradients: 5 of 8 checks pass, 2 warn, 1 skipped"


def test_without_attacks(make_evaluation):
    text = robustness_table(make_evaluation(models=("dense",), attacks=()))
    assert "No attack was run: nothing is known about robustness." in text
    assert "Transfer" not in text
    assert "worst" not in text


def test_names_cannot_command_the_terminal(make_evaluation):
    text = robustness_table(make_evaluation(models=("a\x1b[31m\nb", "c" * 200), examples=50))
    assert "\x1b" not in text
    assert "a?[31m b" in text
    assert "c" * 27 + "…" in text
