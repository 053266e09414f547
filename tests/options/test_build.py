"""What follows from a user's options: the paper's settings and the defaults."""

import dataclasses
import doctest

import pytest

from tf_lottery.errors import UsageError
from tf_lottery.options import build as options
from tf_lottery.options.build import AttackOptions, lottery_config
from tf_lottery.options.settings import AttackConfig


# arXiv 2003.05733 and its authors' code.
@pytest.mark.parametrize(
    ("model", "search_rate", "rate", "warmup", "batch"),
    [
        ("vgg", 0.01, 0.1, 9, 64),
        ("resnet18", 0.05, 0.1, 10, 128),
        ("wide_resnet", 0.05, 0.1, 10, 128),
        ("convnet", 0.01, 0.1, 9, 64),
        ("lenet", 0.01, 0.1, 9, 64),
    ],
)
def test_the_papers_settings(model, search_rate, rate, warmup, batch):
    config = lottery_config(model=model)
    assert config.search.schedule.peak == search_rate
    assert config.search.schedule.warmup_epochs == 0
    for large in (config.winning_search, config.train, config.ticket_train):
        assert large.schedule.peak == rate
        assert large.schedule.warmup_epochs == warmup
        assert large.schedule.warmup_start == search_rate
    runs = (config.search, config.winning_search, config.train, config.ticket_train)
    assert {run.batch_size for run in runs} == {batch}
    assert {run.epochs for run in runs} == {100}
    assert {run.momentum for run in runs} == {0.9}
    assert {run.weight_decay for run in runs} == {1e-4}
    assert {run.schedule.name for run in runs} == {"step"}


def test_functions_from_outside_the_package_stand_in_the_settings():
    config = lottery_config(model="a.b:net", score="a.b:score", objective="a.b:loss", width=3)
    assert (config.model.name, config.model.width) == ("a.b:net", 3)
    assert (config.prune.score, config.train.objective.name) == ("a.b:score", "a.b:loss")
    assert config.train.batch_size == lottery_config(model="vgg").train.batch_size


def test_the_papers_pruning_and_attack():
    config = lottery_config()
    assert config.prune.sparsity == 0.8
    assert config.prune.score == "normalized_magnitude"
    assert config.prune.scope == "global"
    assert config.prune.schedule == "one_shot"
    attack = config.train.objective.attack
    assert attack == AttackConfig("pgd10", "linf", 8 / 255, 10, 2 / 255, False)


def test_fgsm_is_one_step_of_eps_from_the_clean_image():
    attack = lottery_config(eps=0.1, steps=7, step_size=0.01).search.objective.attack
    assert (attack.steps, attack.step_size, attack.eps) == (1, 0.1, 0.1)
    assert not attack.random_start
    assert lottery_config().search.objective.attack_steps == 1


def test_pgd_takes_all_settings():
    chosen = AttackOptions(eps=0.2, steps=7, step_size=0.03, random_start=True)
    attack = AttackConfig("pgd7", "linf", 0.2, 7, 0.03, True)
    assert chosen.objective("pgd").attack == attack
    assert chosen.objective("somebodys.module:objective").attack == attack
    assert chosen.objective("natural").attack is None
    with pytest.raises(UsageError, match=r"--search_objective: unknown value 'trade'.*pgd<N>"):
        lottery_config(search_objective="trade")


def test_the_step_size_defaults_to_a_quarter_of_eps():
    config = lottery_config(eps=0.2)
    assert config.train.objective.attack.step_size == pytest.approx(0.05)
    assert {a.step_size for a in config.attacks if a.name != "fgsm"} == {0.2 / 4}
    assert config.train.validation_attack.step_size == 0.2 / 4


def test_evaluation_follows_training_unless_told_otherwise():
    config = lottery_config(eps=0.2, step_size=0.03, attacks=("fgsm", "pgd20", "cw"))
    assert [a.eps for a in config.attacks] == [0.2] * 3
    # The step does not follow: a useless training step must not weaken the test.
    assert [a.step_size for a in config.attacks] == [0.2, 0.05, 0.05]
    assert config.train.validation_attack.step_size == 0.05
    other = lottery_config(eps=0.2, step_size=0.03, eval_eps=0.4, attacks=("pgd20",))
    assert (other.attacks[0].eps, other.attacks[0].step_size) == (0.4, 0.1)
    both = lottery_config(eval_eps=0.4, eval_step_size=0.07, attacks=("pgd20",))
    assert both.attacks[0].step_size == 0.07
    assert both.train.objective.attack.eps == 8 / 255
    more = lottery_config(restarts=3, eval_random_start=False, attacks=("pgd20", "fgsm"))
    assert [a.restarts for a in more.attacks] == [3, 1]
    assert not more.attacks[0].random_start
    assert more.train.objective.attack.restarts == 1


def test_epochs_of_tickets_and_searches():
    config = lottery_config(epochs=6)
    assert (config.search.epochs, config.ticket_train.epochs) == (6, 6)
    config = lottery_config(epochs=6, search_epochs=3, ticket_epochs=4)
    assert config.train.epochs == 6
    assert (config.search.epochs, config.winning_search.epochs) == (3, 3)
    assert config.ticket_train.epochs == 4
    assert (
        dataclasses.replace(config.ticket_train, epochs=6, schedule=config.train.schedule)
        == config.train
    )


def test_the_warmup_takes_at_most_half_of_the_epochs():
    assert lottery_config(epochs=6).train.schedule.warmup_epochs == 3
    assert lottery_config(epochs=1).train.schedule.warmup_epochs == 0
    assert lottery_config(epochs=6, warmup_epochs=5).train.schedule.warmup_epochs == 5
    assert lottery_config(epochs=6, warmup_epochs=0).train.schedule.warmup_epochs == 0
    for name in ("cyclic", "triangular", "one_cycle"):
        assert lottery_config(schedule=name).train.schedule.warmup_epochs == 0
    for name in ("step", "cosine", "constant"):
        assert lottery_config(schedule=name).train.schedule.warmup_epochs == 9


def test_normalisation_goes_with_natural_training():
    assert not lottery_config().model.normalize
    assert not lottery_config(objective="natural").model.normalize
    natural = {"objective": "natural", "search_objective": "natural"}
    assert lottery_config(**natural).model.normalize
    assert not lottery_config(**natural, normalize=False).model.normalize
    assert lottery_config(normalize=True).model.normalize


def test_natural_runs_are_validated_on_clean_images():
    natural = lottery_config(objective="natural", search_objective="natural")
    assert natural.train.validation_attack is None
    mixed = lottery_config(objective="pgd", search_objective="natural")
    assert mixed.search.validation_attack.name == "pgd10"
    assert mixed.search.validation_attack.random_start


def test_augmentation_goes_with_cifar():
    assert lottery_config(dataset="cifar10").data.augment
    assert lottery_config(dataset="cifar100").data.augment
    assert not lottery_config(dataset="mnist").data.augment
    assert not lottery_config(dataset="cifar10", augment=False).data.augment
    assert lottery_config(augment=True).data.augment


def test_rates_can_be_given():
    config = lottery_config(learning_rate=0.02, search_learning_rate=0.005, batch_size=32)
    assert config.search.schedule.peak == 0.005
    assert config.train.schedule.peak == 0.02
    # A sweep of the search rate leaves the dense baseline as it is.
    assert config.train.schedule.warmup_start == 0.01
    assert lottery_config(warmup_start=0.003).train.schedule.warmup_start == 0.003
    assert config.train.batch_size == 32
    # A warm-up never starts above its peak.
    low = lottery_config(learning_rate=0.001)
    assert low.train.schedule.warmup_start == 0.001


@pytest.mark.parametrize("name", ["learning_rate", "search_learning_rate", "step_size"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_that_are_not_finite_name_their_option(name, value):
    with pytest.raises(UsageError) as caught:
        lottery_config(**{name: value})
    assert caught.value.flag == name


@pytest.mark.parametrize("name", ["steps", "step_size", "eps", "restarts"])
def test_bad_attack_settings_are_told_even_where_nothing_uses_them(name):
    with pytest.raises(UsageError) as caught:
        lottery_config(objective="natural", search_objective="natural", attacks=(), **{name: -1})
    assert caught.value.flag == name


def test_examples_in_the_docstrings():
    result = doctest.testmod(options)
    assert result.attempted >= 2
    assert result.failed == 0


def test_early_stopping_is_of_training_not_of_the_search():
    config = lottery_config(patience=4)
    assert (config.train.patience, config.ticket_train.patience) == (4, 4)
    assert (config.search.patience, config.winning_search.patience) == (0, 0)


def test_devices_count_only_where_batch_norm_is_not_synchronised():
    assert lottery_config(devices=4) == lottery_config()
    config = lottery_config(devices=4, sync_batch_norm=False)
    trainings = (config.search, config.winning_search, config.train, config.ticket_train)
    assert [training.batch_norm_groups for training in trainings] == [4] * 4
    with pytest.raises(UsageError, match=r"^--devices: got 0, .*--nosync_batch_norm"):
        lottery_config(sync_batch_norm=False)
    assert lottery_config(devices=1, sync_batch_norm=False) == lottery_config()
