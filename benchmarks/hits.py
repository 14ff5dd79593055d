"""Hits: the proxy, nginx and bare uvicorn give the same answers to the same questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks import load, nginx, wire, wrk
from benchmarks.load import Rate, UnexpectedError
from benchmarks.samples import Samples
from benchmarks.servers import Servers, Started
from benchmarks.wire import Asking
from proxy.config.sections import Server

CONNECTIONS = 32
STREAM_CHUNKS = 500
# Asked one after the other of each cache, to see that each gets its own answer.
_LOOKED_AT = 20
# An answer is entered where it is fastest to find when it is a hit, not when it is new.
_WARMING = 2
_STORING_S = 0.1
HIT = b": HIT\r\n"
# JSON may be written anew, with more or less space.
_SAME = 0.02

Say = Callable[[str], None]


class Workload(NamedTuple):
    """Questions, and how many clients ask them."""

    what: str
    asking: Asking
    connections: int = CONNECTIONS


class Cache(NamedTuple):
    """A server that is measured; `mark` stands in the head of what it gives."""

    server: Started
    mark: bytes


PLAIN = Workload("700 B asked, 1 kB answered", wire.asking("plain"))
SDK = Workload("the same with an SDK's 20 headers", wire.asking("sdk", headers=wire.SDK))
LARGE = Workload(
    "30 kB asked, 8 kB answered", wire.asking("large", size=30_000, model="answer:8000:0")
)
STREAM = Workload(
    f"streams of {STREAM_CHUNKS} chunks",
    wire.asking("stream", model=f"stream:{STREAM_CHUNKS}:0.0", stream=True),
)
MANY = Workload("10,000 different, 1 kB answered", wire.asking("many", 10_000))
FEWER = Workload("2,000 different, 1 kB answered", wire.asking("many", 2_000))
ALONE = Workload("1 connection, 1 kB answered", wire.asking("plain"), connections=1)
WORKLOADS = (PLAIN, SDK, LARGE, STREAM, MANY, ALONE)
# Where there is no time to fill the caches with all of that.
QUICK = (PLAIN, SDK, LARGE, STREAM, FEWER, ALONE)

OURS, LANELESS, NGINX, BARE = "proxy", "proxy, hit_lane = false", "nginx", "bare uvicorn"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    seconds: int = 1
    workloads: tuple[Workload, ...] = WORKLOADS


def measure(
    servers: Servers, provider: Started, plan: Plan, samples: Samples, say: Say
) -> list[str]:
    """Take samples of all that can be measured here; return what the reader has to know."""
    notes = []
    caches = dict(_proxies(servers, provider))
    if program := nginx.program():
        started = nginx.start(servers, program, "nginx", provider, caching=True)
        caches[NGINX] = Cache(started, HIT)
    else:
        notes.append(nginx.MISSING)
    if wrk.program() is None:
        notes.append(wrk.MISSING)
    models = dict.fromkeys(workload.asking.model for workload in plan.workloads)
    bares = {model: servers.bare(f"bare-{number}", model) for number, model in enumerate(models)}
    for workload in plan.workloads:
        say(f"hits: {workload.what}, warming up")
        for cache in caches.values():
            warm(cache, workload.asking)
    asked = servers.asked(provider)
    for number in range(plan.rounds):
        for workload in plan.workloads:
            say(f"hits: {workload.what}, round {number + 1} of {plan.rounds}")
            bare = Cache(bares[workload.asking.model], b"200 OK")
            for whom, cache in {**caches, BARE: bare}.items():
                asking = asking_of(cache, workload, plan.seconds)
                samples.take(workload.what, whom, cache.server, asking)
    if more := servers.asked(provider) - asked:
        raise UnexpectedError(f"{more} of what should be hits went to the provider")
    return notes


def has_lane() -> bool:
    return "hit_lane" in Server.model_fields


def warm(cache: Cache, asking: Asking, same: float = _SAME) -> None:
    """Make all of it hits, and see that they are right: for each question its own answer.

    Its size may differ by `same` of it.
    """
    numbers = range(max(asking.different, _LOOKED_AT))
    for _ in range(_WARMING):
        load.ask_each(cache.server.port, map(asking.request, numbers))
        time.sleep(_STORING_S)
    size = _size(asking)
    for number in range(_LOOKED_AT):
        answer = load.ask_once(cache.server.port, asking.request(number), cache.mark)
        body = answer.partition(b"\r\n\r\n")[2]
        if asking.word(number) not in body or abs(len(body) - size) > same * size:
            raise UnexpectedError(f"not the answer to {asking.word(number)!r}: {answer[:2000]!r}")


def asking_of(cache: Cache, workload: Workload, seconds: int) -> Callable[[], Rate]:
    """Measure it by wrk where that is at hand."""
    port, connections, asking = cache.server.port, workload.connections, workload.asking
    program = wrk.program()

    def measured() -> Rate:
        if program is None:
            return load.measure(port, connections, seconds, asking.following(), cache.mark)
        rate = wrk.measure(program, port, connections, seconds, asking)
        if rate.bytes_each < (1 - _SAME) * _size(asking):
            raise UnexpectedError(f"answers of {rate.bytes_each:.0f} bytes: not whole")
        return rate

    return measured


def _size(asking: Asking) -> int:
    return len(wire.whole(asking.model, asking.word(0).decode()))


def _proxies(servers: Servers, provider: Started) -> Iterator[tuple[str, Cache]]:
    yield OURS, Cache(servers.proxy("proxy", provider, servers.sqlite("proxy")), HIT)
    if has_lane():
        off = {"LLM_CACHE_PROXY_SERVER__HIT_LANE": "false"}
        started = servers.proxy("laneless", provider, servers.sqlite("laneless"), **off)
        yield LANELESS, Cache(started, HIT)
