"""`python -m benchmarks.worker URL ENTRIES [CORE]`: fills a cache, then measures what it is told.

One process for each cache, so that its memory is known and goes with it. It is told on stdin and
answers on stdout, a line of JSON each.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import count, cycle
from typing import Any, NamedTuple, TypeVar

import uvloop

from benchmarks import entries, space
from benchmarks.load import quantile
from cache_backends import TieredCache, open_cache
from cache_backends.base import EntryCache, Key
from cache_backends.memory import MemoryCache
from cache_backends.shared import SharedCache

T = TypeVar("T")

# Both sides are at work when the one writes entries and the other stores them.
_FILLING = 4
_FILLED_AT_ONCE = 500
# Made before the clock starts: more than are asked for in turn, so that none is still at hand.
_ASKED = 20_000
_STORED = 5_000
_DELETED_AT_ONCE = 32
# Few enough to be kept ready by any memory tier.
HOT = 64
_FRONT_BYTES = 2**24
# The proxy's deadline would be the machine's: here an answer that comes late is a slow one.
_PATIENCE_S = 10.0
# What the memory cache counts beside the bytes of an entry, and two in a hundred.
_COUNTED_BESIDE = 540
_SLACK = 1.02


class Filled(NamedTuple):
    """How long it took, and what the store takes for an entry that has `entry_bytes`."""

    seconds: float
    entry_bytes: int
    bytes_each: float


class Speed(NamedTuple):
    """One measurement. Times in seconds; `cpu_s` is this process's, for each."""

    per_s: float
    p50: float
    p99: float
    cpu_s: float


class Worker:
    def __init__(self, cache: EntryCache, held: int) -> None:
        self._cache = cache
        self._held = held
        self._new = count(held)
        self._front = cache
        if isinstance(cache, SharedCache):
            self._front = TieredCache(MemoryCache(max_bytes=_FRONT_BYTES), cache)
        self.works: dict[str, Callable[[int, float], Awaitable[Speed]]] = {
            "lookup": self.lookup,
            "hot": self.hot,
            "store": self.store,
        }

    async def lookup(self, tasks: int, seconds: float) -> Speed:
        """Ask for any of the entries."""
        asked = [entries.key(random.randrange(self._held)) for _ in range(_ASKED)]
        return await _speed(_finding(self._cache), cycle(asked), tasks, seconds)

    async def hot(self, tasks: int, seconds: float) -> Speed:
        """Ask for the same few entries in turn, with memory in front of a shared cache."""
        asked = [entries.key(number) for number in range(min(HOT, self._held))]
        find = _finding(self._front)
        for key in asked * 2:
            await find(key)
        return await _speed(find, cycle(asked), tasks, seconds)

    async def store(self, tasks: int, seconds: float) -> Speed:
        """Store new entries, and take them out again when the time is over."""
        new = [entries.entry(number) for number in (next(self._new) for _ in range(_STORED))]
        speed = await _speed(self._cache.put, new, tasks, seconds)
        # The memory cache is full: one goes for each that comes.
        if not self._cache.never_waits:
            for begin in range(0, len(new), _DELETED_AT_ONCE):
                some = new[begin : begin + _DELETED_AT_ONCE]
                deleted = await asyncio.gather(*(self._cache.delete(each.key.id) for each in some))
                if not any(deleted):
                    break
        return speed


def _finding(cache: EntryCache) -> Callable[[Key], Awaitable[None]]:
    """A lookup as the proxy does it."""

    async def find(key: Key) -> None:
        entry = cache.peek(key) or await cache.get(key)
        if entry is None:
            raise LookupError(f"{cache!r} has lost an entry")

    return find


async def _speed(
    do: Callable[[T], Awaitable[object]], items: Iterable[T], tasks: int, seconds: float
) -> Speed:
    """Let so many tasks do it with one item after the other, until time or items run out."""
    times: list[float] = []
    following = iter(items)
    cpu, began = time.process_time(), time.perf_counter()
    end = began + seconds

    async def work() -> None:
        for item in following:
            started = time.perf_counter()
            await do(item)
            now = time.perf_counter()
            times.append(now - started)
            if now > end:
                return

    await asyncio.gather(*(work() for _ in range(tasks)))
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    times.sort()
    done = len(times)
    return Speed(done / wall, quantile(times, 0.5), quantile(times, 0.99), cpu / done)


async def _fill(cache: EntryCache, held: int) -> None:
    begins = iter(range(0, held, _FILLED_AT_ONCE))

    async def work() -> None:
        for begin in begins:
            numbers = range(begin, min(held, begin + _FILLED_AT_ONCE))
            await cache.put_many([entries.entry(number) for number in numbers])

    await asyncio.gather(*(work() for _ in range(_FILLING)))
    if (found := (await cache.totals()).entries) != held:
        raise LookupError(f"{cache!r} holds {found} of {held} entries")


async def _main(url: str, held: int, core: str = "") -> None:
    cache = _opened(url, held)
    # What is made once, like tables, is not what an entry takes.
    await cache.fact("benchmark", "yes")
    entry_bytes = entries.size_of(entries.entry(held))
    before, began = await space.taken(url), time.perf_counter()
    await _fill(cache, held)
    seconds = time.perf_counter() - began
    if not cache.never_waits:
        # Its threads are made anew, on the core where they are measured.
        await cache.aclose()
    bytes_each = (await space.taken(url) - before) / held
    if core:
        os.sched_setaffinity(0, {int(core)})
    if not cache.never_waits:
        cache = _opened(url, held)
    _say(Filled(seconds, entry_bytes, bytes_each))
    worker = Worker(cache, held)
    while line := await asyncio.to_thread(sys.stdin.readline):
        work, tasks, for_s = json.loads(line)
        _say(await worker.works[work](tasks, for_s))
    await cache.aclose()


def _opened(url: str, held: int) -> EntryCache:
    options: dict[str, Any] = {}
    if url.startswith("memory:"):
        # No larger than what it holds: one with more room would keep more of it unpacked.
        each = entries.size_of(entries.entry(held)) + _COUNTED_BESIDE
        options = {"max_bytes": int(_SLACK * each * held)}
    elif url.startswith(("redis:", "postgresql:")):
        options = {"timeout": _PATIENCE_S}
    return open_cache(url, **options)


def _say(told: Filled | Speed) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
