"""The SQLite file itself: private, set aside when damaged, never somebody else's."""
# ruff: noqa: ASYNC240 - a test may wait for its own small file

from __future__ import annotations

import asyncio
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import apsw
import pytest

from cache_backends import CacheError, Generation, SQLiteCache, Totals
from cache_backends import sqlite_rows as rows
from cache_backends.sqlite_file import DatabaseFile
from tests.cache_backends.conformance import entry_of
from tests.fakes.clock import FakeClock

CLOCK = FakeClock()
ENTRY = entry_of("prompt", CLOCK)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def set_aside(path: Path) -> list[Path]:
    """The damaged files that lie beside the path; a log that went with one is not counted."""
    return [each for each in path.parent.glob("*.corrupt-*") if each.suffix.endswith("Z")]


async def test_only_the_owner_may_read(tmp_path: Path) -> None:
    """Directories that are made get 0700; the file, its log and its index 0600."""
    path = tmp_path / "new" / "deep" / "cache.db"
    cache = SQLiteCache(path)
    await cache.put(ENTRY)
    assert mode(tmp_path / "new") == mode(tmp_path / "new" / "deep") == 0o700
    names = sorted(each.name for each in path.parent.iterdir())
    assert names == ["cache.db", "cache.db-shm", "cache.db-wal"]
    assert {mode(each) for each in path.parent.iterdir()} == {0o600}
    await cache.aclose()


async def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    """Also one that was there before."""
    path.touch(0o644)
    cache = SQLiteCache(path)
    await cache.put(ENTRY)
    assert mode(path) == mode(Path(f"{path}-wal")) == 0o600
    await cache.aclose()


async def test_nothing_is_opened_before_it_is_needed(path: Path) -> None:
    """Making a cache touches neither disk nor threads."""
    cache = SQLiteCache(path)
    assert not path.exists()
    assert await cache.get(ENTRY.key) is None
    assert path.exists()
    await cache.aclose()


@pytest.mark.parametrize(
    "garbage", [b"no database " * 1000, b"x" * 600, b"SQLite format 3\x00" * 9]
)
async def test_a_file_that_is_no_database_is_set_aside(
    path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is renamed and named in a warning; the cache starts anew."""
    path.write_bytes(garbage)
    cache = SQLiteCache(path)
    assert await cache.get(ENTRY.key) is None
    await cache.put(ENTRY)
    assert await cache.get(ENTRY.key) == ENTRY
    await cache.aclose()
    (aside,) = set_aside(path)
    assert aside.read_bytes() == garbage
    (record,) = caplog.records
    assert str(aside) in record.getMessage()


@pytest.mark.parametrize("first", ["get", "put"])
async def test_damage_that_shows_up_later_is_set_aside_too(path: Path, first: str) -> None:
    """Whether reading or writing meets it: a miss, a new file, and everything works."""
    cache = SQLiteCache(path)
    entries = [entry_of(str(number), CLOCK, Generation("x" * 3000)) for number in range(200)]
    await cache.put_many(entries)
    await cache.aclose()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xa5" * (size - 3 * 4096))
    cache = SQLiteCache(path)
    if first == "get":
        assert await cache.get_many([each.key for each in entries]) == [None] * 200
    await cache.put_many(entries)
    assert await cache.get_many([each.key for each in entries]) == entries
    await cache.aclose()
    assert len(set_aside(path)) == 1


async def test_damage_under_an_open_file_is_set_aside(path: Path) -> None:
    """Also while both threads have it open; the old file is kept beside the new."""
    cache = SQLiteCache(path)
    await cache.put(ENTRY)
    await cache.get(ENTRY.key)
    other = apsw.Connection(str(path))
    other.pragma("wal_checkpoint", "TRUNCATE")
    other.close()
    path.write_bytes(b"\xa5" * path.stat().st_size)
    await cache.put_many([entry_of(str(number), CLOCK) for number in range(50)])
    assert await cache.get(ENTRY.key) is None
    await cache.put(ENTRY)
    assert await cache.get(ENTRY.key) == ENTRY
    await cache.aclose()
    assert len(set_aside(path)) == 1


async def test_tables_that_are_not_ours_count_as_damage(path: Path) -> None:
    """A file of ours whose tables someone changed is set aside like any damaged one."""
    cache = SQLiteCache(path)
    await cache.put(ENTRY)
    await cache.aclose()
    connection = apsw.Connection(str(path))
    connection.execute("ALTER TABLE entries RENAME COLUMN value TO other").fetchall()
    connection.close()
    cache = SQLiteCache(path)
    assert await cache.get(ENTRY.key) is None
    await cache.aclose()
    assert len(set_aside(path)) == 1


async def test_another_programs_database_is_not_touched(path: Path) -> None:
    """The error names the file; what it holds stays."""
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE full_llm_cache (prompt TEXT)").fetchall()
    connection.close()
    before = path.read_bytes()
    cache = SQLiteCache(path)
    for call in (cache.get(ENTRY.key), cache.put(ENTRY)):
        with pytest.raises(CacheError, match=r"cache\.db is a database of another program"):
            await call
    await cache.aclose()
    assert path.read_bytes() == before


def test_several_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    """None takes it for another program's while one is making its tables."""
    meeting = Barrier(4)

    def opened(path: Path) -> Totals:
        file = DatabaseFile(path, busy_timeout=5)
        meeting.wait()
        totals: Totals = file.run(rows.totals)
        file.close()
        return totals

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            for number in range(60):
                paths = [tmp_path / f"{number}.db"] * 4
                assert list(threads.map(opened, paths)) == [(0, 0)] * 4
    finally:
        sys.setswitchinterval(interval)


async def test_a_newer_layout_is_not_touched(path: Path) -> None:
    """A file that a later version made is refused, not thrown away."""
    cache = SQLiteCache(path)
    await cache.put(ENTRY)
    await cache.aclose()
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 99)
    connection.close()
    cache = SQLiteCache(path)
    with pytest.raises(CacheError, match="has layout 99, this program knows 3"):
        await cache.get(ENTRY.key)
    await cache.aclose()


async def test_a_deleted_file_is_made_again(path: Path) -> None:
    """Deleted under us, with or without its log, the file is just empty."""
    cache = SQLiteCache(path)
    for leftovers in (["-wal", "-shm"], []):
        await cache.put(ENTRY)
        assert await cache.get(ENTRY.key) == ENTRY
        for suffix in ["", *leftovers]:
            Path(f"{path}{suffix}").unlink()
        assert await cache.get(ENTRY.key) is None
    await cache.put(ENTRY)
    assert await cache.get(ENTRY.key) == ENTRY
    await cache.aclose()
    reopened = SQLiteCache(path)
    assert await reopened.get(ENTRY.key) == ENTRY
    await reopened.aclose()


async def test_a_directory_in_its_place_is_an_error(path: Path) -> None:
    """It is named, and left as it is."""
    path.mkdir(0o755)
    cache = SQLiteCache(path)
    with pytest.raises(CacheError, match=r"cache\.db: unable to open"):
        await cache.get(ENTRY.key)
    await cache.aclose()
    assert mode(path) == 0o755


async def test_while_others_write_reading_goes_on(path: Path) -> None:
    """A locked file is an error for who writes, after the busy timeout, and for nobody else."""
    cache = SQLiteCache(path, busy_timeout=0.05)
    await cache.put(ENTRY)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE").fetchall()
    writing = asyncio.create_task(cache.put(entry_of("new", CLOCK)))
    assert await cache.get(ENTRY.key) == ENTRY
    with pytest.raises(CacheError, match=r"cache\.db: .*locked"):
        await writing
    other.execute("ROLLBACK").fetchall()
    other.close()
    await cache.put(entry_of("new", CLOCK))
    assert (await cache.totals()).entries == 2
    await cache.aclose()
