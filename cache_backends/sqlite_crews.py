"""Who works in the SQLite file: a reader and a writer, each on its lane's thread."""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, NamedTuple

import apsw

from cache_backends import sqlite_leases as leases
from cache_backends import sqlite_listing as listing
from cache_backends import sqlite_rows as rows
from cache_backends import sqlite_texts as texts
from cache_backends.base import CacheError, Entry, Key, id_bytes
from cache_backends.sqlite_file import DatabaseFile, transaction
from cache_backends.sqlite_log import Announcement

logger = logging.getLogger("cache_backends.sqlite")

MAX_BYTES = 10 * 2**30
MEASURE_DISK_EVERY_S = 30.0
# An entry's last use is known to this many seconds: hits need not write.
USE_GRAIN_S = 60.0
MAX_MARKS = 50_000
# With nothing else to do the writer does this so often. Signing a part takes 10 milliseconds.
KEEP_HOUSE_EVERY_S = 30.0
SIGN_AGAIN_AFTER_S = 0.05

Task = Callable[[apsw.Connection], Any]


class New(NamedTuple):
    """An entry to be stored: its row, and what is listed of it."""

    row: rows.Row
    listed: listing.Listed

    @classmethod
    def of(cls, entry: Entry, now: float) -> New:
        return cls(rows.row_of(entry, now), listing.row_of(entry))


class Notes:
    """What the reader leaves for the writer: entries used, by id, and rows that are broken."""

    def __init__(self) -> None:
        self.used: dict[bytes, float] = {}
        self.broken: deque[rows.Row] = deque(maxlen=1000)


class Reader:
    """Answers all lookups of a round from one snapshot."""

    def __init__(
        self,
        file: DatabaseFile,
        notes: Notes,
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

    def find_by_ids(self, ids: Sequence[str], connection: apsw.Connection) -> list[Entry | None]:
        now = self._clock()
        found = [rows.find_by_id(connection, each, now) for each in ids]
        for each in found:
            if each.broken is not None:
                self._note_broken(each.broken)
        return [each.entry for each in found]

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
            self._notes.used[id_bytes(key.id)] = now
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


class Writer:
    """Commits all writes of a round together, and keeps the file within its bound."""

    def __init__(
        self,
        file: DatabaseFile,
        notes: Notes,
        clock: Callable[[], float],
        max_bytes: int | None,
    ) -> None:
        self._file = file
        self._notes = notes
        self._clock = clock
        self._max_bytes = max_bytes
        self._measured = (0, float("-inf"))
        self._folding = False
        self.evictions = 0
        self.refused = 0

    def work(self, tasks: Sequence[Task]) -> list[Any]:
        return self._file.run(partial(self._round, tasks))

    def idle(self) -> float:
        # A file that was deleted is not made again before somebody wants to write.
        if self._file.path.exists():
            with suppress(CacheError):
                (signed,) = self.work((texts.sign,))
                if signed:
                    return SIGN_AGAIN_AFTER_S
        return KEEP_HOUSE_EVERY_S

    def finish(self) -> None:
        self.idle()
        self._file.close()

    def store(self, new: Sequence[New], connection: apsw.Connection) -> None:
        bound = self._bound(connection)
        fitting = [each for each in new if rows.row_bytes(each.row) <= bound]
        listing.store(connection, [each.listed for each in fitting])
        rows.store(connection, [each.row for each in fitting])
        if len(fitting) < len(new):
            self._refuse([each.row for each in new if rows.row_bytes(each.row) > bound], connection)

    def fold_in(self, connection: apsw.Connection) -> None:  # noqa: ARG002 - as any task
        """Empty SQLite's log after this round: what was deleted from the file is in it still."""
        self._folding = True

    def _refuse(self, large: Sequence[rows.Row], connection: apsw.Connection) -> None:
        # An older answer under the same key must not outlive the new one.
        for row in large:
            rows.delete(connection, row[0])
        self.refused += len(large)

    def _round(self, tasks: Sequence[Task], connection: apsw.Connection) -> list[Any]:
        announced = any(isinstance(task, Announcement) for task in tasks)
        with _lasting(connection) if announced else nullcontext(), transaction(connection):
            results = [task(connection) for task in tasks]
            self._keep_house(connection)
        if self._folding:
            self._folding = False
            with suppress(apsw.Error):  # somebody reads still: the next time will do
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return results

    def _keep_house(self, connection: apsw.Connection) -> None:
        rows.mark_used(connection, _drained(self._notes.used))
        rows.delete_broken(connection, _emptied(self._notes.broken))
        rows.delete_expired(connection, self._clock())
        leases.delete_ended(connection, self._clock())
        listing.complete(connection)
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


@contextmanager
def _lasting(connection: apsw.Connection) -> Iterator[None]:
    """What is committed meanwhile outlives a loss of power."""
    connection.execute("PRAGMA synchronous = FULL").fetchall()
    try:
        yield
    finally:
        connection.execute("PRAGMA synchronous = NORMAL").fetchall()


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
