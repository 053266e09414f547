"""The local executor: one stage after the other in this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.engine.store import Store

_log = logging.getLogger(__name__)


class Worker(Protocol):
    """Whatever can do a stage's work."""

    store: Store

    def perform(self, stage: Stage, directory: Path) -> None: ...


def run_stages(
    targets: Iterable[Stage],
    worker: Worker,
    announce: Callable[[str], None] = _log.info,
) -> dict[str, bool]:
    """Finishes every stage the targets need, parents first, each once.

    Args:
      targets: the stages wanted.
      worker: does the work; its store is asked what is finished already.
      announce: told of each stage as it starts.

    Returns:
      For each stage key whether it was finished already or by another process.

    Raises:
      StoreError: a finished stage cannot be used; told before anything is run.
      LotteryError: as the work does; finished stages stay, and running again
        goes on with the one that failed.
    """
    stages = in_order(targets)
    cached = worker.store.usable(stages)
    for number, stage in enumerate(stages, 1):
        if cached[stage.key]:
            continue
        announce(f"[{number}/{len(stages)}] {stage.label}")
        with worker.store.work(stage, announce) as directory:
            cached[stage.key] = directory is None
            if directory is not None:
                worker.perform(stage, directory)
    return cached
