"""Finds the stored entries whose keys are nearest to one that is asked for, and how they differ.

Looked for are those of the same prompt, then those of which all but the prompt is the same, then
some of the same model: each by an index, none by a walk through all that is stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from cache_backends.base import CacheError, Entry, EntryCache, Key, Unsupported, digest
from cache_backends.shared import Filter, ListedCache, Summary
from proxy.differences import Comparison, compare

NEAREST = 3
# Of each kind so many are compared, the newest; and no more of them than these bytes.
SAME_PROMPT, SAME_REST, SAME_MODEL = 50, 100, 50
MAX_READ_BYTES = 8 * 2**20
TIMEOUT_S = 2.0
MAX_AT_ONCE = 4


class Near(NamedTuple):
    """A stored entry, and how its key differs from the one asked for."""

    entry: Entry
    comparison: Comparison

    @property
    def id(self) -> str:
        return self.entry.key.id


class Whose(Enum):
    """Which entries are compared."""

    OWN = "those that may serve whoever asks"
    ALL = "others' as well, which are told as such"
    ANYBODYS = "all, as nobody knows who asks"


class Asked(NamedTuple):
    """A key, and what is known of the request; `client`: only what was made by that one."""

    key: Key
    provider: str
    model: str
    whose: Whose = Whose.OWN
    client: str | None = None


class Nearest:
    """`Unsupported` where the cache cannot list, `CacheError` where it cannot now, or not soon."""

    def __init__(self, cache: EntryCache, *, timeout_s: float = TIMEOUT_S) -> None:
        self._cache = cache
        self._timeout_s = timeout_s
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)

    async def find(self, asked: Asked) -> list[Near]:
        """The nearest entries, the nearest first."""
        cache = self._cache
        if not isinstance(cache, ListedCache):
            raise Unsupported(
                f"{type(cache).__name__} has no list of its entries: sqlite, redis, postgresql and "
                "memory have"
            )
        try:
            async with asyncio.timeout(self._timeout_s), self._at_once:
                entries = await _candidates(cache, asked)
                return await asyncio.to_thread(_rank, entries, asked)
        except TimeoutError as exc:
            raise CacheError("looking for entries took too long") from exc


async def _candidates(cache: ListedCache, asked: Asked) -> list[Entry]:
    client = asked.client
    prompt, rest = digest(asked.key.prompt), digest(asked.key.llm_string)
    found: dict[str, Summary] = {}

    async def look(filter: Filter, limit: int) -> None:
        page = await cache.page(filter, limit=limit)
        found.update((each.id, each) for each in page.entries if each.id not in found)

    await look(Filter(prompt_digest=prompt, client=client), SAME_PROMPT)
    await look(Filter(llm_digest=rest, client=client), SAME_REST)
    if len(found) <= NEAREST:
        of_model = Filter(provider=asked.provider, model=asked.model, client=client)
        await look(of_model, SAME_MODEL)
    entries = await cache.by_ids(_affordable(list(found.values())))
    return [entry for entry in entries if entry is not None]


def _affordable(summaries: Sequence[Summary]) -> list[str]:
    ids, size = [], 0
    for summary in summaries:
        if size + summary.bytes <= MAX_READ_BYTES:
            size += summary.bytes
            ids.append(summary.id)
    return ids


def _rank(entries: Sequence[Entry], asked: Asked) -> list[Near]:
    any_scope = asked.whose is Whose.ANYBODYS
    near = [
        Near(entry, compare(entry.key, asked.key, any_scope=any_scope))
        for entry in entries
        if entry.key != asked.key
    ]
    if asked.whose is Whose.OWN:
        near = [each for each in near if not each.comparison.anothers]
    near.sort(key=lambda each: (each.comparison.distance, -each.entry.stored_at))
    return near[:NEAREST]
