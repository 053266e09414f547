"""What the names of objectives stand for: settings as published, worked out by hand."""

import dataclasses

import pytest

from tf_lottery.options.build import AttackOptions, lottery_config
from tf_lottery.options.objectives import default_step_size
from tf_lottery.options.settings import AttackConfig, ObjectiveConfig, settings

EPS = 0.2


def attack(name, **options):
    return AttackOptions(eps=EPS, **options).objective(name).attack


@pytest.mark.parametrize(
    ("name", "steps", "size", "noise", "kind", "projected"),
    [
        ("fgsm", 1, 0.2, None, "uniform", True),
        ("fgsm_rs", 1, 0.25, 0.2, "uniform", True),
        ("n_fgsm", 1, 0.2, 0.4, "uniform", False),
        ("nuat", 1, 0.2, 0.1, "signs", True),
        ("pgd1", 1, 0.2, None, "uniform", True),
        ("pgd2", 2, 0.1, None, "uniform", True),
        ("pgd5", 5, 0.1, None, "uniform", True),
        ("pgd", 10, 0.05, None, "uniform", True),
        ("trades", 10, 0.05, 0.001, "normal", True),
        ("mart", 10, 0.05, 0.001, "normal", True),
    ],
)
def test_published_attacks(name, steps, size, noise, kind, projected):
    got = attack(name)
    assert (got.norm, got.eps, got.steps, got.restarts) == ("linf", EPS, steps, 1)
    assert got.step_size == pytest.approx(size)
    assert got.random_start == (noise is not None)
    assert (got.noise or EPS) == pytest.approx(noise or EPS)
    assert (got.noise_kind, got.projected) == (kind, projected)
    objective = AttackOptions(eps=EPS).objective(name)
    assert objective.beta == {"trades": 6, "mart": 5, "nuat": 4}.get(name)
    assert objective.one_step == (steps == 1)


def test_what_one_step_methods_do_not_leave_open():
    free = {"steps": 7, "step_size": 0.01, "random_start": True}
    for name in ("fgsm", "fgsm_rs", "n_fgsm", "nuat", "free"):
        assert attack(name, **free) == attack(name)
    for name in ("pgd", "trades", "mart", "a.b:c"):
        given = attack(name, **free)
        assert (given.steps, given.step_size, given.random_start) == (7, 0.01, True)


@pytest.mark.parametrize("eps", [8 / 255, 0.3, 0.031, 1.0])
def test_the_step_at_ten_steps_is_a_quarter_to_the_bit(eps):
    assert default_step_size(eps, 10) == eps / 4
    assert default_step_size(eps, 3) == pytest.approx(2.5 * eps / 3)


def test_a_number_in_the_name_is_the_number_of_steps():
    options = AttackOptions(eps=EPS, steps=2)
    assert options.objective("pgd7") == AttackOptions(eps=EPS, steps=7).objective("pgd")
    assert options.objective("pgd2") == options.objective("pgd")
    config = lottery_config(objective="pgd2", search_objective="n_fgsm")
    assert (config.train.objective.name, config.train.objective.attack_steps) == ("pgd", 2)
    assert {one.steps for one in config.attacks if one.name == "pgd20"} == {20}
    with pytest.raises(ValueError, match="pgd3 takes 3 steps"):
        ObjectiveConfig("pgd3", AttackConfig())


def test_what_an_objective_does_not_use_is_not_in_its_key():
    plain = AttackOptions().objective("fgsm")
    assert AttackOptions(beta=3.0, replays=2).objective("fgsm") == plain
    assert settings(plain) == {"name": "fgsm", "attack": settings(plain.attack)}
    assert set(settings(plain.attack)) == {
        "name", "norm", "eps", "steps", "step_size", "random_start", "restarts", "loss",
    }  # fmt: skip
    assert settings(AttackOptions().objective("trades"))["beta"] == 6
    assert "replays" not in settings(AttackOptions().objective("free"))
    assert settings(AttackOptions(replays=4).objective("free"))["replays"] == 4
    assert AttackOptions(beta=3.0).objective("a.b:c").beta == 3


@pytest.mark.parametrize("name", ["fgsm", "fgsm_rs", "n_fgsm", "pgd1", "free", "nuat", "trades"])
def test_what_goes_on_after_a_collapse(name):
    options = AttackOptions(eps=EPS, steps=1, label_smoothing=0.1, awp_gamma=0.01)
    objective = options.objective(name)
    assert objective.hardened(0) == objective
    for times, steps, size in ((1, 2, 0.1), (2, 4, 0.125), (3, 8, 0.0625)):
        expected = AttackConfig(f"pgd{steps}", "linf", EPS, steps, size, True)
        kept = name if name in ("nuat", "trades") else "pgd"
        assert objective.hardened(times) == dataclasses.replace(
            objective, name=kept, attack=expected
        )
    assert objective.hardened(1).batch_replays == 1
    several = AttackOptions(eps=EPS).objective("pgd3")
    assert several.hardened(2) == several
