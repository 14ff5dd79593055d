"""An entry that is put right: nobody is told the old one any more, and it is never missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from cache_backends.base import CacheError, Entry, Generation, Key
from cache_backends.memory import MemoryCache
from cache_backends.shared import EVERYTHING, Filter
from cache_backends.tiered import TieredCache
from tests.cache_backends.conformance import entry_of
from tests.fakes.clock import FakeClock
from tests.fakes.provider import Gate
from tests.fakes.shared_cache import FakeSharedCache, World

LEASE_S = 0.02
KEY = Key.of("prompt", "llm")
RIGHT = [Generation("right")]

Start = Callable[..., TieredCache]
Amended = Callable[..., Any]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def monotonic() -> FakeClock:
    return FakeClock(1000.0)


@pytest_asyncio.fixture
async def start(world: World, clock: FakeClock, monotonic: FakeClock) -> AsyncIterator[Start]:
    """`start()`: one more process before the store."""
    async with AsyncExitStack() as stack:

        def start(store: FakeSharedCache | None = None) -> TieredCache:
            memory = MemoryCache(max_bytes=2**22, clock=clock)
            store = store or FakeSharedCache(world, clock)
            cache = TieredCache(memory, store, lease=LEASE_S, clock=clock, monotonic=monotonic)
            stack.push_async_callback(cache.aclose)
            return cache

        yield start


@pytest.fixture
def one(start: Start) -> TieredCache:
    return start()


@pytest_asyncio.fixture
async def old(one: TieredCache, clock: FakeClock) -> Entry:
    """What is in the store; a second has passed since."""
    entry = entry_of("prompt", clock, Generation("wrong"), tags=["t"])
    await one.put(entry)
    clock.advance(1)
    return entry


@pytest.fixture
def amended(one: TieredCache, old: Entry, monotonic: FakeClock) -> Amended:
    """`await amended()`: the time that it took has passed for all."""

    async def amend(**changes: Any) -> Entry:
        right = replace(old, **({"generations": RIGHT} | changes))
        await one.amend([right])
        monotonic.advance(LEASE_S)
        return right

    return amend


def same(entry: Entry | None, other: Entry) -> bool:
    """But for what was known when they were made."""
    return entry is not None and replace(entry, seen=0) == replace(other, seen=0)


async def made(cache: TieredCache, clock: FakeClock, text: str = "fetched") -> Entry:
    """A fetch of the same answer begins, at the latest now."""
    await cache.keep_up()
    return replace(entry_of("prompt", clock, Generation(text), tags=["t"]), seen=cache.seen)


async def test_it_is_complete_when_it_returns(
    one: TieredCache, start: Start, old: Entry, amended: Amended
) -> None:
    """Whoever had the old one in memory has the new one; all else about it is as it was said."""
    other = start()
    assert await other.get(KEY) == old
    right = await amended(tags=("a", "b"))
    for cache in (one, other, start()):
        assert same(await cache.get(KEY), right)
        assert same(cache.peek(KEY), right)
        assert same((await cache.by_ids([KEY.id]))[0], right)


async def test_before_it_returns_memory_may_tell_the_old_one(
    one: TieredCache, start: Start, old: Entry, monotonic: FakeClock
) -> None:
    """That is what the waiting is for: a process that does not read the log trusts until then."""
    other = start()
    await other.get(KEY)
    amending = asyncio.create_task(one.amend([replace(old, generations=RIGHT)]))
    await asyncio.sleep(LEASE_S / 4)
    assert not amending.done()
    assert other.peek(KEY) == old
    await amending


class Watched(FakeSharedCache):
    """Somebody looks before each thing that it is asked to do."""

    look: Callable[[], Any] | None = None

    async def _called(self, what: str) -> None:
        if self.look is not None:
            await self.look()
        await super()._called(what)


async def test_it_is_never_missing(
    world: World, clock: FakeClock, start: Start, old: Entry
) -> None:
    """Nobody has to fetch it meanwhile, neither who knows of it already nor who does not."""
    store = Watched(world, clock)
    cache, unaware, told = start(store), start(), []
    await unaware.get(KEY)

    async def look() -> None:
        for each in (start(), unaware):
            found = await each.get(KEY)
            told.append(None if found is None else found.generations[0].text)

    store.look = look
    await cache.amend([replace(old, generations=RIGHT)])
    assert set(told) == {"wrong", "right"}


async def test_a_lookup_on_its_way_brings_the_new_one(
    start: Start, old: Entry, world: World, clock: FakeClock, amended: Amended
) -> None:
    """What it was to bring is neither told nor kept."""
    store = FakeSharedCache(world, clock)
    other = start(store)
    store.gates["get"] = gate = Gate()
    lookup = asyncio.create_task(other.get(KEY))
    await gate.reached()
    right = await amended()
    await gate.open()
    assert same(await lookup, right)
    assert same(other.peek(KEY), right)


class Slow(FakeSharedCache):
    """What it has stored it tells late."""

    telling: Gate | None = None

    async def put_many(self, entries: Sequence[Entry]) -> None:
        await super().put_many(entries)
        if self.telling is not None:
            await self.telling.enter()


async def test_who_hears_late_that_he_stored_it_does_not_keep_the_old_one(
    start: Start, one: TieredCache, world: World, clock: FakeClock, monotonic: FakeClock
) -> None:
    """Another has read it in the store by then, and put it right."""
    store = Slow(world, clock)
    writer = start(store)
    entry = await made(writer, clock)
    store.telling = gate = Gate()
    save = asyncio.create_task(writer.put(entry))
    await gate.reached()
    right = replace(entry, generations=RIGHT)
    await one.amend([right])
    monotonic.advance(LEASE_S)
    await writer.keep_up()
    await gate.open()
    await save
    assert writer.peek(KEY) is None
    assert same(await writer.get(KEY), right)


async def test_a_fetch_that_began_before_is_not_stored_over_it(
    start: Start, old: Entry, clock: FakeClock, amended: Amended
) -> None:
    """One that began after is."""
    other = start()
    began = await made(other, clock)
    right = await amended()
    await other.put(began)
    assert same(await other.get(KEY), right)
    clock.advance(1)
    later = await made(other, clock, "later")
    await other.put(later)
    assert await other.get(KEY) == later


async def test_who_does_not_know_of_it_does_not_store_over_it_either(
    one: TieredCache, start: Start, old: Entry, clock: FakeClock, world: World
) -> None:
    """What he stores meanwhile is found by nobody, and the new one is back when it returns."""
    other, right = start(), replace(old, generations=RIGHT)
    began = await made(other, clock)
    amending = asyncio.create_task(one.amend([right]))
    await asyncio.sleep(LEASE_S / 4)
    await other.put(began)
    assert world.entries[KEY.id] == began
    assert await start().get(KEY) is None
    await amending
    assert same(await start().get(KEY), right)


async def test_a_fetch_that_finds_nothing_began_after_it(
    one: TieredCache, start: Start, clock: FakeClock, world: World, monotonic: FakeClock
) -> None:
    """Or it would be taken for one that knew of what it overwrites."""
    store = FakeSharedCache(world, clock)
    other = start(store)
    store.gates["get"] = gate = Gate()
    lookup = asyncio.create_task(other.get(KEY))
    await gate.reached()
    await one.put(old := await made(one, clock))
    right = replace(old, generations=RIGHT)
    await one.amend([right])
    monotonic.advance(LEASE_S)
    await gate.open()
    assert same(await lookup, right)


async def test_what_was_purged_since_it_was_read_is_not_put_back(
    one: TieredCache, start: Start, old: Entry, amended: Amended, world: World
) -> None:
    """Whoever purged it was told that it is gone."""
    await start().purge(Filter(tag="t"))
    await amended()
    assert world.entries == {}


async def test_a_purge_meanwhile_takes_the_new_one_too(
    one: TieredCache, start: Start, old: Entry, world: World
) -> None:
    """It is not put back at the end either."""
    amending = asyncio.create_task(one.amend([replace(old, generations=RIGHT)]))
    await asyncio.sleep(LEASE_S / 4)
    await start().purge(EVERYTHING)
    await amending
    assert await start().get(KEY) is None
    assert world.entries == {}


async def test_a_tag_that_was_purged_before_can_be_given(
    start: Start, old: Entry, amended: Amended
) -> None:
    """What the purge covered was another: this one was not about it then."""
    await start().purge(Filter(tag="new"))
    right = await amended(tags=("new",))
    for cache in (start(), start()):
        assert same(await cache.get(KEY), right)


async def test_two_at_once_leave_one_for_all(
    world: World, start: Start, clock: FakeClock, old: Entry, monotonic: FakeClock
) -> None:
    """Whichever of the two it is, no memory holds the other."""
    stores = [FakeSharedCache(world, clock) for _ in range(2)]
    first, second = map(start, stores)
    readers = [start() for _ in range(3)]
    stores[0].gates["put"] = gate = Gate()
    rights = [replace(old, generations=[Generation(text)]) for text in ("first", "second")]
    amending = asyncio.gather(first.amend([rights[0]]), second.amend([rights[1]]))
    await gate.reached()
    for reader in readers:
        await reader.get(KEY)
        await asyncio.sleep(LEASE_S / 3)
    await gate.open()
    await amending
    monotonic.advance(LEASE_S)
    told = [await cache.get(KEY) for cache in (first, second, *readers)]
    assert all(same(each, world.entries[KEY.id]) for each in told)


async def test_many_are_put_right_at_once(
    one: TieredCache, start: Start, clock: FakeClock, monotonic: FakeClock
) -> None:
    """Of several ages; and of none at all nothing is announced."""
    entries = []
    for number in range(5):
        clock.advance(1)
        entries.append(entry_of(str(number), clock))
    await one.put_many(entries)
    rights = [replace(entry, generations=RIGHT) for entry in entries]
    await one.amend(rights)
    monotonic.advance(LEASE_S)
    found = await start().get_many([entry.key for entry in entries])
    assert all(map(same, found, rights))
    head = one.seen
    await one.amend([])
    await one.keep_up()
    assert one.seen == head


@pytest.mark.parametrize("step", ["announce", "purges", "get", "put"])
async def test_what_cannot_be_done_is_not_claimed(
    step: str, start: Start, world: World, clock: FakeClock, old: Entry
) -> None:
    """Whenever the store is lost; the entry is still there."""
    store = FakeSharedCache(world, clock)
    cache = start(store)
    await cache.keep_up()
    store.gates[step] = gate = Gate()
    amending = asyncio.create_task(cache.amend([replace(old, generations=RIGHT)]))
    await gate.reached()
    store.down = True
    await gate.open()
    with pytest.raises(CacheError, match="down"):
        await amending
    assert await start().get(KEY) is not None
