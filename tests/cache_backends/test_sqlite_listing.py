"""Listing, removal and the log in a SQLite file: in steps, by the index, whatever the rows hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest
import pytest_asyncio

from cache_backends import CacheError, Generation, SQLiteCache, sqlite_listing, sqlite_rows
from cache_backends.shared import EVERYTHING, Filter
from cache_backends.sqlite_choice import Choice, packed, unpacked
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.listed_conformance import chosen, listing, store
from tests.fakes.clock import FakeClock

FEW_RARE = [{"tags": ["rare"] if number in (3, 60) else []} for number in range(100)]


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


def tamper(path: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Do to the file what another program could."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    found = connection.execute(statement, values).fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("step", [1, 7, 60])
async def test_a_page_takes_as_many_steps_as_it_needs(
    cache: SQLiteCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Where few fit, the search goes on behind what one step reads; also for a removal."""
    monkeypatch.setattr(sqlite_listing, "STEP_ROWS", step)
    entries = await store(cache, clock, FEW_RARE)
    assert await chosen(cache, Filter(tag="rare")) == [60, 3]
    between = Filter(stored_after=entries[20].stored_at, stored_before=entries[23].stored_at)
    assert await chosen(cache, between) == [22, 21]
    assert (await cache.page(Filter(tag="none"))) == ([], None)
    assert await cache.remove(Filter(tag="rare"), before=1) == 2
    assert len(await listing(cache, limit=9)) == 98


@pytest.mark.parametrize("step", [3, 1000])
async def test_what_stays_is_listed_once_whatever_comes_and_goes(
    cache: SQLiteCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """With writes between all pages: replaced, deleted, new, also at the very same times."""
    monkeypatch.setattr(sqlite_listing, "STEP_ROWS", step)
    random = Random(4)
    entries = await store(cache, clock, [{} for _ in range(60)])
    staying, going = entries[::2], entries[1::2]
    told: list[str] = []
    cursor = None
    while True:
        page = await cache.page(EVERYTHING, cursor=cursor, limit=random.randrange(1, 6))
        told += [each.id for each in page.entries]
        cursor = page.cursor
        if cursor is None:
            break
        gone, again = random.sample(going, 2)
        await cache.delete(gone.key.id)
        await cache.put(entry_of(again.key.prompt, clock))
        await cache.put(entry_of(f"new {len(told)}", FakeClock(random.choice(staying).stored_at)))
    assert [each.key.id for each in reversed(staying)] == [
        key for key in told if key in {each.key.id for each in staying}
    ]


async def test_a_page_ends_where_its_entries_end(cache: SQLiteCache, clock: FakeClock) -> None:
    """No empty page follows one that held the last; there are limits to what one page holds."""
    await store(cache, clock, [{} for _ in range(6)])
    page = await cache.page(EVERYTHING, limit=3)
    assert page.cursor is not None
    assert (await cache.page(EVERYTHING, cursor=page.cursor, limit=3)).cursor is None
    assert len((await cache.page(EVERYTHING, limit=0)).entries) == 1
    assert len((await cache.page(EVERYTHING, limit=10**30)).entries) == 6


async def test_many_ids_are_found_and_removed(
    cache: SQLiteCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one batch takes; those that nobody has cost nothing but time."""
    monkeypatch.setattr(sqlite_rows, "BATCH_ROWS", 7)
    entries = [entry_of(str(number), clock) for number in range(50)]
    await cache.put_many(entries)
    ids = (*(f"{number:064x}" for number in range(2000)), *(each.key.id for each in entries[1:]))
    assert len(await listing(cache, Filter(ids=ids), limit=20)) == 49
    assert await cache.remove(Filter(ids=ids), before=1) == 49
    assert await chosen(cache, EVERYTHING) == [0]


async def test_others_write_between_the_batches_of_a_removal(
    cache: SQLiteCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store does not wait for all that is removed."""
    monkeypatch.setattr(sqlite_rows, "BATCH_ROWS", 5)
    await cache.put_many([entry_of(str(number), clock) for number in range(500)])
    removing = asyncio.create_task(cache.remove(EVERYTHING, before=1))
    await asyncio.sleep(0)
    clock.advance(1)
    late = replace(entry_of("late", clock), seen=1)
    await cache.put(late)
    assert not removing.done()
    assert await removing == 500
    assert await cache.get(late.key) == late


async def test_a_removal_of_everything_gives_the_disk_back(
    path: Path, cache: SQLiteCache, clock: FakeClock
) -> None:
    """Piece by piece, as each takes its time."""
    await cache.put_many([entry_of(str(n), clock, Generation("x" * 90_000)) for n in range(100)])
    assert await cache.remove(EVERYTHING, before=1) == 100
    await cache.aclose()
    assert len(path.read_bytes()) < 200_000  # noqa: ASYNC240 - a small file


async def test_a_listing_reads_little_of_long_prompts(cache: SQLiteCache, clock: FakeClock) -> None:
    """The beginning, whole characters only, wherever the bytes are cut."""
    for number, prompt in enumerate(["x" * 3 + "☂" * 10**6, "🦜" * 600, "é" * 499, ""]):
        clock.advance(1)
        await cache.put(entry_of(prompt, clock, about={"number": number}))
    told = [each.prompt for each in await listing(cache)]
    assert told == ["", "é" * 499, "🦜" * 500, "x" * 3 + "☂" * 497]


@pytest.mark.parametrize("tags", [(), ("",), ("", ""), ("a", ""), ("é\x00", "a,b"), ("\xff",)])
def test_any_tags_come_back(tags: tuple[str, ...]) -> None:
    """Whatever they are made of, they are kept apart."""
    assert unpacked(packed(tags)) == tags


@pytest.mark.parametrize(
    "filter",
    [
        EVERYTHING,
        Filter(provider="p"),
        Filter(dialect="d"),
        Filter(model="m", namespace="n"),
        Filter(client="c"),
        Filter(tag="t"),
        Filter(stored_after=1.0),
        Filter(stored_before=1.0, tag="t"),
    ],
)
def test_the_listing_is_read_in_its_order(path: Path, filter: Filter) -> None:
    """Nothing is sorted, nothing is scanned: the primary key leads to each row and its entry."""
    plan = " / ".join(explained(path, filter))
    assert "PRIMARY KEY ((stored_at,id)>(?,?) AND (stored_at,id)<(?,?))" in plan
    assert "SEARCH entries USING INDEX sqlite_autoindex_entries_1 (id=?)" in plan
    assert "SCAN" not in plan
    assert "TEMP B-TREE" not in plan


def test_ids_are_looked_up(path: Path) -> None:
    """What is scanned is the list that was given."""
    plan = " / ".join(explained(path, Filter(ids=("0" * 64,), model="m")))
    assert "SCAN json_each VIRTUAL TABLE" in plan
    assert "SEARCH entries USING INDEX sqlite_autoindex_entries_1 (id=?)" in plan
    assert "SEARCH listing USING PRIMARY KEY (stored_at=? AND id=?)" in plan


def explained(path: Path, filter: Filter) -> list[str]:
    SQLiteCache(path).update("prompt", "llm", [Generation("a")])
    choice = Choice.of(filter)
    statement = f"EXPLAIN QUERY PLAN {choice.statement(sqlite_listing.LASTS)}"
    names = ("at", "id", "end_at", "end_id", "limit", "now")
    connection = apsw.Connection(str(path))
    rows = connection.execute(statement, dict.fromkeys(names, 1) | choice.bindings).fetchall()
    connection.close()
    return [str(row[-1]) for row in rows]


@pytest.mark.parametrize(
    "change",
    [
        "entries SET stored_at = 9e999",
        "entries SET stored_at = -9e999",
        "entries SET expires_at = 9e999",
        "entries SET id = zeroblob(100000)",
        "entries SET prompt = CAST(x'ff' AS TEXT)",
        "entries SET provider = CAST(x'ff' AS TEXT), value = x''",
        "listing SET about = NULL",
        "listing SET about = x'ff'",
        "listing SET about = CAST('[1]' AS BLOB)",
        "listing SET tags = x'ff'",
        "listing SET tags = x'c3'",
        "listing SET model = CAST(x'ff' AS TEXT)",
        "listing SET seen = -9223372036854775808",
    ],
)
async def test_a_row_with_strange_columns_hides_no_other(
    cache: SQLiteCache, path: Path, clock: FakeClock, change: str
) -> None:
    """The others are listed, and a removal of everything takes it along."""
    entries = await store(cache, clock, [{}, {"tags": ["odd"]}, {}])
    named = "prompt = '1'" if change.startswith("entries") else f"stored_at = {clock() - 1}"
    tamper(path, f"UPDATE {change} WHERE {named}")
    told = [each.id for each in await listing(cache, limit=2)]
    assert [key for key in told if key in (entries[0].key.id, entries[2].key.id)] == [
        entries[2].key.id,
        entries[0].key.id,
    ]
    assert await cache.remove(EVERYTHING, before=1) == 3
    assert await cache.totals() == (0, 0)


async def test_the_listing_has_a_row_for_each_entry(
    cache: SQLiteCache, path: Path, clock: FakeClock
) -> None:
    """However entries came and went: stored again, deleted, ended, removed, cleared."""
    entries = await store(cache, clock, [{"retained": 20.0}, {}, {}, {}, {}])
    await cache.put(entry_of("1", clock))
    await cache.delete(entries[2].key.id)
    await cache.remove(Filter(ids=(entries[3].key.id,)), before=1)
    clock.advance(20)
    await cache.put(entry_of("new", clock))
    listed = "SELECT hex(id), stored_at FROM listing ORDER BY 1"
    stored = "SELECT hex(id), stored_at FROM entries ORDER BY 1"
    assert tamper(path, listed) == tamper(path, stored)
    assert len(tamper(path, listed)) == 3
    await cache.aclear()
    assert tamper(path, listed) == []


async def test_rows_of_the_listing_without_an_entry_are_not_told(
    cache: SQLiteCache, path: Path, clock: FakeClock
) -> None:
    """Nor do they count, nor keep a removal from coming to its end."""
    await store(cache, clock, [{}, {}])
    tamper(path, "INSERT INTO listing (stored_at, id, seen) VALUES (9e999, x'00', 0), (1, x'', 0)")
    assert await chosen(cache, EVERYTHING) == [1, 0]
    assert await cache.remove(EVERYTHING, before=1) == 2


@pytest.mark.parametrize(
    "said", [b"", b"null", b"[]", b"\xff", b'{"new": 1}', b'{"tag": 1}', b'{"ids": "a"}']
)
async def test_a_purge_that_cannot_be_read_covers_everything(
    cache: SQLiteCache, path: Path, said: bytes
) -> None:
    """It may have meant anything; what comes after it is read as it is."""
    number = await cache.announce(Filter(tag="a"))
    await cache.announce(Filter(tag="b"))
    tamper(path, "UPDATE purges SET filter = ? WHERE number = ?", said, number)
    read = await cache.purges(0)
    assert [purge.filter for purge in read.purges] == [EVERYTHING, Filter(tag="b")]


async def test_a_log_at_its_end_is_begun_anew(
    cache: SQLiteCache, path: Path, clock: FakeClock
) -> None:
    """The file is set aside as damaged: another store, where everything is as never stored."""
    first = await cache.purges(0)
    await cache.put(entry_of("prompt", clock))
    tamper(path, "INSERT INTO purges VALUES (9223372036854775807, 0, 1.0, x'')")
    assert (await cache.purges(2**80)).head == 2**63 - 1
    number = await cache.announce(EVERYTHING)
    read = await cache.purges(0)
    assert (read.head, len(read.purges)) == (number, 1)
    assert read.store != first.store
    assert await cache.totals() == (0, 0)


async def test_a_store_without_its_name_is_damaged(cache: SQLiteCache, path: Path) -> None:
    """Set aside, and begun anew under another."""
    await cache.announce(EVERYTHING)
    tamper(path, "DELETE FROM store")
    read = await cache.purges(0)
    assert read.store
    assert read[1:] == (0, ())


async def test_a_file_that_is_made_again_is_another_store(cache: SQLiteCache, path: Path) -> None:
    """So whoever knows the log of the old one forgets it."""
    first = await cache.purges(0)
    path.unlink()  # noqa: ASYNC240 - a small file
    assert (await cache.purges(0)).store != first.store


async def test_a_filter_that_cannot_be_asked_for_harms_nobody_else(
    cache: SQLiteCache, clock: FakeClock
) -> None:
    """Half a surrogate pair is refused before it gets among the others' questions."""
    entry = entry_of("prompt", clock)
    await cache.put(entry)
    for said in (Filter(model="\ud800"), Filter(tag="\ud800")):
        refused = asyncio.create_task(cache.page(said))
        assert await cache.get(entry.key) == entry
        with pytest.raises(ValueError, match="surrogates"):
            await refused


async def test_an_announcement_outlives_a_loss_of_power(
    cache: SQLiteCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the disk, which no other write does; afterwards they do so no more."""
    synced: list[int] = []

    def noting(connection: apsw.Connection, now: float) -> int:
        synced.append(connection.pragma("synchronous"))
        return 0

    monkeypatch.setattr(sqlite_rows, "delete_expired", noting)  # asked by each round of the writer
    await cache.put(entry_of("a", clock))
    await cache.announce(EVERYTHING)
    await cache.put(entry_of("b", clock))
    assert synced == [1, 2, 1]  # NORMAL, FULL, NORMAL


async def test_leases_that_ended_are_swept(
    cache: SQLiteCache, path: Path, clock: FakeClock
) -> None:
    """Those whose holders died would stay for ever."""
    for number in range(5):
        await cache.claim(str(number), "me", 10)
    await cache.claim("long", "me", 20)
    clock.advance(10)
    await cache.put(entry_of("a", clock))
    assert tamper(path, "SELECT name FROM leases") == [("long",)]


async def test_a_closed_cache_says_so_here_too(cache: SQLiteCache) -> None:
    """Nothing hangs."""
    await cache.aclose()
    for call in (cache.page(EVERYTHING), cache.purges(0), cache.announce(EVERYTHING)):
        with pytest.raises(CacheError, match="is closed"):
            await call
