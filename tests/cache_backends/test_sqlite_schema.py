"""Files of earlier layouts: what they hold survives, and can be listed, searched and removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw
import pytest

from cache_backends import CacheError, Entry, SQLiteCache, sqlite_listing
from cache_backends.shared import EVERYTHING, Filter, Narrowing
from tests.cache_backends import first_layout, second_layout
from tests.cache_backends.conformance import CHAT, entry_of
from tests.cache_backends.hostile import HOSTILE_VALUES
from tests.cache_backends.listed_conformance import chosen, listing
from tests.fakes.clock import FakeClock

Make = Callable[[Path, Sequence[Entry]], None]

ABOUT = {"provider": "p", "dialect": "d", "model": "m", "namespace": "n", "client": "c", "cost": 1}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest.fixture
def entries(clock: FakeClock) -> list[Entry]:
    found = []
    for number in range(10):
        clock.advance(1)
        found.append(entry_of(str(number), clock, CHAT, retained=1e6, about=ABOUT))
    return found


def layout(path: Path) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(path))
    found = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
    found.append((connection.pragma("user_version"), connection.pragma("integrity_check")))
    connection.close()
    return found


@pytest.mark.parametrize("make", [first_layout.make, second_layout.make])
async def test_entries_and_facts_survive(
    path: Path, entries: list[Entry], clock: FakeClock, make: Make
) -> None:
    """Found as they were, as never having heard of a purge; the totals go on."""
    make(path, entries)
    cache = SQLiteCache(path, clock=clock)
    assert await cache.get_many([entry.key for entry in entries]) == entries
    assert await cache.fact("secret", "other") == "kept"
    assert (await cache.totals()).entries == 10
    await cache.aclose()


@pytest.mark.parametrize("make", [first_layout.make, second_layout.make])
async def test_a_file_that_was_brought_up_is_as_a_new_one(
    path: Path, tmp_path: Path, entries: list[Entry], clock: FakeClock, make: Make
) -> None:
    """Both have the same tables, indexes and triggers."""
    make(path, entries)
    for each in (path, tmp_path / "new.db"):
        cache = SQLiteCache(each, clock=clock)
        await cache.put(entries[0])
        await cache.aclose()
    assert layout(path) == layout(tmp_path / "new.db")


async def test_old_entries_are_listed_with_all_their_facts(
    path: Path, entries: list[Entry], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that had no column of their own; however many steps it takes."""
    monkeypatch.setattr(sqlite_listing, "LIST_ROWS", 3)
    first_layout.make(path, entries)
    cache = SQLiteCache(path, clock=clock)
    told = await listing(cache, Filter(dialect="d", client="c", tag="eval"), limit=4)
    assert [each.prompt for each in told] == [str(number) for number in range(9, -1, -1)]
    assert {each.tags for each in told} == {("eval", "ünï")}
    assert all(each.about == ABOUT for each in told)
    await cache.aclose()


@pytest.mark.parametrize("make", [first_layout.make, second_layout.make])
async def test_old_entries_are_found_by_what_came_later(
    path: Path, entries: list[Entry], clock: FakeClock, make: Make
) -> None:
    """By their texts, hits and ids; not by facts that were no columns then."""
    make(path, entries)
    cache = SQLiteCache(path, clock=clock)
    assert await cache.by_ids([entries[3].key.id]) == [entries[3]]
    await cache.add_hits({entries[4].key.id: 2})
    assert await chosen(cache, EVERYTHING, Narrowing(min_hits=2)) == [4]
    assert len(await chosen(cache, EVERYTHING, Narrowing(text="RAINING"))) == 10
    assert await chosen(cache, Filter(run="r")) == []
    await cache.put(entry_of("3", clock, about={"run": "r"}))
    assert await chosen(cache, Filter(run="r")) == [3]
    await cache.aclose()


async def test_what_the_second_release_stores_meanwhile_is_found(
    path: Path, entries: list[Entry], clock: FakeClock
) -> None:
    """One that has the file open goes on: what it stores can be searched, and is as it is now."""
    second_layout.make(path)
    older = apsw.Connection(str(path))
    older.execute("SELECT count(*) FROM entries").fetchall()
    cache = SQLiteCache(path, clock=clock)
    await cache.put(entry_of("5", clock, about={"run": "r"}))
    assert await chosen(cache, EVERYTHING, Narrowing(text="raining")) == []
    second_layout.store(older, entries)
    older.close()
    told = await chosen(cache, Filter(dialect="d"), Narrowing(text="raining"))
    assert told == list(range(9, -1, -1))
    assert await chosen(cache, Filter(run="r")) == []
    await cache.aclose()


async def test_an_old_entry_that_was_stored_again_is_listed_as_it_is_now(
    path: Path, entries: list[Entry], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is replaced, deleted or new before the old ones are listed is told once, and rightly."""
    monkeypatch.setattr(sqlite_listing, "LIST_ROWS", 1)
    first_layout.make(path, entries)
    cache = SQLiteCache(path, clock=clock)
    await cache.delete(entries[3].key.id)
    await cache.put(entry_of("0", clock, tags=["new"]))
    clock.advance(1)
    await cache.put(entry_of("10", clock))
    assert await chosen(cache, Filter(tag="new")) == [0]
    assert sorted(await chosen(cache, EVERYTHING)) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    await cache.aclose()


async def test_old_entries_are_removed(path: Path, entries: list[Entry], clock: FakeClock) -> None:
    """A purge covers them, by whatever it names."""
    first_layout.make(path, entries)
    cache = SQLiteCache(path, clock=clock)
    number = await cache.announce(Filter(tag="eval"))
    assert await cache.remove(Filter(tag="eval", stored_before=clock()), before=number) == 9
    assert await cache.get_many([entries[0].key, entries[9].key]) == [None, entries[9]]
    await cache.aclose()


@pytest.mark.parametrize("name", HOSTILE_VALUES)
async def test_an_old_row_that_is_no_answer_is_listed_and_removed(
    path: Path, entries: list[Entry], clock: FakeClock, name: str
) -> None:
    """It keeps no other from being listed, and goes with a purge of everything."""
    first_layout.make(path, entries[:2])
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE entries SET value = ? WHERE prompt = '0'", (HOSTILE_VALUES[name],))
    connection.close()
    cache = SQLiteCache(path, clock=clock)
    assert await chosen(cache, EVERYTHING) == [1, 0]
    assert await chosen(cache, Filter(tag="eval")) == [1]
    assert await cache.remove(EVERYTHING, before=1) == 2
    assert await cache.totals() == (0, 0)
    await cache.aclose()


async def test_what_an_older_program_stores_meanwhile_can_be_removed(
    path: Path, entries: list[Entry], clock: FakeClock
) -> None:
    """One that has the file open goes on; its entries are listed, and covered by every purge."""
    first_layout.make(path)
    older = apsw.Connection(str(path))
    older.execute("SELECT count(*) FROM entries").fetchall()
    cache = SQLiteCache(path, clock=clock)
    await cache.announce(EVERYTHING)
    await cache.put(entries[0])
    first_layout.store(older, entries[:2])
    clock.advance(1)
    first_layout.store(older, [entry_of("0", clock, about=ABOUT)])
    older.close()
    assert await chosen(cache, Filter(provider="p", model="m", namespace="n")) == [0, 1]
    found = await cache.get(entries[0].key)
    assert found is not None
    assert found.seen == 0
    assert await cache.remove(EVERYTHING, before=1) == 2
    assert await cache.totals() == (0, 0)
    await cache.aclose()


async def test_many_may_open_an_old_file_at_once(
    path: Path, entries: list[Entry], clock: FakeClock
) -> None:
    """It is brought up once; nobody fails, and all know the store by the same name."""
    first_layout.make(path, entries)
    caches = [SQLiteCache(path, clock=clock) for _ in range(4)]
    logs = await asyncio.gather(*(cache.purges(0) for cache in caches))
    listed = await asyncio.gather(*(chosen(cache, EVERYTHING) for cache in caches))
    assert len({log.store for log in logs}) == 1
    assert listed == [list(range(9, -1, -1))] * 4
    for cache in caches:
        await cache.aclose()


async def test_an_old_file_whose_tables_are_not_ours_is_set_aside(
    path: Path, entries: list[Entry], clock: FakeClock
) -> None:
    """As any damaged one: kept under another name, and a new one is begun."""
    first_layout.make(path, entries)
    connection = apsw.Connection(str(path))
    connection.execute("ALTER TABLE entries RENAME TO others").fetchall()
    connection.close()
    cache = SQLiteCache(path, clock=clock)
    assert await cache.get(entries[0].key) is None
    await cache.aclose()
    assert [each for each in path.parent.glob("*.corrupt-*") if each.suffix.endswith("Z")]


async def test_a_layout_that_never_was_is_not_touched(path: Path, clock: FakeClock) -> None:
    """Only what is known to have been is brought up."""
    first_layout.make(path)
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 0)
    connection.close()
    cache = SQLiteCache(path, clock=clock)
    with pytest.raises(CacheError, match="has layout 0"):
        await cache.purges(0)
    await cache.aclose()
