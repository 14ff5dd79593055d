"""What every cache must do that makes room by itself."""

from __future__ import annotations

import pytest

from cache_backends.base import Generation
from cache_backends.shared import ListedCache
from tests.cache_backends.conformance import entry_of
from tests.fakes.clock import FakeClock

# The room of the `small` cache; an entry takes about this part of it.
SMALL_BYTES = 2**20
ENTRY_BYTES = SMALL_BYTES // 50


class EvictingConformance:
    """Subclass it and give it a `small` fixture: a cache with `SMALL_BYTES` for its entries."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    async def make_room(self, cache: ListedCache) -> None:
        """What the cache does beside when it is full, done at once."""

    async def test_pinned_entries_outlive_others(
        self, small: ListedCache, clock: FakeClock
    ) -> None:
        """However old they are, and however many come after them."""
        pinned = [
            entry_of(f"pinned {number}", clock, filling(), about={"pinned": True})
            for number in range(10)
        ]
        await small.put_many(pinned)
        for number in range(200):
            clock.advance(60)
            await small.put(entry_of(str(number), clock, filling()))
            await self.make_room(small)
        found = await small.by_ids([entry.key.id for entry in pinned])
        assert found == pinned
        assert (await small.totals()).entries < 100

    async def test_a_cache_full_of_pinned_entries_stays_within_its_room(
        self, small: ListedCache, clock: FakeClock
    ) -> None:
        """The oldest of them go; one that is unpinned goes before those that are not."""
        for number in range(100):
            clock.advance(60)
            await small.put(entry_of(str(number), clock, filling(), about={"pinned": True}))
            await self.make_room(small)
        held = (await small.totals()).entries
        assert 10 < held < 60
        last = [entry_of(str(number), clock).key.id for number in range(100 - held, 100)]
        assert None not in await small.by_ids(last)
        clock.advance(60)
        await small.put(entry_of("99", clock, filling()))
        await small.put(entry_of("100", clock, filling(), about={"pinned": True}))
        await self.make_room(small)
        assert None not in await small.by_ids(last[1:-1])


def filling() -> Generation:
    return Generation("x" * ENTRY_BYTES)
