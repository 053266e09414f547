"""Which stage comes next: parents first, then the longest chain of dependants."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from tf_lottery.errors import LotteryError
from tf_lottery.experiments.local import is_finished
from tf_lottery.experiments.stage import Stage, in_order
from tf_lottery.experiments.store import Store

RETRIES = 2  # of a stage whose worker died
_PAUSE = 1.0  # seconds until a stage that another run works on is asked for again


class Schedule:
    """The stages left to do, and what is told about them.

    Args:
      targets: the stages wanted.
      store: asked once which stages are finished.
      announce: told of each stage that starts or ends.

    Attributes:
      found: for each stage key whether it was finished already or by another run.

    Raises:
      StoreError: a finished stage cannot be used.
    """

    def __init__(self, targets: Iterable[Stage], store: Store, announce: Callable[[str], None]):
        stages = in_order(targets)
        self.found = {stage.key: is_finished(store, stage) for stage in stages}
        self._announce = announce
        self._total = len(stages)
        self._left = {stage.key: stage for stage in stages if not self.found[stage.key]}
        self._taken: set[str] = set()
        self._not_before: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._numbers: dict[str, int] = {}
        self._deaths: Counter[str] = Counter()
        # Stages from here to the end of the longest chain that waits for this one.
        self._chain = dict.fromkeys(self._left, 1)
        for stage in reversed(self._left.values()):
            for parent in stage.parents.values():
                if parent.key in self._left:
                    longer = max(self._chain[parent.key], self._chain[stage.key] + 1)
                    self._chain[parent.key] = longer

    @property
    def left(self) -> int:
        """How many stages are not finished, those at work included."""
        return len(self._left)

    def take(self) -> Stage | None:
        """The most urgent stage that can start now, which is from then on at work."""
        now = time.monotonic()
        ready = [
            stage
            for key, stage in self._left.items()
            if key not in self._taken
            and self._not_before.get(key, now) <= now
            and not any(parent.key in self._left for parent in stage.parents.values())
        ]
        if not ready:
            return None
        stage = max(ready, key=lambda stage: self._chain[stage.key])  # the first of equals
        self._taken.add(stage.key)
        self._began[stage.key] = now
        if stage.key not in self._numbers:
            number = self._total - len(self._chain) + len(self._numbers) + 1
            self._numbers[stage.key] = number
            self._say(stage, "started {}")
        return stage

    def finished(self, stage: Stage, elsewhere: bool = False) -> None:
        """The stage is in the store; ``elsewhere``: not by this run."""
        del self._left[stage.key]
        self.found[stage.key] = elsewhere
        if elsewhere:
            what = "another run finished {}"
        else:
            what = f"finished {{}} in {_duration(time.monotonic() - self._began[stage.key])}"
        self._say(stage, f"{what}, {self.left} left")

    def postpone(self, stage: Stage) -> None:
        """Another run works on the stage; it is asked for again after a pause."""
        if stage.key not in self._not_before:
            self._say(stage, "another run is at {}; waiting for it")
        self._not_before[stage.key] = time.monotonic() + _PAUSE
        self._taken.remove(stage.key)

    def died(self, stage: Stage, how: str) -> None:
        """The stage's worker died; it may be taken again, for up to ``RETRIES`` times.

        Raises:
          LotteryError: that was the last try.
        """
        self._deaths[stage.key] += 1
        if self._deaths[stage.key] > RETRIES:
            raise LotteryError(
                f"{stage.label}: its worker process died {RETRIES + 1} times, the last one {how}"
            )
        self._say(stage, f"the worker of {{}} {how}; starting it again")
        self._taken.remove(stage.key)

    def _say(self, stage: Stage, what: str) -> None:
        self._announce(
            f"[{self._numbers[stage.key]}/{self._total}] " + what.replace("{}", stage.label)
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
