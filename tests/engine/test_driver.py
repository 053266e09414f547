"""The loop that every executor shares, with workers that are not there."""

import logging

import pytest
from toys import ten, toy

from tf_lottery.engine import driver, order
from tf_lottery.engine.driver import finish_all
from tf_lottery.engine.order import RETRIES, Schedule
from tf_lottery.engine.outcome import Outcome
from tf_lottery.engine.store import Store
from tf_lottery.errors import DataError, LotteryError, StoreError, TicketError, UsageError

DONE = Outcome("done")
BAD = Outcome("failed", "TicketError", "a bad ticket", "in worker()")


class Crew:
    """Hears of the stages in the order they were started, one at a time.

    Args:
      sizes: how many work at the same time, at each look; the last goes on.
      heard: by label what is heard of a stage, one after the other, before it is done.
    """

    def __init__(self, *sizes, **heard):
        self.sizes, self.told = list(sizes), {label: list(all_) for label, all_ in heard.items()}
        self.at_work, self.begun, self.ended, self.most = [], [], [], 0

    def free(self):
        size = self.sizes.pop(0) if len(self.sizes) > 1 else self.sizes[0]
        if isinstance(size, Exception):
            raise size
        return size - len(self.at_work)

    def start(self, stage):
        self.at_work.append(stage)
        self.begun.append(stage.label)
        self.most = max(self.most, len(self.at_work))

    def wait(self):
        return self.at_work[:1]

    def hear(self, stage):
        self.at_work.remove(stage)
        self.ended.append(stage.label)
        outcome = self.told[stage.label].pop(0) if self.told.get(stage.label) else DONE
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def finish(tmp_path, monkeypatch):
    """Finishes stages with a crew: for each key whether it was finished elsewhere."""
    monkeypatch.setattr(order, "PAUSE", 0.01)
    monkeypatch.setattr(driver, "_POLL", 0.01)

    def finish(crew, targets):
        schedule = Schedule(targets, Store(tmp_path), finish.said.append)
        finish_all(schedule, crew)
        assert schedule.left == 0
        return schedule.found

    finish.said = []
    return finish


def test_as_many_as_are_free(finish):
    for size in (1, 2, 99):
        crew = Crew(size)
        assert set(finish(crew, ten()).values()) == {False}
        assert sorted(crew.ended) == list("abcdefghij")
        assert crew.most == min(size, 3)  # b, c and g wait for a alone
    assert finish(Crew(0), []) == {}


def test_workers_that_come_and_go(finish):
    # None at first, three, then a machine with two of them is lost.
    crew = Crew(0, 1, 3, 1)
    finish(crew, ten())
    assert sorted(crew.ended) == list("abcdefghij")
    assert crew.most == 3


def test_after_an_error_the_running_ones_end_and_none_is_started(finish, caplog):
    others = [toy("fine", 3), toy("lost", 4), toy("late", 5)]
    crew = Crew(3, bad=[BAD], lost=[StoreError("not here")])
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(TicketError, match=r"^a bad ticket$") as caught,
    ):
        finish(crew, [toy("bad", 1), *others])
    assert "in worker()" in str(caught.value.__cause__)
    assert crew.ended == ["bad", "fine", "lost"]
    assert [record.message for record in caplog.records] == ["not here"]
    assert any("finished fine" in line for line in finish.said)


def test_an_outcome_that_is_lost_is_an_error(finish):
    crew = Crew(2, one=[DataError("given up")])
    with pytest.raises(DataError, match="given up"):
        finish(crew, [toy("two", 2, toy("one", 1)), toy("beside", 3)])
    assert crew.ended == ["one", "beside"]


def test_what_another_run_is_at_holds_up_nothing_else(finish):
    owner = Outcome("busy", message="process 7")
    crew = Crew(1, taken=[owner, owner, Outcome("elsewhere")])
    taken, free = toy("taken", 1), toy("free", 2)
    assert finish(crew, [taken, free]) == {taken.key: True, free.key: False}
    assert crew.ended.index("free") < len(crew.ended) - 1
    assert crew.ended.count("taken") == 3
    (line,) = (line for line in finish.said if "another run is at" in line)
    assert line == "[1/2] another run is at taken (process 7); waiting for it"


def test_a_worker_that_dies_is_tried_again_but_not_for_ever(finish):
    died = Outcome("died", message="was struck by lightning")
    crew = Crew(2, b=[died] * RETRIES)
    finish(crew, ten())
    assert crew.begun.count("b") == RETRIES + 1
    assert len([line for line in finish.said if "worker of b was struck" in line]) == RETRIES
    crew = Crew(2, fatal=[died] * (RETRIES + 1))
    with pytest.raises(LotteryError, match=r"^fatal: its worker .* died 3 times.*lightning$"):
        finish(crew, [toy("fatal", 6), toy("beside", 7)])
    assert "beside" in crew.ended


def test_nobody_who_could_ever_work(finish):
    with pytest.raises(UsageError, match="no machine"):
        finish(Crew(UsageError("no machine")), ten())
