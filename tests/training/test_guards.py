"""Bad numbers: told, stopped at, gone back from."""

import dataclasses

import numpy as np
import pytest
from guarded import NATURAL, QUIET

from tf_lottery.errors import NonFiniteError
from tf_lottery.options.settings import (
    ScheduleConfig,
)
from tf_lottery.training import checkpoints
from tf_lottery.training.guards import (
    NonFiniteGuard,
)
from tf_lottery.training.run import train
from tf_lottery.training.task import Reporting


def test_the_step_the_likely_flag_and_what_is_kept_are_named(sparse, tiny_data, tmp_path):
    config = dataclasses.replace(
        NATURAL, schedule=ScheduleConfig("constant", peak=1e20), on_nan="stop"
    )
    said = r"^s: .* epoch 1, step [2-3]; a lower --search_learning_rate may help$"
    with pytest.raises(NonFiniteError, match=said):
        train(
            sparse(),
            tiny_data,
            config,
            seed=0,
            directory=tmp_path,
            reporting=Reporting(stage="s", verbose=0, rate_flag="search_learning_rate"),
        )


@pytest.mark.parametrize(
    ("norm", "said"),
    [
        (float("nan"), "the norm of the gradient is nan in epoch 1, step 3"),
        (float("inf"), "the norm of the gradient is inf in epoch 1, step 3"),
        (2e6, r"the norm of the gradient is 2e\+06, more than 1e\+06, in epoch 1, step 3"),
    ],
)
def test_gradients_are_looked_at(norm, said):
    guard = NonFiniteGuard("s", None)
    guard.go_on(checkpoints.Position(step=1))
    guard.on_epoch_begin(0)
    guard.on_train_batch_end(0, {"loss": 1.0, "gradient_norm": 5.0})
    with pytest.raises(NonFiniteError, match=said):
        guard.on_train_batch_end(1, {"loss": 1.0, "gradient_norm": norm})
    scaled = NonFiniteGuard("s", None, scaled=True)
    scaled.on_train_batch_end(1, {"loss": 1.0, "gradient_norm": norm})


def test_the_history_has_the_largest_gradient_of_an_epoch(sparse, tiny_data, tmp_path, monkeypatch):
    seen = []
    look = NonFiniteGuard.on_train_batch_end

    def watch(self, batch, logs=None):
        seen.append(logs["gradient_norm"])
        look(self, batch, logs)

    monkeypatch.setattr(NonFiniteGuard, "on_train_batch_end", watch)
    rows = train(sparse(), tiny_data, NATURAL, seed=0, directory=tmp_path, reporting=QUIET)
    assert len(set(seen)) == len(seen) == 9
    largest = [max(seen[i : i + 3]) for i in (0, 3, 6)]
    np.testing.assert_allclose([row["gradient_norm"] for row in rows], largest, rtol=1e-6)


def bad_once(monkeypatch, epoch, batch, times=1):
    """The loss of one step is seen as NaN, so many times."""
    look, left = NonFiniteGuard.on_train_batch_end, [times]

    def spoil(self, number, logs=None):
        if (self._epoch, number) == (epoch, batch) and left[0]:
            left[0] -= 1
            logs = {**logs, "loss": float("nan")}
        look(self, number, logs)

    monkeypatch.setattr(NonFiniteGuard, "on_train_batch_end", spoil)


@pytest.mark.parametrize("epoch", [0, 1])
def test_going_back_halves_the_rate(sparse, tiny_data, tmp_path, monkeypatch, epoch):
    bad_once(monkeypatch, epoch, 1)
    said = []
    rows = train(
        sparse(),
        tiny_data,
        NATURAL,
        seed=0,
        directory=tmp_path,
        reporting=Reporting(verbose=0, stage="s", announce=said.append),
    )
    where = "the end of epoch 1" if epoch else "the start"
    assert said == [
        f"s: loss is nan in epoch {epoch + 1}, step 2; a lower --learning_rate may help; going "
        f"back to {where} and on at half the rate (rollback 1 of 3)"
    ]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["rollbacks"] for row in rows] == ([0, 1, 1] if epoch else [1, 1, 1])
    rates = [0.05 / 2 ** row["rollbacks"] for row in rows]
    np.testing.assert_allclose([row["learning_rate"] for row in rows], rates, rtol=1e-6)
    # That is what the optimizer ran at: as if the rate had been so from there on.
    if not epoch:
        half = dataclasses.replace(NATURAL, schedule=ScheduleConfig("constant", peak=0.025))
        (tmp_path / "half").mkdir()
        others = train(
            sparse(), tiny_data, half, seed=0, directory=tmp_path / "half", reporting=QUIET
        )
        for row, other in zip(rows, others, strict=True):
            np.testing.assert_allclose(row["loss"], other["loss"], atol=1e-4)


def test_a_process_that_takes_over_knows_of_the_rollback(sparse, tiny_data, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    with monkeypatch.context() as patch:
        bad_once(patch, 1, 1)

        def die(line):
            raise Killed

        with pytest.raises(Killed):  # before it has gone back: nothing has happened
            train(
                sparse(),
                tiny_data,
                NATURAL,
                seed=0,
                directory=tmp_path,
                reporting=Reporting(verbose=0, announce=die),
            )
    assert checkpoints.newest(tmp_path).rollbacks == 0
    with monkeypatch.context() as patch:
        bad_once(patch, 1, 1)

        look = NonFiniteGuard.on_train_batch_end

        def die_after_it(self, batch, logs=None):
            look(self, batch, logs)
            if float(self.model.optimizer._learning_rate.factor) < 1:
                raise Killed

        patch.setattr(NonFiniteGuard, "on_train_batch_end", die_after_it)
        with pytest.raises(Killed):
            train(sparse(), tiny_data, NATURAL, seed=0, directory=tmp_path, reporting=QUIET)
    rows = train(sparse(), tiny_data, NATURAL, seed=0, directory=tmp_path, reporting=QUIET)
    assert [row["rollbacks"] for row in rows] == [0, 1, 1]


def test_going_back_ends(sparse, tiny_data, tmp_path):
    config = dataclasses.replace(NATURAL, schedule=ScheduleConfig("constant", peak=1e20))
    said = []
    with pytest.raises(NonFiniteError, match="checkpoint of the start is kept, after 3 rollbacks"):
        train(
            sparse(),
            tiny_data,
            config,
            seed=0,
            directory=tmp_path,
            reporting=Reporting(verbose=0, announce=said.append),
        )
    assert len(said) == 3
    assert not (tmp_path / "final.npz").exists()
