"""Trainings with settings of their own: phases, recipes, ``--search_*`` and ``--ticket_*``."""

import pytest

from tf_lottery.errors import UsageError
from tf_lottery.options.build import DEFAULTS, OPTIONS, lottery_config
from tf_lottery.options.command import parse
from tf_lottery.options.recipes import RECIPES
from tf_lottery.options.settings import settings
from tf_lottery.training.schedules import learning_rates


def test_a_training_may_have_a_value_of_its_own():
    config = lottery_config(
        weight_decay=1e-3,
        ticket_weight_decay=0.0,
        search_schedule="cosine",
        ticket_objective="fgsm",
    )
    assert config.train.weight_decay == config.search.weight_decay == 1e-3
    assert config.ticket_train.weight_decay == 0
    assert config.search.schedule.name == config.winning_search.schedule.name == "cosine"
    assert config.train.schedule.name == config.ticket_train.schedule.name == "step"
    assert config.ticket_train.objective.name == "fgsm"
    assert config.train.objective.name == "pgd"


def test_rates_of_each_training():
    config = lottery_config(learning_rate=0.2, ticket_learning_rate=0.4, search_learning_rate=0.02)
    peaks = [getattr(config, name).schedule.peak for name in ("search", "train", "ticket_train")]
    assert peaks == [0.02, 0.2, 0.4]
    assert config.winning_search.schedule.peak == 0.2


def test_without_options_of_their_own_nothing_changes():
    plain = lottery_config()
    assert plain.train == plain.ticket_train
    assert plain.train.phases == ()
    assert "phases" not in settings(plain.train)


@pytest.mark.parametrize("name", sorted(n for n, o in OPTIONS.items() if o.role))
def test_errors_name_the_flag_of_the_training(name):
    told = OPTIONS[name]
    if told.kind == "bool":
        return
    bad = -1 if told.kind in ("int", "float") else "nosuch"
    with pytest.raises(UsageError) as caught:
        lottery_config(**{name: (bad,) if told.kind.startswith("tuple") else bad})
    assert caught.value.flag == name


# Phases -----------------------------------------------------------------------


def test_phases_are_objectives_one_after_the_other():
    train = lottery_config(phases=("fgsm:20", "pgd10:4")).train
    assert (train.epochs, train.objective.name) == (24, "fgsm")
    assert [(p.objective.name, p.objective.attack.steps, p.epochs) for p in train.parts] == [
        ("fgsm", 1, 20), ("pgd", 10, 4),
    ]  # fmt: skip
    assert [train.part(epoch)[0].name for epoch in (0, 19, 20, 23)] == [
        "fgsm",
        "fgsm",
        "pgd",
        "pgd",
    ]
    assert [train.part(epoch)[1] for epoch in (0, 19, 20, 23)] == [20, 20, 24, 24]


def test_one_phase_is_no_phase():
    assert (
        lottery_config(phases=("fgsm:20",)).train
        == lottery_config(objective="fgsm", epochs=20).train
    )


def test_phases_are_of_dense_training_and_retraining_unless_told():
    config = lottery_config(phases=("fgsm:2", "pgd:2"))
    assert config.ticket_train.phases == config.train.phases
    assert config.search.phases == ()
    own = lottery_config(phases=("fgsm:2", "pgd:2"), ticket_objective="fgsm")
    assert own.ticket_train.phases == ()
    assert (own.ticket_train.objective.name, own.ticket_train.epochs) == ("fgsm", 4)
    search = lottery_config(search_phases=("natural:3", "fgsm:2")).search
    assert (search.epochs, len(search.phases)) == (5, 2)


@pytest.mark.parametrize(
    ("given", "flag", "told"),
    [
        ({"phases": ("fgsm:2", "pgd:2"), "epochs": 5}, "phases", "--epochs=5"),
        ({"phases": ("fgsm:2", "pgd:2"), "ticket_epochs": 5}, "ticket_phases", "--ticket_epochs=5"),
        ({"phases": ("fgsm:0",)}, "phases", "such as n_fgsm:20,pgd10:4"),
        ({"phases": ("fgsm",)}, "phases", "such as n_fgsm:20,pgd10:4"),
        ({"phases": ("fgsm:two",)}, "phases", "such as n_fgsm:20,pgd10:4"),
        ({"phases": ("fgsm:99999999999999999999",)}, "phases", "such as n_fgsm:20,pgd10:4"),
        ({"epochs": 10**12}, "epochs", "1 or more, up to 1,000,000"),
        ({"search_epochs": 10**12}, "search_epochs", "1 or more, up to 1,000,000"),
        ({"phases": ("gradient:2",)}, "phases", "fgsm"),
        ({"search_phases": ("gradient:2",)}, "search_phases", "fgsm"),
    ],
)
def test_phases_that_cannot_be(given, flag, told):
    with pytest.raises(UsageError) as caught:
        lottery_config(**given)
    assert caught.value.flag == flag
    assert told in str(caught.value)


# Recipes ----------------------------------------------------------------------


def test_a_recipe_fills_in_what_was_not_given():
    command = parse(["--recipe=pgd", "--epochs=7"])
    assert command.options == {**DEFAULTS, "recipe": "pgd", **RECIPES["pgd"], "epochs": 7}
    assert lottery_config(recipe="pgd", epochs=7) == command.config()


def test_a_recipe_of_the_tickets_leaves_the_dense_training_alone():
    config = lottery_config(ticket_recipe="pgd", ticket_batch_size=32, batch_size=16)
    assert config.train == lottery_config(batch_size=16).train
    assert config.search == lottery_config(batch_size=16).search
    fast = lottery_config(recipe="pgd", batch_size=32).train
    assert config.ticket_train == fast


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_trained(name):
    assert parse([f"--search_recipe={name}"]).config().search.epochs > 0
    config = lottery_config(recipe=name)
    assert config.train == config.ticket_train
    assert config.train.epochs == RECIPES[name].get("epochs", config.train.epochs)


def test_the_papers_recipe_is_the_default():
    assert lottery_config(recipe="paper") == lottery_config()


def test_an_objective_of_ones_own_takes_the_place_of_a_recipes_phases(monkeypatch):
    monkeypatch.setitem(RECIPES, "pgd", {"phases": ("fgsm:3", "pgd:2")})
    assert len(lottery_config(recipe="pgd").train.phases) == 2
    assert lottery_config(recipe="pgd", objective="fgsm").train.phases == ()


@pytest.mark.parametrize("shared", RECIPES)
@pytest.mark.parametrize("own", RECIPES)
def test_a_recipe_of_one_training_takes_the_place_of_that_of_all(shared, own):
    config = lottery_config(recipe=shared, ticket_recipe=own, search_recipe=own)
    alone = lottery_config(recipe=own)
    assert config.train == lottery_config(recipe=shared).train
    assert config.ticket_train == alone.ticket_train
    search, objective = config.search, RECIPES[own].get("objective", "fgsm")
    assert (search.objective.name, search.epochs) == (objective, alone.train.epochs)
    assert search.schedule.peak == RECIPES[own].get("learning_rate", 0.01)
    assert search.schedule.drops == alone.train.schedule.drops
    assert search.weight_decay == alone.train.weight_decay


def test_what_is_given_stays_beside_a_recipe_of_one_training():
    config = lottery_config(recipe="awp", ticket_recipe="fast", momentum=0.8, awp_gamma=0.02)
    assert config.ticket_train.momentum == 0.8
    assert config.ticket_train.objective.awp_gamma == 0.02
    named = lottery_config(objective="fgsm", ticket_recipe="pgd", search_recipe="pgd")
    assert named.ticket_train.objective.name == named.search.objective.name == "pgd"


def test_a_schedule_of_ones_own_takes_the_place_of_a_recipes_drops():
    for role in ("", "ticket_", "search_"):
        given = {f"{role}recipe": "tricks", f"{role}schedule": "cosine"}
        config = parse([f"--{flag}={value}" for flag, value in given.items()]).config()
        train = {"": config.train, "ticket_": config.ticket_train, "search_": config.search}[role]
        assert (train.schedule.name, train.schedule.drops) == ("cosine", (0.5, 0.75))


@pytest.mark.parametrize(
    ("recipe", "lower"),
    [("trades", {75: 0.01, 76: 0.01}), ("mart", {75: 1e-3, 90: 1e-4, 100: 1e-5})],
)
def test_rates_fall_in_the_epochs_of_the_authors_code(recipe, lower):
    """Which count from 1."""
    train = lottery_config(recipe=recipe).train
    rates = learning_rates(train.schedule, train.epochs, 1)
    for epoch, rate in lower.items():
        assert rates[epoch - 1] == pytest.approx(rate)
    for epoch in {75, *lower} - {76}:
        assert rates[epoch - 2] == pytest.approx(10 * rates[epoch - 1])
