"""What proxies ask of a store: by a formula, and counted over real proxies on real servers."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import NamedTuple

from benchmarks.scale.calls import Costs, Server
from benchmarks.scale.counted import CALLS, commands
from benchmarks.scale.proxies import Proxies
from benchmarks.scale.tables import Table
from benchmarks.scale.traffic import SEED, stream
from cache_backends.tiered import LEASE_S
from proxy.application import AGREE_S
from proxy.ledger import FLUSH_S
from proxy.modes import READ_S

MODES = ("worker", "cluster")
RATES = (1, 10, 100, 1000)  # requests a second and worker
WORKERS = 2
UPSTREAM_S = 0.2

Demand = Mapping[str, float]


class Mix(NamedTuple):
    """Of the requests, those answered from memory, from the store, and by the provider."""

    memory: float
    store: float
    miss: float


def per_request(mix: Mix, mode: str) -> Demand:
    """Calls of the store for a request, on average."""
    turns = mix.miss if mode == "cluster" else 0.0
    return {
        "get_many": mix.store + mix.miss + turns,  # who has a turn looks once more
        "put_many": mix.miss,
        "claim": turns,
        "release": turns,
    }


def per_second(rate: float, lease_s: float = LEASE_S) -> Demand:
    """Calls of the store by one worker beside its requests, of which so many come a second."""
    flushes = (1 - exp(-rate * FLUSH_S)) / FLUSH_S  # only where something came together
    return {
        "purges": log_reads(rate, lease_s),
        "fact": 1 / READ_S + 1 / AGREE_S,
        "add_counts": 2 * flushes,  # of all time, and of the day
        "add_hits": flushes,
    }


def log_reads(rate: float, lease_s: float) -> float:
    """The first request after half a lease reads the log again."""
    return 1 / (lease_s / 2 + 1 / rate) if rate else 0.0


def per_thousand(mix: Mix, mode: str, rate: float) -> Demand:
    """Calls of the store for 1,000 requests to workers that each get so many a second."""
    calls = {name: 1000 * number for name, number in per_request(mix, mode).items()}
    return calls | {name: 1000 / rate * number for name, number in per_second(rate).items()}


@dataclass(frozen=True, slots=True)
class Counted:
    """What came of some requests."""

    outcomes: Counter[str]
    calls: Counter[str]
    commands: int
    seconds: float

    @property
    def requests(self) -> int:
        return self.outcomes.total()

    @property
    def mix(self) -> Mix:
        return Mix(*(self.outcomes[name] / self.requests for name in Mix._fields))


async def count(server: Server, mode: str, requests: int, rate: float) -> Counted:
    """Send chat traffic to some workers, so many requests a second to all of them."""
    draw = random.Random(SEED)
    asking = []
    async with (
        Proxies(server, f"demand_{mode}", WORKERS, mode, UPSTREAM_S) as proxies,
        commands(server.url, server.log) as sent,
    ):
        began = time.perf_counter()
        for number, asked in enumerate(stream("chat", requests).asked):
            await asyncio.sleep(began + number / rate - time.perf_counter())
            worker = draw.randrange(WORKERS)
            asking.append(asyncio.create_task(proxies.ask(worker, asked.question)))
        outcomes = Counter(await asyncio.gather(*asking))
        seconds = time.perf_counter() - began
        calls = proxies.calls
    return Counted(outcomes, calls, sent.total(), seconds)


def counted_table(counts: Sequence[tuple[Server, Costs, Mapping[str, Counted]]]) -> Table:
    """Each call by formula and as counted, for each way to share fetches and each store."""
    header = ["for 1,000 requests"]
    columns: list[list[str]] = []
    for mode in MODES:
        for server, costs, by_mode in counts:
            counted = by_mode[mode]
            formula = per_thousand(counted.mix, mode, counted.requests / counted.seconds / WORKERS)
            found = 1000 / counted.requests
            header += [f"{mode}, {server.title}: formula", "counted"]
            columns.append(_column(formula, sent_for(formula, costs, counted.mix)[0]))
            calls = {name: found * number for name, number in counted.calls.items()}
            columns.append(_column(calls, found * counted.commands))
    labels = [*CALLS, "round trips in all", "commands or statements"]
    rows = [[label, *cells] for label, *cells in zip(labels, *columns, strict=True)]
    return Table("Calls of the store, by formula and counted", header, rows)


def _column(calls: Demand, commands: float) -> list[str]:
    numbers = [*(calls.get(name, 0.0) for name in CALLS), sum(calls.values()), commands]
    return [f"{number:,.0f}" for number in numbers]


def sent_for(demand: Demand, costs: Costs, mix: Mix) -> tuple[float, float]:
    """What these calls come to: commands or statements, and seconds of the server's processor."""
    lookups = demand.get("get_many", 0.0)
    found = lookups * mix.store / (mix.store + mix.miss) if lookups else 0.0
    calls = dict(demand) | {"get_many": found, "get_many of nothing": lookups - found}
    sent = sum(number * costs[name].commands for name, number in calls.items())
    return sent, sum(number * costs[name].cpu_us for name, number in calls.items()) / 1e6


def rates_table(mix: Mix, costs: Sequence[tuple[Server, Costs]]) -> Table:
    """How much of the store's work is for requests, and how much would be done anyway."""
    header = ["requests/s and worker", "coalesce", "round trips"]
    for server, _ in costs:
        header += [f"{server.title}: commands", "server CPU ms"]
    rows = []
    for rate in RATES:
        for mode in MODES:
            demand = per_thousand(mix, mode, rate)
            row = [f"{rate:,}", mode, f"{sum(demand.values()):,.0f}"]
            for _, each in costs:
                sent, cpu_s = sent_for(demand, each, mix)
                row += [f"{sent:,.0f}", f"{1000 * cpu_s:,.0f}"]
            rows.append(row)
    return Table("The store's work for 1,000 requests, by formula", header, rows, labels=2)
