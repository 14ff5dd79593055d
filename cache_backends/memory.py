"""Caches in the memory of one process: LangChain's, and the proxy's own, bounded by bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from threading import Lock
from typing import Any

from cache_backends.base import (
    BaseCache,
    Entry,
    Generation,
    Key,
    Totals,
    require_generations,
)
from cache_backends.known_purges import KnownPurges
from cache_backends.memory_listing import Newest, chosen
from cache_backends.memory_packing import Packed, packed, size_of, unpacked, unpacked_as
from cache_backends.s3fifo import MAX_HITS, Cell, S3Fifo
from cache_backends.shared import (
    EVERYTHING,
    WIDE,
    Filter,
    ManagedCache,
    Narrowing,
    Page,
    Purge,
    PurgeLog,
    is_as_read,
)

# How many entries lie there unpacked at most, and what part of all bytes they may be: as objects
# they take about five times as much.
MAX_UNPACKED = 1024
UNPACKED_SHARE = 16
# Who looks through all entries lets others work after so many bytes: about a millisecond.
TURN_BYTES = 256 * 2**10


class InMemoryCache(BaseCache):
    """LangChain's in-memory cache: when `maxsize` entries are held, the first one stored goes.

    As `langchain_core.caches.InMemoryCache` documents it, and made safe: values are copied, threads
    may share it, and storing a known key again pushes nothing out.
    """

    def __init__(self, *, maxsize: int | None = None) -> None:
        if maxsize is not None and maxsize <= 0:
            raise ValueError("maxsize must be greater than 0")
        self._maxsize = maxsize
        self._held: dict[tuple[str, str], list[Generation]] = {}
        self._lock = Lock()

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return deepcopy(self._held.get((prompt, llm_string)))

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        require_generations(return_val)
        key, copies = (prompt, llm_string), deepcopy(list(return_val))
        with self._lock:
            if key not in self._held and len(self._held) == self._maxsize:
                del self._held[next(iter(self._held))]
            self._held[key] = copies

    def clear(self, **kwargs: Any) -> None:  # noqa: ARG002 - accepted, as LangChain's does
        with self._lock:
            self._held.clear()

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return self.lookup(prompt, llm_string)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self.update(prompt, llm_string, return_val)

    async def aclear(self, **kwargs: Any) -> None:
        self.clear(**kwargs)

    async def aclose(self) -> None:
        """Let go of nothing: it is here for those who close whatever cache they have."""


class MemoryCache(ManagedCache):
    """The proxy's memory tier: at most `max_bytes`, kept by S3-FIFO.

    Entries lie there as bytes: a fifth of the space that their objects take, and nothing for the
    garbage collector to walk (with 50,000 entries it stopped everything for 0.1 s at a time). Those
    asked for lately are kept unpacked as well; they are handed out as they are, not copied.

    Listing and purging by filter unpack one entry after the other, and let others work between.

    An entry larger than `max_bytes` is not kept and pushes nothing out; nor does one that is not
    pinned push out those that are. `evictions` and `refused` count since the start.

    Purges are numbered and known as those of a store that processes share (see `shared`), but for
    the waiting: who makes an entry says in `seen` what this cache's `seen` was before.
    """

    never_waits = True

    def __init__(self, *, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        if max_bytes <= 0:
            raise ValueError("max_bytes must be greater than 0")
        self._clock = clock
        self._held: S3Fifo[Packed] = S3Fifo(max_bytes)
        self._cells = self._held.cells
        self._unpacked: dict[str, tuple[Packed, Entry]] = {}
        self._unpacked_bytes = 0
        self._facts: dict[str, str] = {}
        self._counts: dict[str, dict[str, float]] = {}
        self._known = KnownPurges()
        self.seen = 0
        self._lock = Lock()
        self.refused = 0

    def __repr__(self) -> str:
        held = self._held
        return f"<MemoryCache {len(held.cells)} entries, {held.bytes} of {held.max_bytes} bytes>"

    @property
    def evictions(self) -> int:
        return self._held.evictions

    def peek(self, key: Key) -> Entry | None:
        # The hot path: no lock, no await, nothing allocated.
        cell = self._cells.get(key.id)
        if cell is None:
            return None
        held = cell.value
        if held[0] != key.prompt or held[1] != key.llm_string:
            return None
        until = held[5]
        if until is not None and until <= self._clock():
            return None
        if cell.hits < MAX_HITS:
            cell.hits += 1
        known = self._unpacked.get(key.id)
        return known[1] if known is not None and known[0] is held else self._unpack(key, held)

    def glance(self, id: str) -> object | None:
        cell = self._cells.get(id)
        if cell is None:
            return None
        until = cell.value[5]
        if until is not None and until <= self._clock():
            return None
        if cell.hits < MAX_HITS:
            cell.hits += 1
        return cell  # another value has another cell

    def _unpack(self, key: Key, held: Packed) -> Entry:
        entry = unpacked_as(key, held)
        with self._lock:
            self._forget_unpacked(key.id)
            self._unpacked[key.id] = (held, entry)
            self._unpacked_bytes += len(held[2])
            most = self._held.max_bytes // UNPACKED_SHARE
            while len(self._unpacked) > MAX_UNPACKED or self._unpacked_bytes > most:
                self._forget_unpacked(next(iter(self._unpacked)))
        return entry

    def _forget_unpacked(self, id: str) -> None:
        known = self._unpacked.pop(id, None)
        if known is not None:
            self._unpacked_bytes -= len(known[0][2])

    async def get(self, key: Key) -> Entry | None:
        return self.peek(key)

    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        return [self.peek(key) for key in keys]

    async def put_many(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._put(entry)

    def hold(self, entry: Entry) -> None:
        """Store it without waiting."""
        self._put(entry)

    def hold_copy(self, entry: Entry) -> None:
        """The same with what another store keeps: being pinned there is enough."""
        self._keep(entry, pinned=False)

    async def delete(self, id: str) -> bool:
        return await self.purge(Filter(ids=(id,))) > 0

    def discard(self, id: str) -> bool:
        """Let go of the entry with this id, which is no purge; tell whether there was one."""
        with self._lock:
            return self._discard(id)

    def discard_all(self) -> None:
        """Let go of all entries, which is no purge."""
        with self._lock:
            self._discard_all()

    async def purge(self, filter: Filter) -> int:
        with self._lock:
            self._note(filter)
        before, removed = self._named(filter), 0
        async for name, cell in self._walk(before):
            # What was stored since then began after it.
            if before[name] is cell and filter.covers(unpacked(name, cell.value)):
                removed += self.discard(name)
        return removed

    async def amend(self, entries: Sequence[Entry]) -> list[bool]:
        """Put entries in the place of those with their ids; one is there all the time.

        Each was read and changed: one that is gone since stays so, or another by now. What was
        being fetched is not stored over them. Tell of each whether it was put.
        """
        told = [self._is_as_read(entry) for entry in entries]
        kept = [entry for entry, is_kept in zip(entries, told, strict=True) if is_kept]
        if kept:
            with self._lock:
                number = self._note(Filter(ids=tuple(entry.key.id for entry in kept)))
            await self.put_many([replace(entry, seen=number) for entry in kept])
        return told

    def _is_as_read(self, entry: Entry) -> bool:
        """Not so while a purge covers it that has not come to it yet."""
        held = self._with_id(entry.key.id)
        with self._lock:
            return held is not None and is_as_read(entry, held) and not self._known.covers(held)

    def covered(self, entry: Entry) -> bool:
        with self._lock:
            return self._is_covered(entry)

    async def page(
        self,
        filter: Filter,
        *,
        narrowed: Narrowing = WIDE,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        newest = Newest(limit, cursor)
        async for name, cell in self._walk(self._named(filter)):
            if newest.wants(name, cell):
                entry = chosen(name, cell, filter, narrowed, self._clock())
                if entry is not None:
                    newest.add(entry, cell)
        return newest.page()

    async def by_ids(self, ids: Sequence[str]) -> list[Entry | None]:
        return [self._with_id(name) for name in ids]

    def _with_id(self, id: str) -> Entry | None:
        """As `peek`, but that it counts as no use."""
        cell = self._cells.get(id)
        return None if cell is None else chosen(id, cell, EVERYTHING, WIDE, self._clock())

    def _named(self, filter: Filter) -> dict[str, Cell[Packed]]:
        """All that is held now, but where the filter names them only those."""
        with self._lock:
            if filter.ids is None:
                return dict(self._cells)
            return {name: cell for name in filter.ids if (cell := self._cells.get(name))}

    async def _walk(
        self, cells: dict[str, Cell[Packed]]
    ) -> AsyncIterator[tuple[str, Cell[Packed]]]:
        """What is there of these when its turn comes, about the newest first; others may work
        now and then."""
        spent = 0
        for name in reversed(cells):
            cell = self._cells.get(name)
            if cell is None:
                continue
            yield name, cell
            spent += cell.size
            if spent > TURN_BYTES:
                spent = 0
                await asyncio.sleep(0)

    async def fact(self, name: str, default: str) -> str:
        return self._facts.setdefault(name, default)

    async def set_fact(self, name: str, value: str) -> None:
        self._facts[name] = value

    async def add_hits(self, hits: Mapping[str, int]) -> None:
        with self._lock:
            for name, number in hits.items():
                if cell := self._cells.get(name):
                    cell.counted += number

    async def add_counts(self, group: str, amounts: Mapping[str, float]) -> None:
        with self._lock:
            counted = self._counts.get(group, {})
            sums = {name: counted.get(name, 0) + amount for name, amount in amounts.items()}
            self._counts[group] = counted | sums

    async def counts(self, group: str) -> dict[str, float]:
        return dict(self._counts.get(group, {}))

    async def forget_counts(self, group: str) -> None:
        self._counts.pop(group, None)

    async def totals(self) -> Totals:
        return Totals(len(self._held.cells), self._held.bytes)

    async def aclose(self) -> None:
        return None

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return self._answer(self.peek(Key.of(prompt, llm_string)))

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self._put(self._entry(prompt, llm_string, return_val))

    def clear(self, **kwargs: Any) -> None:  # noqa: ARG002 - accepted, as LangChain's does
        with self._lock:
            self._note(EVERYTHING)
            self._discard_all()

    async def aclear(self, **kwargs: Any) -> None:
        self.clear(**kwargs)

    def _entry(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> Entry:
        # When its making began is not known: it is taken for now.
        return replace(super()._entry(prompt, llm_string, return_val), seen=self.seen)

    def _put(self, entry: Entry) -> bool:
        return self._keep(entry, pinned=entry.pinned)

    def _keep(self, entry: Entry, *, pinned: bool) -> bool:
        """Store it, unless it was purged since its making began; tell whether it is there."""
        value = packed(entry)
        name, size = entry.key.id, size_of(value)
        with self._lock:
            if entry.seen < self.seen and self._is_covered(entry):
                return False
            self._forget_unpacked(name)
            kept = self._held.put(name, value, size, pinned=pinned)
            self.refused += not kept
            return kept

    # The following are called with the lock.

    def _note(self, filter: Filter) -> int:
        """Write a purge down."""
        number = self.seen + 1
        purge = Purge(number, self.seen, filter, self._clock())
        self._known.add(PurgeLog("", number, (purge,)))
        self._known.shed()
        self.seen = number
        return number

    def _is_covered(self, entry: Entry) -> bool:
        return entry.seen < self._known.forgotten or self._known.covers(entry)

    def _discard(self, id: str) -> bool:
        self._forget_unpacked(id)
        return self._held.discard(id) is not None

    def _discard_all(self) -> None:
        self._held.clear()
        self._unpacked.clear()
        self._unpacked_bytes = 0
