"""How a stage fared in another process, in words that cross processes."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from tf_lottery import errors
from tf_lottery.engine.serial import Worker
from tf_lottery.engine.stage import Stage
from tf_lottery.errors import LotteryError
from tf_lottery.interruption import Terminated


@dataclass(frozen=True)
class Outcome:
    """What became of a stage.

    Attributes:
      state: ``done``; ``elsewhere`` (another process had finished it); ``busy``
        (another process is at it); ``failed``.
      error: class of the failure in ``tf_lottery.errors``, ``""`` if it is none of them.
      message: of the failure, one line; of ``busy`` which process it is.
      trace: its traceback.
    """

    state: str
    error: str = ""
    message: str = ""
    trace: str = ""


class WorkerError(Exception):
    """The traceback of another process, as the cause of an error raised here."""


def carry_out(stage: Stage, worker: Callable[[], Worker]) -> Outcome:
    """Finishes a stage in this process unless another has finished or is finishing it.

    Args:
      stage: with finished parents.
      worker: makes the worker, or gives the one of earlier stages.
    """
    try:
        hands = worker()
        if owner := hands.store.busy(stage):
            return Outcome("busy", message=str(owner))
        with hands.store.work(stage) as directory:
            if directory is None:
                return Outcome("elsewhere")
            hands.perform(stage, directory)
    except Terminated:
        raise
    except (Exception, SystemExit) as error:
        known = [
            kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__
        ]
        message = str(error) if known else f"unexpected {type(error).__name__}: {error}"
        trace = traceback.format_exc()
        return Outcome("failed", known[0] if known else "", " ".join(message.split()), trace)
    return Outcome("done")


def failure(outcome: Outcome, stage: Stage, where: str) -> LotteryError:
    """The error of a failed stage, of its own class if that is one of ours.

    Args:
      outcome: ``failed``.
      stage: named if the error is not ours.
      where: where more about such an error is found.
    """
    if outcome.error:
        error = getattr(errors, outcome.error)(outcome.message)
    else:
        error = LotteryError(f"{stage.label}: {outcome.message} ({where})")
    error.__cause__ = WorkerError("\n" + outcome.trace)
    return error
