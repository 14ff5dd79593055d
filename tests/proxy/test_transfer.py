"""Entries carried from cache to cache: whole, again, torn, rebound."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from cache_backends import ManagedCache, RedisCache, SQLiteCache
from cache_backends.base import CacheError
from cache_backends.ndjson import line_of
from cache_backends.shared import Filter, Narrowing
from proxy import transfer
from proxy.catalogue import ALL, Catalogue, Selection
from proxy.transfer import Importer, export
from tests.fakes.managed import NOW, an_entry, by_id, tiered


@pytest.fixture
def file(tmp_path: Path) -> ManagedCache:
    return tiered(SQLiteCache(tmp_path / "cache.db"))


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for each in given:
        yield each


async def exported(cache: ManagedCache, which: Selection = ALL) -> list[bytes]:
    return [line async for line in export(Catalogue(cache), which)]


async def brought(cache: ManagedCache, *given: bytes) -> transfer.Imported:
    importer = Importer(Catalogue(cache), clock=lambda: NOW)
    async for _ in importer.run(pieces(*given)):
        pass
    return importer.sums


async def test_from_sqlite_to_redis_and_back(
    file: ManagedCache, redis_url: str, fresh_name: str, tmp_path: Path
) -> None:
    """All that an entry is survives: ends, tags, facts, pins, large answers and odd characters."""
    entries = [
        an_entry(0, expires_at=4e9, retained_until=4.1e9, tags=("a", "b")),
        an_entry(1, about={"pinned": True, "unpinned": [4e9, None], "usd": 0.00125}),
        an_entry(2, about={"model": "Ärger \U0001f600", "seconds": 1.5, "extra": {"x": [None]}}),
        replace(an_entry(3), stored_at=NOW + 0.123456),
    ]
    await file.put_many(entries)
    redis = tiered(RedisCache(redis_url, prefix=fresh_name))
    again = tiered(SQLiteCache(tmp_path / "again.db"))
    lines = await exported(file)
    assert (await brought(redis, *lines)).imported == 4
    there = await exported(redis)
    assert sorted(there) == sorted(lines)
    assert (await brought(again, *there)).imported == 4
    assert sorted(await exported(again)) == sorted(lines)
    found = await again.by_ids([entry.key.id for entry in entries])
    assert [replace(entry, seen=0) for entry in found if entry] == entries
    for cache in (file, redis, again):
        await cache.aclose()


async def test_an_export_goes_on_where_it_was_interrupted(
    file: ManagedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each page a line says where; the last says that this was all."""
    monkeypatch.setattr("proxy.catalogue.BATCH", 3)
    entries = by_id(an_entry(number) for number in range(8))
    await file.put_many(list(entries.values()))
    lines = await exported(file)
    cursors = [orjson.loads(line)["cursor"] for line in lines if b'"cursor"' in line]
    assert len(cursors) == 3
    assert cursors[-1] is None
    rest = [line async for line in export(Catalogue(file), ALL, cursors[0])]
    assert lines[4:] == rest
    chosen = Selection(Filter(model="m"), Narrowing(text="ask 5"))
    assert len(await exported(file, chosen)) == 2
    await file.aclose()


async def test_an_import_can_be_run_again(file: ManagedCache) -> None:
    """It changes nothing; what was stored later stays, what is older goes."""
    lines = [line_of(an_entry(number)) for number in range(5)]
    assert (await brought(file, *lines[:3])).imported == 3
    again = await brought(file, *lines)
    assert (again.imported, again.skipped, again.failures) == (2, 3, 0)
    newer = replace(an_entry(1), stored_at=NOW + 100)
    older = replace(an_entry(2), stored_at=NOW - 100, tags=("older",))
    sums = await brought(file, line_of(newer), line_of(older))
    assert (sums.imported, sums.skipped) == (1, 1)
    found = await file.by_ids([newer.key.id, older.key.id])
    assert [entry and (entry.stored_at, entry.tags) for entry in found] == [
        (NOW + 100, ()),
        (NOW + 2, ()),
    ]
    await file.aclose()


async def test_wrong_lines_are_told_and_the_rest_is_imported(file: ManagedCache) -> None:
    """With their numbers, torn ones too; nothing of what they held is repeated."""
    good = line_of(an_entry(0))
    body = b"\n".join([b"secret{", good, b"", b'{"v":2}', b"[]", b"\xff\xfe", good[:-40]])
    sums = await brought(file, body)
    assert (sums.imported, sums.failures) == (1, 5)
    assert [each["line"] for each in sums.failed] == [1, 5, 6, 7, 8]
    assert "secret" not in str(sums.failed)
    assert (await brought(file, *[b"x\n"] * 300)).failures == 300
    assert len((await brought(file, *[b"x\n"] * 300)).failed) == transfer.MAX_FAILURES
    await file.aclose()


async def test_of_two_of_a_kind_the_later_one_counts(file: ManagedCache) -> None:
    """Whatever their order, and also where both come at once."""
    older = an_entry(0)
    newer = replace(older, stored_at=older.stored_at + 1, tags=("newer",))
    sums = await brought(file, line_of(older) + line_of(newer) + line_of(older))
    assert (sums.imported, sums.skipped) == (1, 2)
    (found,) = await file.by_ids([older.key.id])
    assert found is not None
    assert found.tags == ("newer",)
    await file.aclose()


async def test_what_is_over_is_not_imported(file: ManagedCache) -> None:
    """Nobody could be told it."""
    gone = an_entry(0, expires_at=NOW - 20, retained_until=NOW)
    sums = await brought(file, line_of(gone))
    assert (sums.imported, sums.skipped) == (0, 1)
    await file.aclose()


async def test_a_purge_before_the_import_does_not_cover_it(file: ManagedCache) -> None:
    """It was of what there was then."""
    line = line_of(an_entry(0))
    await brought(file, line)
    assert await file.purge(Filter()) == 1
    assert (await brought(file, line)).imported == 1
    assert len(await exported(file)) == 2
    assert await file.purge(Filter()) == 1
    assert len(await exported(file)) == 1
    await file.aclose()


async def test_a_cache_that_fails_says_how_far_it_came(
    file: ManagedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that the same can be imported again."""
    monkeypatch.setattr(transfer, "STORED_AT_ONCE", 2)
    put = file.put_many

    async def full(entries: list[object]) -> None:
        monkeypatch.setattr(file, "put_many", fails)
        await put(entries)  # type: ignore[arg-type] # entries they are

    async def fails(entries: object) -> None:
        raise CacheError("the disk is full")

    monkeypatch.setattr(file, "put_many", full)
    with pytest.raises(CacheError, match=r"the disk is full\. 2 entries were"):
        await brought(file, *[line_of(an_entry(number)) for number in range(5)])
    await file.aclose()


async def test_memory_stays_flat(file: ManagedCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large entries few are read at a time, out and in."""
    monkeypatch.setattr("proxy.catalogue.READ_BYTES", 100_000)
    monkeypatch.setattr(transfer, "STORED_BYTES", 100_000)
    large = [an_entry(number, about={"pad": "x" * 60_000}) for number in range(6)]
    at_once: list[int] = []

    def counting(call: Callable[..., object]) -> Callable[..., object]:
        def counted(entries: list[object]) -> object:
            at_once.append(len(entries))
            return call(entries)

        return counted

    monkeypatch.setattr(file, "put_many", counting(file.put_many))
    await brought(file, *map(line_of, large))
    monkeypatch.setattr(file, "by_ids", counting(file.by_ids))
    assert len(await exported(file)) == 7
    assert max(at_once) <= 2
    await file.aclose()
