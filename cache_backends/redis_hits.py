"""The hits of the entries in Redis: a sorted set beside the index, of those that had any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cache_backends.redis_connection import Connections
from cache_backends.redis_rows import Names
from cache_backends.redis_scripts import ADD_HITS

# So many are added at once: some milliseconds of everybody's time.
HITS_AT_ONCE = 1000


class Hits:
    """Counted for what the index names. They leave with the entry's row in the index."""

    def __init__(self, connections: Connections, names: Names) -> None:
        self._connections = connections
        self._names = names

    async def add(self, hits: Mapping[str, int]) -> None:
        """Where it fails some may be counted: who adds them again counts these twice."""
        names = self._names
        counted = list(hits.items())
        for start in range(0, len(counted), HITS_AT_ONCE):
            some = [part for each in counted[start : start + HITS_AT_ONCE] for part in each]
            await self._connections.run(("EVAL", ADD_HITS, 2, names.index, names.hits, *some))

    async def of(self, ids: Sequence[str]) -> list[int]:
        """How many each of these had."""
        if not ids:
            return []
        (found,) = await self._connections.run(("ZMSCORE", self._names.hits, *ids))
        return [int(float(hits or 0)) for hits in found]

    async def with_least(self, least: int, most: int) -> list[str] | None:
        """The ids of those that had so many; `None` if these are more than `most`."""
        limit = ("LIMIT", 0, most + 1)
        lookup = ("ZRANGEBYSCORE", self._names.hits, least, "+inf", *limit)
        (found,) = await self._connections.run(lookup)
        if len(found) > most:
            return None
        return [member.decode(errors="replace") for member in found]
