"""Catastrophic overfitting: noticed, told, stopped at, gone back from."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from guarded import NATURAL, QUIET

from tf_lottery import lottery_config, weights
from tf_lottery.errors import CollapseError, UsageError
from tf_lottery.lottery.costs import training_cost
from tf_lottery.main import main
from tf_lottery.options.build import AttackOptions
from tf_lottery.options.settings import (
    AttackConfig,
    ObjectiveConfig,
    Phase,
    ScheduleConfig,
    TrainConfig,
    attack_from_name,
)
from tf_lottery.tickets import Ticket
from tf_lottery.training import callbacks, checkpoints
from tf_lottery.training.guards import (
    CollapseGuard,
    NonFiniteGuard,
    has_collapsed,
    trained_epochs,
)
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting


@pytest.mark.parametrize(
    ("fgsm", "robust", "images", "collapsed"),
    [
        (0.9, 0.0, 1000, True),
        (0.8, 0.2, 1000, True),
        (0.8, 0.21, 1000, False),  # a gap is no collapse
        (0.55, 0.48, 5000, False),
        (0.11, 0.0, 5000, True),
        (0.09, 0.0, 5000, False),  # learns nothing yet
        (0.4, 0.0, 20, False),  # chance, on so few images
        (0.5, 0.0, 20, True),
    ],
)
def test_has_collapsed(fgsm, robust, images, collapsed):
    assert has_collapsed(fgsm, robust, images) is collapsed


COLLAPSE = {
    # FGSM with steps this wide teaches a network to hide its gradient.
    "dataset": "digits", "model": "convnet", "width_multiplier": 0.5, "train_examples": 1000,
    "objective": "fgsm", "search_objective": "fgsm", "eps": 0.4, "epochs": 11,
    "learning_rate": 0.05, "schedule": "constant", "warmup_epochs": 0, "batch_size": 32,
    "weight_decay": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    from tf_lottery.data import load

    return load(lottery_config(**COLLAPSE).data)


def collapse(data, directory, **options):
    from tf_lottery.models import build_model
    from tf_lottery.pruning.masks import wrap

    directory.mkdir(exist_ok=True)
    said = []
    network = wrap(build_model("convnet", (8, 8, 1), 10, 0, width_multiplier=0.5))
    config = lottery_config(**COLLAPSE | options).train
    try:
        rows = train(
            network,
            data,
            config,
            seed=0,
            directory=directory,
            reporting=Reporting(verbose=0, stage="search: x", announce=said.append),
        )
    except CollapseError as error:
        return said, str(error)
    return said, rows


def test_catastrophic_overfitting_is_told(digits, tmp_path):
    said, rows = collapse(digits, tmp_path)
    (first, *_) = [row for row in rows if row["collapsed"]]
    assert first["validation_robust"] < 0.05
    assert first["validation_fgsm"] > 0.15
    (line,) = said
    assert line.startswith(
        f"warning: search: x: catastrophic overfitting in epoch {first['epoch']}: "
        f"{first['validation_fgsm']:.1%} of the validation images withstand FGSM"
    )
    assert json.loads((tmp_path / "history.json").read_text()) == rows


def test_catastrophic_overfitting_stops_if_asked(digits, tmp_path):
    said, error = collapse(digits, tmp_path, on_overfit="stop")
    assert said == []
    assert "search: x: catastrophic overfitting in epoch" in error
    assert "the checkpoint of the end of epoch" in error
    assert checkpoints.newest(tmp_path).epoch >= 1


def test_catastrophic_overfitting_is_gone_back_from(digits, tmp_path):
    said, result = collapse(digits, tmp_path, on_overfit="rollback")
    assert said
    assert all("going back to the end of epoch" in line for line in said)
    assert not any(row["collapsed"] for row in result)
    assert len(result) == 11
    assert result[-1]["rollbacks"] == result[-1]["overfit_rollbacks"] == len(said)
    assert result[-1]["attack"] == f"pgd{2 ** len(said)}"


def judged(guard, *epochs):
    found = []
    for epoch, (fgsm, robust) in enumerate(epochs):
        try:
            guard.on_epoch_end(epoch, {"val_fgsm": fgsm, "val_robust": robust})
        except CollapseError:
            found.append(epoch)
    return found


def test_a_training_that_has_gone_back_may_recover():
    """Its first epochs stand where the network was about to collapse."""
    said = []
    guard = CollapseGuard("s", 1000, True, said.append)
    assert judged(guard, (0.2, 0.01), (0.3, 0.02), (0.4, 0.01)) == [0, 1, 2]
    row = {"validation_robust": 0.01, "raw_robust": None}
    guard.go_on(checkpoints.Position(epoch=1, rows=[row], rollbacks=1, overfit_rollbacks=1))
    recovering = [(0.3, 0.02), (0.4, 0.05), (0.5, 0.3), (0.5, 0.25)]
    assert judged(guard, *recovering, (0.6, 0.05), (0.6, 0.04)) == [4, 5]
    averaged = {"validation_robust": 0.5, "raw_robust": 0.01}
    guard.go_on(checkpoints.Position(epoch=1, rows=[averaged], overfit_rollbacks=1))
    assert judged(guard, (0.3, 0.02)) == []
    most = checkpoints.Position(epoch=1, rows=[row], rollbacks=3, overfit_rollbacks=3)
    told = CollapseGuard("s", 1000, True, said.append)
    told.go_on(most)
    assert judged(told, (0.3, 0.0)) == []
    assert told.collapsed
    assert said == [
        "warning: s: catastrophic overfitting in epoch 1: 30.0% of the validation images withstand "
        "FGSM, 0.0% the validation attack"
    ]
    guard.go_on(checkpoints.Position(epoch=1, rows=[row], rollbacks=1))  # of another kind
    assert judged(guard, (0.3, 0.02)) == [0]


def test_phases_of_another_kind_are_not_judged():
    """Natural training leads to networks that look alike, and one-step training out of it."""
    said = []
    guard = CollapseGuard("s", 1000, True, said.append, one_step=lambda epoch: epoch in (2, 3, 4))
    natural = [(0.3, 0.0), (0.3, 0.01)]
    one_step = [(0.4, 0.05), (0.5, 0.1), (0.5, 0.09)]
    assert judged(guard, *natural, *one_step, (0.5, 0.0)) == [4]


def test_only_epochs_of_one_step_phases_are_gone_back_from(
    sparse, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setattr("tf_lottery.training.guards.has_collapsed", lambda *told: True)
    fgsm = AttackOptions(eps=0.1).objective("fgsm")
    config = dataclasses.replace(
        NATURAL,
        phases=(Phase(NATURAL.objective, 2), Phase(fgsm, 1)),
        validation_attack=attack_from_name("pgd10", eps=0.4),  # which nothing withstands
        on_overfit="stop",
    )
    with pytest.raises(CollapseError, match=r"overfitting in epoch 3: .* the end of epoch 2"):
        train(sparse(), tiny_data, config, seed=0, directory=tmp_path, reporting=QUIET)
    rows = json.loads((tmp_path / "history.json").read_text())
    assert [row["collapsed"] for row in rows] == [False, False]


ONE_STEP = ["fgsm", "fgsm_rs", "n_fgsm", "nuat", "free", "pgd1"]


@pytest.mark.parametrize("name", [*ONE_STEP, "pgd2", "trades", "natural"])
def test_every_one_step_training_is_probed_with_fgsm(name):
    objective = AttackOptions(eps=0.1).objective(name)
    probed = TrainConfig(objective, validation_attack=attack_from_name("pgd10", eps=0.1))
    expected = attack_from_name("fgsm", eps=0.1) if name in ONE_STEP else None
    assert probed.probe == expected
    for judge in (None, attack_from_name("fgsm", eps=0.1)):
        assert TrainConfig(objective, validation_attack=judge).probe is None
        for asked in ("stop", "rollback"):
            if name in ONE_STEP:
                with pytest.raises(UsageError, match=f"--on_overfit={asked}: .*nothing to probe"):
                    TrainConfig(objective, validation_attack=judge, on_overfit=asked)
            else:
                TrainConfig(objective, validation_attack=judge, on_overfit=asked)


def collapse_in(monkeypatch, *epochs):
    """The guard finds every one of these epochs (from 1) collapsed, each once."""
    left = list(epochs)

    def stub(self, epoch, logs=None):
        self.collapsed = bool(left) and epoch + 1 == left[0]
        if self.collapsed:
            left.pop(0)
            raise CollapseError(f"epoch {epoch + 1}")

    monkeypatch.setattr(CollapseGuard, "on_epoch_end", stub)


def watched(name, **changes):
    return TrainConfig(
        AttackOptions(eps=0.1).objective(name),
        epochs=3,
        batch_size=32,
        schedule=ScheduleConfig("constant", peak=0.05),
        validation_attack=attack_from_name("pgd2", eps=0.1),
        on_overfit="rollback",
        **changes,
    )


def test_phases_of_several_steps_keep_them(sparse, tiny_data, tmp_path, monkeypatch):
    objectives = [AttackOptions(eps=0.1).objective(name) for name in ("n_fgsm", "pgd3")]
    config = watched("n_fgsm", phases=(Phase(objectives[0], 2), Phase(objectives[1], 1)))
    with monkeypatch.context() as patch:
        collapse_in(patch, 1)
        rows = train(sparse(), tiny_data, config, seed=0, directory=tmp_path, reporting=QUIET)
    assert [row["attack"] for row in rows] == ["pgd2", "pgd2", "pgd3"]
    (tmp_path / "late").mkdir()
    collapse_in(monkeypatch, 3)
    with pytest.raises(CollapseError, match="end of epoch 2 is kept, after 0 rollbacks"):
        train(sparse(), tiny_data, config, seed=0, directory=tmp_path / "late", reporting=QUIET)


@pytest.mark.parametrize("name", ["fgsm", "free"])
def test_after_a_collapse_it_goes_on_against_more_steps(
    sparse, tiny_data, tmp_path, monkeypatch, name
):
    config, said = watched(name), []
    reporting = Reporting(verbose=0, announce=said.append)
    with monkeypatch.context() as patch:
        collapse_in(patch, 1, 3)
        rows = train(sparse(), tiny_data, config, seed=0, directory=tmp_path, reporting=reporting)
    assert [row["overfit_rollbacks"] for row in rows] == [1, 1, 2]
    assert [row["attack"] for row in rows] == ["pgd2", "pgd2", "pgd4"]
    assert {row["learning_rate"] for row in rows} == {np.float32(0.05)}
    assert said == [
        "epoch 1; going back to the start and on against pgd2 from random starts, steps of 0.05 "
        "(rollback 1 of 3)",
        "epoch 3; going back to the end of epoch 2 and on against pgd4 from random starts, steps "
        "of 0.0625 (rollback 2 of 3)",
    ]
    # The first two epochs are those of PGD training with two steps.
    (tmp_path / "plain").mkdir()
    objective = ObjectiveConfig("pgd", AttackConfig("pgd2", "linf", 0.1, 2, 0.05, True))
    plain = dataclasses.replace(config, objective=objective, epochs=2)
    others = train(
        sparse(), tiny_data, plain, seed=0, directory=tmp_path / "plain", reporting=QUIET
    )
    for row, other in zip(rows, others, strict=False):
        np.testing.assert_allclose(row["loss"], other["loss"], atol=1e-4)
    # Two of five epochs were undone, and paid for.
    cost = training_cost(config, 96, 1, trained_epochs(rows))
    first = {"fgsm": 5, "free": 3}[name]
    assert cost.flops == 96 * (first + 3 * 7 + 11)
    assert cost.examples == 5 * 96


def test_what_was_undone_took_its_time(sparse, tiny_data, tmp_path, monkeypatch):
    collapse_in(monkeypatch, 2)
    clock = iter(range(10**6))
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(clock))
    rows = train(sparse(), tiny_data, watched("fgsm"), seed=0, directory=tmp_path, reporting=QUIET)
    assert rows[1]["seconds"] > rows[2]["seconds"] + 1


def test_who_takes_over_after_a_collapse_goes_on_as_it_would_have(
    sparse, tiny_data, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    config, ends = watched("n_fgsm"), {}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        with monkeypatch.context() as patch:
            collapse_in(patch, 2)
            look = NonFiniteGuard.on_train_batch_end

            def die(self, batch, logs=None, look=look, name=name):
                look(self, batch, logs)
                if name == "cut" and self.model.objective_config.attack.name == "pgd2":
                    raise Killed

            patch.setattr(NonFiniteGuard, "on_train_batch_end", die)
            with pytest.raises(Killed) if name == "cut" else contextlib.nullcontext():
                train(
                    sparse(), tiny_data, config, seed=0, directory=tmp_path / name,
                    reporting=QUIET,
                )  # fmt: skip
        if name == "cut":
            assert checkpoints.newest(tmp_path / name).overfit_rollbacks == 1
            with monkeypatch.context() as patch:
                collapse_in(patch)
                train(
                    sparse(), tiny_data, config, seed=0, directory=tmp_path / name,
                    reporting=QUIET,
                )  # fmt: skip
        rows = json.loads((tmp_path / name / "history.json").read_text())
        assert [row["attack"] for row in rows] == ["n_fgsm", "pgd2", "pgd2"]
        ends[name] = weights.read_arrays(tmp_path / name / "final.npz")
    for name, value in ends["whole"].items():
        np.testing.assert_allclose(ends["cut"][name], value, atol=1e-5, err_msg=name)


def test_the_ledger_of_a_run_counts_what_was_run(tmp_path, monkeypatch):
    collapse_in(monkeypatch, 2)
    flags = {
        "dataset": "digits", "model": "convnet", "width_multiplier": 0.05, "train_examples": 64,
        "test_examples": 20, "batch_size": 32, "epochs": 2, "objective": "fgsm_rs",
        "attacks": "", "compare": "dense", "on_overfit": "rollback", "workdir": tmp_path / "w",
        "validation_attack": "pgd2", "validation_images": 20,
    }  # fmt: skip
    assert main([f"--{name}={value}" for name, value in flags.items()]) == 0
    (path,) = (tmp_path / "w" / "stages").glob("train-*/ledger.json")
    ledger = json.loads(path.read_text())
    assert ledger["overfit_rollbacks"] == ledger["rollbacks"] == 1
    assert ledger["forward_passes"] == ledger["input_gradient_passes"] == 64 * (2 + 2 + 3)
    assert ledger["weight_gradient_passes"] == 64 * 3
    assert "on against PGD of 2 steps" in (tmp_path / "w" / "report.md").read_text()


def test_only_one_step_training_is_watched(sparse, tiny_data, tmp_path):
    rows = train(sparse(), tiny_data, NATURAL, seed=0, directory=tmp_path, reporting=QUIET)
    assert {row["validation_fgsm"] for row in rows} == {row["collapsed"] for row in rows} == {None}


def test_a_ticket_from_a_collapsed_search_says_so(tmp_path, capsys):
    """And so do the report and --mode=inspect."""
    flags = {**COLLAPSE, "search_epochs": 16, "test_examples": 20} | {
        "search_learning_rate": 0.05, "objective": "natural", "epochs": 1, "attacks": "",
        "compare": "boosting", "workdir": tmp_path / "w", "learning_rate": 0.04,
        "validation_attack": "pgd10", "seed": 3,
    }  # fmt: skip
    assert main([f"--{name}={value}" for name, value in flags.items()]) == 0
    ticket = Ticket.load(tmp_path / "w" / "tickets" / "boosting")
    (epochs,) = ticket.found["collapsed_epochs"]
    assert epochs
    assert "rollbacks" not in ticket.found
    report = (tmp_path / "w" / "report.md").read_text()
    epochs = ", ".join(map(str, epochs))
    assert f"in search: boosting, seed 3 (epoch {epochs}): what was made" in report
    capsys.readouterr()
    assert main(["--mode=inspect", f"--ticket={tmp_path / 'w' / 'tickets' / 'boosting'}"]) == 0
    assert f"collapsed_epochs = [{epochs}]" in capsys.readouterr().out
