"""What every cache must do that can be looked through.

Subclass the suite and give it a `cache` fixture that is empty. The cache reads its time from the
`clock` fixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from cache_backends.base import Entry, Generation, Unsupported
from cache_backends.shared import (
    EVERYTHING,
    WIDE,
    Filter,
    ListedCache,
    Narrowing,
    Summary,
)
from tests.cache_backends.conformance import CHAT, CountedConformance, entry_of
from tests.cache_backends.figures_conformance import FiguresConformance
from tests.fakes.clock import FakeClock

OTHERS = {
    "provider": "anthropic",
    "dialect": "messages",
    "model": "claude",
    "namespace": "evals",
    "client": "ann",
    "run": "2031-05-06 é {}:",
    "prompt_digest": "0123456789abcdef",
    "llm_digest": "fedcba9876543210",
}


class ListedConformance(FiguresConformance, CountedConformance):
    """Listing by filter, narrowed, and finding by id alone.

    Every cache narrows by all fields, but those that say so find no text.
    """

    # False: there is no index of texts, and `Unsupported` says so.
    finds_text = True

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

    async def test_a_replaced_entry_is_listed_once_only(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """Whatever of it has changed, also its digests and its run."""
        for run in ("old", "new"):
            clock.advance(1)
            about = {"run": run, "prompt_digest": run * 5, "llm_digest": run}
            await cache.put(entry_of("0", clock, about=about, tags=[run]))
        assert await chosen(cache, EVERYTHING) == [0]
        for name, said in (("run", "old"), ("prompt_digest", "old" * 5), ("llm_digest", "old")):
            assert await chosen(cache, Filter(**{name: said})) == []
        assert await chosen(cache, Filter(run="new", llm_digest="new")) == [0]

    @pytest.mark.parametrize("text", ["chicken", "CHICKEN", "cross the", "Why did", "ROAD?", "50%"])
    async def test_a_text_is_found_in_the_prompt(
        self, cache: ListedCache, clock: FakeClock, text: str
    ) -> None:
        """Whatever its case, also a part of a word; no character stands for another."""
        prompts = [
            "Why did the CHICKEN cross the Road? 50%",
            "Why_did thechickencross_the road? 50 %",
            "nothing of it",
        ]
        await put_prompts(cache, clock, prompts)
        await self.finds(cache, text, [each for each in prompts if text.lower() in each.lower()])

    @pytest.mark.parametrize(
        ("text", "answers"),
        [("chicken", [0, 1]), ("WHY the", [0]), ("the road", [1]), ("nowhere", [])],
    )
    async def test_a_text_is_found_in_the_answer(
        self, cache: ListedCache, clock: FakeClock, text: str, answers: list[int]
    ) -> None:
        """In any choice of it; a replaced answer says no more what it said."""
        told = [["That is why the chicken"], ["no", "a Chicken on\nthe road"], ["none"]]
        for number, texts in enumerate(told):
            clock.advance(1)
            for said in (["nowhere"], texts):
                choices = [Generation(each) for each in said]
                await cache.put(entry_of(str(number), clock, *choices))
        await self.finds(cache, text, [str(number) for number in answers])

    async def finds(self, cache: ListedCache, text: str, prompts: Sequence[str]) -> None:
        """Exactly the entries with these prompts are found by the text, if any are by one."""
        narrowed = Narrowing(text=text)
        if not self.finds_text:
            with pytest.raises(Unsupported, match="text"):
                await cache.page(EVERYTHING, narrowed=narrowed)
            return
        found = [each.prompt for each in await listing(cache, narrowed=narrowed)]
        assert sorted(found) == sorted(prompts)

    async def test_a_listing_is_narrowed_by_size(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """That which it tells itself; both bounds are included."""
        for number in range(6):
            clock.advance(1)
            answer = Generation(Random(1).randbytes(5000 * number).hex())  # cannot be compressed
            await cache.put(entry_of(str(number), clock, answer))
        sizes = [each.bytes for each in reversed(await listing(cache))]
        assert sizes == sorted(set(sizes))
        for narrowed, expected in (
            (Narrowing(min_bytes=sizes[3]), [5, 4, 3]),
            (Narrowing(min_bytes=sizes[3] + 1), [5, 4]),
            (Narrowing(max_bytes=sizes[1]), [1, 0]),
            (Narrowing(max_bytes=sizes[1] - 1), [0]),
            (Narrowing(min_bytes=sizes[2], max_bytes=sizes[3]), [3, 2]),
            (Narrowing(min_bytes=sizes[5] + 1), []),
        ):
            assert await chosen(cache, EVERYTHING, narrowed) == expected

    async def test_a_listing_is_narrowed_to_what_has_expired(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """Or to what has not; what has no end does not."""
        await cache.put(entry_of("0", clock, expires=10, retained=100))
        await cache.put(entry_of("1", clock, expires=50, retained=100))
        await cache.put(entry_of("2", clock))
        assert await chosen(cache, EVERYTHING, Narrowing(expired=True)) == []
        clock.advance(10)
        assert await chosen(cache, EVERYTHING, Narrowing(expired=True)) == [0]
        assert sorted(await chosen(cache, EVERYTHING, Narrowing(expired=False))) == [1, 2]
        clock.advance(90)
        assert await chosen(cache, EVERYTHING, Narrowing(expired=True)) == []

    async def test_a_listing_is_narrowed_by_hits(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """To those with so many or more; that is all that none means."""
        entries = await store(cache, clock, [{} for _ in range(4)])
        await cache.add_hits({entries[1].key.id: 2, entries[2].key.id: 5})
        assert await chosen(cache, EVERYTHING, Narrowing(min_hits=2)) == [2, 1]
        assert await chosen(cache, EVERYTHING, Narrowing(min_hits=3)) == [2]
        assert await chosen(cache, EVERYTHING, Narrowing(min_hits=6)) == []
        assert await chosen(cache, EVERYTHING, Narrowing(min_hits=0)) == [3, 2, 1, 0]

    async def test_a_narrowed_listing_is_filtered_and_goes_through_pages(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """All that is said must fit, on every page."""
        kinds = [
            {
                "tags": ["odd"] if number % 2 else ["even"],
                "expires": 5 if number % 3 else 1000,
                "retained": 2000,
            }
            for number in range(60)
        ]
        entries = await store(cache, clock, kinds)
        clock.advance(10)
        await cache.add_hits({entry.key.id: 1 for entry in entries[:40]})
        narrowed = Narrowing(min_hits=1, min_bytes=1, max_bytes=10**6, expired=True)
        told = await listing(cache, Filter(tag="odd"), narrowed=narrowed, limit=4)
        expected = [number for number in range(39, 0, -2) if number % 3]
        assert [int(each.prompt) for each in told] == expected

    async def test_a_text_is_looked_for_among_what_is_chosen(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """On every page, with all else that is said."""
        if not self.finds_text:
            await self.finds(cache, "lucky", [])
            return
        kinds = [{"tags": ["odd"] if number % 2 else []} for number in range(30)]
        for number, kind in enumerate(kinds):
            clock.advance(1)
            answer = Generation("a lucky number" if number % 3 == 0 else "another")
            await cache.put(entry_of(str(number), clock, answer, **kind))
        narrowed = Narrowing(text="LUCKY", max_bytes=10**6)
        told = await listing(cache, Filter(tag="odd"), narrowed=narrowed, limit=2)
        assert [int(each.prompt) for each in told] == [27, 21, 15, 9, 3]

    async def test_entries_are_found_by_their_ids_alone(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """In the order asked, as they were stored; what is no id finds nothing."""
        entries = [entry_of(prompt, clock, CHAT, expires=5.5, retained=9) for prompt in "abc"]
        await cache.put_many(entries)
        a, b, c = (entry.key.id for entry in entries)
        asked = [c, "0" * 64, a, "no id", "", "é", c.upper(), c]
        assert await cache.by_ids(asked) == [
            entries[2],
            None,
            entries[0],
            None,
            None,
            None,
            None,
            entries[2],
        ]
        assert await cache.by_ids([]) == []
        assert await cache.by_ids([b]) == [entries[1]]

    async def test_by_its_id_an_entry_is_found_until_it_ends(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """Also one that is expired; not one that is past that, nor one that was deleted."""
        kept, gone = entry_of("kept", clock, expires=5, retained=10), entry_of("gone", clock)
        await cache.put_many([kept, gone])
        await cache.delete(gone.key.id)
        clock.advance(9)
        assert await cache.by_ids([kept.key.id, gone.key.id]) == [kept, None]
        clock.advance(1)
        assert await cache.by_ids([kept.key.id]) == [None]

    async def test_looking_by_ids_and_listing_are_no_hits(
        self, cache: ListedCache, clock: FakeClock
    ) -> None:
        """Only those that were counted are."""
        (entry,) = await store(cache, clock, [{}])
        await cache.by_ids([entry.key.id])
        await cache.get(entry.key)
        assert [each.hits for each in await listing(cache)] == [0]


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
    narrowed: Narrowing = WIDE,
    limit: int = 100,
    cursor: str | None = None,
) -> list[Summary]:
    """All pages; a page may be shorter than asked for, also when others follow."""
    page = await cache.page(filter, narrowed=narrowed, cursor=cursor, limit=limit)
    told = list(page.entries)
    while page.cursor is not None:
        page = await cache.page(filter, narrowed=narrowed, cursor=page.cursor, limit=limit)
        assert len(page.entries) <= limit
        told += page.entries
    return told


async def chosen(cache: ListedCache, filter: Filter, narrowed: Narrowing = WIDE) -> list[int]:
    """The numbers of the entries that the filter covers and that fit."""
    return [int(each.prompt) for each in await listing(cache, filter, narrowed=narrowed)]


async def put_prompts(cache: ListedCache, clock: FakeClock, prompts: Sequence[str]) -> None:
    await cache.put_many([entry_of(each, clock, Generation("an answer")) for each in prompts])
