"""The entries as an operator sees them: listed, read, put right, pinned, expired, purged.

Over a cache that can do so; `Unsupported` from any other, `CacheError` where it cannot be reached.
What is changed or purged is so everywhere when the call returns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from cache_backends.base import (
    CacheError,
    Entry,
    EntryCache,
    Generation,
    Totals,
    Unsupported,
    id_bytes,
)
from cache_backends.shared import EVERYTHING, WIDE, Filter, ManagedCache, Narrowing, Page, Summary
from proxy import correction
from proxy.dialects.base import Dialect
from proxy.errors import BadRequest, NotThere
from proxy.journal import utc

# A listing that takes longer has hung; a purge may have much to do.
READ_S = 30.0
WRITE_S = 600.0
# Searches at a time, whoever wants them: those who ask for answers wait behind each.
SEARCHES_AT_ONCE = 4
# Entries that are looked through at a time, and purged under one row of the log.
BATCH = 1000
# How often a change is begun anew because somebody else has changed the same meanwhile.
TRIES = 20
# Rows that are waited for at a time: each takes a lease, however little there is to delete.
PURGES_AT_ONCE = 8
ID_BYTES = 32  # SHA-256
# Entries that are read whole at a time take so much memory, or are one.
READ_BYTES = 8 * 2**20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries are meant."""

    filter: Filter = EVERYTHING
    narrowed: Narrowing = WIDE


@dataclass(frozen=True, slots=True)
class Change:
    """What an entry is to have from now on; what is `None` stays. `ttl` is in seconds."""

    ttl: float | None = None
    endless: bool = False  # no ttl
    tags: tuple[str, ...] | None = None
    pinned: bool | None = None


ALL = Selection()


class Catalogue:
    """`stale_s`: how long an expired entry is kept that had no end before (seconds)."""

    def __init__(
        self,
        cache: EntryCache,
        *,
        dialects: Mapping[str, Dialect] | None = None,
        stale_s: float = 86400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._dialects = dialects or {}
        self._stale_s = stale_s
        self._clock = clock
        self._searches = asyncio.Semaphore(SEARCHES_AT_ONCE)

    @property
    def cache(self) -> ManagedCache:
        if isinstance(self._cache, ManagedCache):
            return self._cache
        raise Unsupported(
            f"{type(self._cache).__name__} has no list of its entries; "
            "sqlite, redis, postgresql and memory have, and cassettes"
        )

    async def page(self, which: Selection, *, cursor: str | None = None, limit: int = 100) -> Page:
        """A part of the list, those stored last first. NotThere for a cursor that is none."""
        try:
            return await _within(READ_S, self._page(which, cursor, limit))
        except ValueError as exc:
            raise (BadRequest if cursor is None else NotThere)(f"{exc}.") from exc

    async def _page(self, which: Selection, cursor: str | None, limit: int) -> Page:
        search = which.narrowed != WIDE
        async with self._searches if search else nullcontext():
            return await self.cache.page(
                which.filter, narrowed=which.narrowed, cursor=cursor, limit=limit
            )

    async def pages(self, which: Selection, *, cursor: str | None = None) -> AsyncIterator[Page]:
        """All parts of the list; there is always one."""
        while True:
            page = await self.page(which, cursor=cursor, limit=BATCH)
            yield page
            if page.cursor is None:
                return
            cursor = page.cursor

    async def whole(self, summaries: Sequence[Summary]) -> AsyncIterator[Entry]:
        """The entries of a page, but those that are gone meanwhile."""
        for batch in _batches(summaries):
            for entry in await self._by_ids([each.id for each in batch]):
                if entry is not None:
                    yield entry

    async def entry(self, id: str, client: str | None = None) -> tuple[Summary, Entry]:
        """One entry, if it is this client's; NotThere."""
        page = await self.page(Selection(_only(id, client)), limit=1)
        (entry,) = await self._by_ids([id]) if page.entries else [None]
        if entry is None:
            raise _not_there(id)
        return page.entries[0], entry

    async def delete(self, id: str, client: str | None = None) -> None:
        """Remove one entry, if it is this client's; NotThere."""
        if not await self._purge(_only(id, client)):
            raise _not_there(id)

    async def count(self, which: Selection) -> int:
        """How many there are."""
        if which == ALL:
            totals: Totals = await _within(READ_S, self.cache.totals())
            return totals.entries
        return sum([len(page.entries) async for page in self.pages(which)])

    async def count_fresh(self, which: Selection) -> int:
        """How many `soften` would expire."""
        now = self._clock()
        return sum([len(_due(page, now)) async for page in self.pages(which)])

    async def purge(self, which: Selection) -> int:
        """Remove all of these; tell how many there were."""
        if which.narrowed == WIDE:
            return await self._purge(which.filter)
        # The log knows filters only: what is narrowed down is purged by its ids.
        ids = [each.id async for page in self.pages(which) for each in page.entries]
        filters = [
            replace(which.filter, ids=tuple(ids[start : start + BATCH]))
            for start in range(0, len(ids), BATCH)
        ]
        purged = 0
        for start in range(0, len(filters), PURGES_AT_ONCE):
            some = filters[start : start + PURGES_AT_ONCE]
            purged += sum(await asyncio.gather(*map(self._purge, some)))
        return purged

    async def soften(self, which: Selection) -> int:
        """Expire all of these now; tell how many were not so before.

        They still serve if the provider fails, for no longer than they would have: a second time
        changes nothing. What is pinned stays as it is.
        """
        softened = 0
        async for page in self.pages(which):
            for batch in _batches(_due(page, self._clock())):
                softened += await self._soften([each.id for each in batch])
        return softened

    async def _soften(self, ids: Sequence[str]) -> int:
        """Expire these; again those that somebody else has changed meanwhile."""
        softened, found = 0, await self._by_ids(ids)
        for _ in range(TRIES):
            now = self._clock()
            due = [entry for entry in found if entry and _is_due(entry, now)]
            amended = await self._amend([self._expired(entry, now) for entry in due])
            ids = [entry.key.id for entry, is_so in zip(due, amended, strict=True) if not is_so]
            if not ids:
                return softened + len(due)
            found = await self._by_ids(ids)
            # The other's change may be one of what was expired here.
            again = [entry for entry in found if entry and _is_due(entry, now)]
            softened += len(due) - len(again)
        raise CacheError(f"{len(ids)} entries are changed by others all the time")

    async def change(self, id: str, change: Change) -> Summary:
        """Give an entry another end, other tags, or pin it; NotThere."""
        summary, entry = await self._revise(id, partial(self._changed, change))
        try:
            return (await self.entry(id))[0]
        except NotThere:  # its end was in the past
            return Summary.of(entry, summary.bytes, summary.prompt, summary.hits)

    def _changed(self, change: Change, entry: Entry) -> Entry:
        ends = _ends(entry)
        if change.endless:
            ends = (None, None)
        elif change.ttl is not None:
            expires_at = self._clock() + change.ttl
            ends = (expires_at, expires_at + self._window(entry))
        pinned = entry.pinned if change.pinned is None else change.pinned
        tags = entry.tags if change.tags is None else change.tags
        return _with_ends(replace(entry, tags=tags), ends, pinned)

    async def correct(
        self, id: str, *, text: str | None = None, generations: list[Generation] | None = None
    ) -> None:
        """Put another answer in the place of an entry's; NotThere, BadRequest."""
        await self._revise(id, partial(self._corrected, text, generations))

    def _corrected(
        self, text: str | None, generations: list[Generation] | None, entry: Entry
    ) -> Entry:
        if generations is None:
            generations = correction.with_text(entry.generations, text or "")
        correction.require_json(generations)
        dialect = self._dialects.get(str(entry.about.get("dialect", "")).partition("/")[0])
        if dialect is not None:
            correction.check(entry, dialect, generations, text)
        about = {**entry.about, "corrected": utc(self._clock())}
        return replace(entry, generations=generations, about=about)

    async def _revise(self, id: str, revised: Callable[[Entry], Entry]) -> tuple[Summary, Entry]:
        """Put what an entry becomes in its place; again, of what others have made it meanwhile."""
        for _ in range(TRIES):
            summary, entry = await self.entry(id)
            entry = revised(entry)
            if all(await self._amend([entry])):
                return summary, entry
        raise CacheError(f"the entry {id} is changed by others all the time")

    def _expired(self, entry: Entry, now: float) -> Entry:
        until = now + self._window(entry)
        if entry.retained_until is not None:
            until = min(until, entry.retained_until)
        return replace(entry, expires_at=now, retained_until=until)

    def _window(self, entry: Entry) -> float:
        """How long after its end an entry is kept."""
        expires_at, retained_until = _ends(entry)
        if expires_at is None or retained_until is None:
            return self._stale_s
        return max(0.0, retained_until - expires_at)

    async def _by_ids(self, ids: Sequence[str]) -> list[Entry | None]:
        return await _within(READ_S, self.cache.by_ids(ids))

    async def _purge(self, filter: Filter) -> int:
        return await _within(WRITE_S, self.cache.purge(filter))

    async def _amend(self, entries: Sequence[Entry]) -> list[bool]:
        return await _within(WRITE_S, self.cache.amend(entries))


async def _within(seconds: float, call: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError as exc:
        raise CacheError(f"the cache did not do it within {seconds:.0f} s") from exc


def _batches(summaries: Sequence[Summary]) -> list[list[Summary]]:
    """As many at a time as fit into memory."""
    batches: list[list[Summary]] = []
    left = 0
    for each in summaries:
        left -= each.bytes
        if left < 0:
            batches.append([])
            left = READ_BYTES - each.bytes
        batches[-1].append(each)
    return batches


def _due(page: Page, now: float) -> list[Summary]:
    return [each for each in page.entries if _is_due(each, now)]


def _is_due(each: Summary | Entry, now: float) -> bool:
    """Is it to expire, and has not?"""
    pinned = each.about.get("pinned") is True
    return not pinned and (each.expires_at is None or each.expires_at > now)


def _ends(entry: Entry) -> tuple[float | None, float | None]:
    """When it expires and when it goes; of a pinned one, when it would."""
    if not entry.pinned:
        return entry.expires_at, entry.retained_until
    match entry.about.get("unpinned"):
        case [float() | int() | None as expires_at, float() | int() | None as retained_until]:
            return expires_at, retained_until
    return None, None


def _with_ends(entry: Entry, ends: tuple[float | None, float | None], pinned: bool) -> Entry:
    about: dict[str, Any] = {
        name: value for name, value in entry.about.items() if name not in ("pinned", "unpinned")
    }
    if pinned:
        about |= {"pinned": True, "unpinned": list(ends)}
        ends = (None, None)
    return replace(entry, expires_at=ends[0], retained_until=ends[1], about=about)


def _only(id: str, client: str | None) -> Filter:
    if len(id_bytes(id)) != ID_BYTES:  # no row of the log for what never was
        raise _not_there(id)
    return Filter(ids=(id,), client=client)


def _not_there(id: str) -> NotThere:
    return NotThere(f"There is no entry {id[:64]!r}.")
