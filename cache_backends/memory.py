"""Caches in the memory of one process: LangChain's, and the proxy's own, bounded by bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from sys import getsizeof
from threading import Lock
from typing import Any

from cache_backends.base import (
    BaseCache,
    ChatGeneration,
    Entry,
    EntryCache,
    Generation,
    Key,
    Totals,
    require_generations,
)
from cache_backends.s3fifo import MAX_HITS, S3Fifo

# What an entry costs beside its values: the cell, its places in dict and queue, a ghost's id.
ENTRY_OVERHEAD_BYTES = 640


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


class MemoryCache(EntryCache):
    """The proxy's memory tier: at most `max_bytes`, kept by S3-FIFO.

    What is handed out is what was put in, not a copy. An entry larger than `max_bytes` is not kept
    and pushes nothing out. `evictions` and `refused` count since the start.
    """

    never_waits = True

    def __init__(self, *, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        if max_bytes <= 0:
            raise ValueError("max_bytes must be greater than 0")
        self._clock = clock
        self._held: S3Fifo[Entry] = S3Fifo(max_bytes)
        self._cells = self._held.cells
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
        entry = cell.value
        if entry.key != key:
            return None
        until = entry.retained_until
        if until is not None and until <= self._clock():
            return None
        if cell.hits < MAX_HITS:
            cell.hits += 1
        return entry

    async def get(self, key: Key) -> Entry | None:
        return self.peek(key)

    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        return [self.peek(key) for key in keys]

    async def put_many(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._put(entry)

    async def delete(self, id: str) -> bool:
        with self._lock:
            return self._held.discard(id) is not None

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

    async def aclear(self, **kwargs: Any) -> None:
        self.clear(**kwargs)

    def _put(self, entry: Entry) -> None:
        require_generations(entry.generations)
        size = size_of(entry)
        with self._lock:
            if not self._held.put(entry.key.id, entry, size):
                self.refused += 1


def size_of(entry: Entry) -> int:
    """The memory that an entry takes, in bytes: its key, its values, and the overhead."""
    total = ENTRY_OVERHEAD_BYTES + getsizeof(entry)
    rest: list[Any] = [*entry.key, entry.tags, dict(entry.about)]
    for generation in entry.generations:
        total += getsizeof(generation)
        rest += (generation.text, generation.generation_info)
        if isinstance(generation, ChatGeneration):
            rest.append(generation.message)
    while rest:
        value = rest.pop()
        kind = type(value)
        if kind is str:
            # A UTF-8 copy stays inside such a string once it was written out.
            total += getsizeof(value) + (0 if value.isascii() else 3 * len(value))
        elif kind is dict:
            total += getsizeof(value)
            rest += value.values()
        elif kind is list or kind is tuple:
            total += getsizeof(value)
            rest += value
        elif value is not None and kind is not bool:
            total += getsizeof(value)
    return total
