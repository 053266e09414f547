"""What processes that train with the chief do: whatever it calls them for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import tf_lottery
from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.errors import LotteryError
from tf_lottery.lottery.work import Workshop
from tf_lottery.training.distribution import Distribution


def agree_on_targets(targets: Sequence[Stage], distribution: Distribution) -> None:
    """Makes sure that all processes were started to do the same; all have to call it.

    Raises:
      UsageError: a process has another command line or another version of this package.
      LostWorkerError: a process ended.
    """
    text = " ".join([tf_lottery.__version__, *(stage.key for stage in targets)])
    distribution.agree_on("the command line", hashlib.sha256(text.encode()).hexdigest())


def follow(targets: Sequence[Stage], workshop: Workshop) -> None:
    """Takes part in every training the chief does, until it has nothing left to do.

    The store is not looked at: weights and masks come from the chief.

    Args:
      targets: the stages wanted, the same as the chief's.
      workshop: trains.

    Raises:
      LotteryError: as the training does, or the chief failed.
      LostWorkerError: another process ended.
    """
    stages = {stage.key: stage for stage in in_order(targets)}
    while True:
        message = workshop.distribution.tell()
        if "train" in message:
            workshop.train_along(stages[message["train"]], message.get("widths", ()))
        elif "failed" in message:
            raise LotteryError(f"worker 0 has stopped: {message['failed']}")
        else:
            return
