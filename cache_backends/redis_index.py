"""The index of the entries in Redis: what they are listed, chosen and counted by.

Entries leave without notice: they expire, are evicted, are lost with a server. So the index only
says where to look: what it names and is not there is taken out when it is met.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any

from cache_backends.base import CacheError, Entry, Totals
from cache_backends.codec import CodecError
from cache_backends.redis_choice import Choice, Row, number
from cache_backends.redis_connection import WRONG_TYPE, Connections
from cache_backends.redis_rows import (
    HEAD_BYTES,
    Label,
    Names,
    counted,
    groups,
    is_id,
    label_bytes,
    read_label,
)
from cache_backends.redis_scripts import DROP, NOTE
from cache_backends.redis_server import Command
from cache_backends.shared import EVERYTHING, Filter

logger = logging.getLogger("cache_backends.redis")

# The index knows an entry before it is there. This is longer than its writer can take.
GRACE_S = 10.0
# How many that ended are taken out at once, by who counts.
ENDED_AT_ONCE = 1000


class Index:
    """Knows the entries by when they were stored and what they are about.

    `broken` counts the values under an entry's name that were none.
    """

    def __init__(
        self, connections: Connections, names: Names, choice: Choice, clock: Callable[[], float]
    ) -> None:
        self._connections = connections
        self._names = names
        self._choice = choice
        self._clock = clock
        self.broken = 0

    def note(
        self, entries: Iterable[tuple[Entry, int]], *, ended: int = 10, places: Sequence[int] = ()
    ) -> Command:
        """The command that makes entries of these sizes known, and takes out some that ended."""
        rows: list[Any] = []
        for at, (entry, value_bytes) in enumerate(entries):
            until = "" if entry.retained_until is None else entry.retained_until
            place = places[at] if places else ""
            about = " ".join(groups(entry))
            rows += (entry.key.id, counted(value_bytes), until, about, place)
        names = self._names
        keys = (names.index, names.ends, names.records)
        return ("EVAL", NOTE, len(keys), *keys, names.book, self._clock(), ended, *rows)

    async def remove(self, filter: Filter, before: int) -> int:
        """Remove what is covered of the entries that the index names."""
        removed = 0
        async for rows in self._choice.rows(filter):
            # What was stored before a purge was announced cannot have known of it.
            sure = {row.id for row in rows if filter == EVERYTHING and row.place < before * 1000}
            removed += await self.remove_of(rows, sure, filter, before)
        return removed

    async def remove_of(
        self, rows: Sequence[Row], sure: set[str], filter: Filter, before: int
    ) -> int:
        covered = sure | await self._covered(rows, sure, filter, before)
        return await self._delete([row for row in rows if row.id in covered])

    async def _covered(
        self, rows: Sequence[Row], sure: set[str], filter: Filter, before: int
    ) -> set[str]:
        labels = await self.labels([row for row in rows if row.id not in sure])
        return {
            label.entry.key.id
            for label in labels.values()
            if label.entry.seen < before and filter.covers(label.entry)
        }

    async def life(self) -> str:
        """The name of the index from when it was made until it is lost; made up if it has none."""
        records = self._names.records
        made_up = ("HSETNX", records, "life", token_hex(16))
        _, life = await self._connections.run(made_up, ("HGET", records, "life"))
        return _text(life)

    async def call_whole(self, life: str) -> None:
        """All keys were looked at during this life, and what was there is known."""
        await self._connections.run(("HSET", self._names.records, "whole", life))

    async def whole(self) -> str | None:
        """The index's life, if it knows all entries.

        Where it was lost as a whole, or is new, nobody has called this life whole yet.
        """
        known = ("HMGET", self._names.records, "life", "whole", "entries")
        (life, whole, held), placed = await self._connections.run(
            known, ("ZCARD", self._names.index)
        )
        if life is None or life != whole or number(placed) != number(held):
            return None
        return _text(life)

    async def delete(self, id: str) -> bool:
        if not is_id(id):
            return False
        (place,) = await self._connections.run(("ZSCORE", self._names.index, id))
        return await self._delete([Row(id, number(place))]) > 0

    async def discard(self, ids: Sequence[str]) -> None:
        """Count values that are no entries, and delete them."""
        if not ids:
            return
        if not self.broken:
            logger.warning(
                "%s: a value is no entry of this cache and is deleted; more will only be counted",
                self._names.entries,
            )
        self.broken += len(ids)
        with suppress(CacheError):  # it may be a replica: then they stay, and are counted again
            for each in ids:
                await self.delete(each)

    async def totals(self) -> Totals:
        names = self._names
        counting: tuple[Command, ...] = (
            ("ZCARD", names.index),
            ("HGET", names.records, "bytes"),
            ("ZCOUNT", names.ends, "-inf", self._clock()),
        )
        held, size, ended = map(number, await self._connections.run(*counting))
        for _ in range(-(-ended // ENDED_AT_ONCE)):
            with suppress(CacheError):
                await self._connections.run(self.note((), ended=ENDED_AT_ONCE))
                held, size, ended = map(number, await self._connections.run(*counting))
        return Totals(held - ended, size)

    async def labels(self, rows: Sequence[Row]) -> dict[str, Label]:
        """Read what the entries are about; those that are gone are taken out."""
        heads = await self._heads([row.id for row in rows], HEAD_BYTES)
        gone = [row for row in rows if heads[row.id] == b""]
        labels, broken = {}, []
        for name, head in heads.items():
            if head == b"":
                continue
            try:
                if len(head) < (enough := label_bytes(head)) and len(head) == HEAD_BYTES:
                    head = (await self._heads([name], enough))[name]
                labels[name] = read_label(name, head)
            except CodecError:
                broken.append(name)
        with suppress(CacheError):
            await self.drop_gone(gone)
        await self.discard(broken)
        return labels

    async def _heads(self, ids: Sequence[str], size: int) -> dict[str, bytes]:
        keys = map(self._names.entry, ids)
        replies = await self._connections.read(*(("GETRANGE", key, 0, size - 1) for key in keys))
        heads = (b"\x00" if reply is WRONG_TYPE else reply for reply in replies)
        return dict(zip(ids, heads, strict=True))

    async def _delete(self, rows: Sequence[Row]) -> int:
        keys = (self._names.entry(row.id) for row in rows)
        deleted = await self._connections.run(*(("UNLINK", key) for key in keys))
        with suppress(CacheError):  # they are gone: the index learns of it sooner or later
            await self._drop(rows, 0)
        return sum(deleted)

    async def drop_gone(self, rows: Sequence[Row]) -> None:
        """Take out rows whose entries are not there, but for those that may be on their way."""
        await self._drop(rows, GRACE_S)

    async def _drop(self, rows: Sequence[Row], grace: float) -> None:
        if rows:
            names = self._names
            keys = (names.index, names.ends, names.records)
            dropped = [part for row in rows for part in row]
            await self._connections.run(
                ("EVAL", DROP, len(keys), *keys, names.book, int(grace * 1e6), *dropped)
            )


def _text(reply: bytes | None) -> str:
    return (reply or b"").decode(errors="replace")
