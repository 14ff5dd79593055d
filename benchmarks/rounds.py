"""The measurements: interleaved rounds, so that a noisy moment of the machine hits all alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from benchmarks import load, streams, wire
from benchmarks.servers import Servers, Started

CONNECTIONS = (1, 32)
_HIT = b": HIT\r\n"
_MISS = b": MISS\r\n"
_QUESTIONS = 64  # asked in turn for hits


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    hit_s: float = 1.5
    miss_s: float = 2.0
    flows: int = 21
    flow_chunks: int = 500
    crowd: int = 1000
    crowd_chunks: int = 20
    crowd_interval_s: float = 0.25


QUICK = Plan(
    rounds=3, hit_s=0.5, miss_s=0.7, flows=7, crowd=1000, crowd_chunks=8, crowd_interval_s=0.25
)


@dataclass(slots=True)
class Results:
    """What was measured, by the name of what was asked."""

    rates: dict[tuple[str, int], list[load.Rate]] = field(default_factory=lambda: defaultdict(list))
    # Of the server, for each answer.
    cpu_s: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    flows: dict[str, list[streams.Flow]] = field(default_factory=lambda: defaultdict(list))
    crowd: streams.Crowd | None = None
    crowd_rss_mib: float = 0.0
    idle_rss_mib: float = 0.0

    def measure(
        self,
        name: str,
        server: Started,
        connections: int,
        seconds: float,
        following: wire.NextRequest,
        mark: bytes,
    ) -> None:
        before = server.cpu_s()
        rate = load.measure(server.port, connections, seconds, following, mark)
        self.rates[name, connections].append(rate)
        self.cpu_s[name, connections].append((server.cpu_s() - before) / rate.answers)

    def per_s(self, name: str, connections: int) -> float:
        return median(rate.per_s for rate in self.rates[name, connections])

    def ratio(self, name: str, to: str, connections: int) -> float:
        """The median over the rounds: both were measured in each."""
        pairs = zip(self.rates[name, connections], self.rates[to, connections], strict=True)
        return median(rate.per_s / other.per_s for rate, other in pairs)

    def cpu_ratio(self, name: str, to: str, connections: int) -> float:
        """The same by processor time: all there is to go by where neighbours take turns."""
        pairs = zip(self.cpu_s[name, connections], self.cpu_s[to, connections], strict=True)
        return median(other / cpu_s for cpu_s, other in pairs)

    def server_share(self, connections: int) -> float:
        """How much of its core the bare server got; below 1 something else took the rest."""
        rates, cpu_s = self.rates["bare", connections], self.cpu_s["bare", connections]
        return median(rate.per_s * each for rate, each in zip(rates, cpu_s, strict=True))

    def first_chunk_s(self, name: str) -> float:
        return median(flow.first_chunk_s for flow in self.flows[name])

    def chunks_per_s(self, name: str) -> float:
        return median(flow.chunks_per_s for flow in self.flows[name])


Say = Callable[[str], None]


def hits(servers: Servers, provider: Started, plan: Plan, results: Results, say: Say) -> None:
    """Bare uvicorn, and the proxy with all it is asked in its cache."""
    targets = {
        "bare": (servers.bare(), b"200 OK"),
        "memory": (servers.proxy("hits-memory", provider, "memory://"), _HIT),
        "sqlite": (servers.proxy("hits-sqlite", provider, servers.sqlite("hits")), _HIT),
    }
    following = wire.in_turn(_QUESTIONS)
    for server, _ in targets.values():
        for _ in range(2 * _QUESTIONS):
            load.ask_once(server.port, following())
    for number in range(plan.rounds):
        say(f"hits, round {number + 1} of {plan.rounds}")
        for connections in CONNECTIONS:
            for name, (server, mark) in targets.items():
                results.measure(name, server, connections, plan.hit_s, following, mark)


def misses(servers: Servers, provider: Started, plan: Plan, results: Results, say: Say) -> None:
    """A bare forwarder, and the proxy asked nothing twice."""
    targets = {
        "forwarder": (servers.forwarder("misses-forwarder", provider), b"200 OK"),
        "memory miss": (servers.proxy("misses-memory", provider, "memory://"), _MISS),
        "sqlite miss": (servers.proxy("misses-sqlite", provider, servers.sqlite("misses")), _MISS),
    }
    following = wire.never_twice("unheard-of")
    for server, _ in targets.values():
        load.measure(server.port, CONNECTIONS[-1], 0.3, following)
    for number in range(plan.rounds):
        say(f"misses, round {number + 1} of {plan.rounds}")
        for connections in CONNECTIONS:
            for name, (server, mark) in targets.items():
                results.measure(name, server, connections, plan.miss_s, following, mark)


def streamed(servers: Servers, provider: Started, plan: Plan, results: Results, say: Say) -> None:
    """One stream at a time, direct and through the proxy; then many at a time."""
    proxy = servers.proxy("streams", provider, "memory://")
    forwarder = servers.forwarder("streams-forwarder", provider)
    targets = {"direct": provider, "forwarder": forwarder, "proxied": proxy}
    say(f"{plan.flows} streams of {plan.flow_chunks} chunks, direct and through the proxy")
    for number in range(plan.flows + 1):
        for name, server in targets.items():
            flow = streams.flow(server.port, f"flow-{name}-{number}", plan.flow_chunks)
            if number:  # the first one opens connections and loads code
                results.flows[name].append(flow)
    say(f"{plan.crowd} streams at a time")
    results.idle_rss_mib = proxy.rss_mib()
    results.crowd = streams.crowd(
        proxy.port, "crowd", plan.crowd, plan.crowd_chunks, plan.crowd_interval_s
    )
    results.crowd_rss_mib = proxy.rss_mib()
