"""The listing of the Postgres cache, from the entry stored last on, and removal by a filter."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from cache_backends.codec import CodecError, are_times, decode_label
from cache_backends.postgres_choice import Conditions
from cache_backends.postgres_rows import DELETE_ROWS
from cache_backends.postgres_session import Row, Session
from cache_backends.shared import PREVIEW_BYTES, Filter, Page, Summary, preview_of

# Where a row is in a listing: when it was stored, and its id.
Place = tuple[float, bytes]

PAGE = """
SELECT id, stored_at, expires_at, retained_until, bytes, told, substring(prompt FROM 1 FOR {bytes})
FROM {schema}.entries WHERE {said} ORDER BY stored_at DESC, id DESC LIMIT $1
"""
REMOVE = """
DELETE FROM {schema}.entries WHERE id = ANY (ARRAY(
    SELECT id FROM {schema}.entries WHERE {said} ORDER BY stored_at, id LIMIT $1
)) AND {said}
RETURNING stored_at, id
"""


class Listing(NamedTuple):
    """A page that is asked for."""

    statement: str
    values: list[Any]
    limit: int

    @classmethod
    def of(cls, filter: Filter, cursor: str | None, limit: int, now: float) -> Listing:
        """`ValueError` for a cursor that no page gave."""
        said = Conditions(filter)
        said.add("(retained_until IS NULL OR retained_until > {})", now)
        if cursor is not None:
            said.add("(stored_at, id) < ({}, {})", *_place_of(cursor))
        statement = PAGE.replace("{said}", str(said)).replace("{bytes}", str(PREVIEW_BYTES))
        return cls(statement, [limit + 1, *said.values], limit)


async def page(session: Session, asked: Listing) -> Page:
    rows = await session.fetch_once(asked.statement, *asked.values)
    listed = rows[: asked.limit]
    summaries = [_summary(row) for row in listed if are_times(row[1:4])]
    return Page(summaries, _cursor(listed[-1]) if len(rows) > asked.limit else None)


async def remove(session: Session, filter: Filter, before: int, after: Place | None) -> list[Place]:
    """Delete some of what the filter covers, in the order of the places, after one of them.

    Tells the places of what was deleted; fewer than `DELETE_ROWS`: no more are left.
    """
    said = Conditions(filter)
    said.add("seen < {}", before)
    if after is not None:
        said.add("(stored_at, id) > ({}, {})", *after)
    statement = REMOVE.replace("{said}", str(said))
    deleted = await session.fetch_once(statement, DELETE_ROWS, *said.values)
    return [(row[0], row[1]) for row in deleted]


def _summary(row: Row) -> Summary:
    entry, stored_at, expires_at, retained_until, size, told, prompt = row
    preview = preview_of(prompt)
    tags, about = _told(told)
    return Summary(entry.hex(), stored_at, expires_at, retained_until, size, preview, tags, about)


def _told(told: bytes) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Tags and facts, or none: other programs may write what they like."""
    try:
        return decode_label(told)
    except CodecError:
        return (), {}


def _cursor(row: Row) -> str:
    return struct.pack(">d", row[1]).hex() + bytes(row[0]).hex()


def _place_of(cursor: str) -> Place:
    try:
        stored_at, entry = struct.unpack(">d32s", bytes.fromhex(cursor))
    except (ValueError, struct.error):
        raise ValueError("the cursor is not one that a page gave") from None
    return stored_at, entry
