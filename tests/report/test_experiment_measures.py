import pytest
from experiments import build_arm, build_experiment
from tf_lottery.report.experiment import measures
from tf_lottery.report.experiment.measures import Measure, parse, resolve, value


@pytest.mark.parametrize(
    "word",
    ["validation_natural@1", "validation_robust@best", "validation@last", "distance@12",
     "test_natural@best", "test_pgd20@last", "test_worst@best", "test@last", "run:epochs",
     "run:total_flops_over_dense", "validation_natural", "distance", "test_a@b@best"],
)  # fmt: skip
def test_words_are_read_and_written_back(word):
    assert parse(word).word == word


@pytest.mark.parametrize(
    "word",
    ["", "accuracy", "validation@0", "validation@-1", "validation@1.5", "validation@", "@1",
     "test", "test@3", "test_natural", "test_@best", "run:", "run:stopped", "validation@²",
     "run:epochs@1"],
)  # fmt: skip
def test_unknown_words(word):
    with pytest.raises(ValueError, match="unknown measure"):
        parse(word)


def test_values_of_a_run():
    run = build_arm("a", "boosting", (0,))["runs"][0]
    run["curve"][4]["validation_natural"] = 0.123
    run["curve"][7]["validation_natural"] = 0.456  # epoch 8, the best
    run["curve"][9]["validation_natural"] = 0.789
    assert value(run, parse("validation_natural@5")) == 0.123
    assert value(run, parse("validation_natural@best")) == 0.456
    assert value(run, parse("validation_natural@last")) == 0.789
    assert value(run, parse("validation_natural@11")) is None
    assert value(run, parse("distance@1")) == run["curve"][0]["distance"]
    assert value(run, parse("test_pgd20@last")) == run["test"]["pgd20"]["last"]
    assert value(run, parse("test_cw@last")) is None
    assert value(run, parse("test_examples@last")) is None
    assert value(run, parse("run:epochs")) == 10
    run["test"], run["curve"] = None, []
    assert value(run, parse("test_natural@best")) is None
    assert value(run, parse("validation_natural@best")) is None


def test_validation_is_robust_only_if_every_run_concerned_has_it():
    document = build_experiment()
    dense, boosting, _ = document["arms"]
    for record in dense["runs"][1]["curve"]:
        record["validation_robust"] = None
    measure = parse("validation@1")
    assert resolve(document, measure, [boosting]) == Measure("validation_robust", 1)
    assert resolve(document, measure, [dense, boosting]) == Measure("validation_natural", 1)
    assert resolve(document, parse("validation"), [boosting]) == Measure("validation_robust")
    assert resolve(document, parse("validation_robust@1"), [dense]).word == "validation_robust@1"


def test_test_is_worst_where_there_are_attacks():
    measure = parse("test@best")
    assert resolve(build_experiment(), measure, []).word == "test_worst@best"
    assert resolve(build_experiment(attacks=()), measure, []).word == "test_natural@best"


def test_images():
    document = build_experiment()
    arm = document["arms"][0]
    assert measures.images(document, arm, parse("validation_natural@1")) == 500
    document["data"]["validation_used"] = 200
    assert measures.images(document, arm, parse("validation_robust")) == 200
    del document["data"]["validation_used"]
    assert measures.images(document, arm, parse("validation_robust")) == 500
    arm["runs"][1]["test"]["examples"] = 700
    assert measures.images(document, arm, parse("test_natural@best")) == 700
    assert measures.images(document, arm, parse("distance@1")) is None
    assert measures.images(document, arm, parse("run:epochs")) is None


def test_counted_numbers_are_those_that_no_early_stop_can_change():
    document = build_experiment()
    assert measures.is_counted(document, parse("run:total_flops_over_dense"))
    assert not measures.is_counted(document, parse("run:train_seconds"))
    assert not measures.is_counted(document, parse("validation_natural@1"))
    document["arms"][2]["runs"][1]["stopped"] = True
    assert not measures.is_counted(document, parse("run:total_flops_over_dense"))


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("validation_robust@5", "robust validation accuracy after epoch 5"),
        ("validation_natural@best", "natural validation accuracy, best epoch"),
        ("test_pgd20@last", "test accuracy under pgd20, last epoch"),
        ("test_natural@best", "natural test accuracy, best epoch"),
        ("run:epochs", "epochs trained"),
        ("distance", "relative l_2 distance to the full network's weights"),
    ],
)
def test_words(word, words):
    assert measures.words(parse(word)) == words


def test_every_number_of_a_run_has_words_and_a_format():
    for key in measures.RUN_UNITS:
        measure = parse(f"run:{key}")
        assert measures.words(measure)
        assert measures.number(1.0, measure.unit)
        assert measures.axis(measure)


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0.1423, "accuracy", "+14.2"),
        (-0.1423, "accuracy", "-14.2"),
        (0.0001, "accuracy", "0.0"),
        (-0.0001, "accuracy", "0.0"),
        (-0.488, "ratio", "-0.49"),
        (-7.0, "epochs", "-7"),
        (1.25, "epochs", "+1.2"),
        (2.5e12, "flops", "+2.50 T"),
        (10.0, "epochs", "+10"),
    ],
)
def test_signed_differences(number, unit, text):
    assert measures.signed(number, unit) == text
