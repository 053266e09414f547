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
      state: ``done``; ``elsewhere`` (another process had finished it); ``busy`` (another
        process is at it); ``died`` (its own process did); ``failed``.
      error: of ``failed`` the class in ``tf_lottery.errors`` to raise.
      message: one line: of ``failed`` the error's, of ``busy`` which process it is, of
        ``died`` how.
      trace: of ``failed`` the traceback.
    """

    state: str
    error: str = ""
    message: str = ""
    trace: str = ""


class WorkerError(Exception):
    """The traceback of another process, as the cause of an error raised here."""


def carry_out(stage: Stage, worker: Callable[[], Worker], where: str) -> Outcome:
    """Finishes a stage in this process unless another has finished or is finishing it.

    Args:
      stage: with finished parents.
      worker: makes the worker, or gives the one of earlier stages.
      where: more is found about an error that is none of ours.
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
        # The nearest class of ours: one from elsewhere may not be there, or be made otherwise.
        ours = [k.__name__ for k in type(error).__mro__ if k.__module__ == errors.__name__]
        message = str(error)
        if not ours:
            message = f"{stage.label}: unexpected {type(error).__name__}: {error} ({where})"
            ours = [LotteryError.__name__]
        return Outcome("failed", ours[0], " ".join(message.split()), traceback.format_exc())
    return Outcome("done")


def failure(outcome: Outcome) -> LotteryError:
    """The error of a ``failed`` outcome, with the other process's traceback as its cause."""
    error: LotteryError = getattr(errors, outcome.error)(outcome.message)
    error.__cause__ = WorkerError("\n" + outcome.trace)
    return error
