"""Hits, counts and facts in a SQLite file, and entries by their ids alone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import apsw
import pytest
import pytest_asyncio

from cache_backends import CacheError, Generation, SQLiteCache, sqlite, sqlite_figures
from cache_backends.shared import EVERYTHING, Narrowing
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.evicting_conformance import SMALL_BYTES, EvictingConformance
from tests.cache_backends.hostile import HOSTILE_VALUES
from tests.cache_backends.listed_conformance import chosen, listing, store
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest_asyncio.fixture
async def cache(path: Path, clock: FakeClock) -> AsyncIterator[SQLiteCache]:
    opened = SQLiteCache(path, clock=clock)
    yield opened
    await opened.aclose()


class TestSQLiteCache(EvictingConformance):
    @pytest_asyncio.fixture
    async def small(self, path: Path, clock: FakeClock) -> AsyncIterator[SQLiteCache]:
        opened = SQLiteCache(path, max_bytes=SMALL_BYTES, clock=clock)
        yield opened
        await opened.aclose()


def asked(path: Path, statement: str, *values: bytes) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    found = connection.execute(statement, values).fetchall()
    connection.close()
    return found


async def test_a_pinned_entry_that_is_used_still_goes_last(path: Path, clock: FakeClock) -> None:
    """A mark of its use does not put it among the others; unpinned, it goes as they do."""
    cache = SQLiteCache(path, max_bytes=50_000, clock=clock)
    pinned = entry_of("pinned", clock, Generation("x" * 8000), about={"pinned": True})
    await cache.put(pinned)
    for number in range(20):
        clock.advance(100)
        if number < 5:
            assert await cache.get(pinned.key) == pinned
        await cache.put(entry_of(str(number), clock, Generation("x" * 8000)))
    assert await cache.get(pinned.key) == pinned
    await cache.put(entry_of("pinned", clock, Generation("x" * 8000)))
    for number in range(20):
        clock.advance(100)
        await cache.put(entry_of(str(number), clock, Generation("y" * 8000)))
    assert await cache.get(pinned.key) is None
    await cache.aclose()


@pytest.mark.parametrize("few", [0, 3, 2000])
async def test_those_hit_most_are_found(
    cache: SQLiteCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Looked up where they are few, else looked for among all; also with an id."""
    monkeypatch.setattr(sqlite, "FEW_IDS", few)
    entries = await store(cache, clock, [{} for _ in range(10)])
    await cache.add_hits({entry.key.id: number for number, entry in enumerate(entries)})
    assert await chosen(cache, EVERYTHING, Narrowing(min_hits=8)) == [9, 8]
    assert await chosen(cache, EVERYTHING, Narrowing(min_hits=2**80)) == []
    assert await chosen(cache, EVERYTHING, Narrowing(min_hits=-1)) == list(range(9, -1, -1))
    told = await listing(cache, narrowed=Narrowing(min_hits=3), limit=2)
    assert [each.hits for each in told] == list(range(9, 2, -1))


async def test_few_hits_are_found_by_their_index(path: Path, cache: SQLiteCache) -> None:
    """However many entries have fewer."""
    await cache.totals()
    plan = asked(path, "EXPLAIN QUERY PLAN SELECT id FROM hits WHERE hits >= 5 LIMIT 9")
    assert "USING COVERING INDEX hits_by_number (hits>?)" in str(plan)


async def test_any_size_can_be_asked_for(cache: SQLiteCache, clock: FakeClock) -> None:
    """Also one that SQLite cannot count to."""
    await store(cache, clock, [{}])
    assert await chosen(cache, EVERYTHING, Narrowing(min_bytes=-(10**30), max_bytes=10**30)) == [0]
    assert await chosen(cache, EVERYTHING, Narrowing(min_bytes=10**30)) == []


async def test_many_hits_are_added_at_once(
    cache: SQLiteCache, path: Path, clock: FakeClock
) -> None:
    """Ten thousand in one transaction; of ids that nobody has, nothing is kept."""
    entries = [entry_of(str(number), clock) for number in range(5000)]
    await cache.put_many(entries)
    reader = apsw.Connection(str(path))
    before = reader.pragma("data_version")
    more = {f"{number:064x}": 1 for number in range(4997)} | {"": 1, "no id": 1, "\ud800": 1}
    await cache.add_hits({entry.key.id: 2 for entry in entries} | more)
    assert reader.pragma("data_version") == before + 1
    reader.close()
    assert asked(path, "SELECT count(*), sum(hits) FROM hits") == [(5000, 10_000)]


async def test_hits_go_with_their_entry(cache: SQLiteCache, path: Path, clock: FakeClock) -> None:
    """One that is stored under the same key later begins anew."""
    entry = entry_of("0", clock)
    await cache.put(entry)
    await cache.add_hits({entry.key.id: 3})
    await cache.put(entry)
    assert [each.hits for each in await listing(cache)] == [3]
    await cache.delete(entry.key.id)
    assert asked(path, "SELECT * FROM hits") == []
    await cache.put(entry)
    assert [each.hits for each in await listing(cache)] == [0]


async def test_hits_have_an_end(cache: SQLiteCache, clock: FakeClock) -> None:
    """Beyond any that could be counted: they stay whole numbers."""
    entry = entry_of("0", clock)
    await cache.put(entry)
    for _ in range(3):
        await cache.add_hits({entry.key.id: 2**70})
    assert [each.hits for each in await listing(cache)] == [sqlite_figures.MOST_HITS]


@pytest.mark.parametrize(
    "amounts", [{"a": 1, "b": math.nan}, {"a": 1, "b": math.inf}, {"a": 1, "\ud800": 1}]
)
async def test_counts_that_cannot_be_added_harm_nobody(
    cache: SQLiteCache, clock: FakeClock, amounts: dict[str, float]
) -> None:
    """They are refused before they get among what others write, and none of them is added."""
    entry = entry_of("prompt", clock)
    refused = asyncio.create_task(cache.add_counts("group", amounts))
    await cache.put(entry)
    with pytest.raises(ValueError, match=r"cannot be added|surrogates"):
        await refused
    assert await cache.counts("group") == {}
    assert await cache.get(entry.key) == entry


async def test_counts_add_up_across_instances_and_restarts(path: Path, clock: FakeClock) -> None:
    """None is lost, however many add at once."""
    caches = [SQLiteCache(path, clock=clock) for _ in range(3)]
    adding = [each.add_counts("é", {"a": 0.5, "b": n}) for n in range(20) for each in caches]
    await asyncio.gather(*adding)
    for each in caches:
        await each.aclose()
    cache = SQLiteCache(path, clock=clock)
    assert await cache.counts("é") == {"a": 30.0, "b": 570.0}
    await cache.aclear()
    assert await cache.counts("é") == {"a": 30.0, "b": 570.0}
    await cache.forget_counts("é")
    assert await cache.counts("é") == {}
    await cache.aclose()


@pytest.mark.parametrize("name", HOSTILE_VALUES)
async def test_by_its_id_a_row_that_is_no_answer_is_not_found_and_goes(
    cache: SQLiteCache, path: Path, clock: FakeClock, name: str
) -> None:
    """Garbage is counted, and dropped with the next write."""
    entries = await store(cache, clock, [{}, {}])
    asked(path, "UPDATE entries SET value = ? WHERE prompt = '0'", HOSTILE_VALUES[name])
    assert await cache.by_ids([each.key.id for each in entries]) == [None, entries[1]]
    assert cache.broken == 1
    await cache.put(entry_of("2", clock))
    assert (await cache.totals()).entries == 2


@pytest.mark.parametrize(
    "change",
    ["prompt = CAST(x'ff' AS TEXT)", "llm_string = CAST(x'ff' AS TEXT)", "stored_at = 9e999"],
)
async def test_by_its_id_a_row_with_strange_columns_is_not_found(
    cache: SQLiteCache, path: Path, clock: FakeClock, change: str
) -> None:
    """The others are."""
    entries = await store(cache, clock, [{}, {}])
    asked(path, f"UPDATE entries SET {change} WHERE prompt = '0'")
    assert await cache.by_ids([each.key.id for each in entries]) == [None, entries[1]]


async def test_any_number_is_found_by_ids(cache: SQLiteCache, clock: FakeClock) -> None:
    """In parts, between which others are answered; each with the last purge it knew."""
    entries = [replace(entry_of(str(number), clock), seen=number) for number in range(250)]
    await cache.put_many(entries)
    found = await cache.by_ids([each.key.id for each in entries])
    assert found == entries
    assert [each.seen for each in found if each is not None] == list(range(250))


async def test_a_fact_is_changed_for_everyone(path: Path, clock: FakeClock) -> None:
    """Also one that nobody has set yet."""
    cache, other = SQLiteCache(path, clock=clock), SQLiteCache(path, clock=clock)
    await cache.set_fact("mode", "offline")
    assert await other.fact("mode", "normal") == "offline"
    await other.set_fact("mode", "é")
    assert await cache.fact("mode", "normal") == "é"
    for each in (cache, other):
        await each.aclose()


async def test_a_closed_cache_says_so_of_figures_too(cache: SQLiteCache) -> None:
    """Nothing hangs."""
    await cache.aclose()
    for call in (cache.by_ids(["0" * 64]), cache.counts("a"), cache.set_fact("a", "b")):
        with pytest.raises(CacheError, match="is closed"):
            await call
