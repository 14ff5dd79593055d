"""A cache in a PostgreSQL database (14 or later), which any number of processes may share."""

from __future__ import annotations

import asyncio
import re
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cache_backends import postgres_agreed as agreed
from cache_backends import postgres_counts as counting
from cache_backends import postgres_listing as listing
from cache_backends import postgres_rows as rows
from cache_backends.base import Entry, Key, Totals, Unsupported, id_bytes
from cache_backends.batches import in_batches
from cache_backends.loops import LoopThread, SyncCalls
from cache_backends.postgres_house import House
from cache_backends.postgres_pool import Pools, Work
from cache_backends.postgres_schema import set_up
from cache_backends.postgres_session import Database, Session
from cache_backends.shared import (
    AFTER_ALL,
    EVERYTHING,
    WIDE,
    Filter,
    Narrowing,
    Page,
    PurgeLog,
    SharedCache,
)

T = TypeVar("T")

KEEP_HOUSE_EVERY_S = 30.0
# What one statement stores at most, and what the network is trusted to take a second.
STORE_ROWS = 500
STORE_BYTES = 8 * 2**20
# What one statement reads by ids at most.
READ_ROWS = 100
BYTES_PER_S = 16 * 2**20
# For a batch of managing, counting or housekeeping: nobody waits there for an answer.
BATCH_S = 5.0


class PostgresCache(SyncCalls, SharedCache):
    """Entries in the database at `url`, `postgresql://user:password@host:port/database`.

    Tables are made when they are first needed, in the schema `schema`, made too if it is not there;
    one of a later version is refused. A name for the schema is of `a-z`, `0-9` and `_`.

    `timeout` (seconds) is for each statement, waiting for one of `max_connections` included; what
    is stored gets a second more for every 16 MiB, managing and counting five for each batch.
    Nothing is tried twice: `CacheError`, and what is asked next finds its way when the server is
    back. Each event loop has connections of its own; they are closed with it.

    It may be bounded by `max_bytes`: what was not used for longest goes. All who share the store
    should be told the same bound, as each looks to it after what it has stored itself: for moments
    it is exceeded by a twentieth or so.

    PgBouncer in transaction mode may stand between; nothing is left behind in a session.

    `evictions`, `broken` (rows that could not be read) and `refused` (entries larger than the whole
    bound) count since the start.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "llm_cache",
        max_connections: int = 10,
        timeout: float = 0.25,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time.time,
        keep_house_every: float = KEEP_HOUSE_EVERY_S,
    ) -> None:
        _require(urlsplit(url).scheme in {"postgresql", "postgres"}, "url must be postgresql://...")
        _require(
            re.fullmatch("[a-z_][a-z0-9_]{0,62}", schema) is not None,
            "schema must be a name of a-z, 0-9 and _, of at most 63 characters",
        )
        _require(max_connections > 0, "max_connections must be greater than 0")
        _require(timeout > 0, "timeout must be greater than 0")
        _require(max_bytes is None or max_bytes > 0, "max_bytes must be greater than 0")
        self._clock = clock
        self._timeout = timeout
        self._database = Database(url, schema)
        self._house = House(self._database.place, clock, max_bytes, keep_house_every)
        self._pools = Pools(partial(_open, self._database), max_connections)
        self._thread = LoopThread(f"sync calls of {self!r}")
        # Connections are closed also when the cache was dropped without being closed.
        weakref.finalize(self, _drop, self._pools, self._thread).atexit = False

    def __repr__(self) -> str:
        return f"<PostgresCache {self._database!r}>"

    @property
    def evictions(self) -> int:
        return self._house.evictions

    @property
    def broken(self) -> int:
        return self._house.broken

    @property
    def refused(self) -> int:
        return self._house.refused

    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        if not keys:
            return []
        now = self._clock()
        found = await self._run(partial(rows.find, keys=keys, now=now))
        for key, each in zip(keys, found, strict=True):
            self._house.note_found(key, each, now)
        self._keep_house()
        return [each.entry for each in found]

    async def put_many(self, entries: Sequence[Entry]) -> None:
        now = self._clock()
        new = [rows.row_of(entry, now) for entry in entries]
        fitting = [row for row in new if self._house.fits(row)]
        for batch in in_batches(fitting, rows.row_bytes, most=STORE_ROWS, most_bytes=STORE_BYTES):
            size = sum(map(rows.row_bytes, batch))
            await self._run(
                partial(rows.store, rows=batch), seconds=self._timeout + size / BYTES_PER_S
            )
            self._house.note_stored(size)
        for row in new:
            if not self._house.fits(row):
                # An older answer under the same key must not outlive the new one.
                await self._run(partial(rows.delete, id=row[0]))
                self._house.refused += 1
        self._keep_house()

    async def delete(self, id: str) -> bool:
        return await self._run(partial(rows.delete, id=id_bytes(id)))

    async def fact(self, name: str, default: str) -> str:
        return await self._run(partial(agreed.fact, name=name, default=default))

    async def set_fact(self, name: str, value: str) -> None:
        await self._run(partial(agreed.set_fact, name=name, value=value))

    async def totals(self) -> Totals:
        return await self._run(rows.totals)

    async def page(
        self,
        filter: Filter,
        *,
        narrowed: Narrowing = WIDE,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        if narrowed.text is not None:
            raise Unsupported(f"{self!r} has no index of texts; memory and sqlite find them")
        asked = listing.Listing.of(filter, narrowed, cursor, limit, self._clock())
        return await self._run(partial(listing.page, asked=asked), seconds=BATCH_S)

    async def by_ids(self, ids: Sequence[str]) -> list[Entry | None]:
        now = self._clock()
        found: list[Entry | None] = []
        for start in range(0, len(ids), READ_ROWS):
            some = partial(rows.by_ids, ids=ids[start : start + READ_ROWS], now=now)
            for each in await self._run(some, seconds=BATCH_S):
                self._house.note_broken(each)
                found.append(each.entry)
        return found

    async def add_hits(self, hits: Mapping[str, int]) -> None:
        counted = list(hits.items())
        for start in range(0, len(counted), counting.COUNT_ROWS):
            some = dict(counted[start : start + counting.COUNT_ROWS])
            add = partial(counting.add_hits, hits=some, now=self._clock())
            await self._run(add, seconds=BATCH_S)

    async def add_counts(self, group: str, amounts: Mapping[str, float]) -> None:
        add = partial(counting.add_sums, group=group, amounts=amounts)
        await self._run(add, seconds=BATCH_S)

    async def counts(self, group: str) -> dict[str, float]:
        return await self._run(partial(counting.sums, group=group), seconds=BATCH_S)

    async def forget_counts(self, group: str) -> None:
        await self._run(partial(counting.forget_sums, group=group), seconds=BATCH_S)

    async def remove(self, filter: Filter, *, before: int) -> int:
        removed, place = 0, None
        while True:
            batch = partial(listing.remove, filter=filter, before=before, after=place)
            gone = await self._run(batch, seconds=BATCH_S)
            removed += len(gone)
            if len(gone) < rows.DELETE_ROWS:
                return removed
            place = max(gone)

    async def purges(self, after: int) -> PurgeLog:
        return await self._run(partial(agreed.purges, after=after))

    async def announce(self, filter: Filter) -> int:
        return await self._run(partial(agreed.announce, filter=filter))

    async def forget(self, number: int) -> None:
        await self._run(partial(agreed.forget, number=number))

    async def claim(self, name: str, holder: str, seconds: float) -> bool:
        return await self._run(partial(agreed.claim, name=name, holder=holder, seconds=seconds))

    async def release(self, name: str, holder: str) -> None:
        await self._run(partial(agreed.release, name=name, holder=holder))

    async def aclear(self, **kwargs: Any) -> None:  # noqa: ARG002 - accepted, as LangChain's does
        await self.remove(EVERYTHING, before=AFTER_ALL)

    async def aclose(self) -> None:
        if self._thread.started:
            await asyncio.to_thread(self.close)
        await self._pools.close()

    def close(self) -> None:
        """Finish what is being written and close the connections; from code without a loop."""
        self._thread.call(self._pools.close())
        self._thread.close()

    async def _run(self, work: Work[T], *, seconds: float | None = None) -> T:
        try:
            pool = await self._pools.here()
            return await pool.run(work, seconds or self._timeout)
        except Exception as exc:  # what garbage makes of a driver can be anything
            raise self._database.fault(exc) from exc

    def _keep_house(self) -> None:
        if self._house.due:
            self._pools.in_background(self._house.keep(partial(self._run, seconds=BATCH_S)))


def _drop(pools: Pools, thread: LoopThread) -> None:
    pools.close_soon()
    thread.close()


async def _open(database: Database) -> Session:
    session = await database.connect()
    try:
        await set_up(session)
    except BaseException:
        await session.close()
        raise
    return session


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
