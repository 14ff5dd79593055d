"""The clock of leases goes on while the machine sleeps."""

from __future__ import annotations

import sys
import time

import pytest

from cache_backends.memory import MemoryCache
from cache_backends.steady import steady
from cache_backends.tiered import TieredCache
from proxy.flights import Flights
from tests.fakes.shared_cache import FakeSharedCache, World


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> float:
    """The machine has slept for an hour."""
    name = "CLOCK_BOOTTIME" if sys.platform == "linux" else "CLOCK_MONOTONIC"
    awake, asleep = time.clock_gettime, getattr(time, name)

    def told(clock: int) -> float:
        return awake(clock) + (3600.0 if clock == asleep else 0.0)

    monkeypatch.setattr(time, "clock_gettime", told)
    return 3600.0


def test_a_sleep_counts(slept: float) -> None:
    """What monotonic clocks leave out."""
    assert steady() == pytest.approx(time.monotonic() + slept, abs=60)


async def test_memory_is_not_trusted_after_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may have purged what it holds; what was under way before is joined by nobody."""
    cache = TieredCache(MemoryCache(max_bytes=2**20), FakeSharedCache(World()), lease=60.0)
    await cache.keep_up()

    async def errand(flight: object) -> None:
        return None

    flight = Flights().start(None, errand, worth_finishing=False)
    assert cache.trusted
    assert cache.up_to_date(flight.since)
    awake = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: awake(clock) + 3600.0)
    assert not cache.trusted
    assert not cache.up_to_date(flight.since)
    await cache.aclose()
