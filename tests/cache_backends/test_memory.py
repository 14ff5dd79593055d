"""The caches in memory."""

from __future__ import annotations

import sys
import threading

import pytest

from cache_backends import Entry, Generation, InMemoryCache, Key, MemoryCache
from cache_backends.memory import size_of
from tests.cache_backends.conformance import CountedConformance, LangChainConformance, entry_of
from tests.fakes.clock import FakeClock


class TestInMemoryCache(LangChainConformance):
    @pytest.fixture
    def cache(self) -> InMemoryCache:
        return InMemoryCache()

    @pytest.mark.parametrize("maxsize", [0, -1])
    def test_a_cache_without_room_is_refused(self, maxsize: int) -> None:
        """The message is LangChain's."""
        with pytest.raises(ValueError, match=r"^maxsize must be greater than 0$"):
            InMemoryCache(maxsize=maxsize)

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


class TestMemoryCache(CountedConformance):
    @pytest.fixture
    def cache(self, clock: FakeClock) -> MemoryCache:
        return MemoryCache(max_bytes=100 * 2**20, clock=clock)

    @pytest.mark.parametrize("max_bytes", [0, -1])
    def test_a_memory_without_room_is_refused(self, max_bytes: int) -> None:
        """A cache that can hold nothing is a mistake in the settings."""
        with pytest.raises(ValueError, match="max_bytes must be greater than 0"):
            MemoryCache(max_bytes=max_bytes)

    async def test_peek_hands_out_what_was_put_in(
        self, cache: MemoryCache, clock: FakeClock
    ) -> None:
        """The hot path copies nothing."""
        entry = entry_of("prompt", clock)
        assert cache.peek(entry.key) is None
        await cache.put(entry)
        assert cache.peek(Key.of("prompt", "llm")) is entry

    async def test_the_bound_holds(self, clock: FakeClock) -> None:
        """However much is stored, no more bytes are held than allowed; the newest is there."""
        cache = MemoryCache(max_bytes=50_000, clock=clock)
        for number in range(200):
            entry = entry_of(str(number), clock, Generation("x" * (number * 37 % 2000)))
            await cache.put(entry)
            assert cache.peek(entry.key) is entry
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
        assert cache.peek(small.key) is small
        assert cache.peek(old.key) is None
        assert (cache.evictions, cache.refused) == (0, 1)

    async def test_what_is_asked_for_outlives_what_is_not(self, clock: FakeClock) -> None:
        """One-off entries pass by; the one that is hit stays."""
        cache = MemoryCache(max_bytes=50_000, clock=clock)
        loved = entry_of("loved", clock)
        await cache.put(loved)
        for number in range(500):
            await cache.put(entry_of(str(number), clock))
            assert await cache.get(loved.key) is loved

    def test_the_size_counts_what_python_holds(self, clock: FakeClock) -> None:
        """A wide character makes a whole string wide; nested values and the key count too."""
        plain = entry_of("p", clock, Generation("a" * 1000))
        wide = entry_of("p", clock, Generation("a" * 999 + "🦜"))
        assert size_of(wide) - size_of(plain) > 5000
        long_key = entry_of("p" * 1000, clock, Generation("a" * 1000))
        assert size_of(long_key) - size_of(plain) == 999
        nested = entry_of("p", clock, Generation("a" * 1000, {"a": [{"b": ["c" * 500]}]}))
        assert size_of(nested) - size_of(plain) > 500

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
