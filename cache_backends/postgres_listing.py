"""The listing of the Postgres cache, from the entry stored last on, and removal by a filter."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from cache_backends.codec import CodecError, are_times, decode_label
from cache_backends.postgres_choice import HITS, Conditions, marks_of_filter
from cache_backends.postgres_rows import DELETE_ROWS
from cache_backends.postgres_session import Row, Session
from cache_backends.shared import (
    PREVIEW_BYTES,
    Filter,
    Narrowing,
    Page,
    Summary,
    preview_of,
)

# Where a row is in a listing: when it was stored, and its id.
Place = tuple[float, bytes]

# How many entries one page looks at. The rest is left to the next, which its cursor leads to.
PAGE_LOOKS = 10_000
# And for each entry of a page, before an index is asked.
NEAR_LOOKS = 10

PAGE = """
SELECT id, stored_at, expires_at, retained_until, bytes, told,
    substring(prompt FROM 1 FOR {bytes}), {hits}, fits, looked
FROM ({places}) AS places JOIN {schema}.entries USING (id)
ORDER BY stored_at DESC, id DESC
"""
# Also tells the place that was looked at last, if others may follow.
WALK = """
SELECT id, fits, looked FROM (
    SELECT id, {rest} AS fits, row_number() OVER (ORDER BY stored_at DESC, id DESC) AS looked
    FROM {schema}.entries WHERE {span} ORDER BY stored_at DESC, id DESC LIMIT {looks}
) AS walked WHERE fits OR looked = {looks} LIMIT $1
"""
PICK = """
WITH few AS MATERIALIZED (SELECT id, stored_at FROM {schema}.entries WHERE {said})
SELECT id, true AS fits, 0 AS looked FROM few ORDER BY stored_at DESC, id DESC LIMIT $1
"""
COUNT = "SELECT count(*) FROM (SELECT FROM {schema}.{found} LIMIT {more}) AS found"
MARKED = "entries WHERE marks @> $1::text[]"
HIT = "hits WHERE hits >= $1"
OF_THE_HIT = "id = ANY (ARRAY(SELECT id FROM {schema}.hits WHERE hits >= {}))"

REMOVE = """
DELETE FROM {schema}.entries WHERE id = ANY (ARRAY(
    SELECT id FROM {schema}.entries WHERE {said} ORDER BY stored_at, id LIMIT $1
)) AND {said}
RETURNING stored_at, id
"""


class Listing(NamedTuple):
    """A page that is asked for.

    Where an index knows the few entries that may fit, those can be picked, else the page walks
    through all in their order. Either way it looks at a bounded number, whatever the filter.
    """

    filter: Filter
    narrowed: Narrowing
    place: Place | None
    limit: int
    now: float

    @classmethod
    def of(
        cls, filter: Filter, narrowed: Narrowing, cursor: str | None, limit: int, now: float
    ) -> Listing:
        """`ValueError` for a cursor that no page gave."""
        place = None if cursor is None else _place_of(cursor)
        return cls(filter, narrowed, place, limit, now)

    def walk(self, looks: int) -> tuple[str, list[Any]]:
        said = self._said()
        places = WALK.replace("{rest}", said.rest).replace("{span}", said.span)
        return self._statement(places.replace("{looks}", str(looks)), said)

    def pick(self) -> tuple[str, list[Any]]:
        said = self._said()
        if self._min_hits:
            said.add(OF_THE_HIT, self._min_hits)
        return self._statement(PICK.replace("{said}", str(said)), said)

    def counts(self) -> list[tuple[str, Any]]:
        """Statements that count, up to a bound, what an index knows of the filter."""
        known: list[tuple[str, Any]] = []
        if marks := marks_of_filter(self.filter):
            known.append((MARKED, marks))
        if self._min_hits:
            known.append((HIT, self._min_hits))
        count = COUNT.replace("{more}", str(PAGE_LOOKS + 1))
        return [(count.replace("{found}", found), value) for found, value in known]

    @property
    def _min_hits(self) -> int:
        return max(self.narrowed.min_hits or 0, 0)

    def _said(self) -> Conditions:
        said = Conditions(self.filter, self.narrowed)
        said.add("(retained_until IS NULL OR retained_until > {})", self.now)
        if self.narrowed.expired is True:
            said.add("expires_at <= {}", self.now)
        if self.narrowed.expired is False:
            said.add("(expires_at IS NULL OR expires_at > {})", self.now)
        if self.place is not None:
            said.cut("(stored_at, id) < ({}, {})", *self.place)
        return said

    def _statement(self, places: str, said: Conditions) -> tuple[str, list[Any]]:
        statement = PAGE.replace("{places}", places)
        statement = statement.replace("{hits}", HITS).replace("{bytes}", str(PREVIEW_BYTES))
        return statement, [self.limit + 1, *said.values]


async def page(session: Session, asked: Listing) -> Page:
    async with session.transaction():
        # The statistics may be those of a time when the table was small.
        await session.run("SET LOCAL enable_seqscan = off")
        if asked.filter.ids is not None:
            return await _pick(session, asked)
        counts = asked.counts()
        if not counts:
            return await _walk(session, asked, PAGE_LOOKS)
        # What many entries fit is at hand, and to count them takes long.
        near = await _walk(session, asked, min(NEAR_LOOKS * asked.limit, PAGE_LOOKS))
        if near.cursor is None or len(near.entries) == asked.limit:
            return near
        for statement, value in counts:
            ((count,),) = await session.fetch_once(statement, value)
            if count <= PAGE_LOOKS:
                return await _pick(session, asked)
        return await _walk(session, asked, PAGE_LOOKS)


async def _walk(session: Session, asked: Listing, looks: int) -> Page:
    statement, values = asked.walk(looks)
    rows = await session.fetch_once(statement, *values)
    fitting = [row for row in rows if row[-2]]
    last = rows[-1] if rows and rows[-1][-1] == looks else None
    return _page(fitting, asked.limit, last)


async def _pick(session: Session, asked: Listing) -> Page:
    statement, values = asked.pick()
    return _page(await session.fetch_once(statement, *values), asked.limit, None)


def _page(fitting: list[Row], limit: int, last: Row | None) -> Page:
    """Of the rows that fit; if these are no more than a page, the next begins after `last`."""
    if len(fitting) > limit:
        last = fitting[limit - 1]
    listed = [_summary(row) for row in fitting[:limit] if are_times(row[1:4])]
    return Page(listed, None if last is None else _cursor(last))


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
    entry, stored_at, expires_at, retained_until, size, told, prompt, hits, *_ = row
    tags, about = _told(told)
    times = (stored_at, expires_at, retained_until)
    return Summary(entry.hex(), *times, size, preview_of(prompt), tags, about, hits)


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
