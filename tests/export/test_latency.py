"""Timing in turns, with a clock made of paper."""

import numpy as np
import pytest

from tf_lottery.export import latency


@pytest.fixture
def clock(monkeypatch):
    """A clock that only calls move; returns a maker of calls and the order they came in."""
    now, order = [0.0], []
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])

    def call(key, seconds):
        durations = iter(seconds)

        def run():
            order.append(key)
            now[0] += next(durations)

        return run

    return call, order


def test_medians_and_quartiles_of_interleaved_calls(clock):
    call, order = clock
    fast = [9, 9, 0.01, *(0.01 * n for n in range(1, 10))]
    slow = [9, 9, 0.79, *([0.5] * 8), 70.0]  # one call was interrupted
    found = latency.interleaved({"fast": call("fast", fast), "slow": call("slow", slow)}, 7.2)
    assert order == ["fast", "slow"] * 12  # 3 to warm up, then 7.2 / (0.01 + 0.79) rounds
    assert found["fast"].median == pytest.approx(0.05)
    assert found["fast"].low == pytest.approx(np.quantile(fast[3:], 0.25))
    assert found["fast"].high == pytest.approx(np.quantile(fast[3:], 0.75))
    assert found["slow"].median == pytest.approx(0.5)
    assert found["slow"].rounds == 9


@pytest.mark.parametrize(("seconds", "rounds"), [(1e-9, 101), (100.0, 7)])
def test_neither_too_few_rounds_nor_too_many(clock, seconds, rounds):
    call, order = clock
    found = latency.interleaved({"a": call("a", [seconds] * 200)})
    assert found["a"].rounds == rounds
    assert len(order) == rounds + 3
