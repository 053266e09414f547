"""The loop of every executor that does stages side by side, wherever its workers are."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Protocol

from tf_lottery.engine.order import Schedule
from tf_lottery.engine.outcome import Outcome, failure
from tf_lottery.engine.stage import Stage
from tf_lottery.errors import LotteryError

_log = logging.getLogger(__name__)
_POLL = 0.5  # seconds between looks at stages that another run has, while nothing else is left


class Crew(Protocol):
    """Workers that do one stage each."""

    def free(self) -> int:
        """How many stages can start now; raises if none ever can."""

    def start(self, stage: Stage) -> None:
        """Puts a free worker to the stage."""

    def wait(self) -> Iterable[Stage]:
        """Those of the started stages whose outcome can be heard; none after a while."""

    def hear(self, stage: Stage) -> Outcome:
        """The outcome, told once; from then on the stage's worker is free.

        Raises:
          LotteryError: the outcome is lost; that fails the run as a failed stage does.
        """


def finish_all(schedule: Schedule, crew: Crew) -> None:
    """Finishes all stages of the schedule.

    Raises:
      LotteryError: of the first stage that failed or whose worker died too often, after the
        running ones have ended; errors of these are logged.
    """
    error: LotteryError | None = None
    at_work = 0
    while schedule.left:
        # No more than run at once: what waits can still change order.
        for _ in range(crew.free() if error is None else 0):
            if (stage := schedule.take()) is None:
                break
            crew.start(stage)
            at_work += 1
        if not at_work:
            if error is not None:
                raise error
            time.sleep(_POLL)
            continue
        for stage in crew.wait():
            at_work -= 1
            try:
                _take_in(schedule, stage, crew.hear(stage))
            except LotteryError as stopping:
                if error is None:
                    error = stopping
                else:
                    _log.error("%s", stopping)


def _take_in(schedule: Schedule, stage: Stage, outcome: Outcome) -> None:
    if outcome.state == "failed":
        raise failure(outcome)
    if outcome.state == "died":
        schedule.died(stage, outcome.message)
    elif outcome.state == "busy":
        schedule.postpone(stage, outcome.message)
    else:
        schedule.finished(stage, outcome.state == "elsewhere")
