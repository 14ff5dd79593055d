"""What the lease costs, and what it buys: reads of the purge log, and how long a purge takes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from benchmarks import entries
from benchmarks.scale.calls import CALLS, Costs, Server
from benchmarks.scale.counted import Calls
from benchmarks.scale.demand import Mix, log_reads, per_second, sent_for
from benchmarks.scale.tables import Table
from benchmarks.scale.traffic import SEED
from cache_backends import MemoryCache, SharedCache, SQLiteCache, TieredCache
from cache_backends.shared import Filter
from cache_backends.tiered import EARLY_S, LEASE_S

RATES = (0.1, 1.0, 10.0, 100.0)
# Workers, and the lease they share.
PURGED = ((1, 1.0), (10, 1.0), (100, 1.0), (10, 0.25), (100, 0.25))
PEEK_EVERY_S = 0.02

WORKERS = (1, 10, 100, 400)
# What each may have: the defaults.
REDIS_CONNECTIONS, POSTGRES_CONNECTIONS = 32, 10
MEMORY_MIB = 256
BUSY = 100.0  # requests a second and worker
AT_ONCE = (1, 10)


async def reads_table(folder: Path, reads: int) -> Table:
    """The real cache on a file, with a clock of its own: requests come as Poisson has it."""
    rows = []
    for rate in RATES:
        seconds = reads / log_reads(rate, LEASE_S)
        counted = await _reads(folder / f"{rate}.db", rate, seconds)
        rows.append([f"{rate:g}", f"{log_reads(rate, LEASE_S):.2f}", f"{counted / seconds:.2f}"])
    header = ["requests/s and worker", "formula", "counted"]
    return Table(f"Reads of the purge log a second, at a lease of {LEASE_S:g} s", header, rows)


async def _reads(file: Path, rate: float, seconds: float) -> int:
    now = 0.0
    store = SQLiteCache(str(file))
    calls = Calls(store)
    cache = TieredCache(MemoryCache(max_bytes=2**20), store, monotonic=lambda: now)
    asked = entries.entry(0)
    draw = random.Random(SEED)
    async with aclosing(cache):
        await cache.put(asked)
        calls.made.clear()
        while (now := now + draw.expovariate(rate)) < seconds:
            if cache.peek(asked.key) is None:
                await cache.get(asked.key)
            await calls.quiet()
    return calls.made["purges"]


async def purges_table(
    servers: Sequence[tuple[Server, Costs]], seconds: float, purges: int
) -> Table:
    """Real caches that are asked all the time, in one process, on real servers."""
    header = ["workers", "lease s", "formula: log reads/s", "purge ms"]
    for server, _ in servers:
        header += [f"{server.title}: log reads/s", "server CPU %", "purge ms"]
    rows = []
    for workers, lease_s in PURGED:
        reads = workers * log_reads(1 / PEEK_EVERY_S, lease_s)
        formula = 1000 * (lease_s + EARLY_S)
        row = [str(workers), f"{lease_s:g}", f"{reads:,.0f}", f"{formula:,.0f}"]
        for server, costs in servers:
            counted, purge_s = await _purge(server, workers, lease_s, seconds, purges)
            cpu = 100 * reads * costs["purges"].cpu_us / 1e6
            row += [f"{counted:,.0f}", f"{cpu:.2f}", f"{1000 * purge_s:,.0f}"]
        rows.append(row)
    return Table("Log reads and purges, by workers and lease", header, rows, labels=2)


async def _purge(
    server: Server, workers: int, lease_s: float, seconds: float, purges: int
) -> tuple[float, float]:
    """Log reads a second, and how long a purge takes."""
    async with aclosing(server.open(f"purge_{workers}_{1000 * lease_s:.0f}")) as store:
        caches = [
            TieredCache(MemoryCache(max_bytes=2**20), store, lease=lease_s) for _ in range(workers)
        ]
        asking = [asyncio.create_task(_ask_again_and_again(cache)) for cache in caches]
        try:
            await caches[0].put(entries.entry(0))
            reads = await _reads_a_second(store, seconds)
            took = sorted([await _purge_once(caches[0]) for _ in range(purges)])
        finally:
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
    return reads, took[len(took) // 2]


async def _reads_a_second(store: SharedCache, seconds: float) -> float:
    calls, began = Calls(store), time.perf_counter()
    await asyncio.sleep(seconds)
    return calls.made["purges"] / (time.perf_counter() - began)


async def _purge_once(cache: TieredCache) -> float:
    began = time.perf_counter()
    await cache.purge(Filter(ids=(entries.key(0).id,)))
    return time.perf_counter() - began


async def _ask_again_and_again(cache: TieredCache) -> None:
    # Not all at the same time.
    await asyncio.sleep(random.random() * PEEK_EVERY_S)
    while True:
        cache.peek(entries.key(0))
        await asyncio.sleep(PEEK_EVERY_S)


def workers_table(costs: Mapping[str, Costs]) -> Table:
    """What all workers together ask of the store beside requests, and what they may take."""
    header = ["workers", "idle: calls/s", "busy: calls/s"]
    header += [f"{title}: CPU %" for title in costs]
    header += ["Redis connections", "Postgres connections", "memory GiB"]
    rows = []
    for workers in WORKERS:
        idle, busy = (sum(per_second(rate).values()) * workers for rate in (0.0, BUSY))
        row = [str(workers), f"{idle:,.0f}", f"{busy:,.0f}"]
        for each in costs.values():
            _, cpu_s = sent_for(per_second(BUSY), each, Mix(1.0, 0.0, 0.0))
            row.append(f"{100 * cpu_s * workers:.1f}")
        row += [f"{workers * most:,}" for most in (REDIS_CONNECTIONS, POSTGRES_CONNECTIONS)]
        rows.append([*row, f"{workers * MEMORY_MIB / 1024:,.2f}"])
    return Table("What workers ask of the store beside requests, and may take", header, rows)


async def sums_table(servers: Sequence[tuple[Server, Costs]], seconds: float) -> Table:
    """All workers add to the same sums, each second."""
    rows = []
    for at_once in AT_ONCE:
        rates = [await _added_a_second(server, at_once, seconds) for server, _ in servers]
        rows.append([str(at_once), *(f"{rate:,.0f}" for rate in rates)])
    header = ["at once", *(f"{server.title}: a second" for server, _ in servers)]
    return Table("Adding to the sums that all workers share", header, rows)


async def _added_a_second(server: Server, at_once: int, seconds: float) -> float:
    _, add = CALLS["add_counts"]
    async with aclosing(server.open("sums")) as store:
        await asyncio.gather(*(add(store, 0) for _ in range(at_once)))  # connected, and prepared
        began = time.perf_counter()

        async def work() -> int:
            added = 0
            while time.perf_counter() < began + seconds:
                await add(store, 0)
                added += 1
            return added

        added = sum(await asyncio.gather(*(work() for _ in range(at_once))))
        return added / (time.perf_counter() - began)
