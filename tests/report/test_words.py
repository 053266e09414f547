"""An attack in words."""

import pytest

from tf_lottery.options.attacks import NORMS, AttackConfig, attack_from_name
from tf_lottery.options.registries import METHODS
from tf_lottery.report.text import attack_words

NAMES = (
    "fgsm", "pgd20", "cw", "mim", "noise", "apgd_ce", "apgd_dlr", "apgd_t", "fab", "fab_t",
    "square", "cw_l2", "autoattack",
)  # fmt: skip


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (
            AttackConfig("pgd20", steps=20, random_start=True, restarts=5),
            "20 steps of 2/255 on the cross-entropy, l_inf radius 8/255, from a random start, "
            "5 restarts",
        ),
        (
            attack_from_name("fgsm", 0.3),
            "1 step of 0.3 on the cross-entropy, l_inf radius 0.3, from the clean image",
        ),
        (
            attack_from_name("cw", 0.2, norm="l2"),  # 51/255, but no grey levels in l_2
            "30 steps of 0.05 on the margin loss, l_2 radius 0.2, from a random start",
        ),
        (
            attack_from_name("mim4"),
            "4 steps of 2/255 with momentum 1 on the cross-entropy, l_inf radius 8/255, from the "
            "clean image",
        ),
        (
            attack_from_name("apgd_t"),
            "100 steps of Auto-PGD on the difference of logits ratio towards each of 9 wrong "
            "classes, l_inf radius 8/255, from a random start",
        ),
        (
            attack_from_name("fab"),
            "100 steps of FAB towards the nearest wrong class, l_inf radius 8/255",
        ),
        (
            attack_from_name("square"),
            "5,000 queries of random search (Square) on the margin loss, without gradients, "
            "l_inf radius 8/255",
        ),
        (attack_from_name("noise"), "the worst of 10 random points, l_inf radius 8/255"),
        (
            attack_from_name("cw_l2", 0.5, norm="l2"),
            "9 x 1,000 Adam steps of 0.01 for the smallest perturbation (Carlini & Wagner), "
            "l_2 radius 0.5",
        ),
        (
            attack_from_name("autoattack", 0.5, norm="l2"),
            "AutoAttack: apgd_ce, apgd_t, fab_t, square, l_2 radius 0.5",
        ),
    ],
)
def test_words(attack, words):
    assert attack_words(attack) == words


@pytest.mark.parametrize("norm", NORMS)
def test_every_attack_differs_in_words(norm):
    attacks = [
        attack_from_name(name, 0.25, norm=norm) for name in NAMES if norm == "l2" or name != "cw_l2"
    ]
    words = [attack_words(attack) for attack in attacks]
    assert len(set(words)) == len(words)
    assert all(("l_inf" in text) == (norm == "linf") for text in words)
    assert {attack.method for attack in attacks} >= set(METHODS) - {"cw_l2"}
