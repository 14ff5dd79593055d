"""Pages of the entries in Redis: what a filter and a narrowing mean, in the order of storing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cache_backends.redis_choice import Choice, Row
from cache_backends.redis_hits import Hits
from cache_backends.redis_index import Index
from cache_backends.redis_rows import Label, counted
from cache_backends.shared import Filter, Narrowing, Page

# How many entries one page looks at. The rest is left to the next, which its cursor leads to.
PAGE_LOOKS = 10_000

Found = tuple[Row, Label]


class Listing:
    """Reads what the index names, and of each entry the beginning."""

    def __init__(
        self, index: Index, choice: Choice, hits: Hits, clock: Callable[[], float]
    ) -> None:
        self._index = index
        self._choice = choice
        self._hits = hits
        self._clock = clock

    async def page(
        self, filter: Filter, narrowed: Narrowing, cursor: str | None, limit: int
    ) -> Page:
        below = None if cursor is None else _place(cursor)
        least_hits = narrowed.min_hits or 0
        found: list[Found] = []
        looked = 0
        async for rows in self._choice.rows(filter, below=below, least_hits=least_hits):
            for each in await self._meant(rows, filter, narrowed):
                if len(found) == limit:
                    return await self._page(found, found[-1][0].place)
                found.append(each)
            looked += len(rows)
            if looked >= PAGE_LOOKS:
                return await self._page(found, rows[-1].place)
        return await self._page(found, None)

    async def _meant(self, rows: Sequence[Row], filter: Filter, narrowed: Narrowing) -> list[Found]:
        if narrowed.min_hits is not None:
            hits = await self._hits.of([row.id for row in rows])
            rows = [row for row, had in zip(rows, hits, strict=True) if had >= narrowed.min_hits]
        labels = await self._index.labels(rows)
        found = [(row, labels[row.id]) for row in rows if row.id in labels]
        now = self._clock()
        return [each for each in found if _is_meant(each[1], filter, narrowed, now)]

    async def _page(self, found: Sequence[Found], place: int | None) -> Page:
        hits = await self._hits.of([row.id for row, _ in found])
        summaries = [label.summary(had) for (_, label), had in zip(found, hits, strict=True)]
        return Page(summaries, None if place is None else str(place))


def _is_meant(label: Label, filter: Filter, narrowed: Narrowing, now: float) -> bool:
    entry, size = label.entry, counted(label.value_bytes)
    expired = entry.expires_at is not None and entry.expires_at <= now
    return (
        (entry.retained_until is None or entry.retained_until > now)
        and filter.covers(entry)
        and (narrowed.expired is None or narrowed.expired == expired)
        and (narrowed.min_bytes is None or size >= narrowed.min_bytes)
        and (narrowed.max_bytes is None or size <= narrowed.max_bytes)
    )


def _place(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 20):
        raise ValueError(f"no cursor of a listing: {cursor[:40]!r}")
    return int(cursor)
