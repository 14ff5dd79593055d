"""Which rows of the index in Redis may be meant by a filter: the shortest way to all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from cache_backends.redis_connection import Connections
from cache_backends.redis_hits import Hits
from cache_backends.redis_rows import Names, groups_of, is_id, prompt_seats
from cache_backends.shared import Filter

# How many rows are read at once: some milliseconds of everybody's time.
BATCH_ROWS = 100
# So many entries are rather looked up by their ids than met in the order of storing.
FEW_IDS = 10_000


class Row(NamedTuple):
    """An entry's place in the order of storing."""

    id: str
    place: int


class Choice:
    """Says where to look only: the entries themselves tell whether they are meant, and there."""

    def __init__(self, connections: Connections, names: Names, hits: Hits) -> None:
        self._connections = connections
        self._names = names
        self._hits = hits

    async def rows(
        self, filter: Filter, *, below: int | None = None, least_hits: int = 0
    ) -> AsyncIterator[list[Row]]:
        """The rows of the entries that may be meant, those stored last first."""
        ids = await self._ids(filter, least_hits)
        if ids is not None:
            rows = [row for row in await self.named(ids) if below is None or row.place < below]
            for start in range(0, len(rows), BATCH_ROWS):
                yield rows[start : start + BATCH_ROWS]
            return
        key = await self._smallest(groups_of(filter))
        while True:
            top = "+inf" if below is None else f"({below}"
            limits = (top, "-inf", "WITHSCORES", "LIMIT", 0, BATCH_ROWS)
            (reply,) = await self._connections.run(("ZREVRANGEBYSCORE", key, *limits))
            rows = _pairs(reply)
            if rows:
                yield rows
            if len(rows) < BATCH_ROWS:
                return
            below = rows[-1].place

    async def named(self, ids: Iterable[str]) -> list[Row]:
        known = sorted(set(filter(is_id, ids)))
        rows: list[Row] = []
        for start in range(0, len(known), BATCH_ROWS):
            some = known[start : start + BATCH_ROWS]
            (places,) = await self._connections.run(("ZMSCORE", self._names.index, *some))
            rows += map(Row, some, map(number, places))
        return sorted(rows, key=lambda row: row.place, reverse=True)

    async def _ids(self, filter: Filter, least_hits: int) -> Sequence[str] | None:
        """The ids of all that may be meant, where they are few and an index has them."""
        if filter.ids is not None:
            return filter.ids
        if filter.prompt_digest is not None:
            found = await self._with_prompt(filter.prompt_digest)
            if found is not None:
                return found
        if least_hits > 0:
            return await self._hits.with_least(least_hits, FEW_IDS)
        return None

    async def _with_prompt(self, digest: str) -> list[str] | None:
        names = self._names
        start, first, after = prompt_seats(digest)
        placed, seated, counts, found = await self._connections.run(
            ("ZCARD", names.index),
            ("ZCARD", names.prompts),
            ("HMGET", names.records, "entries", "prompts"),
            ("ZRANGEBYLEX", names.prompts, first, after, "LIMIT", 0, FEW_IDS + 1),
        )
        if [number(placed), number(seated)] != list(map(number, counts)) or len(found) > FEW_IDS:
            return None
        return [member.decode(errors="replace").removeprefix(start) for member in found]

    async def _smallest(self, groups: Sequence[str]) -> str:
        """The key with the fewest rows that has all of these groups' entries."""
        names = self._names
        if not groups or not await self._fits():
            return names.index
        sizes = await self._connections.run(*(("ZCARD", names.group(each)) for each in groups))
        (counts,) = await self._connections.run(("HMGET", names.records, *groups))
        whole = [
            (number(size), names.group(each))
            for each, size, count in zip(groups, sizes, counts, strict=True)
            if number(size) == number(count)
        ]
        return min(whole)[1] if whole else names.index

    async def _fits(self) -> bool:
        """Are as many entries placed as are recorded?"""
        known = ("HGET", self._names.records, "entries")
        placed, held = await self._connections.run(("ZCARD", self._names.index), known)
        return number(placed) == number(held)


def _pairs(reply: Sequence[bytes]) -> list[Row]:
    ids = (member.decode(errors="replace") for member in reply[::2])
    return list(map(Row, ids, map(number, reply[1::2])))


def number(reply: Any) -> int:
    return int(float(reply or 0))
