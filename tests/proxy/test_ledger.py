"""Sums that outlive the process, add up over all, and are written while the cache is there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cache_backends import MemoryCache
from cache_backends.base import Entry, EntryCache, Generation, Key, NullCache
from proxy import ledger as ledgers
from proxy.errors import CacheOutOfReach
from proxy.ledger import Ledger
from proxy.models import Event, Outcome
from proxy.savings import settle
from proxy.store import Store
from proxy.tally import Tally
from tests.fakes.clock import FakeClock
from tests.fakes.provider import Gate
from tests.fakes.shared_cache import FakeSharedCache, World

NOON = 1_800_014_400.0  # 2027-01-15, 12:00 UTC


class Proxy:
    """What counts in one process."""

    def __init__(self, cache: EntryCache, clock: FakeClock | None = None) -> None:
        self.tally = Tally()
        self.clock = clock or FakeClock(NOON)
        self.store = Store(cache, scope_secret=b"known")
        self.ledger = Ledger(self.store, self.tally, clock=self.clock)

    def hit(self, **fields: Any) -> None:
        self.told(Event("/", outcome=Outcome.HIT, status=200, tier="memory", **fields))

    def miss(self, **fields: Any) -> None:
        self.told(Event("/", outcome=Outcome.MISS, status=200, **fields))

    def told(self, event: Event) -> None:
        settle(event)
        self.tally.record(event)

    async def figures(self) -> tuple[int, int]:
        stats = await self.ledger.stats()
        return stats["hits"], stats["misses"]


async def test_sums_outlive_the_process() -> None:
    """After a restart counting goes on where it ended, and `since` stays what it was."""
    world, clock = World(), FakeClock(NOON)
    first = Proxy(FakeSharedCache(world), clock)
    first.hit(usd=0.5, model="gpt-5")
    before = await first.ledger.stats()
    clock.advance(3600)
    second = Proxy(FakeSharedCache(world), clock)
    second.hit(usd=0.25, model="gpt-5")
    after = await second.ledger.stats()
    assert (before["hits"], after["hits"]) == (1, 2)
    assert after["saved"]["usd"] == after["by_model"]["gpt-5"]["saved"]["usd"] == 0.75
    assert before["since"] == after["since"] == "2027-01-15T12:00:00Z"
    assert after["covers"] == "all processes"


async def test_sums_of_all_processes_add_up() -> None:
    """Whoever is asked tells of all."""
    world = World()
    proxies = [Proxy(FakeSharedCache(world)) for _ in range(3)]
    for number, each in enumerate(proxies):
        for _ in range(number + 1):
            each.hit()
        each.miss()
    for each in proxies:
        await each.ledger.flush()
    assert [await each.figures() for each in proxies] == [(6, 3)] * 3


async def test_what_cannot_be_written_is_kept() -> None:
    """While the cache is down figures are those of this process; then nothing was lost."""
    world = World()
    cache = FakeSharedCache(world)
    cache.down = True
    proxy = Proxy(cache)
    for _ in range(3):
        proxy.hit()
        await proxy.ledger.flush()
    stats = await proxy.ledger.stats()
    assert (stats["hits"], stats["covers"], stats["entries"]) == (3, "this process", None)
    cache.down = False
    proxy.hit()
    stats = await proxy.ledger.stats()
    assert (stats["hits"], stats["covers"]) == (4, "all processes")


async def test_what_waits_to_be_written_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hits of entries past a limit are not remembered, nor days before the last few."""
    monkeypatch.setattr(ledgers, "MAX_ENTRIES", 10)
    cache = FakeSharedCache(World())
    cache.down = True
    clock = FakeClock(NOON)
    proxy = Proxy(cache, clock)
    for number in range(20):
        proxy.tally.found([f"{number:064x}"])
        proxy.hit()
        await proxy.ledger.flush()
        clock.advance(86400)
    cache.down = False
    await proxy.ledger.flush()
    assert await proxy.figures() == (20, 0)
    days = [group for group in cache.world.counts if group.startswith("day ")]
    assert len(days) == ledgers.MAX_GROUPS - 1


async def test_entries_know_their_hits() -> None:
    """Each hit counts for the entries that answered."""
    world = World()
    cache = FakeSharedCache(world)
    key = Key.of("prompt", "llm")
    await cache.put_many([Entry(key, [Generation("answer")], stored_at=NOON)])
    proxy = Proxy(cache)
    proxy.tally.found([key.id, key.id])
    proxy.hit()
    await proxy.ledger.flush()
    proxy.tally.found([key.id, "0" * 64])
    await proxy.ledger.flush()
    assert world.hits == {key.id: 3}


async def test_a_quiet_proxy_writes_nothing() -> None:
    """Where nothing happened there is nothing to add."""
    cache = FakeSharedCache(World())
    proxy = Proxy(cache)
    proxy.hit()
    await proxy.ledger.flush()
    cache.calls.clear()
    for _ in range(3):
        await proxy.ledger.flush()
    assert not {"add_counts", "add_hits"} & set(cache.calls)


async def test_a_cache_that_cannot_count() -> None:
    """Then the figures are those of this process, since its start."""
    proxy = Proxy(NullCache())
    proxy.hit()
    await proxy.ledger.flush()
    proxy.hit()
    stats = await proxy.ledger.stats()
    assert (stats["hits"], stats["covers"]) == (2, "this process")
    assert stats["since"] == "2027-01-15T12:00:00Z"
    history = await proxy.ledger.history(1, 5)
    assert [point["hits"] for point in history["points"]] == [2]
    assert history["covers"] == "this process"


async def test_a_cache_that_is_away_has_the_history() -> None:
    """Nobody is told that nothing happened."""
    cache = FakeSharedCache(World())
    proxy = Proxy(cache)
    proxy.hit()
    await proxy.ledger.flush()
    cache.down = True
    with pytest.raises(CacheOutOfReach):
        await proxy.ledger.history(1, 5)
    cache.down = False
    assert [point["hits"] for point in (await proxy.ledger.history(1, 5))["points"]] == [1]


async def test_a_cache_in_memory_counts() -> None:
    """For as long as it is there."""
    proxy = Proxy(MemoryCache(max_bytes=2**20))
    proxy.hit()
    proxy.miss()
    assert await proxy.figures() == (1, 1)
    assert (await proxy.ledger.stats())["covers"] == "all processes"


async def test_history_is_in_steps() -> None:
    """Five minutes each, or what was asked for; where nothing happened there is no point."""
    clock = FakeClock(NOON)
    proxy = Proxy(FakeSharedCache(World()), clock)
    for seconds in (0, 240, 120, 3600):
        clock.advance(seconds)
        proxy.hit(seconds=0.001, made_seconds=2.0, usd=0.5)
        proxy.miss(seconds=2.0)
        await proxy.ledger.flush()
    fine, coarse = await proxy.ledger.history(24, 5), await proxy.ledger.history(24, 60)
    assert [(point["at"], point["hits"]) for point in fine["points"]] == [
        ("2027-01-15T12:00:00Z", 2),
        ("2027-01-15T12:05:00Z", 1),
        ("2027-01-15T13:05:00Z", 1),
    ]
    assert [point["saved"]["usd"] for point in coarse["points"]] == [1.5, 0.5]
    (first, _, _) = fine["points"]
    assert first["latency"]["hits"] == pytest.approx(0.001)
    assert first["latency"]["misses"] == pytest.approx(2.0)
    assert first["hit_ratio"] == 0.5


async def test_history_goes_over_midnight() -> None:
    """Days are kept apart, and told as one."""
    clock = FakeClock(NOON + 11.9 * 3600)
    proxy = Proxy(FakeSharedCache(World()), clock)
    for _ in range(2):
        proxy.hit()
        await proxy.ledger.flush()
        clock.advance(600)
    points = (await proxy.ledger.history(2, 5))["points"]
    assert [point["at"][:10] for point in points] == ["2027-01-15", "2027-01-16"]


async def test_old_days_are_forgotten() -> None:
    """A month later, by whoever is there; the sums of all time stay."""
    world, clock = World(), FakeClock(NOON)
    proxy = Proxy(FakeSharedCache(world), clock)
    proxy.hit()
    await proxy.ledger.flush()
    clock.advance(35 * 86400)
    for _ in range(ledgers.LOOKED_BACK_DAYS):
        proxy.hit()
        await proxy.ledger.flush()
    assert [group for group in world.counts if group.startswith("day ")] == ["day 2027-02-19"]
    assert (await proxy.figures())[0] == 1 + ledgers.LOOKED_BACK_DAYS


async def test_names_stay_bounded_over_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process begins with the names that were counted before, not with none."""
    monkeypatch.setattr("proxy.tally.MAX_MODELS", 6)
    world = World()
    for start in range(3):
        proxy = Proxy(FakeSharedCache(world))
        await proxy.ledger.flush()
        for number in range(10):
            proxy.hit(model=f"model-{start}-{number}")
        await proxy.ledger.flush()
    models = (await proxy.ledger.stats())["by_model"]
    assert len(models) <= 6
    assert sum(each["hits"] for each in models.values()) == 30


async def test_what_is_being_written_is_written_when_the_end_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopping gives up no write that is under way, and writes the rest."""
    monkeypatch.setattr(ledgers, "FLUSH_S", 0.01)
    cache = FakeSharedCache(World())
    proxy = Proxy(cache)
    await proxy.ledger.flush()
    gate = cache.gates["add_counts"] = Gate()
    proxy.hit()
    running = asyncio.create_task(proxy.ledger.run())
    await gate.reached()
    proxy.hit()
    running.cancel()
    cache.gates.clear()
    ending = asyncio.create_task(proxy.ledger.flush())
    await gate.open()
    await ending
    assert cache.world.counts["all"]["outcome/memory"] == 2
