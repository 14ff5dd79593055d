"""Upkeep of the index in Redis: with every hundred entries stored, some of it is put right.

It may name what is gone, and miss what is there: its writer died, or some of it was evicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any

from cache_backends.base import CacheError, Entry
from cache_backends.redis_choice import BATCH_ROWS, Choice, Row, number
from cache_backends.redis_connection import Connections
from cache_backends.redis_index import Index
from cache_backends.redis_rows import Names, is_id
from cache_backends.redis_server import Scan
from cache_backends.shared import Filter

# A sweep comes after so many entries stored.
SWEEP_EVERY = 100


class Upkeep:
    """Compares the index with the entries, a part at a time, and goes on where it ended."""

    def __init__(
        self, index: Index, choice: Choice, connections: Connections, names: Names
    ) -> None:
        self._index = index
        self._choice = choice
        self._connections = connections
        self._names = names
        self._stored = 0
        self._cursors = (0, 0, 0)
        self._scan = Scan()
        # The life of the index in which the scan began, if nothing went wrong since.
        self._life: str | None = None
        self._turn = Lock()

    async def look_after(self, stored: int) -> None:
        """Told how many entries were stored, see now and then whether the index is right."""
        self._stored += stored
        if self._stored >= SWEEP_EVERY:
            self._stored = 0
            await self.sweep()

    async def settle(self, ids: Sequence[str], places: Sequence[Any]) -> None:
        """Where others stored the same entries meanwhile, see what is there in the end.

        It may be the entry of the one and what the other told the index.
        """
        (found,) = await self._connections.run(("ZMSCORE", self._names.index, *ids))
        changed = [
            Row(each, number(now))
            for each, place, now in zip(ids, places, found, strict=True)
            if number(now) not in (0, number(place))
        ]
        await self._note_again(changed)

    async def remove(self, filter: Filter, before: int) -> int:
        """Remove what is covered, also of what the index does not know."""
        life = await self._index.whole()
        removed = await self._index.remove(filter, before)
        # Named by their ids they need no index. Else it may have been lost just now.
        if filter.ids is not None or (life is not None and life == await self._index.whole()):
            return removed
        return removed + await self._remove_by_scan(filter, before)

    async def _remove_by_scan(self, filter: Filter, before: int) -> int:
        """What is to go is looked for among all keys; what stays becomes known again."""
        life = None
        with suppress(CacheError):  # a full server takes no notes, but lets go of entries
            life = await self._index.life()
        removed, at = 0, Scan()
        while True:
            ids, at = await self._some_ids(at)
            rows = [Row(each, 0) for each in ids]
            removed += await self._index.remove_of(rows, set(), filter, before)
            life = await self._noted_in(life, ids)
            if at == Scan():
                await self._call_whole(life)
                return removed

    async def _noted_in(self, life: str | None, ids: Sequence[str]) -> str | None:
        """The same life if all of these are known now."""
        if life is not None:
            with suppress(CacheError):
                await self._note_unknown(ids)
                return life
        return None

    async def _call_whole(self, life: str | None) -> None:
        if life is not None:
            with suppress(CacheError):
                await self._index.call_whole(life)

    async def sweep(self) -> None:
        """Look at some of what the index names, and at some of all keys, for what only one has.

        Where nothing can be written it is left to the next time.
        """
        if not self._turn.acquire(blocking=False):  # it is done already, maybe by another thread
            return
        try:
            with suppress(CacheError):
                await self._sweep()
        finally:
            self._turn.release()

    async def _sweep(self) -> None:
        names = self._names
        placed, recorded, hit = self._cursors
        known = await self._connections.run(
            ("ZSCAN", names.index, placed, "COUNT", BATCH_ROWS),
            ("HSCAN", names.records, recorded, "COUNT", BATCH_ROWS),
            ("ZSCAN", names.hits, hit, "COUNT", BATCH_ROWS),
        )
        self._cursors = (int(known[0][0]), int(known[1][0]), int(known[2][0]))
        named = {each.decode(errors="replace") for _, pairs in known for each in pairs[::2]}
        await self._drop_gone(list(filter(is_id, named)))
        await self._sweep_keys()

    async def _sweep_keys(self) -> None:
        life, self._life = self._life, None
        if self._scan == Scan():
            life = await self._index.life()
        ids, self._scan = await self._some_ids(self._scan)
        await self._note_unknown(ids)
        self._life = life
        if self._scan == Scan():
            await self._call_whole(life)

    async def _some_ids(self, at: Scan) -> tuple[list[str], Scan]:
        keys, after = await self._connections.scan(at, self._names.entries, BATCH_ROWS)
        return list(filter(is_id, map(self._names.id, keys))), after

    async def _drop_gone(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        keys = map(self._names.entry, ids)
        there = await self._connections.run(*(("EXISTS", key) for key in keys))
        gone = [each for each, found in zip(ids, there, strict=True) if not found]
        await self._index.drop_gone(await self._choice.named(gone))

    async def _note_unknown(self, ids: Sequence[str]) -> None:
        """What the index lost, or never learnt of as its writer died, becomes known again."""
        if not ids:
            return
        places, records = await self._connections.run(
            ("ZMSCORE", self._names.index, *ids), ("HMGET", self._names.records, *ids)
        )
        unknown = await self._outside_of_groups(dict(zip(ids, records, strict=True)))
        rows = [
            Row(each, number(place))
            for each, place, record in zip(ids, places, records, strict=True)
            if place is None or record is None or each in unknown
        ]
        await self._note_again(rows)

    async def _note_again(self, rows: Sequence[Row]) -> None:
        labels = await self._index.labels(rows)
        there = [row for row in rows if row.id in labels]
        if there:
            entries = [(labels[row.id].entry, labels[row.id].value_bytes) for row in there]
            known = [row.place or _likely_place(labels[row.id].entry) for row in there]
            await self._connections.run(self._index.note(entries, places=known))

    async def _outside_of_groups(self, records: Mapping[str, bytes | None]) -> set[str]:
        """Which of these are missing in a group that their record names?"""
        seats: dict[str, dict[str, str]] = {}
        for each, record in records.items():
            for group in (record or b"").decode(errors="replace").split()[1:]:
                key, member = self._names.seat(group, each)
                seats.setdefault(key, {})[member] = each
        places = await self._connections.run(
            *(("ZMSCORE", key, *members) for key, members in seats.items())
        )
        return {
            each
            for members, found in zip(seats.values(), places, strict=True)
            for each, place in zip(members.values(), found, strict=True)
            if place is None
        }


def _likely_place(entry: Entry) -> int:
    """Within the second in which it was stored, spread: many may have been stored at once."""
    return int(entry.stored_at) * 1_000_000 + int(entry.key.id[:8], 16) % 1_000_000
