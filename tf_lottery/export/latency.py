"""Seconds of one call, of several things in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

_Key = TypeVar("_Key", bound=Hashable)

WARM_UP = 3  # calls of each before anything counts
FEWEST, MOST = 7, 101  # rounds


@dataclass(frozen=True)
class Latency:
    """Seconds of a call: median and quartiles over ``rounds`` calls."""

    median: float
    low: float
    high: float
    rounds: int


def interleaved(
    calls: Mapping[_Key, Callable[[], object]], seconds: float = 10.0
) -> dict[_Key, Latency]:
    """Times calls round by round, each once a round.

    What else the machine does then falls on all alike, so that the ratios hold better than
    the seconds.

    Args:
      calls: what to time, by any key.
      seconds: about how long to measure in all; between 7 and 101 rounds are made.
    """
    last = dict.fromkeys(calls, 0.0)
    for _ in range(WARM_UP):
        for key, call in calls.items():
            last[key] = _seconds(call)
    rounds = int(seconds / max(sum(last.values()), 1e-9))
    rounds = min(max(rounds, FEWEST), MOST)
    found: dict[_Key, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            found[key].append(_seconds(call))
    result = {}
    for key, values in found.items():
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        result[key] = Latency(median, low, high, rounds)
    return result


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
