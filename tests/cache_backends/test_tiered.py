"""Memory before a shared cache: quick, and never with what was purged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from cache_backends.base import CacheError, Entry, Generation, Key
from cache_backends.known_purges import KnownPurges
from cache_backends.memory import MemoryCache
from cache_backends.shared import EVERYTHING, Filter, PurgeLog
from cache_backends.tiered import LOG_KEPT_S, SHORTENED_ROWS, TieredCache
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.managed_conformance import ManagedConformance
from tests.fakes.clock import FakeClock
from tests.fakes.provider import Gate
from tests.fakes.shared_cache import FakeSharedCache, World

# A purge takes as long.
LEASE_S = 0.02
ABOUT = {"provider": "openai", "dialect": "chat", "model": "m", "namespace": "n", "client": "ann"}


class Process:
    """One that shares the store with others: its cache, and its view of the store."""

    def __init__(self, cache: TieredCache, store: FakeSharedCache) -> None:
        self.cache = cache
        self.store = store

    async def made(self, prompt: str, clock: FakeClock, *said: Generation) -> Entry:
        """An entry whose making begins now."""
        await self.cache.keep_up()
        entry = entry_of(prompt, clock, *said, tags=["t"], about=ABOUT)
        return replace(entry, seen=self.cache.seen)

    def called(self) -> list[str]:
        """What the store was asked for since the last time."""
        calls, self.store.calls = self.store.calls, []
        return calls


Start = Callable[..., Process]


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

        def start(
            store: FakeSharedCache | None = None, lease: float = LEASE_S, **options: Any
        ) -> Process:
            store = store or FakeSharedCache(world, clock)
            memory = MemoryCache(max_bytes=2**22, clock=clock)
            options = {"clock": clock, "monotonic": monotonic} | options
            cache = TieredCache(memory, store, lease=lease, **options)
            stack.push_async_callback(cache.aclose)
            return Process(cache, store)

        yield start


@pytest.fixture
def one(start: Start) -> Process:
    return start()


@pytest.fixture
def other(start: Start) -> Process:
    return start()


@pytest.fixture
def purged(one: Process, monotonic: FakeClock) -> Callable[[Filter], Any]:
    """`await purged(filter)`: the time that the purge took has passed for all."""

    async def purge(filter: Filter) -> int:
        count = await one.cache.purge(filter)
        monotonic.advance(LEASE_S)
        return count

    return purge


Purged = Callable[[Filter], Any]


class TestTieredCache(ManagedConformance):
    @pytest_asyncio.fixture
    async def cache(self, world: World, clock: FakeClock) -> AsyncIterator[TieredCache]:
        memory = MemoryCache(max_bytes=2**28, clock=clock)
        opened = TieredCache(memory, FakeSharedCache(world, clock), lease=0.05, clock=clock)
        yield opened
        await opened.aclose()


async def test_what_is_stored_is_in_the_store_and_in_memory(
    one: Process, other: Process, clock: FakeClock
) -> None:
    """The other process finds it in the store, and from then on in its memory."""
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    one.called()
    assert one.cache.peek(entry.key) == entry
    assert await one.cache.get(entry.key) == entry
    assert one.called() == []
    assert other.cache.peek(entry.key) is None
    assert await other.cache.get(entry.key) == entry
    assert other.cache.peek(entry.key) == entry


async def test_what_the_store_does_not_take_is_not_in_memory(
    one: Process, clock: FakeClock
) -> None:
    """Nobody finds with one process what the others cannot have."""
    entry = await one.made("prompt", clock)
    one.store.down = True
    with pytest.raises(CacheError):
        await one.cache.put(entry)
    one.store.down = False
    assert one.cache.peek(entry.key) is None


async def test_only_what_memory_lacks_is_read(one: Process, clock: FakeClock) -> None:
    """Of many keys, and each answer is in its place."""
    entries = [await one.made(prompt, clock) for prompt in "abcd"]
    await one.cache.put_many(entries[:2])
    await one.store.put_many(entries[2:])
    one.called()
    keys = [entries[place].key for place in (3, 0, 2, 1)]
    assert await one.cache.get_many(keys) == [entries[place] for place in (3, 0, 2, 1)]
    assert await one.cache.get_many(keys) == [entries[place] for place in (3, 0, 2, 1)]
    assert one.called() == ["get"]


async def test_memory_is_asked_only_while_it_is_trusted(
    one: Process, clock: FakeClock, monotonic: FakeClock
) -> None:
    """A lease after the log began to be read it is read again, and then memory answers."""
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    monotonic.advance(LEASE_S - 0.001)
    assert one.cache.trusted
    assert one.cache.peek(entry.key) == entry
    monotonic.advance(0.001)
    assert not one.cache.trusted
    one.called()
    assert one.cache.peek(entry.key) is None
    assert await one.cache.get(entry.key) == entry
    assert one.called() == ["purges"]


async def test_trust_begins_with_the_reading_not_with_its_end(
    one: Process, monotonic: FakeClock
) -> None:
    """What was announced while the answer was on its way is not in it."""
    one.store.gates["purges"] = gate = Gate()
    reading = asyncio.create_task(one.cache.get(Key.of("prompt", "llm")))
    await gate.reached()
    monotonic.advance(LEASE_S * 0.75)
    await gate.open()
    await reading
    assert one.cache.trusted
    monotonic.advance(LEASE_S * 0.25)
    assert not one.cache.trusted


async def test_the_first_one_decides_on_the_lease(start: Start, monotonic: FakeClock) -> None:
    """It is a fact of the store: who is told another one trusts, and waits, no longer."""
    first, second = start(), start(lease=60)
    await first.cache.keep_up()
    await second.cache.keep_up()
    monotonic.advance(LEASE_S)
    assert not second.cache.trusted
    await asyncio.wait_for(second.cache.purge(EVERYTHING), 5)


@pytest.mark.parametrize("said", ["", "soon", "nan", "inf", "0", "-1"])
async def test_a_lease_that_is_none_is_a_fault_of_the_store(
    one: Process, world: World, said: str
) -> None:
    """Without one nobody knows how long to trust."""
    world.facts["memory_lease"] = said
    with pytest.raises(CacheError, match="lease"):
        await one.cache.get(Key.of("prompt", "llm"))
    assert not one.cache.trusted


def test_a_lease_takes_time() -> None:
    """None would mean that memory is never asked."""
    memory = MemoryCache(max_bytes=1)
    with pytest.raises(ValueError, match="lease must be greater than 0"):
        TieredCache(memory, FakeSharedCache(World()), lease=0)


async def test_with_steady_traffic_nobody_waits_for_the_log(
    one: Process, clock: FakeClock, monotonic: FakeClock
) -> None:
    """From half of the lease on it is read beside, once at a time."""
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    monotonic.advance(LEASE_S * 0.49)
    one.called()
    for _ in range(2):
        assert one.cache.peek(entry.key) == entry
    await asyncio.sleep(0)
    assert one.called() == []
    monotonic.advance(LEASE_S * 0.02)
    for _ in range(3):
        assert one.cache.peek(entry.key) == entry
    await asyncio.sleep(0)
    assert one.called() == ["purges"]
    monotonic.advance(LEASE_S / 2)
    assert one.cache.peek(entry.key) == entry


async def test_keeping_up_reads_the_log_when_half_of_the_lease_is_over(
    one: Process, monotonic: FakeClock
) -> None:
    """Whoever asks for it more often costs nothing."""
    await one.cache.keep_up()
    one.called()
    await one.cache.keep_up()
    assert one.called() == []
    monotonic.advance(LEASE_S * 0.51)
    await one.cache.keep_up()
    assert one.called() == ["purges"]


FILTERS = [
    EVERYTHING,
    Filter(ids=(Key.of("prompt", "llm").id,)),
    Filter(tag="t"),
    Filter(stored_before=FakeClock()() + 1),
    Filter(ids=(Key.of("prompt", "llm").id, "0" * 64), **ABOUT),
    *(Filter(**{name: said}) for name, said in ABOUT.items()),
]


@pytest.mark.parametrize("filter", FILTERS, ids=str)
async def test_a_purge_is_complete_when_it_returns(
    one: Process, other: Process, clock: FakeClock, world: World, purged: Purged, filter: Filter
) -> None:
    """Whatever it covers is in no memory and not in the store; how many there were is told."""
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    assert await other.cache.get(entry.key) == entry
    assert await purged(filter) == 1
    for process in (one, other):
        assert process.cache.peek(entry.key) is None
        assert await process.cache.get(entry.key) is None
    assert world.entries == {}


@pytest.mark.parametrize(
    "filter",
    [
        Filter(ids=("0" * 64,)),
        Filter(tag="another"),
        Filter(model="another"),
        Filter(stored_before=FakeClock()()),
        Filter(tag="t", namespace="another"),
    ],
    ids=str,
)
async def test_a_purge_leaves_what_it_does_not_cover(
    one: Process, other: Process, clock: FakeClock, purged: Purged, filter: Filter
) -> None:
    """Also when its making began before."""
    begun = await one.made("begun", clock)
    entry = await one.made("prompt", clock)
    await other.cache.put(entry)
    assert await purged(filter) == 0
    await other.cache.put(begun)
    for process in (one, other):
        assert await process.cache.get_many([entry.key, begun.key]) == [entry, begun]


async def test_a_purge_waits_until_nobody_trusts_what_he_knew(
    start: Start, clock: FakeClock
) -> None:
    """Real time passes: when it returns the other's memory answers no more."""
    one, other = (start(lease=0.1, monotonic=time.monotonic) for _ in range(2))
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    await other.cache.get(entry.key)
    await one.cache.purge(EVERYTHING)
    assert other.cache.peek(entry.key) is None


async def test_before_a_purge_returns_memory_may_answer(
    one: Process, other: Process, clock: FakeClock
) -> None:
    """That is what the waiting is for: without it, this would be wrong."""
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    await other.cache.get(entry.key)
    await one.store.announce(EVERYTHING)
    assert other.cache.peek(entry.key) == entry


async def test_a_lookup_on_its_way_does_not_bring_what_was_purged(
    one: Process, other: Process, clock: FakeClock, purged: Purged
) -> None:
    """Neither to its asker, whom others may have joined, nor into memory."""
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    other.store.gates["get"] = gate = Gate()
    lookup = asyncio.create_task(other.cache.get(entry.key))
    await gate.reached()
    await purged(EVERYTHING)
    await gate.open()
    assert await lookup is None
    assert other.cache.peek(entry.key) is None


async def test_what_memory_had_is_not_told_after_a_purge_either(
    one: Process, other: Process, clock: FakeClock, purged: Purged
) -> None:
    """While another part of the same lookup was on its way."""
    entries = [await one.made(prompt, clock) for prompt in "ab"]
    await one.cache.put_many(entries)
    await other.cache.get(entries[0].key)
    other.store.gates["get"] = gate = Gate()
    lookup = asyncio.create_task(other.cache.get_many([entry.key for entry in entries]))
    await gate.reached()
    await purged(Filter(tag="t"))
    await other.cache.keep_up()
    await gate.open()
    assert await lookup == [None, None]


async def test_what_began_before_a_purge_is_not_stored_after_it(
    one: Process, other: Process, clock: FakeClock, world: World, purged: Purged
) -> None:
    """Nor is it in memory; what began after it is stored."""
    entry = await other.made("prompt", clock)
    await purged(Filter(model="m"))
    await other.cache.put(entry)
    assert world.entries == {}
    assert await other.cache.get(entry.key) is None
    again = await other.made("prompt", clock)
    await other.cache.put(again)
    assert await one.cache.get(entry.key) == again


@pytest.mark.parametrize("filter", FILTERS, ids=str)
async def test_what_is_stored_too_late_is_found_by_nobody(
    start: Start, one: Process, other: Process, clock: FakeClock, purged: Purged, filter: Filter
) -> None:
    """A save that was on its way all through the purge: also after a restart."""
    entry = await other.made("prompt", clock)
    other.store.gates["put"] = gate = Gate()
    save = asyncio.create_task(other.cache.put(entry))
    await gate.reached()
    await purged(filter)
    await gate.open()
    await save
    assert entry.key.id in one.store.world.entries
    for process in (one, other, start()):
        assert await process.cache.get(entry.key) is None
        assert process.cache.peek(entry.key) is None


async def test_what_was_stored_during_a_purge_is_removed_with_it(
    one: Process, other: Process, clock: FakeClock, world: World
) -> None:
    """By one who did not know of it yet: it does not lie about."""
    entry = await other.made("prompt", clock)
    one.store.gates["remove"] = gate = Gate()
    purge = asyncio.create_task(one.cache.purge(EVERYTHING))
    await gate.reached()
    await gate.release()
    await asyncio.sleep(LEASE_S / 4)
    await other.cache.put(entry)
    assert entry.key.id in world.entries
    await gate.open()
    await purge
    assert world.entries == {}


async def test_of_several_purges_those_after_its_making_count(
    one: Process, start: Start, clock: FakeClock, purged: Purged
) -> None:
    """Neither the ones before, nor does one of them hide a later one."""
    await purged(Filter(tag="t"))
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    await purged(Filter(tag="another"))
    assert await start().cache.get(entry.key) == entry
    await purged(Filter(tag="t"))
    await one.store.put(entry)
    assert await start().cache.get(entry.key) is None


async def test_a_narrower_purge_hides_none_before_it(
    start: Start, clock: FakeClock, purged: Purged, one: Process
) -> None:
    """All purges of an id count, not only its last."""
    entry = await one.made("prompt", clock)
    await purged(Filter(ids=(entry.key.id,)))
    await purged(Filter(ids=(entry.key.id,), stored_before=entry.stored_at - 1))
    await one.store.put(entry)
    assert await start().cache.get(entry.key) is None


async def test_a_purge_by_id_tells_whether_there_was_one(one: Process, clock: FakeClock) -> None:
    """`delete` is one."""
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    assert await one.cache.delete(entry.key.id)
    assert not await one.cache.delete(entry.key.id)


async def test_a_replaced_entry_reaches_the_others_within_a_lease(
    one: Process, other: Process, clock: FakeClock, monotonic: FakeClock
) -> None:
    """Although the old one was still good, and in their memory."""
    old = await one.made("prompt", clock)
    await one.cache.put(old)
    await other.cache.get(old.key)
    clock.advance(1)
    new = await one.made("prompt", clock, Generation("new"))
    await one.cache.replace_many([new])
    monotonic.advance(LEASE_S)
    for process in (one, other):
        found = await process.cache.get(old.key)
        assert found is not None
        assert found.generations == [Generation("new")]


async def test_of_two_who_replace_the_same_the_later_one_stays(
    one: Process, other: Process, clock: FakeClock, monotonic: FakeClock
) -> None:
    """They do not take each other for purges, so that nothing would be left."""
    first = await one.made("prompt", clock, Generation("first"))
    clock.advance(1)
    second = await other.made("prompt", clock, Generation("second"))
    one.store.gates["announce"] = other.store.gates["announce"] = gate = Gate()
    replacing = asyncio.gather(one.cache.replace_many([first]), other.cache.replace_many([second]))
    await gate.reached(2)
    await gate.open()
    await replacing
    monotonic.advance(LEASE_S)
    for process in (one, other):
        found = await process.cache.get(first.key)
        assert found is not None
        assert found.generations == [Generation("second")]


async def test_what_replaces_does_not_outlive_a_purge_of_its_making(
    one: Process, other: Process, clock: FakeClock, purged: Purged, world: World
) -> None:
    """It is as old as the fetch that it came from."""
    entry = await other.made("prompt", clock)
    await purged(Filter(tag="t"))
    await other.cache.replace_many([entry])
    assert world.entries == {}
    assert await one.cache.get(entry.key) is None


async def test_an_expired_entry_in_memory_does_not_hide_a_newer_one(
    one: Process, other: Process, clock: FakeClock
) -> None:
    """The store is asked; the expired one is found only if it has no other."""
    old = entry_of("prompt", clock, expires=10, retained=100)
    await one.cache.put(old)
    clock.advance(10)
    assert one.cache.peek(old.key) == await one.cache.get(old.key) == old
    new = entry_of("prompt", clock, Generation("new"), expires=10)
    await other.cache.put(new)
    assert await one.cache.get(old.key) == one.cache.peek(old.key) == new


async def test_rows_that_were_forgotten_may_have_meant_anything(
    one: Process, other: Process, clock: FakeClock, monotonic: FakeClock
) -> None:
    """Who slept through them begins with an empty memory."""
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    await other.cache.get(entry.key)
    for tag in "ab":
        number = await one.store.announce(Filter(tag=tag))
    await one.store.forget(number)
    monotonic.advance(LEASE_S)
    other.called()
    assert await other.cache.get(entry.key) == entry
    assert "get" in other.called()


async def test_what_began_before_rows_that_are_forgotten_is_not_stored(
    one: Process, other: Process, clock: FakeClock, world: World
) -> None:
    """Whether it was purged since cannot be told."""
    entry = await other.made("prompt", clock)
    for tag in "ab":
        number = await one.store.announce(Filter(tag=tag))
    await one.store.forget(number)
    for process in (one, other):
        await process.cache.put(entry)
    assert world.entries != {}, "nobody knew yet"
    world.entries.clear()
    for process in (one, other):
        process.cache._trusted_until = 0.0
        await process.cache.put(entry)
    assert world.entries == {}


async def test_a_store_that_was_lost_empties_memory(
    one: Process, clock: FakeClock, monotonic: FakeClock, world: World
) -> None:
    """What was purged there nobody knows; what is made from now on is kept, and can be purged."""
    await one.store.announce(Filter(tag="another"))
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    world.lose_everything()
    clock.advance(1)
    monotonic.advance(LEASE_S)
    assert await one.cache.get(entry.key) is None
    again = await one.made("prompt", clock)
    await one.cache.put(again)
    assert one.cache.peek(again.key) == again
    await one.cache.purge(EVERYTHING)
    assert await one.cache.get(again.key) is None


async def test_what_began_in_a_lost_store_and_was_purged_there_is_not_stored(
    one: Process, clock: FakeClock, monotonic: FakeClock, world: World, purged: Purged
) -> None:
    """Whoever knew of the purge still does."""
    entry = await one.made("prompt", clock)
    await purged(EVERYTHING)
    world.lose_everything()
    monotonic.advance(LEASE_S)
    await one.cache.put(entry)
    assert world.entries == {}


async def test_the_log_of_another_store_is_read_from_its_beginning(
    one: Process, clock: FakeClock, monotonic: FakeClock, world: World
) -> None:
    """Also where its numbers are smaller than those that were known."""
    await one.store.announce(Filter(tag="another"))
    entry = await one.made("prompt", clock)
    world.lose_everything()
    clock.advance(-3600)
    await one.store.announce(Filter(tag="t"))
    await one.store.put(replace(entry, seen=0))
    monotonic.advance(LEASE_S)
    assert await one.cache.get(entry.key) is None


@pytest.mark.parametrize("factor", [3, 0.1])
async def test_the_lease_of_another_store_is_another(
    one: Process, monotonic: FakeClock, world: World, factor: float
) -> None:
    """Who began that one anew may have been told another lease."""
    await one.cache.keep_up()
    world.lose_everything()
    world.facts["memory_lease"] = str(LEASE_S * factor)
    monotonic.advance(LEASE_S * 0.6)
    await one.cache.keep_up()
    monotonic.advance(LEASE_S * factor * 0.9)
    assert one.cache.trusted
    monotonic.advance(LEASE_S * factor * 0.2)
    assert not one.cache.trusted


async def test_a_log_that_lost_its_last_row_empties_memory(
    one: Process, other: Process, clock: FakeClock, monotonic: FakeClock, world: World
) -> None:
    """As a replica that took over too soon: what was lost is still known to those who read it."""
    before = await one.made("before", clock)
    await one.store.announce(Filter(tag="another"))
    await one.store.announce(Filter(tag="t"))
    monotonic.advance(LEASE_S)
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    world.log.pop()
    world.head = world.log[-1].number
    await one.store.put(before)
    monotonic.advance(LEASE_S)
    one.called()
    assert await one.cache.get(entry.key) == entry
    assert "get" in one.called()
    assert await one.cache.get(before.key) is None


class SlowLog(FakeSharedCache):
    """What is read of the log takes long to arrive."""

    def __init__(self, world: World, clock: FakeClock) -> None:
        super().__init__(world, clock)
        self.arriving: list[Gate] = []

    async def purges(self, after: int) -> PurgeLog:
        read = await super().purges(after)
        if self.arriving:
            await self.arriving.pop(0).enter()
        return read


async def test_a_reading_that_is_overtaken_undoes_nothing(
    start: Start, world: World, clock: FakeClock, monotonic: FakeClock
) -> None:
    """What came later is known, and memory stays as it is."""
    one = start(SlowLog(world, clock))
    await one.cache.keep_up()
    monotonic.advance(LEASE_S)
    assert isinstance(one.store, SlowLog)
    one.store.arriving = [slow := Gate()]
    overtaken = asyncio.create_task(one.cache._read())
    await slow.reached()
    number = await one.store.announce(Filter(tag="t"))
    monotonic.advance(LEASE_S / 4)
    await one.cache.keep_up()
    await one.cache.put(entry := await one.made("prompt", clock))
    await slow.open()
    await overtaken
    assert one.cache.seen == number
    assert one.cache.peek(entry.key) == entry
    monotonic.advance(LEASE_S * 0.9)
    assert one.cache.trusted, "the later reading counts"
    assert one.cache.covered(replace(entry, seen=0))
    await one.cache.keep_up()
    assert one.cache.peek(entry.key) == entry


async def test_up_to_date_is_who_is_trusted_or_began_within_a_lease(
    one: Process, monotonic: FakeClock
) -> None:
    """A purge that was complete since then was announced before, or is known."""
    await one.cache.keep_up()
    assert one.cache.up_to_date(float("-inf"))
    monotonic.advance(LEASE_S)
    assert not one.cache.up_to_date(float("-inf"))
    assert not one.cache.up_to_date(monotonic() - LEASE_S * 1.1)
    assert one.cache.up_to_date(monotonic() - LEASE_S * 0.9)


def test_a_log_whose_rows_do_not_reach_its_head_is_not_followed() -> None:
    """What is missing would never be read."""
    known = KnownPurges()
    known.begin_anew(PurgeLog("store", 0, ()))
    assert known.follows(PurgeLog("store", 0, ()), 0)
    assert not known.follows(PurgeLog("store", 5, ()), 0)


async def test_while_the_store_is_down_everything_says_so(
    one: Process, clock: FakeClock, monotonic: FakeClock
) -> None:
    """Memory answers to the end of the lease, and again when the store is back."""
    entry = await one.made("prompt", clock)
    await one.cache.put(entry)
    one.store.down = True
    assert await one.cache.get(entry.key) == entry
    monotonic.advance(LEASE_S)
    assert one.cache.peek(entry.key) is None
    for call in (
        one.cache.get(entry.key),
        one.cache.put(entry),
        one.cache.replace_many([entry]),
        one.cache.purge(EVERYTHING),
        one.cache.delete(entry.key.id),
        one.cache.aclear(),
        one.cache.keep_up(),
        one.cache.page(EVERYTHING),
        one.cache.amend([entry]),
        one.cache.by_ids([entry.key.id]),
        one.cache.set_fact("name", "value"),
        one.cache.add_hits({entry.key.id: 1}),
        one.cache.add_counts("group", {"name": 1}),
        one.cache.counts("group"),
        one.cache.forget_counts("group"),
        one.cache.totals(),
        one.cache.fact("name", "value"),
        one.cache.claim("name", "me", 1),
        one.cache.release("name", "me"),
    ):
        with pytest.raises(CacheError, match="down"):
            await call
    assert one.cache.peek(entry.key) is None
    one.store.down = False
    assert await one.cache.get(entry.key) == one.cache.peek(entry.key) == entry


async def test_an_announced_purge_holds_although_it_failed(
    one: Process, other: Process, clock: FakeClock, monotonic: FakeClock, world: World
) -> None:
    """Whoever asked for it is told of the failure, and nobody is told what it covers."""
    entry = await one.made("prompt", clock)
    await other.cache.put(entry)
    one.store.gates["remove"] = gate = Gate()
    purge = asyncio.create_task(one.cache.purge(EVERYTHING))
    await gate.reached()
    purge.cancel()
    monotonic.advance(LEASE_S)
    assert entry.key.id in world.entries
    assert await other.cache.get(entry.key) is None
    assert await one.cache.get(entry.key) is None


async def looked_after(process: Process) -> None:
    """What is done beside while requests come, at the latest when the lease is over."""
    process.cache._trusted_until = 0.0
    process.cache.peek(Key.of("prompt", "llm"))
    for task in ("_reading", "_shortening"):
        if (begun := getattr(process.cache, task)) is not None:
            await begun


async def test_old_purges_are_carried_out_once_more_and_forgotten(
    one: Process, other: Process, clock: FakeClock, monotonic: FakeClock, world: World
) -> None:
    """By each who reads the log: what was stored too late goes with them."""
    late = await one.made("late", clock)
    for tag in ("t", "another", "last"):
        await one.cache.purge(Filter(tag=tag))
    await one.store.put(late)
    clock.advance(LOG_KEPT_S + 1)
    assert await other.cache.get(late.key) is None
    await looked_after(other)
    assert other.called().count("remove") == 2
    assert late.key.id not in world.entries
    assert [purge.filter for purge in world.log] == [Filter(tag="last")]
    monotonic.advance(LEASE_S)
    await looked_after(one)
    assert [*one.cache._known._rows] == [world.head], "it knows them no more"
    await one.cache.put(late)
    assert world.entries == {}


async def test_what_is_still_in_the_log_is_still_known(
    one: Process, clock: FakeClock, monotonic: FakeClock
) -> None:
    """However old: as long as nobody has carried it out once more."""
    late = await one.made("late", clock)
    await one.cache.purge(EVERYTHING)
    await one.store.put(late)
    clock.advance(LOG_KEPT_S * 100)
    monotonic.advance(LEASE_S)
    assert await one.cache.get(late.key) is None


async def test_the_log_is_shortened_a_little_at_a_time(
    one: Process, clock: FakeClock, world: World
) -> None:
    """So that what was done is not done again if the store fails."""
    for number in range(SHORTENED_ROWS + 50):
        await one.store.announce(Filter(ids=(str(number),)))
    clock.advance(LOG_KEPT_S + 1)
    await looked_after(one)
    assert one.called().count("forget") == 2
    assert len(world.log) == 1
    assert one.cache._known._named.keys() == {str(SHORTENED_ROWS + 49)}


async def test_most_updates_of_langchain_need_no_row_in_the_log(
    one: Process, other: Process, world: World, monotonic: FakeClock
) -> None:
    """One that follows a miss takes nothing from anybody; one that replaces does."""
    await one.cache.aupdate("prompt", "llm", [Generation("first")])
    assert world.log == []
    assert await other.cache.alookup("prompt", "llm") == [Generation("first")]
    await asyncio.sleep(0.001)
    await one.cache.aupdate("prompt", "llm", [Generation("second")])
    monotonic.advance(LEASE_S)
    assert await other.cache.alookup("prompt", "llm") == [Generation("second")]


async def test_langchains_answers_are_kept_after_a_clear(one: Process) -> None:
    """Their making has no beginning that is known: it is taken for now."""
    await one.cache.aclear()
    await one.cache.aupdate("prompt", "llm", [Generation("new")])
    assert await one.cache.alookup("prompt", "llm") == [Generation("new")]


async def test_threads_and_loops_share_one_cache(one: Process) -> None:
    """What is stored in one is found in the other, what is cleared in one is gone in the other."""
    await asyncio.to_thread(one.cache.update, "prompt", "llm", [Generation("said")])
    assert one.cache.peek(Key.of("prompt", "llm")) is not None
    assert await one.cache.alookup("prompt", "llm") == [Generation("said")]
    assert one.cache.lookup("prompt", "llm") == [Generation("said")]
    await asyncio.to_thread(one.cache.clear)
    assert await one.cache.alookup("prompt", "llm") is None


def test_without_a_loop_memory_can_be_looked_at(
    world: World, clock: FakeClock, monotonic: FakeClock
) -> None:
    """Only the log is not read soon then."""
    memory = MemoryCache(max_bytes=2**20)
    cache = TieredCache(memory, FakeSharedCache(world), lease=LEASE_S, monotonic=monotonic)
    cache.update("prompt", "llm", [Generation("said")])
    monotonic.advance(LEASE_S * 0.75)
    assert cache.peek(Key.of("prompt", "llm")) is not None
    monotonic.advance(LEASE_S * 0.25)
    assert cache.peek(Key.of("prompt", "llm")) is None
    assert cache.lookup("prompt", "llm") == [Generation("said")]
    asyncio.run(cache.aclose())


async def test_a_cache_is_closed_in_the_middle_of_a_reading(one: Process) -> None:
    """It is given up; no task is left."""
    one.store.gates["purges"] = gate = Gate()
    one.cache.peek(Key.of("prompt", "llm"))
    await gate.reached()
    await asyncio.wait_for(one.cache.aclose(), 5)
    assert gate.waiting == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Closable(FakeSharedCache):
    closed = False

    async def aclose(self) -> None:
        self.closed = True


def test_a_cache_is_closed_without_a_loop(world: World) -> None:
    """The store is closed, the thread of the sync calls ends, and what it read is given up."""
    store = Closable(world)
    cache = TieredCache(MemoryCache(max_bytes=2**20), store, lease=LEASE_S)
    cache.update("prompt", "llm", [Generation("said")])
    thread = cache._thread._thread
    store.gates["purges"] = gate = Gate()
    cache._thread.call(_begin_reading(cache, gate))
    cache.close()
    assert store.closed
    assert gate.waiting == 0
    assert thread is not None
    thread.join(5)
    assert not thread.is_alive()


async def _begin_reading(cache: TieredCache, gate: Gate) -> None:
    cache._read_soon()
    await gate.reached()


def test_evictions_are_those_of_what_is_shared() -> None:
    """What leaves the memory of one process is still there."""
    shared = FakeSharedCache(World())
    assert TieredCache(MemoryCache(max_bytes=1), shared).evictions == 0
    shared.evictions = 3  # type: ignore[attr-defined]  # as the caches have it that evict
    assert TieredCache(MemoryCache(max_bytes=1), shared).evictions == 3
