"""How the numbers of runs are kept: bounded, for a day, and with few calls to the store."""

from __future__ import annotations

import pytest

from cache_backends.base import Key, NullCache
from proxy import runs
from proxy.runs import Runs
from proxy.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.shared_cache import FakeSharedCache, World

KEYS = [Key.of("prompt", "llm")]
OTHERS = [Key.of("another prompt", "llm")]


async def test_numbers_rise_and_come_back_in_order() -> None:
    """The smallest that was given back comes first."""
    counted = Runs(Store(NullCache()))
    attempts = [await counted.begin("a", KEYS) for _ in range(4)]
    for number in (2, 1):
        await attempts[number].failed()
    assert [(await counted.begin("a", KEYS)).number for _ in range(3)] == [1, 2, 4]


async def test_a_number_is_given_back_once() -> None:
    """However often an attempt is said to have failed."""
    counted = Runs(Store(NullCache()))
    attempt = await counted.begin("a", KEYS)
    await attempt.failed()
    await attempt.failed()
    assert [(await counted.begin("a", KEYS)).number for _ in range(2)] == [0, 1]


async def test_runs_and_questions_are_counted_apart() -> None:
    """Neither another run nor another question moves the numbers on."""
    counted = Runs(Store(NullCache()))
    for run, keys in (("a", KEYS), ("b", KEYS), ("a", OTHERS), ("a", KEYS + OTHERS)):
        assert (await counted.begin(run, keys)).number == 0


async def test_a_run_ends_after_a_day_without_use() -> None:
    """Not before, if it is used now and then."""
    counted = Runs(Store(NullCache()), clock=(clock := FakeClock()))
    for expected in (0, 1, 2):
        assert (await counted.begin("a", KEYS)).number == expected
        clock.advance(runs.RUN_S - 1)
    clock.advance(2)
    assert (await counted.begin("a", KEYS)).number == 0
    assert len(counted) == 1


async def test_so_many_are_counted_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was asked least lately is forgotten."""
    monkeypatch.setattr(runs, "MAX_QUESTIONS", 2)
    counted = Runs(Store(NullCache()))
    for run in ("a", "b", "a", "c"):
        await counted.begin(run, KEYS)
    assert len(counted) == 2
    assert [(await counted.begin(run, KEYS)).number for run in ("a", "b")] == [2, 0]


async def test_a_number_costs_one_call_to_the_store() -> None:
    """Where one process has all, it asks for nothing else."""
    shared = FakeSharedCache(World())
    counted = Runs(Store(shared))
    for _ in range(5):
        await counted.begin("a", KEYS)
    assert shared.calls == ["claim"] * 5


async def test_numbers_that_another_process_has_are_remembered() -> None:
    """It asks for each of them once; then twice for each of its own: was one given back?"""
    world = World()
    first, shared = Runs(Store(FakeSharedCache(world))), FakeSharedCache(world)
    for _ in range(3):
        await first.begin("a", KEYS)
    counted = Runs(Store(shared))
    assert [(await counted.begin("a", KEYS)).number for _ in range(3)] == [3, 4, 5]
    assert shared.calls == ["claim"] * (4 + 2 + 2)
