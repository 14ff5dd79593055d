"""Counts what is asked of a store, and of its server."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it comes without types
from redis import asyncio as redis

from cache_backends import SharedCache

# What the proxy asks of a store while it answers requests.
CALLS = (
    *("get_many", "put_many", "purges", "claim", "release"),
    *("fact", "add_counts", "add_hits"),
)
_BEGIN, _END = "what is counted begins", "what is counted ends"
_SERVING = """
SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
# A line of the log for each statement, whichever way it came.
_STATEMENT = re.compile(r"LOG:  (?:execute \S+|statement): ")


class Calls:
    """Of one store, by their names, from now on."""

    def __init__(self, store: SharedCache) -> None:
        self.made: Counter[str] = Counter()
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        for name in CALLS:
            setattr(store, name, self._counting(name, getattr(store, name)))

    def _counting(
        self, name: str, call: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        async def counted(*values: Any, **named: Any) -> Any:
            self.made[name] += 1
            self._under_way += 1
            self._quiet.clear()
            try:
                return await call(*values, **named)
            finally:
                self._under_way -= 1
                if not self._under_way:
                    self._quiet.set()

        return counted

    async def quiet(self) -> None:
        """Wait until none is under way, of those that begin at once."""
        await asyncio.sleep(0)
        await self._quiet.wait()


class Commands(Counter[str]):
    """Commands or statements that a server was sent."""


@asynccontextmanager
async def commands(url: str, log: Path) -> AsyncIterator[Commands]:
    """What the server at this URL is sent meanwhile; there when it ends.

    A Redis tells it itself. A Postgres writes it to its log, if the URL says so: see `told_of`.
    """
    counted = Commands()
    if url.startswith("redis:"):
        async with _monitored(url, counted):
            yield counted
        return
    before = _statements(log)
    yield counted
    counted["statement"] = _statements(log) - before


def told_of(url: str) -> str:
    """The URL with which a server tells of what it is sent."""
    return f"{url}?log_statement=all" if url.startswith("postgresql:") else url


def _statements(log: Path) -> int:
    return len(_STATEMENT.findall(log.read_text(errors="replace")))


@asynccontextmanager
async def _monitored(url: str, counted: Commands) -> AsyncIterator[None]:
    async with redis.Redis.from_url(url) as client, client.monitor() as monitor:
        listening = asyncio.create_task(_listen(monitor, counted))
        await client.echo(_BEGIN)
        try:
            yield
            await client.echo(_END)
            await listening
        finally:
            listening.cancel()


async def _listen(monitor: Any, counted: Commands) -> None:
    async for told in monitor.listen():
        if _BEGIN in told["command"]:
            counted.clear()
        elif _END in told["command"]:
            return
        elif told["client_type"] != "lua":  # what a script does was sent as one command
            counted[told["command"].split(" ", 1)[0]] += 1


async def processes(url: str) -> list[int]:
    """The processes of the server that serve us."""
    if url.startswith("redis:"):
        async with redis.Redis.from_url(url) as client:
            return [int((await client.info("server"))["process_id"])]
    connection = await asyncpg.connect(url)
    try:
        found = await connection.fetch(_SERVING)
    finally:
        await connection.close()
    return [pid for (pid,) in found]


def cpu_s(processes: Iterable[int]) -> dict[int, float]:
    """Processor time so far of each of these that still runs: one of the last cache's may end."""
    times = {}
    for pid in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            told = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii")
            times[pid] = int(told.split()[0]) / 1e9
    return times


def cpu_s_since(before: Mapping[int, float]) -> float:
    """What they took together since then."""
    return sum(now - before[pid] for pid, now in cpu_s(before).items())
