"""What each call costs the server of a store: commands or statements, and its processor's time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks import entries
from benchmarks.scale.counted import commands, cpu_s, cpu_s_since, processes, told_of
from benchmarks.scale.tables import Table
from cache_backends import SharedCache, open_cache

# What a worker adds to the sums in a busy second, and to how many entries' hits.
NAMES = 60
HIT_ENTRIES = 50
# Servers are slow where others are busy: nobody is in a hurry here.
PATIENCE_S = 10.0
_NEVER_STORED = 1_000_000


class Cost(NamedTuple):
    """Of one call, on average."""

    commands: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Server:
    """A running Redis or Postgres that nobody else uses."""

    title: str
    url: str
    log: Path

    def open(self, name: str, *, telling: bool = False) -> SharedCache:
        """A cache of its own; `telling`: so that `commands` can count what the server is sent."""
        option = "prefix" if self.url.startswith("redis:") else "schema"
        url = told_of(self.url) if telling else self.url
        cache = open_cache(url, timeout=PATIENCE_S, **{option: name})
        assert isinstance(cache, SharedCache)
        return cache


Call = Callable[[SharedCache, int], Awaitable[object]]
_AMOUNTS = {f"name/{number}": 1.0 for number in range(NAMES)}

# In this order: what is looked up is stored before, what is claimed is released.
CALLS: Mapping[str, tuple[str, Call]] = {
    "put_many": ("store", lambda cache, each: cache.put_many([entries.entry(each)])),
    "get_many": ("look up, found", lambda cache, each: cache.get_many([entries.key(each)])),
    "get_many of nothing": (
        "look up, not found",
        lambda cache, each: cache.get_many([entries.key(_NEVER_STORED + each)]),
    ),
    "purges": ("read the purge log", lambda cache, _: cache.purges(0)),
    "claim": ("claim a lease", lambda cache, each: cache.claim(f"{each}", "me", PATIENCE_S)),
    "release": ("release a lease", lambda cache, each: cache.release(f"{each}", "me")),
    "fact": ("read a fact", lambda cache, _: cache.fact("mode", "normal")),
    "add_counts": (f"add to {NAMES} sums", lambda cache, _: cache.add_counts("all", _AMOUNTS)),
    "add_hits": (
        f"add to the hits of {HIT_ENTRIES} entries",
        lambda cache, _: cache.add_hits(
            {entries.key(number).id: 1 for number in range(HIT_ENTRIES)}
        ),
    ),
}

Costs = Mapping[str, Cost]


async def measure(server: Server, times: int) -> Costs:
    """Each call so many times, one after the other."""
    counts = await _commands(server, times)
    costs: dict[str, Cost] = {}
    async with aclosing(server.open("cpu")) as cache:
        for name, (_, call) in CALLS.items():
            await call(cache, 0)  # connected, and prepared
            before = cpu_s(await processes(server.url))
            for each in range(times):
                await call(cache, each)
            costs[name] = Cost(counts[name], 1e6 * cpu_s_since(before) / times)
    return costs


async def _commands(server: Server, times: int) -> dict[str, float]:
    counts: dict[str, float] = {}
    async with aclosing(server.open("commands", telling=True)) as cache:
        for name, (_, call) in CALLS.items():
            await call(cache, 0)
            async with commands(server.url, server.log) as counted:
                for each in range(times):
                    await call(cache, each)
            counts[name] = counted.total() / times
    return counts


def table(costs: Sequence[tuple[Server, Costs]]) -> Table:
    header = ["call"]
    for server, _ in costs:
        header += [f"{server.title}: commands", "server CPU us"]
    rows = []
    for name, (what, _) in CALLS.items():
        told = (costs_of[name] for _, costs_of in costs)
        rows.append([what, *(cell for cost in told for cell in _cells(cost))])
    return Table("What a call costs the server", header, rows)


def _cells(cost: Cost) -> tuple[str, str]:
    return f"{cost.commands:.2f}", f"{cost.cpu_us:,.0f}"
