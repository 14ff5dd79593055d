"""Memory in front of a cache that several processes share.

How a purge is complete although each of them holds entries in memory is told in `shared`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Any

from cache_backends.base import CacheError, Entry, Generation, Key
from cache_backends.known_purges import KnownPurges, Mark
from cache_backends.loops import LoopThread, SyncCalls
from cache_backends.memory import MemoryCache
from cache_backends.shared import (
    EVERYTHING,
    Filter,
    Purge,
    PurgeLog,
    SharedCache,
    is_as_read,
)
from cache_backends.steady import steady
from cache_backends.tiered_store import StoreCalls

# How long memory may be trusted after the log began to be read, unless the store says otherwise.
LEASE_S = 1.0
# A purge takes as long: what another has written there must not make it last for ever.
MAX_LEASE_S = 60.0
# A purge waits that much longer: timers go off early, and no two clocks run alike.
EARLY_S = 0.005
# Rows of the log are kept for an hour: longer than a save takes to arrive.
LOG_KEPT_S = 3600.0
# Where there are very many, for so long: also longer than that, but for a process that was halted.
CROWDED_LOG_KEPT_S = 60.0
# How many are taken out with one round trip.
SHORTENED_ROWS = 100


class TieredCache(SyncCalls, StoreCalls):
    """`memory` before `shared`: reads what memory does not hold, writes through.

    Memory is asked only while it may be trusted: for the lease (seconds, a fact of the store, the
    first who opens it decides) after the store's purge log began to be read. It is read again while
    requests come, so that with steady traffic nobody waits for it. `monotonic` tells seconds.
    Threads and event loops may share it, if they may share `shared`.

    Whoever makes an entry says in `seen` what this cache's `seen` was before; one of which it
    cannot be told whether it was purged since is not stored, nor one that was.
    """

    def __init__(
        self,
        memory: MemoryCache,
        shared: SharedCache,
        *,
        lease: float = LEASE_S,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = steady,
    ) -> None:
        if not 0 < lease <= MAX_LEASE_S:
            raise ValueError(f"lease must be greater than 0 and at most {MAX_LEASE_S:g} seconds")
        self._memory = memory
        self._shared = shared
        self._lease_s = lease
        self._clock = clock
        self._monotonic = monotonic
        self._trusted_until = float("-inf")
        self._known = KnownPurges()
        self.seen = 0
        # For what is known, and what memory holds of it: nothing purged comes in between the two.
        self._lock = Lock()
        self._reading: asyncio.Task[None] | None = None
        self._shortening: asyncio.Task[None] | None = None
        self._thread = LoopThread(f"sync calls of {shared!r}")

    def __repr__(self) -> str:
        return f"<TieredCache {self._memory!r} before {self._shared!r}>"

    @property
    def trusted(self) -> bool:
        """Is the log known so well that memory may answer?"""
        return self._monotonic() < self._trusted_until

    def up_to_date(self, since: float) -> bool:
        # A purge is complete a lease after it was announced: what began within one is younger.
        return self.trusted or self._monotonic() - since < self._lease_s

    async def keep_up(self) -> None:
        if self._trusted_until - self._monotonic() < self._lease_s / 2:
            await self._catch_up()

    def peek(self, key: Key) -> Entry | None:
        left = self._trusted_until - self._monotonic()
        if left < self._lease_s / 2:
            self._read_soon()
        return self._memory.peek(key) if left > 0 else None

    def glance(self, id: str) -> object | None:
        left = self._trusted_until - self._monotonic()
        if left < self._lease_s / 2:
            self._read_soon()
        return self._memory.glance(id) if left > 0 else None

    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        if not self.trusted:
            self._read_soon()  # while the store is asked
        before = self._known.mark()
        held = [self._fresh(key) for key in keys]
        found = await self._with_missing(keys, held)
        # What others may ask for meanwhile, and share, must not have been purged before they did.
        if not self.trusted:
            await self._catch_up()
        if self._has_lost(held) or any(self._known.tells_more_of(key.id, before) for key in keys):
            return await self.get_many(keys)  # some of it may be older than what is known
        for entry, had in zip(found, held, strict=True):
            if had is None:
                self._remember(entry, before)
        return [None if entry is None or self._purged(entry) else entry for entry in found]

    async def put_many(self, entries: Sequence[Entry]) -> None:
        if not self.trusted:
            await self._catch_up()
        before = self._known.mark()
        kept = [entry for entry in entries if not self.covered(entry)]
        if kept:
            await self._shared.put_many(kept)
        for entry in kept:
            self._remember(entry, before)

    async def replace_many(self, entries: Sequence[Entry]) -> None:
        # What others hold goes as by a purge, of all that was stored before these.
        ids = tuple(entry.key.id for entry in entries)
        first = min(entry.stored_at for entry in entries)
        await self._shared.announce(Filter(ids=ids, stored_before=first))
        await self.put_many(entries)

    def covered(self, entry: Entry) -> bool:
        with self._lock:
            return entry.seen < self._known.forgotten or self._known.covers(entry)

    async def purge(self, filter: Filter) -> int:
        number = await self._shared.announce(filter)
        announced_at = self._monotonic()
        await self._read()
        removed = await self._shared.remove(filter, before=number)
        await self._until_all_know(announced_at)
        # What those who did not know of it have stored meanwhile is of no use to anybody.
        await self._shared.remove(filter, before=number)
        self._read_soon()
        return removed

    async def amend(self, entries: Sequence[Entry]) -> list[bool]:
        """Put entries in the place of those with their ids, everywhere; one is there all the time.

        Each was read and changed: one that is gone since stays so, or another by now; of two who
        change the same at once, one may be told so. Complete when it returns: nobody answers from
        the old ones after that, nor stores over the new ones what he began to fetch before. Tell of
        each whether it was put. `CacheError` if the store cannot be reached.
        """
        if not entries:
            return []
        # All drop from memory what is named. What is being fetched is stored later than these were,
        # and so purged; the old ones are not, or they would be missed until the new ones are there.
        last = max(entry.stored_at for entry in entries)
        fetched = Filter(ids=tuple(entry.key.id for entry in entries), stored_after=last)
        number = await self._shared.announce(fetched)
        await self._read()
        held = await self._held_now(entries)
        kept = [
            replace(entry, seen=number)
            for entry, old in zip(entries, held, strict=True)
            if old is not None and is_as_read(entry, old)
        ]
        await self._shared.put_many(kept)
        # Now that they are there, once more for those who have read an old one since the first.
        await self._shared.announce(fetched)
        announced_at = self._monotonic()
        await self._read()
        await self._until_all_know(announced_at)
        stayed = await self._put_back(kept)
        self._read_soon()
        return [entry.key.id in stayed for entry in entries]

    async def delete(self, id: str) -> bool:
        return await self.purge(Filter(ids=(id,))) > 0

    async def aclear(self, **kwargs: Any) -> None:  # noqa: ARG002 - accepted, as LangChain's does
        await self.purge(EVERYTHING)

    async def by_ids(self, ids: Sequence[str]) -> list[Entry | None]:
        if not self.trusted:
            await self._catch_up()
        found = await self._shared.by_ids(ids)
        return [None if entry is None or self._purged(entry) else entry for entry in found]

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        entry = self._entry(prompt, llm_string, return_val)
        held = await self.get(entry.key)
        entry = replace(entry, seen=self.seen)
        # What nobody has need not be taken from anybody: most updates follow a miss.
        await (self.put_many if held is None else self.replace_many)([entry])

    async def aclose(self) -> None:
        await self._thread.aclose()
        await self._let_go()

    def close(self) -> None:
        """Finish what is being written and close the store; from code without an event loop."""
        self._thread.call(self._let_go())
        self._thread.close()

    async def _let_go(self) -> None:
        here = asyncio.get_running_loop()
        for task in (self._reading, self._shortening):
            if task is not None and not task.done() and task.get_loop() is here:
                task.cancel()
                await asyncio.wait({task})
        await self._shared.aclose()

    def _fresh(self, key: Key) -> Entry | None:
        """What memory holds, unless it has expired: the store may have a newer one."""
        entry = self._memory.peek(key)
        if entry is None or (entry.expires_at is not None and entry.expires_at <= self._clock()):
            return None
        return entry

    async def _with_missing(
        self, keys: Sequence[Key], held: Sequence[Entry | None]
    ) -> list[Entry | None]:
        """What is held, and what the store has of the rest."""
        missing = [key for key, entry in zip(keys, held, strict=True) if entry is None]
        if not missing:
            return list(held)
        brought = iter(await self._shared.get_many(missing))
        return [next(brought) if entry is None else entry for entry in held]

    def _has_lost(self, held: Sequence[Entry | None]) -> bool:
        """Is one of these not in memory any more?"""
        return any(entry is not None and self._memory.peek(entry.key) is None for entry in held)

    def _purged(self, entry: Entry) -> bool:
        """As `covered`, for what the store had: it was removed when a purge was forgotten."""
        with self._lock:
            return self._known.covers(entry)

    def _remember(self, entry: Entry | None, since: Mark) -> None:
        """Keep in memory what was on its way since then, unless it was overtaken."""
        if entry is None:
            return
        with self._lock:
            known = self._known
            if not known.covers(entry) and not known.tells_more_of(entry.key.id, since):
                self._memory.hold_copy(entry)

    async def _until_all_know(self, announced_at: float) -> None:
        """Wait until nobody trusts his memory who has not read what was announced then."""
        known_at = announced_at + self._lease_s + EARLY_S
        await asyncio.sleep(max(0.0, known_at - self._monotonic()))

    async def _put_back(self, entries: Sequence[Entry]) -> set[str]:
        """Store again what was stored over by those who did not know of it, as nobody finds that.

        What came after it stays, and what a purge has covered meanwhile is gone. Tell of which
        nobody has put another change of the same in its place.
        """
        held = await self._held_now(entries)
        lost = [entry for entry, now in zip(entries, held, strict=True) if now is None]
        if lost:
            await self.put_many(lost)
        return {
            entry.key.id
            for entry, now in zip(entries, held, strict=True)
            if now is None or now.stored_at != entry.stored_at or now.seen == entry.seen
        }

    async def _held_now(self, entries: Sequence[Entry]) -> list[Entry | None]:
        """What the store has in their places, and no purge covers."""
        found = await self._shared.get_many([entry.key for entry in entries])
        return [None if entry is None or self._purged(entry) else entry for entry in found]

    async def _catch_up(self) -> None:
        """Have the log read. Of many who come at once one reads it, the others wait for that."""
        first = self._read_soon()
        reading = self._reading
        if reading is not None and reading.get_loop() is asyncio.get_running_loop():
            await asyncio.wait({reading})  # which goes on if this one is cancelled
            if first and not reading.cancelled():
                reading.result()
                return
        # Another's failed, or began so long ago that a purge may have become complete since.
        if not self.trusted:
            await self._read()

    def _read_soon(self) -> bool:
        """Read the log beside, unless that is being done. Tell whether it was begun."""
        if self._reading is not None and not self._reading.done():
            return False
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # who asks next reads
            return False
        self._reading = loop.create_task(self._read())
        self._reading.add_done_callback(self._was_read)
        return True

    def _was_read(self, reading: asyncio.Task[None]) -> None:
        # Whoever needs the store next meets the same fault.
        if reading.cancelled() or reading.exception() is not None:
            return
        if (self._shortening is None or self._shortening.done()) and self._old():
            self._shortening = reading.get_loop().create_task(self._shorten())

    async def _read(self) -> None:
        """Bring the log up to date; from its beginning on, memory may be trusted for a lease."""
        began, after = self._monotonic(), self._known.head
        read = await self._shared.purges(after)
        if read.store != self._known.store:
            await self._agree()
        if not self._learn(read, after):
            self._learn(await self._shared.purges(0), 0)
        self._trusted_until = max(self._trusted_until, began + self._lease_s)

    async def _agree(self) -> None:
        said = await self._shared.fact("memory_lease", str(self._lease_s))
        try:
            lease = float(said)
        except ValueError:
            lease = 0.0
        if not 0 < lease <= MAX_LEASE_S:
            raise CacheError(f"the lease in {self._shared!r} is no number of seconds up to 60")
        self._lease_s = lease

    def _learn(self, read: PurgeLog, after: int) -> bool:
        """Take in what was read above that number. False: rows are missing, read all of them."""
        known = self._known
        with self._lock:
            if known.follows(read, after):
                for purge in known.add(read):
                    self._apply(purge)
            else:
                # Those rows may have meant anything.
                self._trusted_until = float("-inf")
                self._memory.discard_all()
                if after > 0:
                    return False
                known.begin_anew(read)
            self.seen = known.seen
            return True

    def _apply(self, purge: Purge) -> None:
        if purge.filter.ids is None:
            # To find which it covers would take longer than to read again what is asked for.
            self._memory.discard_all()
        for name in purge.filter.ids or ():
            self._memory.discard(name)

    async def _shorten(self) -> None:
        """Take old rows out of the log; once more carried out, as a save may have come late."""
        with suppress(CacheError):  # they are taken out some other time
            while old := self._old():
                for purge in old:
                    await self._shared.remove(purge.filter, before=purge.number)
                await self._shared.forget(old[-1].number)
                with self._lock:
                    self._known.forget(old[-1].number)

    def _old(self) -> list[Purge]:
        now = self._clock()
        with self._lock:
            return self._known.old(now - LOG_KEPT_S, now - CROWDED_LOG_KEPT_S, SHORTENED_ROWS)
