"""Caches in the memory of one process: LangChain's, and the proxy's own, bounded by bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from copy import deepcopy
from heapq import heappop, heappush
from sys import getsizeof
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
from cache_backends.codec import decode, encode
from cache_backends.cursors import cursor_of, place_of
from cache_backends.s3fifo import MAX_HITS, Cell, S3Fifo
from cache_backends.shared import PREVIEW_CHARS, Filter, ListedCache, Page, Summary

# What an entry costs beside its texts: cell, tuple, times, id, its places in dict and queue.
ENTRY_OVERHEAD_BYTES = 400
# How many entries lie there unpacked at most, and what part of all bytes they may be: as objects
# they take about five times as much.
MAX_UNPACKED = 1024
UNPACKED_SHARE = 16
# Who looks through all entries lets others work after so many bytes: about a millisecond.
TURN_BYTES = 256 * 2**10

# Prompt, llm_string, the rest as `codec` writes it, stored_at, expires_at, retained_until, seen. A
# plain tuple of plain values is one that the garbage collector lets be.
_Packed = tuple[str, str, bytes, float, float | None, float | None, int]


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


class MemoryCache(ListedCache):
    """The proxy's memory tier: at most `max_bytes`, kept by S3-FIFO.

    Entries lie there as bytes: a fifth of the space that their objects take, and nothing for the
    garbage collector to walk (with 50,000 entries it stopped everything for 0.1 s at a time). Those
    asked for lately are kept unpacked as well; they are handed out as they are, not copied.

    Listing and removing by filter unpack one entry after the other, and let others work between.

    An entry larger than `max_bytes` is not kept and pushes nothing out. `evictions` and `refused`
    count since the start.
    """

    never_waits = True

    def __init__(self, *, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        if max_bytes <= 0:
            raise ValueError("max_bytes must be greater than 0")
        self._clock = clock
        self._held: S3Fifo[_Packed] = S3Fifo(max_bytes)
        self._cells = self._held.cells
        self._unpacked: dict[str, tuple[_Packed, Entry]] = {}
        self._unpacked_bytes = 0
        self._facts: dict[str, str] = {}
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
        packed = cell.value
        if packed[0] != key.prompt or packed[1] != key.llm_string:
            return None
        until = packed[5]
        if until is not None and until <= self._clock():
            return None
        if cell.hits < MAX_HITS:
            cell.hits += 1
        known = self._unpacked.get(key.id)
        return known[1] if known is not None and known[0] is packed else self._unpack(key, packed)

    def _unpack(self, key: Key, packed: _Packed) -> Entry:
        entry = _unpacked(key, packed)
        with self._lock:
            self._forget_unpacked(key.id)
            self._unpacked[key.id] = (packed, entry)
            self._unpacked_bytes += len(packed[2])
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

    async def delete(self, id: str) -> bool:
        return self.discard(id)

    def hold(self, entry: Entry) -> None:
        """Store without waiting what another cache has as well."""
        self._put(entry)

    def discard(self, id: str) -> bool:
        """Remove the entry with this id; tell whether there was one."""
        with self._lock:
            self._forget_unpacked(id)
            return self._held.discard(id) is not None

    async def page(self, filter: Filter, *, cursor: str | None = None, limit: int = 100) -> Page:
        below = None if cursor is None else place_of(cursor)
        # One more than asked for tells whether others follow. The oldest is the first in the heap.
        newest: list[tuple[float, str, Summary]] = []
        async for key_id, cell in self._walk():
            place = (cell.value[3], key_id)
            if below is not None and place >= below:
                continue
            if len(newest) > limit and place < newest[0][:2]:
                continue
            entry = _unpacked(Key(key_id, *cell.value[:2]), cell.value)
            if self._lasts(entry) and filter.covers(entry):
                preview = entry.key.prompt[:PREVIEW_CHARS]
                heappush(newest, (*place, Summary.of(entry, cell.size, preview)))
            if len(newest) > limit + 1:
                heappop(newest)
        told = [summary for _, _, summary in sorted(newest, reverse=True)]
        if len(told) <= limit:
            return Page(told, None)
        last = told[limit - 1]
        return Page(told[:limit], cursor_of(last.stored_at, last.id))

    async def remove(self, filter: Filter, *, before: int | None = None) -> int:
        """Delete what the filter covers; tell how many. `before` as for shared caches."""
        removed = 0
        async for key_id, cell in self._walk():
            entry = _unpacked(Key(key_id, *cell.value[:2]), cell.value)
            if (before is None or entry.seen < before) and filter.covers(entry):
                removed += self.discard(key_id)
        return removed

    async def _walk(self) -> AsyncIterator[tuple[str, Cell[_Packed]]]:
        """All that is held, about the newest first; others may work now and then."""
        with self._lock:
            ids = list(self._cells)
        spent = 0
        for key_id in reversed(ids):
            cell = self._cells.get(key_id)
            if cell is None:
                continue
            yield key_id, cell
            spent += cell.size
            if spent > TURN_BYTES:
                spent = 0
                await asyncio.sleep(0)

    async def fact(self, name: str, default: str) -> str:
        return self._facts.setdefault(name, default)

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
            self._held.clear()
            self._unpacked.clear()
            self._unpacked_bytes = 0

    async def aclear(self, **kwargs: Any) -> None:
        self.clear(**kwargs)

    def _put(self, entry: Entry) -> None:
        value = encode(entry.generations, entry.tags, entry.about)
        packed = (
            entry.key.prompt,
            entry.key.llm_string,
            memoryview(value).tobytes(),  # orjson's own bytes hold on to a buffer of 8 KiB
            entry.stored_at,
            entry.expires_at,
            entry.retained_until,
            entry.seen,
        )
        size = ENTRY_OVERHEAD_BYTES + sum(map(getsizeof, packed[:3]))
        with self._lock:
            self._forget_unpacked(entry.key.id)
            if not self._held.put(entry.key.id, packed, size):
                self.refused += 1

    def _lasts(self, entry: Entry) -> bool:
        return entry.retained_until is None or entry.retained_until > self._clock()


def _unpacked(key: Key, packed: _Packed) -> Entry:
    _, _, value, stored_at, expires_at, retained_until, seen = packed
    generations, tags, about = decode(value)
    return Entry(key, generations, stored_at, expires_at, retained_until, tags, about, seen)
