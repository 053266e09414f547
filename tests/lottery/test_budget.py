"""What is fitted to a budget."""

import math

import pytest

from tf_lottery.api import find_ticket
from tf_lottery.engine.store import Store
from tf_lottery.errors import UsageError
from tf_lottery.lottery import budget as budgets
from tf_lottery.lottery.budget import fit, share_of_minutes, speed_stage
from tf_lottery.lottery.costs import training_cost
from tf_lottery.lottery.graph import make_entry
from tf_lottery.lottery.plan import Speed
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.build import complete, lottery_config
from tf_lottery.options.command import parse

# 20 epochs of PGD-10 are 460 passes an image; an epoch of a one-step objective takes 5.
DENSE = {"epochs": 20, "objective": "pgd"}
IMAGES = 6400  # whole batches of 64 and of 128


def fitted(budget, **given):
    given = {**DENSE, **given}
    return fit(complete(given), given, budget, IMAGES)


@pytest.mark.parametrize(("budget", "epochs"), [(0.25, 23), (0.5, 46), (0.011, 1), (1.0, 92)])
def test_epochs_of_one_step_training_without_a_search(budget, epochs):
    found = fitted(budget)
    config = lottery_config(**found.options)
    assert config.ticket_train.epochs == epochs
    assert config.ticket_train.objective.name == "n_fgsm"
    assert config.prune.search == "random"
    assert config.compare == ("dense", "dense_twin", "boosting")
    assert config.train == lottery_config(**DENSE).train
    assert found.share == pytest.approx(5 * epochs / 460)
    assert found.share <= budget < found.share + 5 / 460
    assert f"n_fgsm for {epochs} epochs" in found.words
    assert f"{found.share:.3f}" in found.words


def test_what_was_given_stays():
    found = fitted(0.5, ticket_objective="pgd2", search="snip", compare=("dense", "boosting"))
    config = lottery_config(**found.options)
    assert config.ticket_train.objective.attack.steps == 2
    assert config.ticket_train.epochs == math.floor(230 / 7)
    assert config.ticket_train.schedule.name == "step"
    assert (config.prune.search, config.compare) == ("snip", ("dense", "boosting"))


def test_a_recipe_keeps_all_but_its_epochs():
    config = lottery_config(**fitted(0.25, ticket_recipe="fast").options)
    assert config.ticket_train.objective.name == "fgsm_rs"
    assert config.ticket_train.schedule.peak == 0.2
    assert config.ticket_train.epochs == 23


def test_a_search_by_training_takes_a_third_at_most():
    found = fitted(0.3, search="train", search_objective="fgsm")
    config = lottery_config(**found.options)
    assert config.search.epochs == math.floor(0.3 * 460 / 3 / 5)
    assert config.ticket_train.epochs == math.floor((0.3 * 460 - 5 * config.search.epochs) / 5)
    assert found.share == pytest.approx(
        5 * (config.search.epochs + config.ticket_train.epochs) / 460
    )
    own = lottery_config(**fitted(0.3, search="train", search_epochs=4).options)
    assert own.search.epochs == 4


def test_phases_of_ones_own_are_held_against_the_budget():
    given = {"ticket_phases": (["n_fgsm:10", "pgd10:2"])}
    assert fitted(0.25, **given).share == pytest.approx((50 + 46) / 460)
    with pytest.raises(UsageError, match=r"--budget: got 0.2, must be 0.209 or more: n_fgsm for"):
        fitted(0.2, **given)


def counted(options, kind, images):
    """FLOPs of a kind's searches and training over the dense training's, by its stages."""
    config = lottery_config(**options)
    entry = make_entry(config, kind)
    own = [stage.runtime["train"] for stage in (*entry.searches, entry.train)]
    flops = [training_cost(training, images, 7).flops for training in (config.train, *own)]
    return sum(flops[1:]) / flops[0]


@pytest.mark.parametrize(
    ("given", "images"),
    [
        ({"compare": ("dense", "boosting", "early")}, IMAGES),
        ({"compare": ("dense", "winning")}, IMAGES),
        ({"compare": ("dense", "flying_bird"), "growth": "gradient"}, 2000),
        ({"sparsity_update": "flying_bird", "growth": "gradient", "update_interval": 1}, 2000),
        ({"batch_size": 128, "ticket_batch_size": 64}, 500),  # 384 and 448 images an epoch
        ({"search": "train", "pruning_schedule": "decreasing", "rounds": 3}, IMAGES),
        ({"search": "train", "search_phases": ("fgsm:2", "pgd10:1")}, IMAGES),
        ({"structure": "channels"}, IMAGES),
    ],
)
def test_every_kind_keeps_the_budget_and_not_one_epoch_more_would(given, images):
    given = {**DENSE, **given}
    found = fit(complete(given), given, 0.25, images)
    kinds = [kind for kind in found.options["compare"] if kind != "dense"]
    shares = {kind: counted(found.options, kind, images) for kind in kinds}
    assert max(shares.values()) == pytest.approx(found.share)
    assert found.share <= 0.25
    if len(set(shares.values())) > 1:
        assert f"which for {max(shares, key=shares.get)} is expected" in found.words
    more = found.options | {"ticket_epochs": found.options["ticket_epochs"] + 1}
    assert max(counted(more, kind, images) for kind in kinds) > 0.25


def test_channels_are_found_by_a_training():
    found = fitted(0.25, structure="channels")
    assert found.options["search"] == "train"
    assert "counted as if no channel were cut" in found.words


def test_a_natural_training_stays_one():
    natural = {"objective": "natural", "search_objective": "natural"}
    config = lottery_config(**fitted(0.5, search="random", **natural).options)
    assert config.ticket_train.objective.name == "natural"
    assert config.model.normalize
    assert config.ticket_train.epochs == 10


def test_who_says_how_to_search_wants_a_search():
    config = lottery_config(**fitted(0.5, search_objective="natural").options)
    assert config.prune.search == "train"
    assert config.search.objective.name == "natural"


def test_weights_of_an_epoch_of_the_search_may_be_kept():
    assert fitted(0.5, search="train", rewind_epoch=5).options["search_epochs"] == 15


def test_a_ticket_at_hand_is_not_searched(tmp_path):
    options = {"width_multiplier": 0.05, "train_examples": 64, "search": "random"}
    ticket = find_ticket(lottery_config(**options), tmp_path)
    given = {**DENSE, "compare": ("dense", "boosting", "winning")}
    found = fit(complete(given), given, 0.25, IMAGES, ticket)
    assert found.options["search"] == complete({})["search"]
    assert "masks of --ticket, whose own search is not counted" in found.words
    assert "which for winning is expected" in found.words


def test_phases_are_counted_by_the_mean_epoch():
    words = fitted(0.25, phases=("n_fgsm:16", "pgd10:4")).words
    assert "5 passes an image and epoch against 8.6 of n_fgsm, then pgd" in words


def test_minutes_are_told_as_minutes():
    given = dict(DENSE)
    found = fit(complete(given), given, 0.25, IMAGES, minutes=7)
    assert found.words.startswith("--budget_minutes=7: ")
    with pytest.raises(UsageError, match=r"--budget_minutes: got 2, must be 2\.17 or more"):
        fit(complete(given), given, 0.01, IMAGES, minutes=2)


def test_there_is_something_to_fit():
    with pytest.raises(UsageError, match=r"--compare: got 'dense'"):
        fitted(0.25, compare=("dense",))


def test_the_speed_of_other_images_is_another(tmp_path):
    options = {"dataset": "digits", "width_multiplier": 0.05}
    keys = {
        speed_stage(lottery_config(**options | other)).key
        for other in ({}, {"image_size": 6}, {"dataset": "mnist"}, {"batch_size": 32})
    }
    assert len(keys) == 4


def test_too_little_for_one_epoch():
    with pytest.raises(UsageError, match=r"must be 0\.0109 or more: n_fgsm for 1 epochs"):
        fitted(0.01)


def test_minutes_are_a_share_at_the_speed_that_was_measured_first(tmp_path, monkeypatch):
    speeds = iter([Speed(1e9, 1.0), Speed(7e9, 1.0)])
    monkeypatch.setattr(budgets, "measure_speed", lambda config, workshop: next(speeds))
    config = lottery_config(dataset="digits", width_multiplier=0.05, **DENSE)
    workshop = Workshop(Store(tmp_path))
    share = share_of_minutes(2, config, workshop)
    images = len(workshop.data(config).train_labels) // 64 * 64
    dense = images * 460 * workshop.forward_flops(config)
    assert share == pytest.approx(120e9 / dense)
    assert share_of_minutes(2, config, Workshop(Store(tmp_path))) == share


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["--budget=0"], "budget"),
        (["--budget=1.5"], "budget"),
        (["--budget_minutes=0"], "budget_minutes"),
        (["--budget=0.5", "--budget_minutes=3"], "budget_minutes"),
    ],
)
def test_budgets_that_cannot_be(arguments, flag):
    with pytest.raises(UsageError) as caught:
        parse(arguments)
    assert caught.value.flag == flag
