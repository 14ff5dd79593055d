"""A served proxy and a SQLite file in every bad state: answers stay right, and it is used again.

All with and without memory before the cache, where both use the same file.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import httpx
import pytest

from cache_backends import Generation, SQLiteCache
from proxy.store import Breaker
from tests.fakes.callers import Callers, settled, together, with_and_without_memory
from tests.fakes.live_proxy import StartProxy

# So that saves need not be waited for where another program holds the lock.
HASTY = {"busy_timeout": 0.1}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is skipped is tried again soon: the tests need not wait."""
    monkeypatch.setattr(Breaker, "RETRY_S", 0.3)
    monkeypatch.setattr("proxy.application.REOPEN_S", 0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Another program writes, and does not come to an end."""
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE").fetchall()
    yield
    other.execute("ROLLBACK").fetchall()
    other.close()


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """As far as SQLite can see: no file may be written beyond its first kilobyte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


UNWRITABLE = {"locked": write_lock, "full": full_disk}


@pytest.mark.parametrize("state", UNWRITABLE)
async def test_what_is_stored_is_served_from_one_that_takes_no_writes(
    proxy: StartProxy, client: httpx.AsyncClient, impatient: None, path: Path, state: str
) -> None:
    """/readyz names the file, and what is wrong, until nothing is any more."""
    both = await with_and_without_memory(proxy, client, f"sqlite:///{path}", options=HASTY)
    await together(Callers.known, both)
    with UNWRITABLE[state](path):
        for why in await together(Callers.troubled, both):
            assert why.startswith(f"cache save failed: {path}: ")
        for callers in both:
            assert await callers.ask("known") == "HIT"
            callers.waited_no_longer_than_told()
    await together(Callers.recovered, both)
    await settled(both)


async def test_one_that_is_locked_at_the_start_joins_when_it_is_free(
    proxy: StartProxy, client: httpx.AsyncClient, impatient: None, path: Path
) -> None:
    """By a program that lets nobody read either: requests go past it, and nobody waits."""
    other = apsw.Connection(str(path))
    other.pragma("locking_mode", "EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE").fetchall()
    both = await with_and_without_memory(proxy, client, f"sqlite:///{path}")
    for callers in both:
        assert set(await callers.crowd()) == {"BYPASS"}
        assert await callers.trouble()
    other.execute("ROLLBACK").fetchall()
    other.close()
    await together(Callers.recovered, both)
    await settled(both)


def deleted(path: Path) -> None:
    for each in path.parent.glob("cache.db*"):
        each.unlink()


def deleted_alone(path: Path) -> None:
    path.unlink()


def replaced_by_another(path: Path) -> None:
    """A cache of somebody else's; the log of the one before still lies beside it."""
    other = SQLiteCache(path.with_name("other"))
    for number in range(100):
        other.update(f"prompt {number}", "llm", [Generation("x" * 1000)])
    other.close()
    path.with_name("other").replace(path)


def replaced_by_garbage(path: Path) -> None:
    path.with_name("garbage").write_bytes(b"no database" * 1000)
    path.with_name("garbage").replace(path)


def overwritten(path: Path) -> None:
    path.write_bytes(b"\xa5" * path.stat().st_size)


LOST: list[Callable[[Path], None]] = [
    deleted,
    deleted_alone,
    replaced_by_another,
    replaced_by_garbage,
    overwritten,
]


@pytest.mark.parametrize("lost", LOST)
async def test_one_that_is_lost_is_made_again(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    impatient: None,
    path: Path,
    lost: Callable[[Path], None],
) -> None:
    """Under 20 who ask at once: what was stored is in the file that lies there now."""
    both = await with_and_without_memory(proxy, client, f"sqlite:///{path}")
    await together(Callers.known, both)
    lost(path)
    await together(Callers.crowd, both)
    await together(Callers.recovered, both)
    await together(Callers.known, both)
    await settled(both)
    now = apsw.Connection(str(path))
    assert now.execute("SELECT 1 FROM entries WHERE prompt LIKE '%known%'").fetchall()
    assert now.pragma("integrity_check") == "ok"
    now.close()


async def test_another_programs_file_in_its_place_is_left_alone(
    proxy: StartProxy, client: httpx.AsyncClient, impatient: None, path: Path
) -> None:
    """/readyz says so; when it is gone, a file of ours is made."""
    both = await with_and_without_memory(proxy, client, f"sqlite:///{path}")
    await together(Callers.known, both)
    deleted(path)
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE full_llm_cache (prompt TEXT)").fetchall()
    await together(Callers.troubled, both, by=f"{path} is a database of another program")
    for callers in both:
        await callers.without_waiting()
    assert other.execute("SELECT name FROM sqlite_schema").fetchall() == [("full_llm_cache",)]
    other.close()
    deleted(path)
    await together(Callers.recovered, both)
    await settled(both)


async def test_a_folder_that_lets_nothing_be_written_is_named(
    proxy: StartProxy, client: httpx.AsyncClient, impatient: None, path: Path
) -> None:
    """The log of the file cannot be made: requests are served, and it joins when it can be."""
    log = path.with_name("cache.db-wal")
    log.mkdir()
    both = await with_and_without_memory(proxy, client, f"sqlite:///{path}")
    for callers in both:
        assert set(await callers.crowd()) == {"BYPASS"}
        await callers.troubled(by=f"{path}: ")
    log.rmdir()
    await together(Callers.recovered, both)
    await settled(both)
