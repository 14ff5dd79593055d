"""A cache in one SQLite file, which any number of processes may share."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from cache_backends import sqlite_figures as figures
from cache_backends import sqlite_leases as leases
from cache_backends import sqlite_listing as listing
from cache_backends import sqlite_log as log
from cache_backends import sqlite_rows as rows
from cache_backends import sqlite_texts as texts
from cache_backends.base import CacheError, Entry, Generation, Key, Totals, id_bytes
from cache_backends.cursors import cursor_of, place_of
from cache_backends.lanes import Lane
from cache_backends.shared import (
    EVERYTHING,
    WIDE,
    Filter,
    Narrowing,
    Page,
    PurgeLog,
    SharedCache,
    Summary,
)
from cache_backends.sqlite_choice import Choice, Place, parts, sayable
from cache_backends.sqlite_crews import New, Notes, Reader, Writer
from cache_backends.sqlite_file import DatabaseFile

# After so long without work the writer signs texts, and keeps house now and then.
IDLE_AFTER_S = 1.0
MAX_PAGE = 1000
# Entries that one question by id reads: lookups come between.
MAX_AT_ONCE = 100
# Up to this number entries are looked up by id rather than looked for.
FEW_IDS = 2000
# How long a search waits for the index of texts to be completed.
SIGN_ALL_S = 10.0


class SQLiteCache(SharedCache):
    """Entries in the file `database_path`, created with mode 0600 when it is first used.

    It holds at most `max_bytes`, by default 10 GiB and at most half of what the disk has left;
    beyond that, what was not used for longest goes. One thread reads, one writes; what waits to be
    written is committed together. A process that dies loses nothing that was acknowledged.
    A damaged file is renamed and a new one begun. `CacheError` when the disk is full, the file
    read-only, or locked by others for more than `busy_timeout` seconds; reading goes on.

    `evictions`, `broken` (rows that could not be read) and `refused` (entries larger than the whole
    bound) count since the start.
    """

    def __init__(
        self,
        database_path: str | Path = ".llm-cache.db",
        *,
        max_bytes: int | None = None,
        clock: Callable[[], float] = time.time,
        busy_timeout: float = 5.0,
    ) -> None:
        if str(database_path) in {"", ":memory:"}:
            raise ValueError("database_path must name a file; MemoryCache keeps entries in memory")
        if max_bytes is not None and max_bytes <= 0:
            raise ValueError("max_bytes must be greater than 0")
        self._clock = clock
        self._path = Path(database_path).expanduser().absolute()
        notes = Notes()
        file = partial(DatabaseFile, self._path, busy_timeout=busy_timeout)
        self._writing = Writer(file(), notes, clock, max_bytes)
        self._writer = Lane(f"writer of {self._path}", self._writing, idle_after=IDLE_AFTER_S)
        self._reading = Reader(file(), notes, clock, on_note=self._writer.start)
        self._reader = Lane(f"reader of {self._path}", self._reading)
        # Threads end also when the cache was dropped without being closed.
        weakref.finalize(self, _drop, self._reader, self._writer)

    def __repr__(self) -> str:
        return f"<SQLiteCache {self._path}>"

    @property
    def evictions(self) -> int:
        return self._writing.evictions

    @property
    def refused(self) -> int:
        return self._writing.refused

    @property
    def broken(self) -> int:
        return self._reading.broken

    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        return await self._reader.ask(partial(self._reading.find, tuple(keys)))

    async def put_many(self, entries: Sequence[Entry]) -> None:
        if entries:
            await self._writer.ask(self._storing(entries))

    async def delete(self, id: str) -> bool:
        return await self._writer.ask(partial(rows.delete, id=id_bytes(id)))

    async def page(
        self,
        filter: Filter,
        *,
        narrowed: Narrowing = WIDE,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        choice = Choice.of(await self._with_few_ids(filter, narrowed), narrowed)
        start = choice.top if cursor is None else min(choice.top, _place(cursor))
        limit = max(1, min(limit, MAX_PAGE))
        await self._list_all()
        if choice.text is not None:
            await self._sign_all()
        found: list[Summary] = []
        rest: Place | None = start
        while rest is not None and len(found) <= limit:
            wanted = limit + 1 - len(found)
            tell = partial(listing.tell, choice, rest, wanted, self._clock())
            told, rest = await self._reader.ask(tell)
            found += told
        if len(found) <= limit:
            return Page(found, None)
        last = found[limit - 1]
        return Page(found[:limit], cursor_of(last.stored_at, last.id))

    async def by_ids(self, ids: Sequence[str]) -> list[Entry | None]:
        found: list[Entry | None] = []
        for first in range(0, len(ids), MAX_AT_ONCE):
            part = tuple(ids[first : first + MAX_AT_ONCE])
            found += await self._reader.ask(partial(self._reading.find_by_ids, part))
        return found

    async def remove(self, filter: Filter, *, before: int) -> int:
        await self._list_all()
        removed = 0
        for part in parts(filter):
            choice = Choice.of(part)
            rest: Place | None = choice.top
            while rest is not None:
                step = partial(listing.remove, choice, rest, before)
                count, rest = await self._writer.ask(step)
                removed += count
        if removed and filter == EVERYTHING:
            while await self._writer.ask(rows.give_back):
                pass
        if removed:
            await self._writer.ask(self._writing.fold_in)
        return removed

    async def purges(self, after: int) -> PurgeLog:
        return await self._reader.ask(partial(log.read, after=after))

    async def announce(self, filter: Filter) -> int:
        return await self._writer.ask(log.announcement(filter, self._clock()))

    async def forget(self, number: int) -> None:
        await self._writer.ask(partial(log.forget, number=number))

    async def claim(self, name: str, holder: str, seconds: float) -> bool:
        now = self._clock()
        until = now + seconds
        return await self._writer.ask(
            partial(leases.claim, name=name, holder=holder, until=until, now=now)
        )

    async def release(self, name: str, holder: str) -> None:
        await self._writer.ask(partial(leases.release, name=name, holder=holder))

    async def fact(self, name: str, default: str) -> str:
        # Read first: a fact that is there can be had from a full or read-only disk.
        found = await self._reader.ask(partial(rows.fact, name=name))
        if found is not None:
            return found
        return await self._writer.ask(partial(rows.fact_or, name=name, default=default))

    async def set_fact(self, name: str, value: str) -> None:
        await self._writer.ask(partial(rows.set_fact, name=sayable(name), value=sayable(value)))

    async def add_hits(self, hits: Mapping[str, int]) -> None:
        if hits:
            await self._writer.ask(figures.more_hits(hits))

    async def add_counts(self, group: str, amounts: Mapping[str, float]) -> None:
        if amounts:
            await self._writer.ask(figures.more_counts(sayable(group), amounts))

    async def counts(self, group: str) -> dict[str, float]:
        return await self._reader.ask(partial(figures.counts, group=sayable(group)))

    async def forget_counts(self, group: str) -> None:
        await self._writer.ask(partial(figures.forget_counts, group=sayable(group)))

    async def totals(self) -> Totals:
        return await self._reader.ask(rows.totals)

    async def aclear(self, **kwargs: Any) -> None:  # noqa: ARG002 - accepted, as LangChain's does
        last = await self._writer.ask(rows.last_row)
        while await self._writer.ask(partial(rows.delete_up_to, row=last)):
            pass
        while await self._writer.ask(rows.give_back):
            pass
        await self._writer.ask(self._writing.fold_in)

    async def aclose(self) -> None:
        # The writer is the last to leave: it takes the reader's notes and folds the log in.
        await asyncio.wrap_future(self._reader.close())
        await asyncio.wrap_future(self._writer.close())

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        key = Key.of(prompt, llm_string)
        (entry,) = self._reader.call(partial(self._reading.find, (key,)))
        return self._answer(entry)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self._writer.call(self._storing([self._entry(prompt, llm_string, return_val)]))

    def clear(self, **kwargs: Any) -> None:  # noqa: ARG002 - accepted, as LangChain's does
        last = self._writer.call(rows.last_row)
        while self._writer.call(partial(rows.delete_up_to, row=last)):
            pass
        while self._writer.call(rows.give_back):
            pass
        self._writer.call(self._writing.fold_in)

    def close(self) -> None:
        """Finish what is being written and close the file; from code without an event loop."""
        self._reader.close().result()
        self._writer.close().result()

    def _storing(self, entries: Sequence[Entry]) -> Callable[[apsw.Connection], None]:
        # Written here, not on the thread: who passed something unfit hears of it, nobody else.
        now = self._clock()
        return partial(self._writing.store, [New.of(entry, now) for entry in entries])

    async def _list_all(self) -> None:
        """See to it that what was stored in the first layout can be chosen as well."""
        if not await self._reader.ask(listing.is_whole):
            while await self._writer.ask(listing.complete):
                pass

    async def _sign_all(self) -> None:
        """Complete the index of texts, for what is stored by now."""
        left = await self._reader.ask(texts.unsigned)
        until = time.monotonic() + SIGN_ALL_S
        while left > 0 and (signed := await self._writer.ask(texts.sign)):
            left -= signed
            if left > 0 and time.monotonic() > until:
                raise CacheError(
                    f"{self._path}: texts cannot be searched yet, {left} entries are still to be "
                    "read for it: try again in some minutes"
                )

    async def _with_few_ids(self, filter: Filter, narrowed: Narrowing) -> Filter:
        """Name the entries that were hit so often, if they are few: they need not be sought."""
        if filter.ids is not None or not narrowed.min_hits or narrowed.min_hits < 0:
            return filter
        few = partial(figures.ids_with, least=narrowed.min_hits, most=FEW_IDS)
        ids = await self._reader.ask(few)
        return filter if ids is None else replace(filter, ids=ids)


def _place(cursor: str) -> Place:
    stored_at, key_id = place_of(cursor)
    return Place(stored_at, id_bytes(key_id))


def _drop(reader: Lane, writer: Lane) -> None:
    reader.close()
    writer.close()
