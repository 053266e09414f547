"""An attack in words."""

import json

import pytest

from tf_lottery.errors import StoreError
from tf_lottery.options.attacks import METHODS, NORMS, AttackConfig, attack_from_name
from tf_lottery.options.settings import settings
from tf_lottery.report import read_results, write_report, write_results
from tf_lottery.report.text import attack_problem, attack_words

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
    assert attack_words(settings(attack)) == words


@pytest.mark.parametrize("norm", NORMS)
def test_every_attack_differs_in_words(norm):
    attacks = [
        attack_from_name(name, 0.25, norm=norm) for name in NAMES if norm == "l2" or name != "cw_l2"
    ]
    words = [attack_words(attack) for attack in attacks]
    assert len(set(words)) == len(words)
    assert all(("l_inf" in text) == (norm == "linf") for text in words)
    assert {attack.method for attack in attacks} >= set(METHODS) - {"cw_l2"}


@pytest.mark.parametrize(
    ("attack", "problem"),
    [
        ({"name": "x", "eps": 2}, "eps: got 2, must be in"),
        ({"name": "x", "norm": "l1"}, "norm: unknown value 'l1'"),
        ({"name": "x", "method": "magic"}, "attack method: unknown value 'magic'"),
        ({"name": "x", "steps": "3"}, "not in the expected form"),
        ({"name": "x", "momentum": 1}, "unknown setting 'momentum'"),
        ("pgd20", "not the settings"),
    ],
)
def test_what_is_no_attack_is_named(attack, problem):
    assert attack_problem(attack).startswith(problem)


def test_good_attacks_have_no_problem():
    assert [attack_problem(settings(attack_from_name(name, 0.5, norm="l2"))) for name in NAMES] == [
        ""
    ] * len(NAMES)


def _attacked(document, *attacks):
    """The document with its second attack replaced by others, as accurate as that one."""
    for row in document["rows"]:
        share = row.pop("pgd20")
        row.update({attack.name: share for attack in attacks})
    document["attacks"][1:] = [settings(attack) for attack in attacks]
    return document


def test_run_report_has_the_words_of_every_attack(tmp_path, make_document):
    names = ("autoattack", "square", "cw_l2")
    attacks = [attack_from_name(name, 0.5, norm="l2") for name in names]
    write_results(tmp_path / "results.json", _attacked(make_document(), *attacks))
    html = write_report(tmp_path).read_text(encoding="utf-8")
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "AutoAttack: apgd_ce, apgd_t, fab_t, square, l<sub>2</sub> radius 0.5" in html
    assert "5,000 queries of random search (Square)" in html
    assert "Carlini &amp; Wagner" in html
    assert "l<sub>∞</sub> radius 0.1" in html  # of fgsm
    assert html.count("l_2") == 0
    assert r"- autoattack: AutoAttack: apgd\_ce" in markdown
    assert r"l\_2 radius 0.5" in markdown


def test_next_step_of_an_l2_run_attacks_in_l2(tmp_path, make_document):
    document = _attacked(make_document(), attack_from_name("pgd100", 0.5, norm="l2"))
    document["attacks"] = document["attacks"][1:]
    write_results(tmp_path / "results.json", document)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "--eval_eps=0.5" in html
    assert "--eval_norm=l2" in html


def test_results_with_an_unknown_method_are_refused(tmp_path, make_document):
    path = write_results(tmp_path / "results.json", make_document())
    document = json.loads(
        path.read_text().replace('"name": "pgd20"', '"name": "pgd20", "method": "x"')
    )
    del document["document_digest"]
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"attacks\[1\]: attack method: unknown value 'x'"):
        read_results(path)
