"""What many workers do to calls of the provider, and to what memory answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from math import exp, log

from benchmarks.scale.calls import Server
from benchmarks.scale.policies import Ours
from benchmarks.scale.proxies import Proxies
from benchmarks.scale.tables import Table
from benchmarks.scale.traffic import SEED, Stream, stream

WORKERS = (1, 10, 100)
# How often requests come, and how long answers take: half of them less, one in six twice as long.
RATE = 50.0
MEDIAN_S = 3.0
SPREAD = 0.7
# Of all that is asked for, what each worker's memory has room for.
SPACE = 0.05

_WORKER_COLUMNS = ("1 worker", *(f"{workers} workers" for workers in WORKERS[1:]))


async def equal_requests_table(server: Server, requests: int, upstream_s: float) -> Table:
    """Real proxies, asked the same at once."""
    header = ["workers", "coalesce", "calls of the provider", "formula", "claims", "lookups"]
    rows = []
    for workers in WORKERS:
        for mode in ("worker", "cluster"):
            proxies = Proxies(server, f"equal_{mode}_{workers}", workers, mode, upstream_s)
            draw = random.Random(SEED)
            async with proxies:
                asking = (proxies.ask(draw.randrange(workers), 1) for _ in range(requests))
                await asyncio.gather(*asking)
            formula = one_each(workers, requests) if mode == "worker" else 1.0
            calls = (proxies.calls["claim"], proxies.calls["get_many"])
            told = [str(proxies.asked), f"{formula:.1f}", *map(str, calls)]
            rows.append([str(workers), mode, *told])
    title = "Equal requests at once, counted over real proxies"
    return Table(title, header, rows, labels=2)


def one_each(workers: int, requests: int) -> float:
    """Of so many workers, how many get at least one of the requests."""
    return workers * (1 - (1 - 1 / workers) ** requests)


def upstream_table(requests: int) -> Table:
    """Simulated: answers take seconds, and the same may be asked for meanwhile elsewhere."""
    rows = []
    for title in ("Zipf", "chat", "bursts", "development", "mixed"):
        asked = stream(title, requests)
        alone = [1000 * upstream_calls(asked, workers, cluster=False) for workers in WORKERS]
        shared = 1000 * upstream_calls(asked, WORKERS[-1], cluster=True)
        rows.append([title, *(f"{calls:.0f}" for calls in (*alone, shared))])
    header = ["stream", *_WORKER_COLUMNS, "any number, cluster"]
    return Table(f"Calls of the provider for 1,000 requests, at {RATE:g} a second", header, rows)


def upstream_calls(stream: Stream, workers: int, *, cluster: bool) -> float:
    """For each request. What is stored stays; whose fetch is under way is joined."""
    draw = random.Random(SEED)
    now, calls = 0.0, 0
    stored_at: dict[int, float] = {}
    fetched_at: dict[tuple[int, int], float] = {}
    for question in stream.questions:
        now += draw.expovariate(RATE)
        worker = 0 if cluster else draw.randrange(workers)
        if stored_at.get(question, now + 1) <= now or fetched_at.get((worker, question), 0.0) > now:
            continue
        calls += 1
        done = now + exp(draw.gauss(log(MEDIAN_S), SPREAD))
        fetched_at[worker, question] = done
        stored_at[question] = min(done, stored_at.get(question, done))
    return calls / len(stream.asked)


def memory_table(requests: int) -> Table:
    """Simulated: each worker keeps what it has answered, the store keeps all."""
    rows = []
    for title in ("Zipf", "chat", "bursts", "development", "mixed"):
        asked = stream(title, requests)
        for routing in ("any worker", "by client"):
            shares = [memory_hits(asked, workers, routing) for workers in WORKERS]
            rows.append([title, routing, *(f"{100 * share:.1f}" for share in shares), _hits(asked)])
    header = ["stream", "routing", *_WORKER_COLUMNS, "in all"]
    title = f"Answered from memory, in percent, each worker with room for {SPACE:.0%}"
    return Table(title, header, rows, labels=2)


def memory_hits(stream: Stream, workers: int, routing: str) -> float:
    draw = random.Random(SEED)
    space = max(1, int(SPACE * len(set(stream.questions))))
    memories = [Ours(space) for _ in range(workers)]
    places = [draw.randrange(workers) for _ in range(1 + max(each.client for each in stream.asked))]
    hits = 0
    for question, client in stream.asked:
        worker = places[client] if routing == "by client" else draw.randrange(workers)
        hits += memories[worker].ask(question, 1)
    return hits / len(stream.asked)


def _hits(stream: Stream) -> str:
    return f"{100 * (1 - len(set(stream.questions)) / len(stream.asked)):.1f}"


def tables(requests: int) -> Sequence[Table]:
    return [upstream_table(requests), memory_table(requests)]
