"""Stores that are lost, slow or overrun, and what memory before them makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import pytest_asyncio

from cache_backends import known_purges
from cache_backends.base import Entry, Key
from cache_backends.memory import MemoryCache
from cache_backends.shared import EVERYTHING, Filter
from cache_backends.tiered import CROWDED_LOG_KEPT_S, TieredCache
from tests.cache_backends.conformance import entry_of
from tests.fakes.clock import FakeClock
from tests.fakes.provider import Gate
from tests.fakes.shared_cache import FakeSharedCache, World

LEASE_S = 0.02


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def monotonic() -> FakeClock:
    return FakeClock(1000.0)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def store(world: World, clock: FakeClock) -> FakeSharedCache:
    """What the tests break."""
    return FakeSharedCache(world, clock)


Start = Callable[[], TieredCache]


@pytest_asyncio.fixture
async def start(
    store: FakeSharedCache, clock: FakeClock, monotonic: FakeClock
) -> AsyncIterator[Start]:
    """`start()`: one more process before the store."""
    async with AsyncExitStack() as stack:

        def start() -> TieredCache:
            memory = MemoryCache(max_bytes=2**22, clock=clock)
            cache = TieredCache(memory, store, lease=LEASE_S, clock=clock, monotonic=monotonic)
            stack.push_async_callback(cache.aclose)
            return cache

        yield start


async def made(cache: TieredCache, prompt: str, clock: FakeClock) -> Entry:
    """An entry whose making begins now."""
    await cache.keep_up()
    return replace(entry_of(prompt, clock), seen=cache.seen)


@pytest.mark.parametrize("earlier", [0, 2])
async def test_what_began_in_a_lost_store_may_have_been_purged_there(
    start: Start, store: FakeSharedCache, clock: FakeClock, monotonic: FakeClock, earlier: int
) -> None:
    """By a purge that nobody but who asked for it has read: it is not stored any more."""
    sleeper, purger = start(), start()
    for _ in range(earlier):
        await store.announce(Filter(tag="another"))
    entry = await made(sleeper, "prompt", clock)
    await purger.purge(EVERYTHING)
    store.world.lose_everything()
    monotonic.advance(LEASE_S)
    await sleeper.put(entry)
    assert store.world.entries == {}
    assert sleeper.covered(entry), "nor may others join its making"
    await sleeper.put(await made(sleeper, "prompt", clock))
    assert store.world.entries != {}


async def test_many_who_come_after_a_pause_wait_for_one_reading(
    start: Start, store: FakeSharedCache, clock: FakeClock, monotonic: FakeClock
) -> None:
    """The log is read once for all of them."""
    cache = start()
    entries = [await made(cache, str(number), clock) for number in range(50)]
    await cache.put_many(entries)
    monotonic.advance(LEASE_S * 2)
    store.calls.clear()
    store.gates["purges"] = gate = Gate()
    lookups = [asyncio.create_task(cache.get(entry.key)) for entry in entries]
    await gate.reached()
    await asyncio.sleep(0)
    await gate.open()
    assert await asyncio.gather(*lookups) == entries
    assert store.calls == ["purges"]


async def test_whoever_comes_too_late_to_a_reading_does_not_rely_on_it(
    start: Start, store: FakeSharedCache, clock: FakeClock, monotonic: FakeClock
) -> None:
    """A purge may have become complete since that began."""
    cache = start()
    entry = await made(cache, "prompt", clock)
    await cache.put(entry)
    monotonic.advance(LEASE_S)
    store.gates["purges"] = gate = Gate()
    first = asyncio.create_task(cache.get(entry.key))
    await gate.reached()
    await store.announce(EVERYTHING)
    monotonic.advance(LEASE_S)
    second = asyncio.create_task(cache.get(entry.key))
    await asyncio.sleep(0)
    await gate.open()
    await first
    assert await second is None


async def test_after_a_pause_the_log_is_read_while_the_store_is_asked(
    start: Start, store: FakeSharedCache, clock: FakeClock, monotonic: FakeClock
) -> None:
    """Not one after the other: a store that is slow is not twice as slow."""
    cache = start()
    entry = await made(cache, "prompt", clock)
    await store.put(entry)
    monotonic.advance(LEASE_S)
    store.gates = {"purges": Gate(), "get": Gate()}
    lookup = asyncio.create_task(cache.get(entry.key))
    for gate in store.gates.values():
        await gate.reached()
    for gate in store.gates.values():
        await gate.open()
    assert await lookup == entry


@pytest.mark.parametrize("lost", [False, True])
async def test_what_was_held_when_the_log_was_lost_is_looked_up_again(
    start: Start, store: FakeSharedCache, clock: FakeClock, monotonic: FakeClock, lost: bool
) -> None:
    """Purges that are gone with it may have covered it."""
    cache = start()
    entry = await made(cache, "prompt", clock)
    await cache.put(entry)
    monotonic.advance(LEASE_S)
    if lost:
        store.world.lose_everything()
    assert await cache.get(entry.key) == (None if lost else entry)


async def test_one_who_gives_up_leaves_the_reading_to_the_others(
    start: Start, store: FakeSharedCache, clock: FakeClock, monotonic: FakeClock
) -> None:
    """Whoever was the first to wait for it."""
    cache = start()
    entry = await made(cache, "prompt", clock)
    await cache.put(entry)
    monotonic.advance(LEASE_S)
    store.gates["purges"] = gate = Gate()
    first, second = (asyncio.create_task(cache.get(entry.key)) for _ in range(2))
    await gate.reached()
    first.cancel()
    await gate.release()
    assert await second == entry
    assert first.cancelled()


async def test_a_long_removal_does_not_keep_the_log_from_being_read(
    start: Start, store: FakeSharedCache, clock: FakeClock, monotonic: FakeClock
) -> None:
    """While old purges are carried out once more, memory goes on to be trusted."""
    cache = start()
    for _ in range(2):
        await store.announce(Filter(tag="another"))
    await cache.keep_up()
    clock.advance(10_000)
    store.gates["remove"] = gate = Gate()
    monotonic.advance(LEASE_S * 0.6)
    cache.peek(Key.of("prompt", "llm"))
    await gate.reached()
    monotonic.advance(LEASE_S * 0.6)
    cache.peek(Key.of("prompt", "llm"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    monotonic.advance(LEASE_S * 0.6)
    assert cache.trusted
    await gate.open()


async def test_a_log_is_not_kept_beyond_so_many_rows(
    start: Start,
    store: FakeSharedCache,
    clock: FakeClock,
    monotonic: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for the youngest; what began before those that go is neither stored nor joined."""
    monkeypatch.setattr(known_purges, "MAX_ROWS", 10)
    cache = start()
    early = await made(cache, "prompt", clock)
    for number in range(250):
        await store.announce(Filter(ids=(str(number),)))
    monotonic.advance(LEASE_S)
    await cache.get(early.key)
    assert cache._shortening is None
    clock.advance(CROWDED_LOG_KEPT_S + 1)
    monotonic.advance(LEASE_S)
    await cache.get(early.key)
    assert cache._shortening is not None
    await cache._shortening
    assert len(store.world.log) == 10
    await cache.put(early)
    assert store.world.entries == {}
    assert cache.covered(early)
