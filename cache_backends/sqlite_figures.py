"""Hits of entries and counts of groups in the SQLite file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import isfinite
from typing import Any

import apsw
import orjson

from cache_backends.base import id_bytes

# More hits than this nobody has; sums stay whole numbers.
MOST_HITS = 2**53

ADD_HITS = """
INSERT INTO hits (id, hits)
SELECT entries.id, json_each.value FROM json_each(?)
CROSS JOIN entries ON entries.id = unhex(json_each.key)
ON CONFLICT (id) DO UPDATE SET hits = min(hits + excluded.hits, 1 << 53)
"""
ADD_COUNT = """
INSERT INTO counts (part_of, name, amount) VALUES (?, ?, ?)
ON CONFLICT (part_of, name) DO UPDATE SET amount = amount + excluded.amount
"""

Task = Callable[[apsw.Connection], None]


def ids_with(connection: apsw.Connection, least: int, most: int) -> tuple[str, ...] | None:
    """The ids of entries with so many hits or more; `None`: there are more than `most`."""
    found: Any = connection.execute(
        "SELECT id FROM hits WHERE hits >= ? LIMIT ?", (min(least, MOST_HITS + 1), most + 1)
    )
    ids = tuple(key_id.hex() for (key_id,) in found)
    return ids if len(ids) <= most else None


def more_hits(hits: Mapping[str, int]) -> Task:
    """Add to the hits of those entries that are there."""
    known = {key: min(number, MOST_HITS) for key, number in hits.items() if id_bytes(key)}
    return partial(_add_hits, orjson.dumps(known).decode())


def more_counts(group: str, amounts: Mapping[str, float]) -> Task:
    """Add to the counts of a group; `ValueError` for what is no number or has a name that is none.

    Looked at here, not on the thread: who passed something unfit hears of it, nobody else.
    """
    rows = [(group, name, float(amount)) for name, amount in amounts.items()]
    for _, name, amount in rows:
        name.encode()
        if not isfinite(amount):
            raise ValueError(f"{name}: {amount} cannot be added")
    return partial(_add_counts, rows)


def counts(connection: apsw.Connection, group: str) -> dict[str, float]:
    found: Any = connection.execute("SELECT name, amount FROM counts WHERE part_of = ?", (group,))
    return dict(found)


def forget_counts(connection: apsw.Connection, group: str) -> None:
    connection.execute("DELETE FROM counts WHERE part_of = ?", (group,))


def _add_hits(hits: str, connection: apsw.Connection) -> None:
    connection.execute(ADD_HITS, (hits,))


def _add_counts(rows: list[tuple[str, str, float]], connection: apsw.Connection) -> None:
    connection.executemany(ADD_COUNT, rows)
