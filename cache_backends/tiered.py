"""Memory in front of a cache that several processes share.

How a purge is complete although each of them holds entries in memory is told in `shared`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cache_backends.base import CacheError, Entry, EntryCache, Generation, Key, Totals
from cache_backends.loops import LoopThread
from cache_backends.memory import MemoryCache
from cache_backends.shared import EVERYTHING, Filter, Page, Purge, PurgeLog, SharedCache

log = logging.getLogger(__name__)

# How long memory may be trusted after the log began to be read, unless the store says otherwise.
LEASE_S = 1.0
# Rows of the log are kept for a day: longer than any fetch takes to store what it has begun.
LOG_KEPT_S = 86400.0


class TieredCache(EntryCache):
    """`memory` before `shared`: reads what memory does not hold, writes through.

    Memory is asked only while it may be trusted: for the lease (seconds, a fact of the store, the
    first who opens it decides) after the store's purge log began to be read. It is read again while
    requests come, so that with steady traffic nobody waits for it. `monotonic` tells seconds.
    """

    def __init__(
        self,
        memory: MemoryCache,
        shared: SharedCache,
        *,
        lease: float = LEASE_S,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if lease <= 0:
            raise ValueError("lease must be greater than 0")
        self._memory = memory
        self._shared = shared
        self._lease_s = lease
        self._agreed = False  # is it the lease of all who use the store?
        self._clock = clock
        self._monotonic = monotonic
        self._trusted_until = float("-inf")
        self._store: str | None = None
        self._broad: list[Purge] = []  # those of the last day that name no ids
        self._by_id: dict[str, Purge] = {}  # and the last one of each id
        self.seen = 0
        self._begun = self._learned = 0  # readings of the log
        self._reading: asyncio.Task[None] | None = None
        self._thread = LoopThread(f"sync calls of {shared!r}")

    def __repr__(self) -> str:
        return f"<TieredCache {self._memory!r} before {self._shared!r}>"

    @property
    def lease_s(self) -> float:
        return self._lease_s

    @property
    def trusted(self) -> bool:
        """Is the log known so well that memory may answer?"""
        return self._monotonic() < self._trusted_until

    def up_to_date(self, since: float) -> bool:
        # A purge is complete a lease after it was announced: what began within one is younger.
        return self.trusted or self._monotonic() - since < self._lease_s

    async def keep_up(self) -> None:
        if self._trusted_until - self._monotonic() < self._lease_s / 2:
            await self._read()

    def peek(self, key: Key) -> Entry | None:
        left = self._trusted_until - self._monotonic()
        if left < self._lease_s / 2:
            self._read_soon()
        return self._memory.peek(key) if left > 0 else None

    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        if not self.trusted:
            await self._read()
        found = [self._fresh(key) for key in keys]
        missing = [place for place, entry in enumerate(found) if entry is None]
        if not missing:
            return found
        brought = await self._shared.get_many([keys[place] for place in missing])
        # What was deleted while it was on its way is known now, or the lease has run out.
        if not self.trusted:
            await self._read()
        for place, entry in zip(missing, brought, strict=True):
            if entry is not None and not self.covered(entry):
                found[place] = entry
                await self._memory.put(entry)
        return found

    async def put_many(self, entries: Sequence[Entry]) -> None:
        if not self.trusted:
            await self._read()
        kept = [entry for entry in entries if not self.covered(entry)]
        await self._shared.put_many(kept)
        for entry in kept:
            if not self.covered(entry):
                await self._memory.put(entry)

    async def replace_many(self, entries: Sequence[Entry]) -> None:
        number = await self._shared.announce(Filter(ids=tuple(entry.key.id for entry in entries)))
        await self._read()
        await self.put_many([replace(entry, seen=number) for entry in entries])

    def covered(self, entry: Entry) -> bool:
        if entry.seen >= self.seen:
            return False
        named = self._by_id.get(entry.key.id)
        purges = self._broad if named is None else [named, *self._broad]
        return any(purge.number > entry.seen and purge.filter.covers(entry) for purge in purges)

    async def purge(self, filter: Filter) -> int:
        """Remove what the filter covers, here and everywhere; tell how many there were.

        Complete when it returns: no process answers from one of them after that, nor stores one
        whose making began before. `CacheError` if the store cannot be reached.
        """
        number = await self._shared.announce(filter)
        announced_at = self._monotonic()
        await self._read()
        removed = await self._shared.remove(filter, before=number)
        await self._shorten()
        await asyncio.sleep(max(0.0, announced_at + self._lease_s - self._monotonic()))
        return removed

    async def delete(self, id: str) -> bool:
        return await self.purge(Filter(ids=(id,))) > 0

    async def aclear(self, **kwargs: Any) -> None:  # noqa: ARG002 - accepted, as LangChain's does
        await self.purge(EVERYTHING)

    async def page(self, filter: Filter, *, cursor: str | None = None, limit: int = 100) -> Page:
        return await self._shared.page(filter, cursor=cursor, limit=limit)

    async def claim(self, name: str, holder: str, seconds: float) -> bool:
        return await self._shared.claim(name, holder, seconds)

    async def release(self, name: str, holder: str) -> None:
        await self._shared.release(name, holder)

    async def fact(self, name: str, default: str) -> str:
        return await self._shared.fact(name, default)

    async def totals(self) -> Totals:
        return await self._shared.totals()

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return self._answer(await self.get(Key.of(prompt, llm_string)))

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        await self.replace_many([self._entry(prompt, llm_string, return_val)])

    async def aclose(self) -> None:
        self._thread.close()
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading
        await self._shared.aclose()

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return self._thread.call(self.alookup(prompt, llm_string))

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self._thread.call(self.aupdate(prompt, llm_string, return_val))

    def clear(self, **kwargs: Any) -> None:
        self._thread.call(self.aclear(**kwargs))

    def _fresh(self, key: Key) -> Entry | None:
        """What memory holds, unless it has expired: the store may have a newer one."""
        entry = self._memory.peek(key)
        if entry is None or (entry.expires_at is not None and entry.expires_at <= self._clock()):
            return None
        return entry

    def _read_soon(self) -> None:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read_quietly())

    async def _read_quietly(self) -> None:
        with suppress(CacheError):  # whoever needs the store next meets the same
            await self._read()

    async def _read(self) -> None:
        """Bring the log up to date; from its beginning on, memory may be trusted for a lease."""
        if not self._agreed:
            self._lease_s = float(await self._shared.fact("memory_lease", str(self._lease_s)))
            self._agreed = True
        self._begun += 1
        reading, began = self._begun, self._monotonic()
        read = await self._shared.purges(self.seen)
        if reading < self._learned:
            return  # a later one was faster
        self._learned = reading
        self._learn(read)
        self._trusted_until = began + self._lease_s

    def _learn(self, read: PurgeLog) -> None:
        news = [purge for purge in read.purges if purge.number > self.seen]
        if read.store != self._store or not _follows(news, self.seen, read.head):
            # Rows are missing: what they covered is not known.
            self._memory.clear()
        self._store, self.seen = read.store, read.head
        for purge in news:
            self._apply(purge)
        since = self._clock() - LOG_KEPT_S
        while self._broad and self._broad[0].at < since:
            del self._broad[0]
        while self._by_id and self._by_id[name := next(iter(self._by_id))].at < since:
            del self._by_id[name]

    def _apply(self, purge: Purge) -> None:
        if purge.filter.ids is None:
            # To find which it covers would take longer than to read again what is asked for.
            self._memory.clear()
            self._broad.append(purge)
        for name in purge.filter.ids or ():
            self._memory.discard(name)
            self._by_id.pop(name, None)  # in order of their purges
            self._by_id[name] = purge

    async def _shorten(self) -> None:
        """Take old rows out of the log; once more carried out, as a save may have come late."""
        since = self._clock() - LOG_KEPT_S
        for purge in (await self._shared.purges(0)).purges[:-1]:
            if purge.at > since:
                return
            await self._shared.remove(purge.filter, before=purge.number)
            await self._shared.forget(purge.number)


def _follows(news: Sequence[Purge], seen: int, head: int) -> bool:
    """Do these rows lead from the one seen last to the head of the log, without a gap?"""
    for purge in news:
        if purge.previous != seen:
            return False
        seen = purge.number
    return seen == head
