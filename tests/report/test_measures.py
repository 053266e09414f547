"""What is compared, drawn and tabulated: its words, its values in a document, its text."""

import pytest
import studies

from tf_lottery.report import formats, measures, values
from tf_lottery.report.measures import Measure, parse


@pytest.mark.parametrize(
    "word",
    ["validation_natural@1", "validation_robust@best", "validation@last", "distance@12",
     "test_natural@best", "test_pgd20@last", "test_worst@best", "test@last", "run:epochs",
     "run:total_flops_over_dense", "validation_natural", "distance", "test_a@b@best"],
)  # fmt: skip
def test_words_are_read_and_written_back(word):
    measure = parse(word)
    assert measure.word == word
    assert measures.words(measure)


@pytest.mark.parametrize(
    "word",
    ["", "accuracy", "validation@0", "validation@-1", "validation@1.5", "validation@", "@1",
     "test", "test@3", "test_natural", "test_@best", "run:", "run:stopped", "validation@²",
     "run:epochs@1", f"validation@{'9' * 5000}"],
)  # fmt: skip
def test_unknown_words(word):
    with pytest.raises(ValueError, match=r"measure|digits"):
        parse(word)


def test_values_of_a_row():
    document = studies.make_experiment(seeds=(0,))
    row = document.runs("boosting")[0]
    for word, value in (("distance@1", 0.1), ("validation_natural@5", 0.123)):
        studies.put(document, "boosting", word, [value])
        assert values.value(row, parse(word)) == value
    row.best_epoch = 5
    assert values.value(row, parse("validation_natural@best")) == 0.123
    assert values.value(row, parse("validation_natural@last")) == row.curve[9].validation_natural
    assert values.value(row, parse("validation_natural@11")) is None
    assert values.value(row, parse("test_pgd20@last")) == row.tests["pgd20"].last
    assert values.value(row, parse("test_cw@last")) is None
    assert values.value(row, parse("run:epochs")) == 10
    row.tests, row.curve = {}, []
    assert values.value(row, parse("test_natural@best")) is None
    assert values.value(row, parse("validation_natural@best")) is None


def test_validation_is_robust_only_if_every_row_concerned_has_it():
    document = studies.make_experiment()
    for record in document.runs("dense")[1].curve:
        record.validation_robust = None
    measure = parse("validation@1")
    both = values.resolve(document, measure, ["dense", "boosting"])
    assert both == Measure("validation_natural", 1)
    assert values.resolve(document, measure, ["boosting"]) == Measure("validation_robust", 1)
    assert values.resolve(document, parse("distance@1"), ["dense"]) == parse("distance@1")


def test_test_is_worst_where_there_are_attacks():
    for attacks, word in (((), "test_natural@best"), (("pgd20",), "test_worst@best")):
        document = studies.make_experiment(attacks=attacks)
        assert values.resolve(document, parse("test@best"), []) == parse(word)


def test_images():
    document = studies.make_experiment()
    assert values.images(document, "dense", parse("validation_natural@1")) == studies.VALIDATION
    document.data.validation_used = 200
    assert values.images(document, "dense", parse("validation_robust")) == 200
    document.runs("dense")[1].test_examples = 700
    assert values.images(document, "dense", parse("test_natural@best")) == 700
    assert values.images(document, "boosting", parse("test_natural@best")) == studies.TEST
    for word in ("distance@1", "run:epochs"):
        assert values.images(document, "dense", parse(word)) is None


def test_counted_is_what_no_seed_can_change():
    document = studies.make_experiment()
    flops, arms = parse("run:total_flops_over_dense"), [document.arms[-1].name]
    assert values.is_counted(document, flops, arms)
    assert not values.is_counted(document, parse("run:train_seconds"), arms)
    assert not values.is_counted(document, parse("validation_natural@1"), arms)
    document.rows[-1].stopped = True
    assert not values.is_counted(document, flops, arms)
    document.rows[-1].stopped = False
    next(row for row in document.rows if row.name == document.baselines[0]).stopped = True
    assert not values.is_counted(document, flops, arms)


def _cut(document):
    document.runs("boosting")[0].flops_left = 0.4


def _early(document):
    document.settings = {"prune": {"search": "early"}}


def _ended(document):
    entry = next(each for each in document.ledger if "boosting" in each.models)
    entry.epochs, entry.planned_epochs = 3, 9


def _gone_back(document):
    next(each for each in document.ledger if "boosting" in each.models).rollbacks = 1


@pytest.mark.parametrize("change", [_cut, _early, _ended, _gone_back])
def test_a_seed_decides_what_is_cut_and_when_a_search_ends(change):
    document = studies.make_comparison(studies.KINDS)
    flops = parse("run:total_flops_over_dense")
    assert values.is_counted(document, flops, ["boosting"])
    change(document)
    assert not values.is_counted(document, flops, ["boosting"])
    assert values.is_counted(document, flops, ["winning"])


def test_flying_bird_plus_leaves_as_many_weights_as_it_takes():
    document = studies.make_comparison()
    for name, counted in (("flying_bird", True), ("flying_bird_plus", False)):
        document.settings = {"sparsity_update": {"name": name}}
        assert values.is_counted(document, parse("run:density"), ["boosting"]) == counted


def test_means_are_over_the_seeds_that_have_a_value():
    document = studies.make_experiment()
    studies.put(document, "boosting", "run:epochs_to_dense", [4.0, None, 5.0])
    found = values.mean(document, "boosting", parse("run:epochs_to_dense"))
    assert (found.mean, found.seeds, found.basis) == (4.5, 2, "seeds")
    assert values.mean(document, "reinit", parse("run:epochs_to_dense")) is None


def test_the_papers_values_stand_under_any_word_for_the_measure():
    document = studies.make_experiment()
    document.arms[0].published = {"test@best": 0.5, "validation@3": 0.4}
    for word, number in (("test_worst@best", 0.5), ("validation_robust@3", 0.4)):
        assert values.published(document, document.arms[0], parse(word), ["dense"]) == number
    assert values.published(document, document.arms[0], parse("test_cw@best"), ["dense"]) is None


def test_every_number_of_a_row_has_words_a_text_and_an_axis():
    row = studies.make_row(studies.make_arm("boosting"), 0)
    for key in measures.RUN_UNITS:
        measure = parse(f"run:{key}")
        assert hasattr(row, key)
        assert measures.words(measure)
        assert measures.number(1.0, measure.unit)
        assert measures.axis(measure)


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0.1423, "accuracy", "+14.2"), (-0.1423, "accuracy", "-14.2"), (0.0001, "accuracy", "0.0"),
        (-0.0001, "accuracy", "0.0"), (-0.488, "ratio", "-0.49"), (-7.0, "epochs", "-7"),
        (1.25, "epochs", "+1.2"), (2.5e12, "flops", "+2.50 T"), (10.0, "epochs", "+10"),
    ],
)  # fmt: skip
def test_signed_differences(number, unit, text):
    assert measures.signed(number, unit) == text


def test_numbers_as_text():
    assert (formats.percent(0.8234), formats.percent(None)) == ("82.3", "–")
    assert (formats.ratio(1.2634), formats.ratio(None)) == ("1.26", "–")
    assert [formats.seconds(v) for v in (0.04, 99.94, 99.96, 134764.2)] == [
        "0.0", "99.9", "100", "134,764",
    ]  # fmt: skip
    assert [formats.si(v) for v in (0, 12, 999, 1000, 25140, 999_600, 1e9)] == [
        "0", "12", "999", "1.00 k", "25.1 k", "1.00 M", "1.00 G"
    ]  # fmt: skip
    assert formats.si(1.234e12, "FLOP") == "1.23 TFLOP"
    assert [formats.pixels(v) for v in (8 / 255, 0.3, 0.0, 0.1)] == ["8/255", "0.3", "0", "0.1"]
    assert formats.interval(0.5, 100) == "40.4–59.6"
    shares = (0.0, 0.00099, 0.001, 0.0123, 0.0499, 0.05, 0.3149, 1.0)
    assert [formats.p_value(p) for p in shares] == [
        "< 0.001", "< 0.001", "0.001", "0.012", "0.0499", "0.050", "0.31", "1.00",
    ]  # fmt: skip


def test_settings_are_flattened_in_order():
    nested = {"b": {"x": 1, "y": [1, 2]}, "a": None, "l": [{"n": "fgsm"}, {"n": "cw"}],
              "t": True, "e": {}}  # fmt: skip
    assert formats.flatten(nested) == [
        ("b.x", "1"), ("b.y", "1, 2"), ("a", "–"),
        ("l[0].n", "fgsm"), ("l[1].n", "cw"), ("t", "true"), ("e", "–"),
    ]  # fmt: skip
