"""Streams that are passed on: each alone, direct and through the proxy; then many at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from benchmarks import streams
from benchmarks.servers import Servers, Started

DIRECT, FORWARDED, PROXIED = "direct", "httpx over aiohttp", "proxy"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    flows: int = 21
    chunks: int = 500
    crowd: int = 1000
    crowd_chunks: int = 20
    crowd_interval_s: float = 0.25


QUICK = Plan(flows=7, crowd_chunks=4)


@dataclass(slots=True)
class Flows:
    """What was measured, by who was asked."""

    of: dict[str, list[streams.Flow]] = field(default_factory=lambda: defaultdict(list))
    crowd: streams.Crowd | None = None
    crowd_mib: float = 0.0  # that the proxy took for it

    def first_chunk_s(self, whom: str) -> float:
        return median(flow.first_chunk_s for flow in self.of[whom])

    def added_s(self, whom: str) -> float:
        """How much later the first chunk comes than direct: a slow moment is slow for both."""
        pairs = zip(self.of[whom], self.of[DIRECT], strict=True)
        return median(flow.first_chunk_s - direct.first_chunk_s for flow, direct in pairs)

    def chunks_per_s(self, whom: str) -> float:
        return median(flow.chunks_per_s for flow in self.of[whom])

    def ratio(self, whom: str) -> float:
        pairs = zip(self.of[whom], self.of[DIRECT], strict=True)
        return median(flow.chunks_per_s / direct.chunks_per_s for flow, direct in pairs)


def measure(servers: Servers, provider: Started, plan: Plan, say: Say) -> Flows:
    results = Flows()
    proxy = servers.proxy("streams", provider, servers.sqlite("streams"))
    forwarder = servers.forwarder("streams-forwarder", "over_transport", provider)
    say(f"{plan.flows} streams of {plan.chunks} chunks, direct and through the proxy")
    for number in range(plan.flows + 1):
        for whom, server in {DIRECT: provider, FORWARDED: forwarder, PROXIED: proxy}.items():
            name = f"flow-{whom.replace(' ', '-')}-{number}"
            flow = streams.flow(server.port, name, plan.chunks)
            if number:  # the first one opens connections and loads code
                results.of[whom].append(flow)
    say(f"{plan.crowd} streams at a time")
    before = proxy.rss_mib()
    results.crowd = streams.crowd(
        proxy.port, "crowd", plan.crowd, plan.crowd_chunks, plan.crowd_interval_s
    )
    results.crowd_mib = proxy.rss_mib() - before
    return results
