"""A cache in Redis or Valkey, which any number of processes and machines may share."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any, TypeVar

from cache_backends.base import Entry, Key, Totals, Unsupported
from cache_backends.batches import in_batches
from cache_backends.codec import CodecError
from cache_backends.loops import LoopThread, SyncCalls
from cache_backends.redis_agreed import Agreements
from cache_backends.redis_choice import Choice
from cache_backends.redis_connection import Connections
from cache_backends.redis_hits import Hits
from cache_backends.redis_index import Index
from cache_backends.redis_listing import Listing
from cache_backends.redis_place import Place
from cache_backends.redis_rows import Names, is_id, pack, unpack, unpack_by_id
from cache_backends.redis_server import Command
from cache_backends.redis_upkeep import Upkeep
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

# What is sent at once.
BATCH_ENTRIES = 100
BATCH_BYTES = 2**20

# A thousand years: the server knows no times that are much later.
LONGEST_S = 31_557_600_000

Packed = tuple[Entry, bytes]
_T = TypeVar("_T")


class RedisCache(SyncCalls, SharedCache):
    """Entries under `prefix` in a Redis 6.2 or later, or a Valkey.

    - `redis://user:password@host:6379/0`, `rediss://` with TLS
    - `redis+cluster://host:6379[,host:port]`, `rediss+cluster://`; a node is enough
    - `redis+sentinel://host:26379[,host:port]/service/0`, `rediss+sentinel://`; the user and
      password are the server's, those of the sentinels go into the query (`?sentinel_password=`)

    The query takes what redis-py takes (`?ssl_ca_certs=/etc/ca.pem`). Nothing is sent before the
    first use, and a server that was away is used again as soon as it is back.

    An entry is one key, the prefix and its id. It expires by itself when it is no longer retained;
    one that brings no end of its own lasts `ttl` seconds, if given. Nothing but what is under the
    prefix is ever touched. The server may evict, best by `maxmemory-policy volatile-lru` if all
    entries have an end, else by `allkeys-lru`. Pinned entries have no end: a `volatile` policy
    never evicts them, an `allkeys` one knows no difference. What is to outlive the server's
    restart, the purge log, facts and counts too, needs its persistence.

    Entries are found by facts, tags, digests and hits. `Unsupported` for a text in them: there is
    no index of texts.

    `CacheError` when the server cannot be reached, does not answer within `timeout` seconds, or
    refuses (out of memory, a replica). Nothing is tried twice, but that a connection which died
    while idle is made anew. Each event loop uses at most `max_connections` (to each node).

    A user of the server needs, on keys under the prefix: GET, GETRANGE, SET, UNLINK, EXISTS, DEL,
    SCAN, MULTI, EXEC, EVAL, TIME, HGET, HGETALL, HMGET, HSET, HSETNX, HDEL, HINCRBY,
    HINCRBYFLOAT, HSCAN, ZADD, ZREM, ZCARD, ZCOUNT, ZINCRBY, ZSCORE, ZMSCORE, ZSCAN, ZREVRANGE,
    ZRANGEBYLEX, ZRANGEBYSCORE, ZREVRANGEBYSCORE, ZREMRANGEBYSCORE; with a database other than 0
    also SELECT, and in a cluster ASKING and CLUSTER SLOTS.

    `broken` counts, since the start, what was found under the name of an entry and was none.
    """

    def __init__(
        self,
        url: str = "redis://localhost:6379/0",
        *,
        prefix: str = "llm-cache:",
        ttl: float | None = None,
        timeout: float = 0.25,
        max_connections: int = 32,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not prefix.rstrip(":") or "{}" in prefix:
            raise ValueError("prefix must not be empty, and have no {} in it")
        for name, value in (
            ("ttl", ttl),
            ("timeout", timeout),
            ("max_connections", max_connections),
        ):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be greater than 0")
        self._place = Place.of(url)
        self._prefix = prefix
        self._ttl = ttl
        self._clock = clock
        self._names = Names(prefix)
        self._connections = Connections(self._place, timeout=timeout, most=max_connections)
        self._hits = Hits(self._connections, self._names)
        choice = Choice(self._connections, self._names, self._hits)
        self._index = Index(self._connections, self._names, choice, clock)
        self._listing = Listing(self._index, choice, self._hits, clock)
        self._upkeep = Upkeep(self._index, choice, self._connections, self._names)
        self._agreements = Agreements(self._connections, self._names)
        self._thread = LoopThread(f"sync calls of {self!r}")
        # Connections close also when the cache was dropped without being closed.
        weakref.finalize(self, _drop, self._connections, self._thread).atexit = False

    def __repr__(self) -> str:
        return f"<RedisCache {self._place.shown} {self._prefix}>"

    @property
    def broken(self) -> int:
        return self._index.broken

    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        found = await self._find({key: key.id for key in keys if is_id(key.id)}, unpack)
        return [found.get(key) for key in keys]

    async def by_ids(self, ids: Sequence[str]) -> list[Entry | None]:
        known = list(filter(is_id, dict.fromkeys(ids)))
        found: dict[str, Entry] = {}
        for start in range(0, len(known), BATCH_ENTRIES):
            some = known[start : start + BATCH_ENTRIES]
            found |= await self._find(dict(zip(some, some, strict=True)), unpack_by_id)
        return [found.get(each) for each in ids]

    async def put_many(self, entries: Sequence[Entry]) -> None:
        # All are written before any is sent: who passed something unfit changed nothing.
        packed = [(entry, pack(entry)) for entry in map(self._with_end, entries)]
        batches = in_batches(
            packed, lambda each: len(each[1]), most=BATCH_ENTRIES, most_bytes=BATCH_BYTES
        )
        for batch in batches:
            await self._put(batch)
        await self._upkeep.look_after(len(packed))

    async def delete(self, id: str) -> bool:
        return await self._index.delete(id)

    async def page(
        self,
        filter: Filter,
        *,
        narrowed: Narrowing = WIDE,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        if narrowed.text is not None:
            raise Unsupported(f"{self!r} has no index of texts: memory and sqlite find texts")
        return await self._listing.page(filter, narrowed, cursor, limit)

    async def add_hits(self, hits: Mapping[str, int]) -> None:
        await self._hits.add(hits)

    async def remove(self, filter: Filter, *, before: int) -> int:
        return await self._upkeep.remove(filter, before)

    async def purges(self, after: int) -> PurgeLog:
        return await self._agreements.purges(after)

    async def announce(self, filter: Filter) -> int:
        return await self._agreements.announce(filter)

    async def forget(self, number: int) -> None:
        await self._agreements.forget(number)

    async def claim(self, name: str, holder: str, seconds: float) -> bool:
        return await self._agreements.claim(name, holder, seconds)

    async def release(self, name: str, holder: str) -> None:
        await self._agreements.release(name, holder)

    async def fact(self, name: str, default: str) -> str:
        return await self._agreements.fact(name, default)

    async def set_fact(self, name: str, value: str) -> None:
        await self._agreements.set_fact(name, value)

    async def add_counts(self, group: str, amounts: Mapping[str, float]) -> None:
        await self._agreements.add_counts(group, amounts)

    async def counts(self, group: str) -> dict[str, float]:
        return await self._agreements.counts(group)

    async def forget_counts(self, group: str) -> None:
        await self._agreements.forget_counts(group)

    async def totals(self) -> Totals:
        await self._upkeep.sweep()
        return await self._index.totals()

    async def aclear(self, **kwargs: Any) -> None:  # noqa: ARG002 - accepted, as LangChain's does
        await self._upkeep.remove(EVERYTHING, AFTER_ALL)

    async def aclose(self) -> None:
        await self._connections.aclose()
        await self._thread.aclose()

    def close(self) -> None:
        """Let go of all connections; from code without an event loop."""
        if self._thread.started:
            self._thread.call(self._connections.aclose())
            self._thread.close()
        self._connections.close_soon()

    async def _find(
        self, asked: Mapping[_T, str], read: Callable[[_T, Any], Entry | None]
    ) -> dict[_T, Entry]:
        """Read the entries of these ids that are there, by what they were asked for with."""
        keys = map(self._names.entry, asked.values())
        values = await self._connections.read(*(("GET", key) for key in keys))
        found: dict[_T, Entry] = {}
        broken: list[str] = []
        for (each, named), value in zip(asked.items(), values, strict=True):
            try:
                entry = None if value is None else read(each, value)
            except CodecError:
                broken.append(named)
                continue
            if entry is not None and self._is_kept(entry):
                found[each] = entry
        await self._index.discard(broken)
        return found

    def _is_kept(self, entry: Entry) -> bool:
        return entry.retained_until is None or entry.retained_until > self._clock()

    def _with_end(self, entry: Entry) -> Entry:
        if self._ttl is None or entry.expires_at is not None or entry.retained_until is not None:
            return entry
        end = entry.stored_at + self._ttl
        return replace(entry, expires_at=end, retained_until=end)

    async def _put(self, packed: Sequence[Packed]) -> None:
        # The index learns of them first: it forgets what is not there, and finds nothing it does
        # not know.
        note = self._index.note((entry, len(value)) for entry, value in packed)
        writes = [self._write(entry, value) for entry, value in packed]
        if not self._connections.clustered:
            await self._connections.run_together(note, *writes)
            return
        (places,) = await self._connections.run(note)
        await self._connections.run(*writes)
        await self._upkeep.settle([entry.key.id for entry, _ in packed], places)

    def _write(self, entry: Entry, value: bytes) -> Command:
        key = self._names.entry(entry.key.id)
        if entry.retained_until is None:
            return ("SET", key, value)
        left = ceil(min(entry.retained_until - self._clock(), LONGEST_S) * 1000)
        return ("SET", key, value, "PX", left) if left > 0 else ("UNLINK", key)


def _drop(connections: Connections, thread: LoopThread) -> None:
    connections.close_soon()
    thread.close()
