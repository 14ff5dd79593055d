"""The index of the entries in Redis: what they are listed, chosen and counted by.

Entries leave without notice: they expire, are evicted, are lost with a server. So the index only
says where to look: what it names and is not there is taken out when it is met, and with every
hundred entries that are stored some of its rows are looked after.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from cache_backends.base import CacheError, Entry, Totals
from cache_backends.codec import CodecError
from cache_backends.redis_connection import WRONG_TYPE, Connections
from cache_backends.redis_rows import (
    HEAD_BYTES,
    Label,
    Names,
    counted,
    groups,
    groups_of,
    is_id,
    label_bytes,
    read_label,
)
from cache_backends.redis_scripts import DROP, NOTE
from cache_backends.redis_server import Command, Scan
from cache_backends.shared import EVERYTHING, Filter, Page

logger = logging.getLogger(__name__)

# How many rows are read at once: some milliseconds of everybody's time.
BATCH = 100
# How many entries one page looks at. The rest is left to the next, which its cursor leads to.
PAGE_LOOKS = 10_000
# The index knows an entry before it is there. This is longer than its writer can take.
GRACE_S = 10.0
SWEEP_EVERY = 100
ENDED_AT_ONCE = 1000


class _Row(NamedTuple):
    """An entry's place in the order of storing."""

    id: str
    place: int


class Index:
    """Knows the entries by when they were stored and what they are about.

    `broken` counts the values under an entry's name that were none.
    """

    def __init__(self, connections: Connections, names: Names, clock: Callable[[], float]) -> None:
        self._connections = connections
        self._names = names
        self._clock = clock
        self.broken = 0
        self._stored = 0
        self._cursors = (0, 0)
        self._scan = Scan()

    async def settle(self, ids: Sequence[str], places: Sequence[Any]) -> None:
        """Where others stored the same entries meanwhile, see what is there in the end.

        It may be the entry of the one and what the other told the index.
        """
        (found,) = await self._connections.run(("ZMSCORE", self._names.index, *ids))
        changed = [
            _Row(each, _number(now))
            for each, place, now in zip(ids, places, found, strict=True)
            if _number(now) not in (0, _number(place))
        ]
        await self._note_again(changed)

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

    async def page(self, filter: Filter, cursor: str | None, limit: int) -> Page:
        found: list[tuple[int, Label]] = []
        looked = 0
        async for rows in self._rows(filter, None if cursor is None else _place(cursor)):
            labels = await self._labels(rows)
            for row in rows:
                label = labels.get(row.id)
                if label is None or not self._listed(label, filter):
                    continue
                if len(found) == limit:
                    return _page(found, found[-1][0])
                found.append((row.place, label))
            looked += len(rows)
            if looked >= PAGE_LOOKS:
                return _page(found, rows[-1].place)
        return _page(found, None)

    async def remove(self, filter: Filter, before: int) -> int:
        whole = filter.ids is not None or await self._is_whole()
        removed = 0
        async for rows in self._rows(filter, None):
            # What was stored before a purge was announced cannot have known of it.
            sure = {row.id for row in rows if filter == EVERYTHING and row.place < before * 1000}
            covered = sure | await self._covered(rows, sure, filter, before)
            removed += await self._delete([row for row in rows if row.id in covered])
        return removed if whole else removed + await self._remove_by_scan(filter, before)

    async def _covered(
        self, rows: Sequence[_Row], sure: set[str], filter: Filter, before: int
    ) -> set[str]:
        labels = await self._labels([row for row in rows if row.id not in sure])
        return {
            label.entry.key.id
            for label in labels.values()
            if label.entry.seen < before and filter.covers(label.entry)
        }

    async def _remove_by_scan(self, filter: Filter, before: int) -> int:
        """Part of the index was evicted: what is to go is looked for among all keys."""
        removed, at = 0, Scan()
        while True:
            keys, at = await self._connections.scan(at, self._names.entries, BATCH)
            rows = [_Row(each, 0) for each in map(self._names.id, keys) if is_id(each)]
            covered = await self._covered(rows, set(), filter, before)
            removed += await self._delete([row for row in rows if row.id in covered])
            if at == Scan():
                return removed

    async def _is_whole(self) -> bool:
        known = ("HGET", self._names.records, "entries")
        placed, held = await self._connections.run(("ZCARD", self._names.index), known)
        return _number(placed) == _number(held)

    async def delete(self, id: str) -> bool:
        if not is_id(id):
            return False
        (place,) = await self._connections.run(("ZSCORE", self._names.index, id))
        return await self._delete([_Row(id, _number(place))]) > 0

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
        with suppress(CacheError):  # counting goes on where nothing can be written
            await self._sweep()
        counting: tuple[Command, ...] = (
            ("ZCARD", names.index),
            ("HGET", names.records, "bytes"),
            ("ZCOUNT", names.ends, "-inf", self._clock()),
        )
        held, size, ended = map(_number, await self._connections.run(*counting))
        for _ in range(-(-ended // ENDED_AT_ONCE)):
            with suppress(CacheError):
                await self._connections.run(self.note((), ended=ENDED_AT_ONCE))
                held, size, ended = map(_number, await self._connections.run(*counting))
        return Totals(held - ended, size)

    async def look_after(self, stored: int) -> None:
        """Told how many entries were stored, see now and then whether the index is right."""
        self._stored += stored
        if self._stored >= SWEEP_EVERY:
            self._stored = 0
            with suppress(CacheError):
                await self._sweep()

    async def _rows(self, filter: Filter, below: int | None) -> AsyncIterator[list[_Row]]:
        """The rows of the entries that may be meant, those stored last first."""
        if filter.ids is not None:
            rows = [row for row in await self._named(filter.ids) if _is_below(row, below)]
            for start in range(0, len(rows), BATCH):
                yield rows[start : start + BATCH]
            return
        key = await self._smallest(groups_of(filter))
        while True:
            top = "+inf" if below is None else f"({below}"
            limits = (top, "-inf", "WITHSCORES", "LIMIT", 0, BATCH)
            (reply,) = await self._connections.run(("ZREVRANGEBYSCORE", key, *limits))
            rows = _pairs(reply)
            if rows:
                yield rows
            if len(rows) < BATCH:
                return
            below = rows[-1].place

    async def _named(self, ids: Iterable[str]) -> list[_Row]:
        known = sorted(set(filter(is_id, ids)))
        rows: list[_Row] = []
        for start in range(0, len(known), BATCH):
            some = known[start : start + BATCH]
            (places,) = await self._connections.run(("ZMSCORE", self._names.index, *some))
            rows += map(_Row, some, map(_number, places))
        return sorted(rows, key=lambda row: row.place, reverse=True)

    async def _smallest(self, groups: Sequence[str]) -> str:
        """The key with the fewest rows that has all of these groups' entries."""
        names = self._names
        if not groups or not await self._is_whole():
            return names.index
        sizes = await self._connections.run(*(("ZCARD", names.group(each)) for each in groups))
        (counts,) = await self._connections.run(("HMGET", names.records, *groups))
        whole = [
            (_number(size), names.group(each))
            for each, size, count in zip(groups, sizes, counts, strict=True)
            if _number(size) == _number(count)
        ]
        return min(whole)[1] if whole else names.index

    async def _labels(self, rows: Sequence[_Row]) -> dict[str, Label]:
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
            await self._drop(gone, GRACE_S)
        await self.discard(broken)
        return labels

    async def _heads(self, ids: Sequence[str], size: int) -> dict[str, bytes]:
        keys = map(self._names.entry, ids)
        replies = await self._connections.read(*(("GETRANGE", key, 0, size - 1) for key in keys))
        heads = (b"\x00" if reply is WRONG_TYPE else reply for reply in replies)
        return dict(zip(ids, heads, strict=True))

    def _listed(self, label: Label, filter: Filter) -> bool:
        until = label.entry.retained_until
        return (until is None or until > self._clock()) and filter.covers(label.entry)

    async def _delete(self, rows: Sequence[_Row]) -> int:
        keys = (self._names.entry(row.id) for row in rows)
        deleted = await self._connections.run(*(("UNLINK", key) for key in keys))
        with suppress(CacheError):  # they are gone: the index learns of it sooner or later
            await self._drop(rows, 0)
        return sum(deleted)

    async def _drop(self, rows: Sequence[_Row], grace: float) -> None:
        if rows:
            names = self._names
            keys = (names.index, names.ends, names.records)
            dropped = [part for row in rows for part in row]
            await self._connections.run(
                ("EVAL", DROP, len(keys), *keys, names.book, int(grace * 1e6), *dropped)
            )

    async def _sweep(self) -> None:
        """Look at some of what the index names, and at some of all keys, for what only one has."""
        names = self._names
        placed, recorded = self._cursors
        known = await self._connections.run(
            ("ZSCAN", names.index, placed, "COUNT", BATCH),
            ("HSCAN", names.records, recorded, "COUNT", BATCH),
        )
        self._cursors = (int(known[0][0]), int(known[1][0]))
        named = {each.decode(errors="replace") for _, pairs in known for each in pairs[::2]}
        await self._drop_gone(list(filter(is_id, named)))
        keys, self._scan = await self._connections.scan(self._scan, names.entries, BATCH)
        await self._note_unknown(list(filter(is_id, map(names.id, keys))))

    async def _drop_gone(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        keys = map(self._names.entry, ids)
        there = await self._connections.run(*(("EXISTS", key) for key in keys))
        gone = [each for each, found in zip(ids, there, strict=True) if not found]
        await self._drop(await self._named(gone), GRACE_S)

    async def _note_unknown(self, ids: Sequence[str]) -> None:
        """What the index lost, or never learnt of as its writer died, becomes known again."""
        if not ids:
            return
        places, records = await self._connections.run(
            ("ZMSCORE", self._names.index, *ids), ("HMGET", self._names.records, *ids)
        )
        unknown = await self._outside_of_groups(dict(zip(ids, records, strict=True)))
        rows = [
            _Row(each, _number(place))
            for each, place, record in zip(ids, places, records, strict=True)
            if place is None or record is None or each in unknown
        ]
        await self._note_again(rows)

    async def _note_again(self, rows: Sequence[_Row]) -> None:
        labels = await self._labels(rows)
        there = [row for row in rows if row.id in labels]
        if there:
            entries = [(labels[row.id].entry, labels[row.id].value_bytes) for row in there]
            known = [row.place or _likely_place(labels[row.id].entry) for row in there]
            await self._connections.run(self.note(entries, places=known))

    async def _outside_of_groups(self, records: Mapping[str, bytes | None]) -> set[str]:
        """Which of these are missing in a group that their record names?"""
        members: dict[str, list[str]] = {}
        for each, record in records.items():
            for group in (record or b"").decode(errors="replace").split()[1:]:
                members.setdefault(self._names.group(group), []).append(each)
        places = await self._connections.run(
            *(("ZMSCORE", group, *some) for group, some in members.items())
        )
        return {
            each
            for some, found in zip(members.values(), places, strict=True)
            for each, place in zip(some, found, strict=True)
            if place is None
        }


def _page(found: Sequence[tuple[int, Label]], place: int | None) -> Page:
    summaries = [label.summary() for _, label in found]
    return Page(summaries, None if place is None else str(place))


def _place(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 20):
        raise ValueError(f"no cursor of a listing: {cursor[:40]!r}")
    return int(cursor)


def _likely_place(entry: Entry) -> int:
    """Within the second in which it was stored, spread: many may have been stored at once."""
    return int(entry.stored_at) * 1_000_000 + int(entry.key.id[:8], 16) % 1_000_000


def _is_below(row: _Row, below: int | None) -> bool:
    return below is None or row.place < below


def _pairs(reply: Sequence[bytes]) -> list[_Row]:
    ids = (member.decode(errors="replace") for member in reply[::2])
    return list(map(_Row, ids, map(_number, reply[1::2])))


def _number(reply: Any) -> int:
    return int(float(reply or 0))
