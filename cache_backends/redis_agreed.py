"""What all who share a Redis agree on: the purge log, leases, facts and counts."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from secrets import token_hex
from typing import Any

from cache_backends.base import CacheError
from cache_backends.redis_connection import Connections
from cache_backends.redis_rows import Names
from cache_backends.redis_scripts import ADD_COUNTS, ANNOUNCE, CLAIM, PURGES, RELEASE
from cache_backends.shared import EVERYTHING, Filter, Purge, PurgeLog


class Agreements:
    """Each in one round trip, but for facts that are new."""

    def __init__(self, connections: Connections, names: Names) -> None:
        self._connections = connections
        self._names = names

    async def purges(self, after: int) -> PurgeLog:
        store, head, rows = await self._eval(PURGES, self._names.log, token_hex(16), after)
        purges = [
            _purge(row, int(float(number)))
            for row, number in zip(rows[::2], rows[1::2], strict=True)
        ]
        return PurgeLog(store.decode(errors="replace"), int(float(head)), tuple(purges))

    async def announce(self, filter: Filter) -> int:
        log = self._names.log
        return int(await self._eval(ANNOUNCE, log, token_hex(16), filter.as_bytes()))

    async def forget(self, number: int) -> None:
        log = self._names.log
        (last,) = await self._connections.run(("ZREVRANGE", log, 0, 0, "WITHSCORES"))
        if last:
            # Meanwhile others may have come after it: the last row stays in any case.
            until = min(number, int(float(last[1])) - 1)
            await self._connections.run(("ZREMRANGEBYSCORE", log, 1, until))

    async def claim(self, name: str, holder: str, seconds: float) -> bool:
        until = max(1, round(seconds * 1000))
        return bool(await self._eval(CLAIM, self._names.lease(name), holder, until))

    async def release(self, name: str, holder: str) -> None:
        await self._eval(RELEASE, self._names.lease(name), holder)

    async def fact(self, name: str, default: str) -> str:
        facts = self._names.facts
        # Read first: a fact that is there can be had from a full server or a replica.
        (found,) = await self._connections.run(("HGET", facts, name))
        if found is None:
            set_it = ("HSETNX", facts, name, default)
            _, found = await self._connections.run(set_it, ("HGET", facts, name))
        if found is None:
            raise CacheError(f"the fact {name!r} was lost as it was made")
        text: str = found.decode(errors="replace")
        return text

    async def set_fact(self, name: str, value: str) -> None:
        await self._connections.run(("HSET", self._names.facts, name, value))

    async def add_counts(self, group: str, amounts: Mapping[str, float]) -> None:
        # One that the server refused would leave those before it added.
        if not all(map(isfinite, amounts.values())):
            raise ValueError("amounts must be finite")
        if amounts:
            parts = [part for each in amounts.items() for part in each]
            await self._eval(ADD_COUNTS, self._names.counts(group), *parts)

    async def counts(self, group: str) -> dict[str, float]:
        (found,) = await self._connections.run(("HGETALL", self._names.counts(group)))
        pairs = zip(found[::2], found[1::2], strict=True)
        try:
            return {name.decode(errors="replace"): float(amount) for name, amount in pairs}
        except ValueError as exc:
            raise CacheError(f"the counts {group!r} hold something else than numbers") from exc

    async def forget_counts(self, group: str) -> None:
        await self._connections.run(("DEL", self._names.counts(group)))

    async def _eval(self, script: str, key: str, *values: Any) -> Any:
        (reply,) = await self._connections.run(("EVAL", script, 1, key, *values))
        return reply


def _purge(row: bytes, number: int) -> Purge:
    """Read a row. What cannot be read may have been a purge of anything."""
    try:
        written, previous, at, said = row.split(b" ", 3)
        if int(written) != number:
            raise ValueError("a row of another number")
        return Purge(number, int(previous), Filter.of_bytes(said), float(at))
    except ValueError:
        return Purge(number, 0, EVERYTHING, number / 1000)
