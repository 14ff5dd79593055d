"""What every cache must do whose entries can be taken away and put right."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from cache_backends.base import Entry, Generation
from cache_backends.shared import EVERYTHING, Filter, ManagedCache
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.listed_conformance import ListedConformance, chosen, listing, store
from tests.fakes.clock import FakeClock

RIGHT = [Generation("right")]


class ManagedConformance(ListedConformance):
    """Purging, and putting right."""

    async def test_a_purge_takes_what_the_filter_covers(
        self, cache: ManagedCache, clock: FakeClock
    ) -> None:
        """And tells how many there were; the others stay."""
        kinds = [{"about": {"model": "ab"[number % 2]}} for number in range(10)]
        entries = await store(cache, clock, kinds)
        assert await cache.purge(Filter(model="b")) == 5
        assert await chosen(cache, EVERYTHING) == [8, 6, 4, 2, 0]
        assert [each is None for each in await get(cache, entries)] == [False, True] * 5
        assert await cache.purge(Filter(model="b")) == 0
        assert (await cache.totals()).entries == 5

    async def test_a_purge_by_id_tells_how_many_there_were(
        self, cache: ManagedCache, clock: FakeClock
    ) -> None:
        """What is not there, or is no id, does not count; nothing counts twice."""
        entries = await store(cache, clock, [{} for _ in range(3)])
        ids = (entries[0].key.id, entries[0].key.id, "no id", "0" * 64, "é")
        assert await cache.purge(Filter(ids=ids)) == 1
        assert await cache.purge(Filter(ids=())) == 0
        assert await chosen(cache, EVERYTHING) == [2, 1]

    async def test_a_purge_takes_any_number(self, cache: ManagedCache, clock: FakeClock) -> None:
        """More than any batch holds."""
        await cache.put_many([entry_of(str(number), clock) for number in range(2500)])
        assert await cache.purge(Filter(tag="eval")) == 2500
        assert await cache.totals() == (0, 0)

    async def test_what_began_before_a_purge_is_not_stored_after_it(
        self, cache: ManagedCache, clock: FakeClock
    ) -> None:
        """What began after it is, and so is what it does not cover."""
        await cache.keep_up()
        began = [made(cache, clock, prompt, tags=[prompt]) for prompt in "ab"]
        await cache.purge(Filter(tag="a"))
        await cache.keep_up()
        assert [cache.covered(entry) for entry in began] == [True, False]
        await cache.put_many(began)
        assert await get(cache, began) == [None, began[1]]
        again = made(cache, clock, "a", tags=["a"])
        await cache.put(again)
        assert await cache.get(again.key) == again

    async def test_deleting_and_clearing_are_purges_too(
        self, cache: ManagedCache, clock: FakeClock
    ) -> None:
        """Whoever is told that it is gone does not find it again."""
        await cache.keep_up()
        began = [made(cache, clock, prompt) for prompt in "abc"]
        await cache.put_many(began)
        assert await cache.delete(began[0].key.id)
        await cache.put(began[0])
        assert await get(cache, began) == [None, *began[1:]]
        await cache.aclear()
        await cache.put_many(began)
        assert await get(cache, began) == [None, None, None]

    async def test_an_amended_entry_takes_the_place_of_the_old_one(
        self, cache: ManagedCache, clock: FakeClock
    ) -> None:
        """With all that was changed about it, its time as it was said, and its hits."""
        entries = await store(cache, clock, [{"about": {"model": "m"}} for _ in range(3)])
        await cache.add_hits({entries[1].key.id: 3})
        clock.advance(60)
        changes = {"tags": ("new",), "about": {"model": "n", "pinned": True}, "expires_at": None}
        right = replace(entries[1], generations=RIGHT, **changes)
        await cache.amend([right])
        (found,) = await get(cache, [right])
        assert found is not None
        assert replace(found, seen=0) == right
        assert await chosen(cache, Filter(tag="new", model="n")) == [1]
        assert [each.hits for each in await listing(cache, Filter(model="n"))] == [3]
        assert sorted(await chosen(cache, EVERYTHING)) == [0, 1, 2]

    async def test_what_was_fetched_meanwhile_is_not_stored_over_it(
        self, cache: ManagedCache, clock: FakeClock
    ) -> None:
        """A later one is."""
        (old,) = await store(cache, clock, [{}])
        await cache.keep_up()
        clock.advance(1)
        began = made(cache, clock, "0")
        await cache.amend([replace(old, generations=RIGHT)])
        await cache.put(began)
        assert await answers(cache, [old]) == [RIGHT]
        clock.advance(1)
        later = made(cache, clock, "0")
        await cache.put(later)
        assert await answers(cache, [old]) == [later.generations]

    async def test_what_was_purged_since_it_was_read_is_not_put_back(
        self, cache: ManagedCache, clock: FakeClock
    ) -> None:
        """Whatever it is made now; others of the same call are put right."""
        entries = await store(cache, clock, [{"tags": [tag]} for tag in "abc"])
        await cache.purge(Filter(tag="a"))
        await cache.delete(entries[1].key.id)
        await cache.amend([replace(entry, generations=RIGHT, tags=()) for entry in entries])
        assert await answers(cache, entries) == [None, None, RIGHT]

    async def test_a_purge_of_others_before_takes_nothing_from_what_is_amended(
        self, cache: ManagedCache, clock: FakeClock
    ) -> None:
        """Also where it is made what those were."""
        entries = await store(cache, clock, [{"tags": ["gone"]}, {"tags": []}])
        await cache.purge(Filter(tag="gone"))
        await cache.amend([replace(entries[1], generations=RIGHT, tags=("gone",))])
        assert await answers(cache, entries) == [None, RIGHT]

    async def test_an_amended_entry_can_be_purged_and_amended_again(
        self, cache: ManagedCache, clock: FakeClock
    ) -> None:
        """By what it is now, not by what it was."""
        (entry,) = await store(cache, clock, [{"tags": ["old"]}])
        for text in ("first", "second"):
            (held,) = await cache.by_ids([entry.key.id])
            assert held is not None
            await cache.amend([replace(held, generations=[Generation(text)], tags=("new",))])
        assert await cache.purge(Filter(tag="old")) == 0
        assert await answers(cache, [entry]) == [[Generation("second")]]
        assert await cache.purge(Filter(tag="new")) == 1
        assert await answers(cache, [entry]) == [None]

    async def test_what_was_changed_since_it_was_read_stays(
        self, cache: ManagedCache, clock: FakeClock
    ) -> None:
        """Whoever changes it on what he read before would undo that; he is told so."""
        first, second = await store(cache, clock, [{}, {}])
        assert await cache.amend([replace(first, generations=RIGHT)]) == [True]
        late = [replace(each, tags=("late",)) for each in (first, second)]
        assert await cache.amend(late) == [False, True]
        assert await answers(cache, [first]) == [RIGHT]
        assert await chosen(cache, Filter(tag="late")) == [1]

    async def test_amending_nothing_is_no_error(self, cache: ManagedCache) -> None:
        """And changes nothing."""
        await cache.amend([])
        assert await cache.totals() == (0, 0)

    async def test_readers_find_one_or_the_other_meanwhile(
        self, cache: ManagedCache, clock: FakeClock
    ) -> None:
        """Never none."""
        entries = await store(cache, clock, [{} for _ in range(5)])
        amending = asyncio.create_task(
            cache.amend([replace(entry, generations=RIGHT) for entry in entries])
        )
        while not amending.done():
            held = await answers(cache, entries)
            assert all(
                said in (RIGHT, entry.generations)
                for said, entry in zip(held, entries, strict=True)
            )
            await asyncio.sleep(0)
        await amending
        assert await answers(cache, entries) == [RIGHT] * 5


def made(
    cache: ManagedCache, clock: FakeClock, prompt: str, tags: Sequence[str] = ("eval",)
) -> Entry:
    """An entry whose making begins now."""
    return replace(entry_of(prompt, clock, tags=tags), seen=cache.seen)


async def get(cache: ManagedCache, entries: Sequence[Entry]) -> list[Entry | None]:
    return await cache.get_many([entry.key for entry in entries])


async def answers(cache: ManagedCache, entries: Sequence[Entry]) -> list[list[Generation] | None]:
    """What is told in the place of each."""
    return [None if held is None else held.generations for held in await get(cache, entries)]
