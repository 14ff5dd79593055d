"""A cache in one SQLite file, which any number of processes may share."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from cache_backends import sqlite_rows as rows
from cache_backends.base import CacheError, Entry, EntryCache, Generation, Key, Totals
from cache_backends.lanes import Lane
from cache_backends.sqlite_file import DatabaseFile, transaction

logger = logging.getLogger(__name__)

MAX_BYTES = 10 * 2**30
MEASURE_DISK_EVERY_S = 30.0
# An entry's last use is known to this many seconds: hits need not write.
USE_GRAIN_S = 60.0
MAX_MARKS = 50_000
KEEP_HOUSE_AFTER_S = 30.0

Task = Callable[[apsw.Connection], Any]


class SQLiteCache(EntryCache):
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
        notes = _Notes()
        file = partial(DatabaseFile, self._path, busy_timeout=busy_timeout)
        self._writing = _Writer(file(), notes, clock, max_bytes)
        self._writer = Lane(f"writer of {self._path}", self._writing, idle_after=KEEP_HOUSE_AFTER_S)
        self._reading = _Reader(file(), notes, clock, on_note=self._writer.start)
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
        return await self._writer.ask(partial(rows.delete, id=rows.blob(id)))

    async def fact(self, name: str, default: str) -> str:
        # Read first: a fact that is there can be had from a full or read-only disk.
        found = await self._reader.ask(partial(rows.fact, name=name))
        if found is not None:
            return found
        return await self._writer.ask(partial(rows.fact_or, name=name, default=default))

    async def totals(self) -> Totals:
        return await self._reader.ask(rows.totals)

    async def aclear(self, **kwargs: Any) -> None:  # noqa: ARG002 - accepted, as LangChain's does
        last = await self._writer.ask(rows.last_row)
        while await self._writer.ask(partial(rows.delete_up_to, row=last)):
            pass
        await self._writer.ask(rows.give_back)

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
        self._writer.call(rows.give_back)

    def close(self) -> None:
        """Finish what is being written and close the file; from code without an event loop."""
        self._reader.close().result()
        self._writer.close().result()

    def _storing(self, entries: Sequence[Entry]) -> Callable[[apsw.Connection], None]:
        # Written here, not on the thread: who passed something unfit hears of it, nobody else.
        now = self._clock()
        return partial(self._writing.store, [rows.row_of(entry, now) for entry in entries])


def _drop(reader: Lane, writer: Lane) -> None:
    reader.close()
    writer.close()


class _Notes:
    """What the reader leaves for the writer: entries used, by id, and rows that are broken."""

    def __init__(self) -> None:
        self.used: dict[bytes, float] = {}
        self.broken: deque[rows.Row] = deque(maxlen=1000)


class _Reader:
    """Answers all lookups of a round from one snapshot."""

    def __init__(
        self,
        file: DatabaseFile,
        notes: _Notes,
        clock: Callable[[], float],
        on_note: Callable[[], None],
    ) -> None:
        self._file = file
        self._notes = notes
        self._clock = clock
        self._on_note = on_note
        self.broken = 0

    def work(self, tasks: Sequence[Task]) -> list[Any]:
        return self._file.run(partial(self._round, tasks))

    def idle(self) -> None:
        return None

    def finish(self) -> None:
        self._file.close()

    def find(self, keys: Sequence[Key], connection: apsw.Connection) -> list[Entry | None]:
        now = self._clock()
        return [self._find(connection, key, now) for key in keys]

    def _round(self, tasks: Sequence[Task], connection: apsw.Connection) -> list[Any]:
        with transaction(connection, "DEFERRED"):
            return [task(connection) for task in tasks]

    def _find(self, connection: apsw.Connection, key: Key, now: float) -> Entry | None:
        found = rows.find(connection, key, now)
        if found.broken is not None:
            self._note_broken(found.broken)
        elif found.entry is not None and now - found.used_at > USE_GRAIN_S:
            self._note_used(key, now)
        return found.entry

    def _note_used(self, key: Key, now: float) -> None:
        if len(self._notes.used) < MAX_MARKS:
            self._notes.used[rows.blob(key.id)] = now
            self._on_note()

    def _note_broken(self, row: rows.Row) -> None:
        self._notes.broken.append(row)
        self._on_note()
        self.broken += 1
        if self.broken == 1:
            logger.warning(
                "%s: an entry cannot be read and is dropped; more will only be counted",
                self._file.path,
            )


class _Writer:
    """Commits all writes of a round together, and keeps the file within its bound."""

    def __init__(
        self,
        file: DatabaseFile,
        notes: _Notes,
        clock: Callable[[], float],
        max_bytes: int | None,
    ) -> None:
        self._file = file
        self._notes = notes
        self._clock = clock
        self._max_bytes = max_bytes
        self._measured = (0, float("-inf"))
        self.evictions = 0
        self.refused = 0

    def work(self, tasks: Sequence[Task]) -> list[Any]:
        return self._file.run(partial(self._round, tasks))

    def idle(self) -> None:
        # A file that was deleted is not made again before somebody wants to write.
        if self._file.path.exists():
            with suppress(CacheError):
                self.work(())

    def finish(self) -> None:
        self.idle()
        self._file.close()

    def store(self, new: Sequence[rows.Row], connection: apsw.Connection) -> None:
        bound = self._bound(connection)
        fitting = [row for row in new if rows.row_bytes(row) <= bound]
        rows.store(connection, fitting)
        if len(fitting) < len(new):
            self._refuse([row for row in new if rows.row_bytes(row) > bound], connection)

    def _refuse(self, large: Sequence[rows.Row], connection: apsw.Connection) -> None:
        # An older answer under the same key must not outlive the new one.
        for row in large:
            rows.delete(connection, row[0])
        self.refused += len(large)

    def _round(self, tasks: Sequence[Task], connection: apsw.Connection) -> list[Any]:
        with transaction(connection):
            results = [task(connection) for task in tasks]
            self._keep_house(connection)
        return results

    def _keep_house(self, connection: apsw.Connection) -> None:
        rows.mark_used(connection, _drained(self._notes.used))
        rows.delete_broken(connection, _emptied(self._notes.broken))
        rows.delete_expired(connection, self._clock())
        excess = rows.totals(connection).bytes - self._bound(connection)
        if excess > 0:
            self._evict(connection, excess)

    def _evict(self, connection: apsw.Connection, excess: int) -> None:
        first = self.evictions == 0
        self.evictions += rows.delete_unused(connection, excess)
        if first:
            logger.warning(
                "%s is full (%d bytes): from now on, what was not used for longest goes",
                self._file.path,
                self._bound(connection),
            )

    def _bound(self, connection: apsw.Connection) -> int:
        if self._max_bytes is not None:
            return self._max_bytes
        bound, measured_at = self._measured
        if time.monotonic() - measured_at < MEASURE_DISK_EVERY_S:
            return bound
        free = shutil.disk_usage(self._file.path.parent).free
        bound = min(MAX_BYTES, (free + rows.totals(connection).bytes) // 2)
        self._measured = (bound, time.monotonic())
        return bound


def _drained(used: dict[bytes, float]) -> list[tuple[float, bytes]]:
    # One by one: the reader goes on adding.
    marks = []
    with suppress(KeyError):
        while True:
            entry, at = used.popitem()
            marks.append((at, entry))
    return marks


def _emptied(broken: deque[rows.Row]) -> list[rows.Row]:
    taken = []
    with suppress(IndexError):
        while True:
            taken.append(broken.popleft())
    return taken
