"""The purge log of the SQLite file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import apsw

from cache_backends.shared import Filter, Purge, PurgeLog

# SQLite counts no further.
MAX_NUMBER = 2**63 - 1

LAST = "SELECT ifnull(max(number), 0) FROM purges"
HEAD = "SELECT name, (SELECT ifnull(max(number), 0) FROM purges) FROM store"


def read(connection: apsw.Connection, after: int) -> PurgeLog:
    """Read the rows with numbers above `after`. Within a transaction, so that all fits together."""
    row: Any = connection.execute(HEAD).fetchone()
    if row is None:
        raise apsw.CorruptError("it has lost its name")
    name, head = row
    found: Iterable[Any] = connection.execute(
        "SELECT number, previous, filter, at FROM purges WHERE number > ? ORDER BY number",
        (min(after, MAX_NUMBER),),
    )
    purges = tuple(
        Purge(number, previous, Filter.of_bytes(said), at) for number, previous, said, at in found
    )
    return PurgeLog(name.hex(), head, purges)


@dataclass(frozen=True, slots=True)
class Announcement:
    """Appends to the log; gives the number. What it says must outlive a loss of power."""

    filter: bytes
    now: float

    def __call__(self, connection: apsw.Connection) -> int:
        row: Any = connection.execute(LAST).fetchone()
        last: int = row[0]
        if last == MAX_NUMBER:
            raise apsw.CorruptError("its purge log has come to an end")
        number = max(last + 1, int(self.now * 1000))
        connection.execute(
            "INSERT INTO purges (number, previous, at, filter) VALUES (?, ?, ?, ?)",
            (number, last, self.now, self.filter),
        )
        return number


def announcement(filter: Filter, now: float) -> Announcement:
    return Announcement(filter.as_bytes(), now)


def forget(connection: apsw.Connection, number: int) -> None:
    """Take out the row with this number and all before it, but never the last."""
    connection.execute(
        "DELETE FROM purges WHERE number <= ? AND number < (SELECT max(number) FROM purges)",
        (min(number, MAX_NUMBER),),
    )
