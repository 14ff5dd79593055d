"""What every cache that several processes share must do, beyond keeping entries.

Subclass the suite and give it two fixtures: `cache`, empty, and `other`, another instance on the
same store. Both read their time from the `clock` fixture. For a cache that can only be listed there
is a suite with the first part, which needs no `other`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from cache_backends.base import Entry, Generation
from cache_backends.shared import EVERYTHING, Filter, ListedCache, SharedCache, Summary
from tests.cache_backends.conformance import CountedConformance, entry_of
from tests.fakes.clock import FakeClock

NOBODY_KNEW_A_LATER_ONE = 2**53
OTHERS = {
    "provider": "anthropic",
    "dialect": "messages",
    "model": "claude",
    "namespace": "evals",
    "client": "ann",
}


class ListedConformance(CountedConformance):
    """Listing, and removal by filter."""

    async def test_a_listing_tells_of_each_entry(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """All but the strings and the answer, and the beginning of the prompt."""
        entry = entry_of("☂" * 600, clock, Generation("x" * 5000), expires=60.5, retained=120.25)
        await cache.put(entry)
        (told,) = await listing(cache)
        assert told.bytes >= 5000 + 600 * 3
        assert told == Summary(
            entry.key.id,
            entry.stored_at,
            entry.expires_at,
            entry.retained_until,
            told.bytes,
            "☂" * 500,
            entry.tags,
            entry.about,
        )

    async def test_an_empty_store_has_one_empty_page(self, cache: ListedCache) -> None:
        """Nothing to list is no error."""
        assert await cache.page(EVERYTHING) == ([], None)

    async def test_those_stored_last_are_listed_first(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """Through as many pages as it takes, each entry once; an entry stored again moves up."""
        await store(cache, clock, [{} for _ in range(25)])
        clock.advance(1)
        await cache.put(entry_of("7", clock))
        told = await listing(cache, limit=10)
        numbers = [7, *(number for number in range(24, -1, -1) if number != 7)]
        assert [each.prompt for each in told] == [str(number) for number in numbers]

    async def test_entries_of_one_instant_are_listed_once_each(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """Stored at once and at the same time, they still have an order to page through."""
        await cache.put_many([entry_of(str(number), clock) for number in range(25)])
        told = await listing(cache, limit=4)
        assert sorted(int(each.prompt) for each in told) == list(range(25))

    async def test_no_page_is_longer_than_asked_for(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """And the first of several says where to go on."""
        await store(cache, clock, [{} for _ in range(5)])
        page = await cache.page(EVERYTHING, limit=3)
        assert len(page.entries) == 3
        assert page.cursor is not None

    @pytest.mark.parametrize("cursor", ["", "no cursor", "é", "\x00", "-1:", "9" * 400, "{}"])
    async def test_a_cursor_that_no_page_gave_is_refused(
        self, cache: ListedCache, clock: FakeClock, cursor: str
    ) -> None:
        """It comes from outside: not an empty page, and not a fault of the store."""
        await cache.put(entry_of("prompt", clock))
        with pytest.raises(ValueError, match="cursor"):
            await cache.page(EVERYTHING, cursor=cursor)

    async def test_an_entry_that_has_ended_is_not_listed(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """One that is only expired is: it may still be served."""
        await cache.put(entry_of("ended", clock, expires=1, retained=10))
        await cache.put(entry_of("expired", clock, expires=1, retained=20))
        clock.advance(10)
        assert [each.prompt for each in await listing(cache)] == ["expired"]

    @pytest.mark.parametrize("name", OTHERS)
    async def test_entries_are_chosen_by_what_they_are_about(
        self, cache: ListedCache, clock: FakeClock, name: str
    ) -> None:
        """Each of the facts finds those that have it, exactly."""
        usual = dict.fromkeys(OTHERS, "usual")
        facts = [usual, usual | {name: OTHERS[name]}, {}, {name: [OTHERS[name]]}, usual]
        await store(cache, clock, [{"about": about} for about in facts])
        assert await chosen(cache, Filter(**{name: OTHERS[name]})) == [1]
        assert await chosen(cache, Filter(**{name: "usual"})) == [4, 0]
        assert await chosen(cache, Filter(**{name: OTHERS[name][:-1]})) == []

    async def test_entries_are_chosen_by_tag(self, cache: ListedCache, clock: FakeClock) -> None:
        """One of theirs, whole and whatever it is made of."""
        kinds = (["a", "é b%:{}"], ["a"], [], ["ab"], ["é b%:{}"])
        await store(cache, clock, [{"tags": tags} for tags in kinds])
        assert await chosen(cache, Filter(tag="a")) == [1, 0]
        assert await chosen(cache, Filter(tag="é b%:{}")) == [4, 0]
        assert await chosen(cache, Filter(tag="c")) == []

    async def test_entries_are_chosen_by_id(self, cache: ListedCache, clock: FakeClock) -> None:
        """Those that are there; none for what is no id."""
        entries = await store(cache, clock, [{} for _ in range(4)])
        ids = (entries[3].key.id, "0" * 64, entries[1].key.id, "no id", "é", entries[1].key.id)
        assert sorted(await chosen(cache, Filter(ids=ids))) == [1, 3]
        assert await chosen(cache, Filter(ids=())) == []

    async def test_entries_are_chosen_by_when_they_were_stored(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """Neither of the two times is included."""
        entries = await store(cache, clock, [{} for _ in range(5)])
        first, last = entries[1].stored_at, entries[3].stored_at
        assert await chosen(cache, Filter(stored_after=first)) == [4, 3, 2]
        assert await chosen(cache, Filter(stored_before=last)) == [2, 1, 0]
        assert await chosen(cache, Filter(stored_after=first, stored_before=last)) == [2]

    async def test_all_that_a_filter_says_must_fit(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """Facts, tags and ids narrow each other down."""
        kinds: list[dict[str, Any]] = [
            {"about": {"model": model, "namespace": namespace}, "tags": [tag]}
            for model in "mn"
            for namespace in "ab"
            for tag in "xy"
        ]
        entries = await store(cache, clock, kinds)
        narrow = Filter(model="n", namespace="b", tag="y")
        assert await chosen(cache, narrow) == [7]
        assert await chosen(cache, replace(narrow, ids=(entries[6].key.id,))) == []
        assert await chosen(cache, Filter(model="n", tag="x")) == [6, 4]

    async def test_a_replaced_entry_is_chosen_by_its_new_facts_only(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """What the one before was about is forgotten with it."""
        await cache.put(entry_of("0", clock, about={"model": "old"}, tags=["old"]))
        await cache.put(entry_of("0", clock, about={"model": "new"}, tags=["new"]))
        assert await chosen(cache, Filter(model="old")) == []
        assert await chosen(cache, Filter(tag="old")) == []
        assert await chosen(cache, Filter(model="new", tag="new")) == [0]

    async def test_a_filtered_listing_goes_through_pages(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """Those that do not fit neither end it nor count."""
        kinds = [{"tags": ["odd"] if number % 2 else []} for number in range(40)]
        await store(cache, clock, kinds)
        told = await listing(cache, Filter(tag="odd"), limit=3)
        assert [int(each.prompt) for each in told] == list(range(39, 0, -2))

    async def test_remove_takes_what_the_filter_covers(
        self, cache: ListedCache, clock: FakeClock
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
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """What is not there, or is no id, does not count; nothing counts twice."""
        entries = await store(cache, clock, [{} for _ in range(3)])
        ids = (entries[0].key.id, entries[0].key.id, "no id", "0" * 64, "é")
        assert await cache.remove(Filter(ids=ids), before=NOBODY_KNEW_A_LATER_ONE) == 1
        assert await chosen(cache, EVERYTHING) == [2, 1]

    async def test_remove_takes_any_number(self, cache: ListedCache, clock: FakeClock) -> None:
        """More than any batch holds."""
        await cache.put_many([entry_of(str(number), clock) for number in range(2500)])
        assert await cache.remove(Filter(tag="eval"), before=NOBODY_KNEW_A_LATER_ONE) == 2500
        assert await cache.totals() == (0, 0)
        assert await cache.page(EVERYTHING) == ([], None)


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
        found = await cache.get(entry.key)
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


async def store(
    cache: ListedCache, clock: FakeClock, kinds: Sequence[dict[str, Any]]
) -> list[Entry]:
    """Store an entry of each kind, a second after the other; their prompts are their numbers."""
    entries = []
    for number, kind in enumerate(kinds):
        clock.advance(1)
        entries.append(entry_of(str(number), clock, **kind))
        await cache.put(entries[-1])
    return entries


async def listing(
    cache: ListedCache,
    filter: Filter = EVERYTHING,
    *,
    limit: int = 100,
    cursor: str | None = None,
) -> list[Summary]:
    """All pages; a page may be shorter than asked for, also when others follow."""
    page = await cache.page(filter, cursor=cursor, limit=limit)
    told = list(page.entries)
    while page.cursor is not None:
        page = await cache.page(filter, cursor=page.cursor, limit=limit)
        assert len(page.entries) <= limit
        told += page.entries
    return told


async def chosen(cache: ListedCache, filter: Filter) -> list[int]:
    """The numbers of the entries that the filter covers."""
    return [int(each.prompt) for each in await listing(cache, filter)]
