"""Which stage comes next: parents first, then the longest chain of dependants."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterable

from tf_lottery.engine.stage import Stage, in_order
from tf_lottery.engine.store import Store
from tf_lottery.errors import LotteryError

RETRIES = 2  # of a stage whose worker died
PAUSE = 1.0  # seconds until a stage that another run works on is asked for again


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
        self.found = store.usable(stages)
        self._announce = announce
        self._total = len(stages)
        self._left = {stage.key: stage for stage in stages if not self.found[stage.key]}
        self._began: dict[str, float] = {}
        self._numbers: dict[str, int] = {}
        self._deaths: Counter[str] = Counter()
        self._told: set[str] = set()  # keys of stages whose other run was mentioned
        # Who ends tells those that waited: nobody goes through all that is left.
        self._children: dict[str, list[str]] = {key: [] for key in self._left}
        self._awaited: dict[str, int] = {}  # how many stages each still waits for
        for stage in self._left.values():
            awaited = {parent.key for parent in stage.parents.values()} & self._left.keys()
            self._awaited[stage.key] = len(awaited)
            for key in awaited:
                self._children[key].append(stage.key)
        # Stages from here to the end of the longest chain that waits for this one.
        self._chain: dict[str, int] = {}
        for key in reversed(self._left):
            self._chain[key] = 1 + max((self._chain[k] for k in self._children[key]), default=0)
        self._place = {key: place for place, key in enumerate(self._left)}
        self._ready: list[tuple[int, int, str]] = []  # heap: longest chain, then first
        self._postponed: list[tuple[float, str]] = []  # heap: by the time to ask again
        for key, count in self._awaited.items():
            if not count:
                self._make_ready(key)

    @property
    def left(self) -> int:
        """How many stages are not finished, those at work included."""
        return len(self._left)

    def take(self) -> Stage | None:
        """The most urgent stage that can start now, which is from then on at work."""
        now = time.monotonic()
        while self._postponed and self._postponed[0][0] <= now:
            self._make_ready(heapq.heappop(self._postponed)[1])
        if not self._ready:
            return None
        stage = self._left[heapq.heappop(self._ready)[2]]
        self._began[stage.key] = now
        if stage.key not in self._numbers:
            number = self._total - len(self._chain) + len(self._numbers) + 1
            self._numbers[stage.key] = number
            self._say(stage, "started {}")
        return stage

    def finished(self, stage: Stage, elsewhere: bool = False) -> None:
        """The stage is in the store; ``elsewhere``: not by this run."""
        del self._left[stage.key]
        for key in self._children[stage.key]:
            self._awaited[key] -= 1
            if not self._awaited[key]:
                self._make_ready(key)
        self.found[stage.key] = elsewhere
        if elsewhere:
            what = "another run finished {}"
        else:
            what = f"finished {{}} in {_duration(time.monotonic() - self._began[stage.key])}"
        self._say(stage, f"{what}, {self.left} left")

    def postpone(self, stage: Stage, owner: str = "") -> None:
        """Another run, ``owner``, works on the stage; it is asked for again after a pause."""
        if stage.key not in self._told:
            self._told.add(stage.key)
            who = f" ({owner})" if owner else ""
            self._say(stage, f"another run is at {{}}{who}; waiting for it")
        heapq.heappush(self._postponed, (time.monotonic() + PAUSE, stage.key))

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
        self._make_ready(stage.key)

    def _make_ready(self, key: str) -> None:
        heapq.heappush(self._ready, (-self._chain[key], self._place[key], key))

    def _say(self, stage: Stage, what: str) -> None:
        self._announce(
            f"[{self._numbers[stage.key]}/{self._total}] " + what.replace("{}", stage.label)
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
