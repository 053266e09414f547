"""Evaluations that share attacks: each is run once, and nobody can tell from the results."""

import json
import shutil

import numpy as np
import pytest

from tf_lottery import weights
from tf_lottery.engine.serial import run_stages
from tf_lottery.engine.store import Store
from tf_lottery.evaluation.packing import PackedAttack, Passes, Verdicts
from tf_lottery.lottery import finished_attacks
from tf_lottery.lottery.finished_attacks import FinishedAttacks
from tf_lottery.lottery.graph import attack_stage, entries
from tf_lottery.lottery.work import Workshop
from tf_lottery.options.build import lottery_config

OPTIONS = {
    "width_multiplier": 0.1, "train_examples": 480, "validation_examples": 40,
    "test_examples": 50, "batch_size": 16, "epochs": 2, "eps": 0.05, "objective": "natural",
    "search_objective": "natural", "compare": ("dense",), "learning_rate": 0.02,
}  # fmt: skip


def evaluation(attacks, which="best", **others):
    (entry,) = entries(lottery_config(**OPTIONS | {"attacks": attacks} | others))
    return entry.evaluations[which]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with a trained network and no evaluation."""
    root = tmp_path_factory.mktemp("trained") / "stages"
    run_stages([evaluation(("fgsm",)).parents["trained"]], Workshop(Store(root)))
    return root


@pytest.fixture
def copies(trained, tmp_path):
    def copy(name):
        return Store(shutil.copytree(trained, tmp_path / name))

    return copy


@pytest.fixture
def ran(monkeypatch):
    """Names of the attacks that are run, as they begin."""
    names, run = [], PackedAttack.run

    def noted(self, *arguments):
        names.append(self.name)
        return run(self, *arguments)

    made = PackedAttack.__init__

    def init(self, config, *arguments):
        self.name = config.name
        made(self, config, *arguments)

    monkeypatch.setattr(PackedAttack, "__init__", init)
    monkeypatch.setattr(PackedAttack, "run", noted)
    return names


def found(store, stage):
    told = json.loads((store.path(stage) / "evaluation.json").read_text())
    told.pop("seconds")
    return told, weights.read_arrays(store.path(stage) / "examples.npz")


def assert_same(ours, theirs):
    assert ours[0] == theirs[0]
    assert list(ours[1]) == list(theirs[1])
    for name, values in ours[1].items():
        assert values.dtype == theirs[1][name].dtype
        np.testing.assert_array_equal(values, theirs[1][name])


def ledger(store, stage):
    return store.manifest(stage)["ledger"]


CHANGES = [
    (("fgsm", "pgd3"), ("fgsm", "pgd5"), ["pgd5"]),
    (("fgsm", "pgd3"), ("pgd3", "cw5", "fgsm"), ["cw5"]),
    (("fgsm", "pgd3"), ("pgd3",), []),
    (("apgd_ce", "fgsm"), ("fgsm", "apgd_ce", "square30"), ["square30"]),
]


@pytest.mark.parametrize(("before", "after", "new"), CHANGES, ids=str)
def test_only_new_attacks_are_run_and_the_verdicts_are_the_same(copies, ran, before, after, new):
    store, alone = copies("ours"), copies("alone")
    run_stages([evaluation(before)], Workshop(store))
    assert ran == list(before)
    ran.clear()
    run_stages([evaluation(after)], Workshop(store))
    assert ran == new
    run_stages([evaluation(after)], Workshop(alone))
    assert_same(found(store, evaluation(after)), found(alone, evaluation(after)))


def test_another_step_or_radius_or_seed_is_another_attack(copies, ran):
    store = copies("ours")
    run_stages([evaluation(("pgd3",))], Workshop(store))
    changes = ("eval_step_size", 0.01), ("eval_eps", 0.1), ("restarts", 2), ("test_examples", 40)
    for change in changes:
        ran.clear()
        run_stages([evaluation(("pgd3",), **dict([change]))], Workshop(store))
        assert ran == ["pgd3"]


def test_evaluations_of_before_are_finished_still(copies, ran):
    """Their keys are what they were, and nobody looks for their attacks."""
    store, stage = copies("ours"), evaluation(("fgsm", "pgd3"))
    assert dict(stage.settings) | {"attacks": None} == {
        "weights": "best", "dataset": "digits", "test_examples": 50, "attacks": None, "seed": 0,
    }  # fmt: skip
    assert list(stage.parents) == ["trained"]
    run_stages([stage], Workshop(store))
    for path in store.root.glob("attack-*"):
        shutil.rmtree(path)
    ran.clear()
    assert run_stages([stage], Workshop(store))[stage.key]
    assert ran == []


def test_each_evaluation_bears_the_cost_of_what_it_ran(copies):
    store, shop = copies("ours"), Workshop(copies("other"))
    first, second = evaluation(("fgsm", "pgd3")), evaluation(("fgsm", "pgd5"))
    before = Workshop(store).predicted_cost(second).flops
    run_stages([first], Workshop(store))
    planned = Workshop(store).predicted_cost(second).flops
    run_stages([second], Workshop(store))
    run_stages([second], shop)
    paid, alone = ledger(store, second), ledger(shop.store, second)
    fgsm, pgd5 = (attack_stage(second, one) for one in second.runtime["config"].attacks)
    assert store.manifest(pgd5)["kind"] == "attack"
    fgsm = ledger(store, fgsm)
    for column in ("forward_passes", "input_gradient_passes", "flops"):
        assert paid[column] == alone[column] - fgsm[column]
        assert fgsm[column] > 0
    assert 0 < paid["flops"] <= planned < before
    assert ledger(store, second)["examples"] == 50


def test_what_was_interrupted_goes_on_and_lends_what_it_finished(copies, ran, monkeypatch):
    store, alone = copies("ours"), copies("alone")
    stage, other = evaluation(("fgsm", "pgd5", "pgd3")), evaluation(("fgsm", "cw5"))
    run_stages([stage], Workshop(alone))
    ran.clear()
    noted = PackedAttack.run

    def die(self, *arguments):
        if self.name == "pgd3":
            raise KeyboardInterrupt
        return noted(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PackedAttack, "run", die)
        with pytest.raises(KeyboardInterrupt):
            run_stages([stage], Workshop(store))
    assert ran == ["fgsm", "pgd5"]
    run_stages([other], Workshop(store))
    assert ran == ["fgsm", "pgd5", "cw5"]
    run_stages([stage], Workshop(store))
    assert ran == ["fgsm", "pgd5", "cw5", "pgd3"]
    assert_same(found(store, stage), found(alone, stage))
    for column in ("forward_passes", "input_gradient_passes", "flops"):
        assert ledger(store, stage)[column] == ledger(alone, stage)[column]


def test_a_kill_before_an_attack_is_kept_keeps_it_later(copies, ran, monkeypatch):
    store, stage = copies("ours"), evaluation(("fgsm", "pgd3"))

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FinishedAttacks, "keep", die)
        with pytest.raises(KeyboardInterrupt):
            run_stages([stage], Workshop(store))
    assert not list(store.root.glob("attack-*"))
    run_stages([stage], Workshop(store))
    assert ran == ["fgsm", "pgd3"]
    assert len(list(store.root.glob("attack-*"))) == 2


def test_the_last_epoch_that_is_the_best_is_attacked_once(copies, ran):
    store = copies("ours")
    best, last = (evaluation(("fgsm",), which) for which in ("best", "last"))
    trained = store.path(best.parents["trained"])
    same = (trained / "best.npz").read_bytes() == (trained / "final.npz").read_bytes()
    run_stages([best, last], Workshop(store))
    assert ran == ["fgsm"] * (1 if same else 2)


def test_a_suite_is_kept_as_a_whole(tmp_path):
    stage = evaluation(("autoattack", "fgsm"))
    suite, single = stage.runtime["config"].attacks
    kept = FinishedAttacks(Store(tmp_path), stage, 10)
    clean = np.array([0, 1, 2, 2], np.int32)
    verdicts = Verdicts(
        np.array([True, False, False, False]),
        np.array([0, 2, 1, 2], np.int32),
        np.array([np.nan, 0.01, 0.03, 0], np.float32),
        np.array([-1, 0, 3, -1], np.int8),
    )
    passes = {part.name: Passes(0.5, n, 2 * n) for n, part in enumerate(suite.components)}
    assert kept.find(suite, clean) is None
    kept.keep(suite, clean, verdicts, passes)
    told, counted = kept.find(suite, clean)
    assert counted == passes
    for name, values in vars(verdicts).items():
        assert getattr(told, name).dtype == values.dtype
        np.testing.assert_array_equal(getattr(told, name), values)
    assert kept.find(single, clean) is None
    # Of clean images that were told apart otherwise it says nothing.
    assert kept.find(suite, np.array([0, 1, 2, 1], np.int32)) is None
    assert not kept.is_of_another(suite)
    another = FinishedAttacks(Store(tmp_path), evaluation(("autoattack",)), 10)
    assert another.is_of_another(suite)
    cost = ledger(Store(tmp_path), attack_stage(stage, suite))
    assert (cost["forward_passes"], cost["input_gradient_passes"], cost["flops"]) == (6, 12, 180)


def test_nothing_is_kept_twice(tmp_path, monkeypatch):
    stage = evaluation(("fgsm",))
    (attack,) = stage.runtime["config"].attacks
    kept = FinishedAttacks(Store(tmp_path), stage, 10)
    clean = np.zeros(3, np.int32)
    kept.keep(attack, clean, Verdicts.before(clean, clean), {"fgsm": Passes()})
    monkeypatch.setattr(finished_attacks.weights, "write_arrays", None)
    kept.keep(attack, clean, Verdicts.before(clean, clean + 1), {"fgsm": Passes()})
    assert kept.find(attack, clean)[0].standing.all()
