"""Keeps the sums of what happened: in the cache, where they outlive the process and add up over all
that use it; and of this process since its start.

Each second what came together is added to the sums for all time, to those of the day, and to the
hits of entries. What cannot be written is kept and tried again. Of a write that took too long
nobody knows whether it was made: it is made again, so sums may be a little high, never low. What a
process has not written when it is killed is lost: a second's worth.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from cache_backends.base import Unsupported
from cache_backends.shared import ListedCache
from proxy.charts import amounts_at, buckets_of, day_of, point_of
from proxy.errors import CacheOutOfReach
from proxy.figures import DIMENSIONS, Amounts, Figures, amounts_of
from proxy.store import Store
from proxy.tally import Taken, Tally

log = logging.getLogger("proxy.ledger")

# How often sums are written.
FLUSH_S = 1.0
# How long those of a day are kept; and how far back is looked for what was left behind before.
KEPT_DAYS = 31
LOOKED_BACK_DAYS = 62
# What waits to be written while the cache does not take it: entries with hits, days.
MAX_ENTRIES = 100_000
MAX_GROUPS = 3

ALL = "all"
_SINCE = "counted_since"

_Number = TypeVar("_Number", int, float)


class Ledger:
    """Takes from the tally; `listener` is told of what was taken."""

    def __init__(
        self,
        store: Store,
        tally: Tally,
        *,
        listener: Callable[[Taken], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._tally = tally
        self._listener = listener
        self._clock = clock
        self._counted = True  # has the cache a way to keep sums?
        self._expected = False  # are the names known that were counted before the start?
        self._own: Amounts = {}
        self._own_days: dict[str, Amounts] = {}
        self._groups: dict[str, Amounts] = {}
        self._entries: dict[str, int] = {}
        self._began = clock()
        self._since = ""
        self._day = ""
        self._to_forget: deque[str] = deque()
        self._flushing = asyncio.Lock()
        self._stored = self._evicted = 0

    @property
    def own(self) -> Figures:
        """The figures of this process since its start."""
        self.collect()
        return Figures(self._own)

    def collect(self) -> None:
        """Take the sums since the last time; what is to be written waits."""
        taken = self._tally.take()
        stored, evicted = self._store.stored, self._store.evictions
        taken.stored, taken.evicted = stored - self._stored, max(0, evicted - self._evicted)
        self._stored, self._evicted = stored, evicted
        if self._listener is not None:
            self._listener(taken)
        if not taken:
            return
        now = self._clock()
        self._add(taken, now)

    def _add(self, taken: Taken, now: float) -> None:
        amounts, moment, day = amounts_of(taken), amounts_at(taken, now), day_of(now)
        _sum_up(self._own, amounts)
        if not self._counted:
            _sum_up(self._own_days.setdefault(day, {}), moment)
            while len(self._own_days) > KEPT_DAYS:
                del self._own_days[min(self._own_days)]
            return
        _sum_up(self._groups.setdefault(ALL, {}), amounts)
        _sum_up(self._groups.setdefault(f"day {day}", {}), moment)
        while len(self._groups) > MAX_GROUPS:
            del self._groups[min(self._groups, key=lambda group: (group == ALL, group))]
        for entry, hits in taken.entries.items():
            if entry in self._entries or len(self._entries) < MAX_ENTRIES:
                self._entries[entry] = self._entries.get(entry, 0) + hits

    async def run(self) -> None:
        """Write again and again, until cancelled: what is being written then is not given up."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await asyncio.shield(self.flush())

    async def flush(self) -> None:
        """Write what came together. Never raises: what fails is tried again."""
        async with self._flushing:
            self.collect()
            try:
                await self._write()
            except Unsupported:
                self._keep_for_ourselves()

    async def _write(self) -> None:
        if not self._counted:
            return
        steps = (self._expect, self._write_groups, self._write_hits, self._forget_old)
        for step in steps:
            if not await step():  # the others would wait as long
                return

    async def _write_groups(self) -> bool:
        for group in list(self._groups):
            amounts = self._groups.pop(group)
            if not await self._told(partial(_count, group, amounts), "counting"):
                _sum_up(self._groups.setdefault(group, {}), amounts)
                return False
        return True

    async def _write_hits(self) -> bool:
        hits, self._entries = self._entries, {}
        try:
            if not hits or await self._told(lambda cache: cache.add_hits(hits), "counting of hits"):
                return True
        except Unsupported:  # in the sums they are all the same
            return True
        _sum_up(self._entries, hits)
        return False

    async def _told(self, call: Callable[[ListedCache], Awaitable[None]], what: str) -> bool:
        async def tell(cache: ListedCache) -> bool:
            await call(cache)
            return True

        return bool(await self._store.listed(tell, what))

    async def _expect(self) -> bool:
        """Names that were counted before take up the room that there is for names."""
        if self._expected:
            return True
        counted = await self._counts(ALL)
        if counted is None:
            return False
        figures = Figures(counted)
        names = [list(figures.counts(f"{each}.requests")) for each in DIMENSIONS[1:]]
        self._tally.expect(*names)
        self._expected = True
        return True

    async def _forget_old(self) -> bool:
        """One old day at a time; each process does it, once a day."""
        today = datetime.fromtimestamp(self._clock(), UTC)
        if (day := day_of(self._clock())) != self._day:
            self._day = day
            ages = range(KEPT_DAYS, LOOKED_BACK_DAYS)
            self._to_forget.extend(f"{today - timedelta(days=age):%Y-%m-%d}" for age in ages)
        if self._to_forget:
            group = f"day {self._to_forget[0]}"
            if not await self._told(lambda cache: cache.forget_counts(group), "forgetting"):
                return False
            self._to_forget.popleft()
        return True

    def _keep_for_ourselves(self) -> None:
        self._counted = False
        for group, amounts in self._groups.items():
            if group != ALL:
                _sum_up(self._own_days.setdefault(group.removeprefix("day "), {}), amounts)
        self._groups, self._entries = {}, {}

    async def stats(self) -> dict[str, Any]:
        """The figures of all who use the cache; where they cannot be read, of this process."""
        await self.flush()
        totals = await self._store.totals()
        held = {
            "entries": totals.entries if totals else None,
            "bytes": totals.bytes if totals else None,
        }
        figures, covers = await self.in_all(), "all processes"
        if figures is None:
            figures, covers = Figures(self._own), "this process"
            since = _utc(self._began)
        else:
            since = await self.counted_since()
        return {"since": since, "covers": covers, **held, **figures.as_json()}

    async def in_all(self) -> Figures | None:
        """The figures for all time of all who use the cache; `None` if it cannot tell them."""
        counted = await self._counts(ALL)
        if counted is None:
            return None
        _sum_up(counted, self._groups.get(ALL, {}))
        return Figures(counted)

    async def history(self, hours: int, step_minutes: int) -> dict[str, Any]:
        """Points for charts, of the last so many hours; each is of so many minutes.

        CacheOutOfReach where they are in a cache that cannot be read now.
        """
        await self.flush()
        now = datetime.fromtimestamp(self._clock(), UTC)
        begin, step = now - timedelta(hours=hours), timedelta(minutes=step_minutes)
        points: dict[datetime, list[Amounts]] = {}
        covers = "all processes"
        for age in range((now.date() - begin.date()).days, -1, -1):
            day = f"{now - timedelta(days=age):%Y-%m-%d}"
            amounts = await self._counts(f"day {day}")
            if amounts is None and self._counted:  # it would look as if nothing had happened
                raise CacheOutOfReach(
                    "Figures over time are in the cache, which cannot be reached."
                )
            if amounts is None:
                amounts, covers = self._own_days.get(day, {}), "this process"
            for at, bucket in buckets_of(day, amounts):
                if at > begin:
                    points.setdefault(_floor(at, step), []).append(bucket)
            await asyncio.sleep(0)  # a day takes some milliseconds
        told = [{"at": _utc(at.timestamp()), **point_of(points[at])} for at in sorted(points)]
        return {"covers": covers, "step_minutes": step_minutes, "points": told}

    async def _counts(self, group: str) -> Amounts | None:
        if not self._counted:
            return None
        return await self._store.listed(lambda cache: cache.counts(group), "reading of counts")

    async def counted_since(self) -> str:
        """When counting began; RFC 3339."""
        if not self._since:
            self._since = await self._store.fact(_SINCE, _utc(self._began)) or ""
        return self._since or _utc(self._began)


async def _count(group: str, amounts: Amounts, cache: ListedCache) -> None:
    await cache.add_counts(group, amounts)


def _sum_up(into: dict[str, _Number], amounts: Mapping[str, _Number]) -> None:
    for name, amount in amounts.items():
        known = into.get(name)
        into[name] = amount if known is None else known + amount


def _floor(at: datetime, step: timedelta) -> datetime:
    midnight = at.replace(hour=0, minute=0)
    return midnight + (at - midnight) // step * step


def _utc(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
