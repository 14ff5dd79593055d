"""The caches in memory."""

from __future__ import annotations

import asyncio
import sys
import threading
import tracemalloc
from dataclasses import replace

import pytest

from cache_backends import Entry, Generation, InMemoryCache, Key, MemoryCache, known_purges
from cache_backends.memory import MAX_UNPACKED
from cache_backends.shared import EVERYTHING, Filter, Narrowing
from tests.cache_backends.conformance import LangChainConformance, entry_of
from tests.cache_backends.evicting_conformance import SMALL_BYTES, EvictingConformance
from tests.cache_backends.managed_conformance import ManagedConformance
from tests.fakes.clock import FakeClock


def str_copy(text: str) -> str:
    return text.encode().decode()


class TestInMemoryCache(LangChainConformance):
    @pytest.fixture
    def cache(self) -> InMemoryCache:
        return InMemoryCache()

    @pytest.mark.parametrize("maxsize", [0, -1])
    def test_a_cache_without_room_is_refused(self, maxsize: int) -> None:
        """The message is LangChain's."""
        with pytest.raises(ValueError, match=r"^maxsize must be greater than 0$"):
            InMemoryCache(maxsize=maxsize)

    async def test_it_can_be_closed_as_all_others(self) -> None:
        """Nothing is lost by it."""
        cache = InMemoryCache()
        cache.update("a", "llm", [Generation("a")])
        await cache.aclose()
        assert cache.lookup("a", "llm") == [Generation("a")]

    def test_the_first_one_stored_goes_first(self) -> None:
        """Neither a lookup nor storing a key again changes the order."""
        cache = InMemoryCache(maxsize=2)
        for prompt in ("a", "b", "a"):
            cache.update(prompt, "llm", [Generation(prompt)])
        cache.lookup("a", "llm")
        cache.update("c", "llm", [Generation("c")])
        found = [cache.lookup(prompt, "llm") is not None for prompt in "abc"]
        assert found == [False, True, True]

    def test_storing_a_known_key_pushes_nothing_out(self) -> None:
        """A full cache stays full when one of its answers is replaced."""
        cache = InMemoryCache(maxsize=2)
        for prompt in ("a", "b", "b"):
            cache.update(prompt, "llm", [Generation(prompt)])
        assert cache.lookup("a", "llm") == [Generation("a")]


class TestMemoryCache(ManagedConformance):
    @pytest.fixture
    def cache(self, clock: FakeClock) -> MemoryCache:
        return MemoryCache(max_bytes=100 * 2**20, clock=clock)

    @pytest.mark.parametrize("max_bytes", [0, -1])
    def test_a_memory_without_room_is_refused(self, max_bytes: int) -> None:
        """A cache that can hold nothing is a mistake in the settings."""
        with pytest.raises(ValueError, match="max_bytes must be greater than 0"):
            MemoryCache(max_bytes=max_bytes)

    async def test_peek_unpacks_once(self, cache: MemoryCache, clock: FakeClock) -> None:
        """The hot path copies nothing: whoever asks again gets the same object."""
        entry = entry_of("prompt", clock)
        assert cache.peek(entry.key) is None
        await cache.put(entry)
        found = cache.peek(Key.of("prompt", "llm"))
        assert found == entry
        assert cache.peek(entry.key) is found

    async def test_what_is_replaced_is_not_told_again(
        self, cache: MemoryCache, clock: FakeClock
    ) -> None:
        """An entry that lies there unpacked goes with its bytes."""
        key = entry_of("prompt", clock).key
        for text in ("first", "second"):
            await cache.put(entry_of("prompt", clock, Generation(text)))
            for _ in range(2):
                found = cache.peek(key)
                assert found is not None
                assert found.generations == [Generation(text)]

    async def test_few_entries_lie_there_unpacked(self, clock: FakeClock) -> None:
        """Objects take more space than bytes: their number is bounded, and so is their size."""
        cache = MemoryCache(max_bytes=100 * 2**20, clock=clock)
        for number in range(2 * MAX_UNPACKED):
            entry = entry_of(str(number), clock)
            await cache.put(entry)
            assert cache.peek(entry.key) == entry
        assert len(cache._unpacked) == MAX_UNPACKED
        for number in range(10):
            large = entry_of(f"large {number}", clock, Generation("x" * 2**20))
            await cache.put(large)
            assert cache.peek(large.key) == large
        assert cache._unpacked_bytes <= 100 * 2**20 // 16
        assert len(cache._unpacked) < MAX_UNPACKED

    async def test_the_bound_holds(self, clock: FakeClock) -> None:
        """However much is stored, no more bytes are held than allowed; the newest is there."""
        cache = MemoryCache(max_bytes=50_000, clock=clock)
        for number in range(200):
            entry = entry_of(str(number), clock, Generation("x" * (number * 37 % 2000)))
            await cache.put(entry)
            assert cache.peek(entry.key) == entry
            assert (await cache.totals()).bytes <= 50_000
        held = (await cache.totals()).entries
        assert held > 5
        assert cache.evictions == 200 - held

    async def test_an_entry_too_large_pushes_nothing_out(self, clock: FakeClock) -> None:
        """It is not kept, nor is the older answer that it was to replace."""
        cache = MemoryCache(max_bytes=20_000, clock=clock)
        small, old = entry_of("small", clock), entry_of("large", clock)
        await cache.put_many([small, old])
        await cache.put(entry_of("large", clock, Generation("x" * 20_000)))
        assert cache.peek(small.key) == small
        assert cache.peek(old.key) is None
        assert (cache.evictions, cache.refused) == (0, 1)

    async def test_what_is_asked_for_outlives_what_is_not(self, clock: FakeClock) -> None:
        """One-off entries pass by; the one that is hit stays."""
        cache = MemoryCache(max_bytes=50_000, clock=clock)
        loved = entry_of("loved", clock)
        await cache.put(loved)
        for number in range(500):
            await cache.put(entry_of(str(number), clock))
            assert await cache.get(loved.key) == loved

    async def test_the_bytes_that_are_counted_are_those_that_python_takes(
        self, clock: FakeClock
    ) -> None:
        """What is told to be held is within a fifth of what the process has allocated for it."""
        cache = MemoryCache(max_bytes=100 * 2**20, clock=clock)
        entries = [
            entry_of(f"🦜{number}" * 50, clock, Generation("a" * 700)) for number in range(500)
        ]
        tracemalloc.start()
        try:
            for entry in entries:
                await cache.put(
                    Entry(Key.of(*map(str_copy, entry.key[1:])), entry.generations, clock())
                )
            taken = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert (await cache.totals()).bytes == pytest.approx(taken, rel=0.2)

    async def test_async_methods_stay_on_the_loops_thread(self, cache: MemoryCache) -> None:
        """No method hops to another thread."""
        before = threading.active_count()
        await cache.aupdate("prompt", "llm", [Generation("a")])
        await cache.alookup("prompt", "llm")
        await cache.aclear()
        assert threading.active_count() == before

    async def test_deleted_entries_are_let_go_of(
        self, cache: MemoryCache, clock: FakeClock
    ) -> None:
        """Neither delete nor clear nor replacement keeps the old entry alive."""
        key = Key.of("prompt", "llm")
        text = "an answer " + str(id(key))
        before = sys.getrefcount(text)
        for _ in range(3):
            await cache.put(Entry(key, [Generation(text)], clock()))
        await cache.delete(key.id)
        await cache.put(Entry(key, [Generation(text)], clock()))
        await cache.aclear()
        assert sys.getrefcount(text) == before

    async def test_what_is_purged_is_not_told_again(
        self, cache: MemoryCache, clock: FakeClock
    ) -> None:
        """An entry that lies there unpacked goes too."""
        entry = entry_of("prompt", clock)
        await cache.put(entry)
        assert cache.peek(entry.key) == entry
        await cache.purge(EVERYTHING)
        assert cache.peek(entry.key) is None
        assert await cache.totals() == (0, 0)

    async def test_a_purge_takes_what_came_from_another_store(
        self, cache: MemoryCache, clock: FakeClock
    ) -> None:
        """The numbers that were seen there say nothing here."""
        entry = replace(entry_of("prompt", clock), seen=2**60)
        await cache.put(entry)
        assert await cache.purge(Filter(tag="eval")) == 1
        assert cache.peek(entry.key) is None

    async def test_what_is_stored_while_a_purge_looks_through_all_stays(
        self, cache: MemoryCache, clock: FakeClock
    ) -> None:
        """It began after it, also where it takes the place of one that the purge covers."""
        await cache.put_many([entry_of(f"{n}" * 500, clock) for n in range(2000)])
        old = entry_of(f"{0}" * 500, clock)
        purge = asyncio.create_task(cache.purge(EVERYTHING))
        await asyncio.sleep(0)
        assert cache.peek(old.key) is not None
        new = replace(entry_of(old.key.prompt, clock, Generation("new")), seen=cache.seen)
        await cache.put(new)
        await purge
        assert cache.peek(old.key) == new
        assert (await cache.totals()).entries == 1

    async def test_what_a_purge_has_not_come_to_yet_is_not_put_right(
        self, cache: MemoryCache, clock: FakeClock
    ) -> None:
        """It would outlive a purge that covers it."""
        await cache.put_many([entry_of(f"{n}" * 500, clock) for n in range(2000)])
        old = entry_of(f"{0}" * 500, clock)
        purge = asyncio.create_task(cache.purge(EVERYTHING))
        await asyncio.sleep(0)
        await cache.amend([replace(old, generations=[Generation("right")])])
        await purge
        assert cache.peek(old.key) is None

    async def test_what_is_known_of_purges_is_bounded(
        self, cache: MemoryCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What began before one that is forgotten may have been purged: it is not stored."""
        monkeypatch.setattr(known_purges, "MAX_ROWS", 10)
        monkeypatch.setattr(known_purges, "MAX_NAMED", 20)
        began = entry_of("prompt", clock)
        for number in range(11):
            assert not cache.covered(began)
            await cache.purge(Filter(tag=str(number)))
        assert cache.covered(began)
        assert not cache.covered(replace(began, seen=1))
        await cache.purge(Filter(ids=tuple(map(str, range(21)))))
        assert len(cache._known._rows) == 1
        await cache.put(replace(began, seen=cache.seen))
        assert cache.peek(began.key) is not None

    async def test_a_tier_is_told_nothing_of_purges(
        self, cache: MemoryCache, clock: FakeClock
    ) -> None:
        """What lies before a shared store is dropped and held again: that store knows."""
        entry = entry_of("prompt", clock)
        for drop in (lambda: cache.discard(entry.key.id), cache.discard_all):
            cache.hold_copy(entry)
            assert cache.peek(entry.key) == entry
            drop()
            assert cache.peek(entry.key) is None
        assert cache.seen == 0
        assert not cache.covered(entry)

    async def test_threads_purge_and_store(self, cache: MemoryCache, clock: FakeClock) -> None:
        """What began before a clear in another thread is not there after it."""
        began = [entry_of(str(number), clock) for number in range(50)]
        for _ in range(20):
            entries = [replace(entry, seen=cache.seen) for entry in began]
            storing = asyncio.to_thread(asyncio.run, cache.put_many(entries))
            await asyncio.gather(storing, asyncio.to_thread(cache.clear))
            assert await cache.totals() == (0, 0)

    @pytest.mark.parametrize("rare", [Filter(tag="none"), EVERYTHING])
    async def test_looking_through_all_lets_others_work(
        self, cache: MemoryCache, clock: FakeClock, rare: Filter
    ) -> None:
        """However many entries there are, the loop turns every few of them."""
        await cache.put_many([entry_of(f"{n}" * 500, clock) for n in range(2000)])
        text = Narrowing(text="nowhere")
        walks = (cache.page(rare), cache.page(rare, narrowed=text), cache.purge(rare))
        for walk in walks:
            task = asyncio.create_task(walk)
            turns = 0
            while not task.done():
                await asyncio.sleep(0)
                turns += 1
            await task
            assert turns >= 5

    async def test_a_listing_counts_as_no_use(self, cache: MemoryCache, clock: FakeClock) -> None:
        """Neither does it unpack for keeps what nobody asks for, nor save it from eviction."""
        await cache.put_many([entry_of(str(number), clock) for number in range(10)])
        await cache.page(EVERYTHING)
        assert not cache._unpacked
        assert {cell.hits for cell in cache._held.cells.values()} == {0}


class TestFullMemoryCache(EvictingConformance):
    @pytest.fixture
    def small(self, clock: FakeClock) -> MemoryCache:
        return MemoryCache(max_bytes=SMALL_BYTES, clock=clock)

    async def test_what_is_pinned_makes_room_for_nothing_else(
        self, small: MemoryCache, clock: FakeClock
    ) -> None:
        """A cache full of it refuses others; a tier, whose store keeps it, does not."""
        large = Generation("x" * (SMALL_BYTES // 4))
        pinned = [entry_of(str(n), clock, large, about={"pinned": True}) for n in range(3)]
        await small.put_many(pinned)
        other = entry_of("other", clock, large)
        await small.put(other)
        assert small.refused == 1
        assert await small.by_ids([each.key.id for each in pinned]) == pinned
        await small.aclear()
        for entry in (*pinned, other):
            small.hold_copy(replace(entry, seen=small.seen))
        assert small.peek(other.key) is not None
