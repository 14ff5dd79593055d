"""The least that a memory cache does: a dict of the same bytes, decoded on each lookup.

How it bears its size is how the caches of the processor do.
"""

from __future__ import annotations

from collections.abc import Sequence

from cache_backends.base import Entry, Key, NullCache, Totals
from cache_backends.codec import decode, encode


class DictCache(NullCache):
    def __init__(self) -> None:
        self._held: dict[str, tuple[str, str, bytes, float]] = {}

    def peek(self, key: Key) -> Entry | None:
        held = self._held.get(key.id)
        if held is None or held[0] != key.prompt or held[1] != key.llm_string:
            return None
        generations, tags, about = decode(held[2])
        return Entry(key, generations, held[3], tags=tags, about=about)

    async def put_many(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            value = encode(entry.generations, entry.tags, entry.about)
            copied = memoryview(value).tobytes()  # orjson's own bytes hold on to a buffer of 8 KiB
            self._held[entry.key.id] = (*entry.key[1:], copied, entry.stored_at)

    async def totals(self) -> Totals:
        return Totals(len(self._held), 0)
