"""Memory before each of the stores: what is put right or purged by one process, another knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from cache_backends import Entry, Generation, Key, MemoryCache, TieredCache
from cache_backends.shared import Filter
from tests.fakes.replicas import STORES, SharedStore

LEASE_S = 0.1
ROUNDS = 8


@pytest_asyncio.fixture(params=STORES)
async def caches(request: pytest.FixtureRequest) -> AsyncIterator[list[TieredCache]]:
    """Those of three processes."""
    store = SharedStore.of(request.param, request)
    opened = [
        TieredCache(MemoryCache(max_bytes=2**20), store.open(), lease=LEASE_S) for _ in range(3)
    ]
    yield opened
    for cache in opened:
        await cache.aclose()


def wrong() -> Entry:
    return Entry(Key.of("prompt", "llm"), [Generation("0")], time.time(), tags=("t",))


async def told(cache: TieredCache, entry: Entry) -> int | None:
    found = await cache.get(entry.key)
    return None if found is None else int(found.generations[0].text)


async def test_what_is_put_right_is_so_for_all_processes(caches: list[TieredCache]) -> None:
    """With its own time, its hits, and for good."""
    one, *others = caches
    old = wrong()
    await one.put(old)
    await one.add_hits({old.key.id: 3})
    assert [await told(cache, old) for cache in caches] == [0, 0, 0]
    about = {"pinned": True, "corrected": "now"}
    await one.amend([replace(old, generations=[Generation("1")], about=about)])
    for cache in others:
        found = await cache.get(old.key)
        assert found is not None
        assert (found.generations, found.stored_at) == ([Generation("1")], old.stored_at)
        assert found.pinned
    assert [each.hits for each in (await one.page(Filter(tag="t"))).entries] == [3]
    assert await others[0].purge(Filter(tag="t")) == 1
    assert [await told(cache, old) for cache in caches] == [None] * 3


async def test_nobody_is_told_less_than_what_was_said_before_he_asked(
    caches: list[TieredCache],
) -> None:
    """Readers of all processes, while one puts it right again and again: it is never missing."""
    one, entry, said, over = caches[0], wrong(), 0, False
    await one.put(entry)
    reads: list[tuple[int, int | None]] = []

    async def read(cache: TieredCache) -> None:
        while not over:
            before = said
            reads.append((before, await told(cache, entry)))
            await asyncio.sleep(0.002)

    readers = [asyncio.create_task(read(cache)) for cache in caches * 2]
    for number in range(1, ROUNDS + 1):
        (held,) = await one.by_ids([entry.key.id])
        assert held is not None
        assert await one.amend([replace(held, generations=[Generation(str(number))])]) == [True]
        said = number
    over = True
    await asyncio.gather(*readers)
    assert [each for each in reads if each[1] is None or each[1] < each[0]] == []
    assert {before for before, _ in reads} >= set(range(ROUNDS))
    assert len(reads) > 100
