"""What every cache that several processes share must do, beyond keeping entries.

Subclass the suite and give it two fixtures: `cache`, empty, and `other`, another instance on the
same store. Both read their time from the `clock` fixture.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest

from cache_backends.shared import EVERYTHING, Filter, Narrowing, SharedCache
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.listed_conformance import (
    OTHERS,
    ListedConformance,
    chosen,
    listing,
    store,
)
from tests.fakes.clock import FakeClock

NOBODY_KNEW_A_LATER_ONE = 2**53


class SharedConformance(ListedConformance):
    """What is one for all instances, the purge log, leases."""

    async def test_what_is_stored_by_one_is_found_by_the_other(
        self, cache: SharedCache, other: SharedCache, clock: FakeClock
    ) -> None:
        """Entries and facts are the store's, not the instance's."""
        entry = entry_of("prompt", clock)
        await cache.put(entry)
        assert await other.get(entry.key) == entry
        assert await other.fact("name", "mine") == await cache.fact("name", "yours")
        assert await other.delete(entry.key.id)
        assert await cache.get(entry.key) is None

    @pytest.mark.parametrize("seen", [0, 1, 1_800_000_000_123])
    async def test_what_was_seen_of_the_log_is_kept(
        self, cache: SharedCache, clock: FakeClock, seen: int
    ) -> None:
        """Without it nobody could tell whether a later purge covers the entry."""
        entry = replace(entry_of("prompt", clock), seen=seen)
        await cache.put(entry)
        for found in (await cache.get(entry.key), *await cache.by_ids([entry.key.id])):
            assert found is not None
            assert found.seen == seen

    async def test_a_listing_bears_that_others_come_and_go(
        self, cache: SharedCache, other: SharedCache, clock: FakeClock
    ) -> None:
        """What is there all the time is listed once, whatever is stored and deleted between."""
        entries = await store(cache, clock, [{} for _ in range(20)])
        page = await cache.page(EVERYTHING, limit=5)
        told = [each.prompt for each in page.entries]
        assert page.cursor is not None
        for gone in (2, 14, 15, 19):
            await other.delete(entries[gone].key.id)
        for prompt in ("new", "newer"):
            clock.advance(1)
            await other.put(entry_of(prompt, clock))
        told += [each.prompt for each in await listing(cache, limit=5, cursor=page.cursor)]
        assert told == [str(number) for number in range(19, -1, -1) if number not in (2, 14)]

    async def test_remove_takes_what_the_filter_covers(
        self, cache: SharedCache, clock: FakeClock
    ) -> None:
        """And tells how many there were; the others stay."""
        kinds = [{"about": {"model": "ab"[number % 2]}} for number in range(10)]
        entries = await store(cache, clock, kinds)
        assert await cache.remove(Filter(model="b"), before=NOBODY_KNEW_A_LATER_ONE) == 5
        assert await chosen(cache, EVERYTHING) == [8, 6, 4, 2, 0]
        assert await cache.get_many([entries[0].key, entries[1].key]) == [entries[0], None]
        assert await cache.remove(Filter(model="b"), before=NOBODY_KNEW_A_LATER_ONE) == 0
        assert (await cache.totals()).entries == 5

    async def test_remove_by_id_tells_how_many_there_were(
        self, cache: SharedCache, clock: FakeClock
    ) -> None:
        """What is not there, or is no id, does not count; nothing counts twice."""
        entries = await store(cache, clock, [{} for _ in range(3)])
        ids = (entries[0].key.id, entries[0].key.id, "no id", "0" * 64, "é")
        assert await cache.remove(Filter(ids=ids), before=NOBODY_KNEW_A_LATER_ONE) == 1
        assert await chosen(cache, EVERYTHING) == [2, 1]

    async def test_remove_takes_any_number(self, cache: SharedCache, clock: FakeClock) -> None:
        """More than any batch holds."""
        await cache.put_many([entry_of(str(number), clock) for number in range(2500)])
        assert await cache.remove(Filter(tag="eval"), before=NOBODY_KNEW_A_LATER_ONE) == 2500
        assert await cache.totals() == (0, 0)
        assert await cache.page(EVERYTHING) == ([], None)

    async def test_remove_leaves_what_was_made_after_the_purge(
        self, cache: SharedCache, clock: FakeClock
    ) -> None:
        """Only entries whose making began before it are covered by it."""
        number = await cache.announce(EVERYTHING)
        entries = [
            replace(entry_of(str(seen), clock), seen=seen)
            for seen in (0, number - 1, number, number + 1)
        ]
        await cache.put_many(entries)
        for covering in (EVERYTHING, Filter(tag="eval"), Filter(ids=(entries[2].key.id,))):
            await cache.remove(covering, before=number)
        found = await cache.get_many([entry.key for entry in entries])
        assert found == [None, None, entries[2], entries[3]]

    async def test_a_log_without_rows_has_a_store(
        self, cache: SharedCache, other: SharedCache
    ) -> None:
        """Its name is made once, and is the same for everyone."""
        logs = await asyncio.gather(*(each.purges(0) for each in (cache, other) * 5))
        assert len({read.store for read in logs}) == 1
        assert logs[0].store
        assert logs[0][1:] == (0, ())

    async def test_a_purge_is_in_the_log_once_it_is_announced(
        self, cache: SharedCache, other: SharedCache
    ) -> None:
        """Whoever reads finds it, with its filter as it was said."""
        before = await other.purges(0)
        said = Filter(
            ids=("0" * 64, "é"), tag="é\n'\"", stored_before=1.5, stored_after=-3, **OTHERS
        )
        first, second = await cache.announce(said), await cache.announce(EVERYTHING)
        read = await other.purges(0)
        assert (read.store, read.head) == (before.store, second)
        assert [each[:3] for each in read.purges] == [(first, 0, said), (second, first, EVERYTHING)]
        assert 0 < read.purges[0].at <= read.purges[1].at
        assert (await other.purges(first)).purges == read.purges[1:]
        assert (await other.purges(second))[1:] == (second, ())

    async def test_purges_at_the_same_time_follow_each_other(
        self, cache: SharedCache, other: SharedCache
    ) -> None:
        """Each has a number of its own, greater than the one before, and names that one."""
        asked = [each.announce(Filter(tag=str(n))) for n in range(10) for each in (cache, other)]
        numbers = await asyncio.gather(*asked)
        read = await cache.purges(0)
        assert [purge.number for purge in read.purges] == sorted(set(numbers))
        assert len(read.purges) == 20
        for earlier, later in pairwise(read.purges):
            assert later.previous == earlier.number

    async def test_numbers_are_milliseconds(self, cache: SharedCache, clock: FakeClock) -> None:
        """So they grow on when a store is lost and begun anew."""
        first = await cache.announce(EVERYTHING)
        purge = (await cache.purges(0)).purges[0]
        assert first == pytest.approx(purge.at * 1000, abs=2)

    async def test_old_rows_can_be_taken_out(self, cache: SharedCache, other: SharedCache) -> None:
        """Up to a number, but never the last: the log goes on from there."""
        numbers = [await cache.announce(Filter(tag=str(number))) for number in range(5)]
        await cache.forget(numbers[1])
        read = await other.purges(0)
        assert [purge.number for purge in read.purges] == numbers[2:]
        assert read.purges[0].previous == numbers[1]
        await cache.forget(numbers[4] + 1)
        read = await other.purges(0)
        assert [purge.number for purge in read.purges] == numbers[4:]
        assert read.head == numbers[4]
        assert await other.announce(EVERYTHING) > numbers[4]

    async def test_forgetting_where_there_is_nothing_is_no_error(self, cache: SharedCache) -> None:
        """A log that is empty stays so."""
        await cache.forget(5)
        assert (await cache.purges(0))[1:] == (0, ())

    async def test_a_clear_leaves_the_log_alone(
        self, cache: SharedCache, other: SharedCache, clock: FakeClock
    ) -> None:
        """It removes entries, and nothing else."""
        await cache.put(entry_of("prompt", clock))
        number = await cache.announce(Filter(tag="a"))
        assert await cache.claim("name", "me", 60)
        before = await cache.purges(0)
        await cache.aclear()
        after = await other.purges(0)
        assert after.store == before.store
        assert after.purges[0] == (number, 0, Filter(tag="a"), before.purges[0].at)
        assert not await other.claim("name", "you", 60)
        assert await cache.totals() == (0, 0)

    async def test_a_lease_has_one_holder(self, cache: SharedCache, other: SharedCache) -> None:
        """Who holds it extends it, others wait until it is given back."""
        assert await cache.claim("name", "me", 60)
        assert not await other.claim("name", "you", 60)
        assert await cache.claim("name", "me", 60)
        assert await other.claim("another name", "you", 60)
        await other.release("name", "you")
        assert not await other.claim("name", "you", 60)
        await cache.release("name", "me")
        assert await other.claim("name", "you", 60)

    async def test_of_many_who_ask_at_once_one_gets_the_lease(
        self, cache: SharedCache, other: SharedCache
    ) -> None:
        """Whatever instance they ask through."""
        asked = [(cache if n % 2 else other).claim("é {}:", str(n), 60) for n in range(20)]
        assert sum(await asyncio.gather(*asked)) == 1

    async def test_a_lease_ends_by_itself(
        self, cache: SharedCache, other: SharedCache, clock: FakeClock
    ) -> None:
        """When its holder is gone; each claim counts from when it was made."""
        assert await cache.claim("name", "me", 60)
        assert await cache.claim("name", "me", 0.05)
        clock.advance(0.06)
        await asyncio.sleep(0.06)
        assert await other.claim("name", "you", 60)
        assert not await cache.claim("name", "me", 60)
        await cache.release("name", "me")
        assert not await cache.claim("name", "me", 60)

    async def test_hits_and_facts_are_the_stores(
        self, cache: SharedCache, other: SharedCache, clock: FakeClock
    ) -> None:
        """What one counts the other tells, and what one says the other knows."""
        (entry,) = await store(cache, clock, [{}])
        await asyncio.gather(
            *(each.add_hits({entry.key.id: 1}) for each in (cache, other) for _ in range(10))
        )
        assert [each.hits for each in await listing(other)] == [20]
        assert await chosen(other, EVERYTHING, Narrowing(min_hits=20)) == [0]
        await cache.set_fact("mode", "offline")
        assert await other.fact("mode", "normal") == "offline"

    async def test_counts_add_up_over_all_who_count(
        self, cache: SharedCache, other: SharedCache
    ) -> None:
        """Whoever asks is told the same sums, and none is lost."""
        amounts = [{"hits": 1, "seconds": 0.25, f"of {number % 3}": 2} for number in range(20)]
        await asyncio.gather(
            *(
                (cache if number % 2 else other).add_counts("stats", each)
                for number, each in enumerate(amounts)
            )
        )
        sums = {"hits": 20, "seconds": 5, "of 0": 14, "of 1": 14, "of 2": 12}
        assert await cache.counts("stats") == await other.counts("stats") == sums
        await other.forget_counts("stats")
        assert await cache.counts("stats") == {}

    async def test_what_is_removed_by_filter_keeps_no_hits(
        self, cache: SharedCache, clock: FakeClock
    ) -> None:
        """Stored again, it begins with none."""
        (entry,) = await store(cache, clock, [{}])
        await cache.add_hits({entry.key.id: 3})
        await cache.remove(EVERYTHING, before=NOBODY_KNEW_A_LATER_ONE)
        await cache.put(entry)
        assert [each.hits for each in await listing(cache)] == [0]
