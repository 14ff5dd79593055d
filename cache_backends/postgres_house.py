"""Housekeeping in the Postgres cache: what ended, broke or was not used for long leaves."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from cache_backends import postgres_agreed as agreed
from cache_backends import postgres_rows as rows
from cache_backends.base import CacheError, Key, id_bytes
from cache_backends.postgres_session import Row, Session

logger = logging.getLogger("cache_backends.postgres")

# An entry's last use is known to this many seconds: most hits need not write.
USE_GRAIN_S = 60.0
MAX_MARKS = 50_000
# Of the bound: how much may be stored before it is looked at again.
SLACK = 1 / 20


# Does some work in a session of its own.
Run = Callable[[Callable[[Session], Awaitable[Any]]], Awaitable[Any]]


class House:
    """What one instance notes while it serves, and now and then puts in order for all.

    Due every `every` seconds, and sooner when something broken was found or much was stored.
    `evictions`, `broken` and `refused` count since the start.
    """

    def __init__(
        self, place: str, clock: Callable[[], float], max_bytes: int | None, every: float
    ) -> None:
        self._place = place
        self._clock = clock
        self._max_bytes = max_bytes
        self._every = every
        self._kept_at = float("-inf")
        self._busy = False
        self._stored_bytes = 0
        self._used: dict[bytes, float] = {}
        self._broken: deque[Row] = deque(maxlen=1000)
        self.evictions = 0
        self.broken = 0
        self.refused = 0

    @property
    def due(self) -> bool:
        if self._busy:
            return False
        if self._broken or time.monotonic() - self._kept_at >= self._every:
            return True
        return self._max_bytes is not None and self._stored_bytes > self._max_bytes * SLACK

    def fits(self, row: Row) -> bool:
        return self._max_bytes is None or rows.row_bytes(row) <= self._max_bytes

    def note_stored(self, size: int) -> None:
        self._stored_bytes += size

    def note_found(self, key: Key, found: rows.Found, now: float) -> None:
        self.note_broken(found)
        # Where nothing is evicted nobody asks when an entry was used.
        if found.entry is not None and self._max_bytes is not None:
            self._note_used(key, found.used_at, now)

    def note_broken(self, found: rows.Found) -> None:
        if found.broken is None:
            return
        self._broken.append(found.broken)
        self.broken += 1
        if self.broken == 1:
            logger.warning(
                "%s: an entry cannot be read and is dropped; more will only be counted",
                self._place,
            )

    async def keep(self, run: Run) -> None:
        """Put in order what can be, in short transactions; what fails is left to the next time."""
        self._busy, self._kept_at, self._stored_bytes = True, time.monotonic(), 0
        try:
            with suppress(CacheError):
                await self._keep(run)
        finally:
            self._busy = False

    async def _keep(self, run: Run) -> None:
        while self._broken:
            await run(partial(rows.delete_broken, row=self._broken.popleft()))
        while await run(partial(rows.delete_ended, now=self._clock())) == rows.DELETE_ROWS:
            pass
        if self._used:
            used, self._used = self._used, {}
            await run(partial(rows.mark_used, used=used))
        await self._evict(run)
        await run(agreed.delete_leases)

    async def _evict(self, run: Run) -> None:
        if self._max_bytes is None:
            return
        excess = (await run(rows.totals)).bytes - self._max_bytes
        while excess > 0:
            gone = await run(partial(rows.delete_unused, enough=excess))
            if not gone:
                return
            if self.evictions == 0:
                logger.warning(
                    "%s is full (%d bytes): from now on, what was not used for longest goes",
                    self._place,
                    self._max_bytes,
                )
            self.evictions += len(gone)
            excess -= sum(gone)

    def _note_used(self, key: Key, used_at: float, now: float) -> None:
        if now - used_at > USE_GRAIN_S and len(self._used) < MAX_MARKS:
            self._used[id_bytes(key.id)] = now
