"""What every cache must do that can be counted in, and whose facts can be changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from cache_backends.base import Entry
from cache_backends.shared import EVERYTHING, ListedCache
from tests.cache_backends.conformance import entry_of
from tests.fakes.clock import FakeClock


class FiguresConformance:
    """Facts, hits and counts."""

    async def test_a_fact_is_what_it_was_made(self, cache: ListedCache) -> None:
        """Whether there was one before or not; others stay as they are."""
        assert await cache.fact("mode", "normal") == "normal"
        await cache.fact("another", "one")
        for said in ("offline", "é\n{}:", ""):
            await cache.set_fact("mode", said)
            assert await cache.fact("mode", "normal") == said
        await cache.set_fact("new", "first")
        assert await cache.fact("new", "second") == "first"
        assert await cache.fact("another", "two") == "one"

    async def test_hits_add_up(self, cache: ListedCache, clock: FakeClock) -> None:
        """Of many entries at once, and again and again."""
        entries = await put(cache, clock, 300)
        for _ in range(2):
            await cache.add_hits({each.key.id: number for number, each in enumerate(entries)})
        await cache.add_hits({})
        assert await hits(cache) == {str(number): 2 * number for number in range(300)}

    async def test_hits_of_what_is_not_there_are_not_kept(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """Nor are those of what is no id; the others of the same call count."""
        (entry,) = await put(cache, clock, 1)
        later = entry_of("later", clock)
        nonsense = dict.fromkeys(("", "no id", "é", "0" * 63), 1)
        await cache.add_hits({later.key.id: 5, entry.key.id: 2} | nonsense)
        await cache.put(later)
        assert await hits(cache) == {"0": 2, "later": 0}

    async def test_hits_are_kept_when_an_entry_is_stored_again(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """With another answer, another life and other facts."""
        (entry,) = await put(cache, clock, 1)
        await cache.add_hits({entry.key.id: 7})
        await cache.put(entry_of("0", clock, expires=5, retained=100, tags=["x"], about={}))
        assert await hits(cache) == {"0": 7}
        await cache.add_hits({entry.key.id: 1})
        assert await hits(cache) == {"0": 8}

    async def test_hits_go_with_the_entry(self, cache: ListedCache, clock: FakeClock) -> None:
        """Deleted or cleared and stored again, it begins with none."""
        entries = await put(cache, clock, 2)
        await cache.add_hits({entry.key.id: 7 for entry in entries})
        await cache.delete(entries[0].key.id)
        await put(cache, clock, 1)
        assert await hits(cache) == {"0": 0, "1": 7}
        await cache.aclear()
        await put(cache, clock, 2)
        assert await hits(cache) == {"0": 0, "1": 0}

    async def test_what_nobody_counted_has_no_counts(self, cache: ListedCache) -> None:
        """That is no error, and neither is forgetting it."""
        assert await cache.counts("stats") == {}
        await cache.forget_counts("stats")
        await cache.add_counts("stats", {})
        assert await cache.counts("stats") == {}

    async def test_counts_are_sums_by_name(self, cache: ListedCache) -> None:
        """Whole numbers and fractions, up and down, under whatever name."""
        await cache.add_counts("stats", {"hits": 2, "usd": 0.125, "é {}:'%": 1, "": 3})
        await cache.add_counts("stats", {"hits": 3, "usd": 0.25, "back": -1.5})
        told = await cache.counts("stats")
        assert told == {"hits": 5, "usd": 0.375, "é {}:'%": 1, "": 3, "back": -1.5}
        await cache.add_counts("stats", {"hits": 2**52})
        assert (await cache.counts("stats"))["hits"] == 2**52 + 5

    async def test_groups_are_kept_apart(self, cache: ListedCache) -> None:
        """Also where one's name begins as another's, and a forgotten one leaves the rest."""
        for amount, group in enumerate(("day", "day 1", "day%", "")):
            await cache.add_counts(group, {"hits": amount + 1})
        await cache.forget_counts("day")
        assert await cache.counts("day") == {}
        assert [await cache.counts(group) for group in ("day 1", "day%", "")] == [
            {"hits": 2},
            {"hits": 3},
            {"hits": 4},
        ]
        await cache.add_counts("day", {"misses": 1})
        assert await cache.counts("day") == {"misses": 1}

    async def test_two_thousand_names_are_counted_at_once(self, cache: ListedCache) -> None:
        """More than any statement or packet of theirs need hold."""
        amounts = {f"model {number}": number + 0.5 for number in range(2000)}
        for _ in range(2):
            await cache.add_counts("stats", amounts)
        assert await cache.counts("stats") == {name: 2 * said for name, said in amounts.items()}

    async def test_no_sum_is_seen_half_added(self, cache: ListedCache) -> None:
        """What is added at once is told at once."""
        names = [str(number) for number in range(50)]

        async def add() -> None:
            for _ in range(10):
                await cache.add_counts("stats", dict.fromkeys(names, 1))

        adding = asyncio.gather(*(add() for _ in range(4)))
        while not adding.done():
            assert len(set((await cache.counts("stats")).values())) <= 1
            await asyncio.sleep(0)
        await adding
        assert await cache.counts("stats") == dict.fromkeys(names, 40)

    async def test_counts_are_no_entries_and_no_facts(self, cache: ListedCache) -> None:
        """They survive a clear, as facts do."""
        await cache.add_counts("stats", {"hits": 1})
        assert await cache.totals() == (0, 0)
        assert await cache.fact("stats", "default") == "default"
        await cache.aclear()
        assert await cache.counts("stats") == {"hits": 1}


async def put(cache: ListedCache, clock: FakeClock, many: int) -> list[Entry]:
    """Entries whose making begins now: after what was purged before."""
    made = (entry_of(str(number), clock) for number in range(many))
    entries = [replace(entry, seen=cache.seen) for entry in made]
    await cache.put_many(entries)
    return entries


async def hits(cache: ListedCache) -> dict[str, int]:
    """By prompt, of all entries."""
    found = await cache.page(EVERYTHING, limit=1000)
    assert found.cursor is None
    return {each.prompt: each.hits for each in found.entries}
