"""What a server takes: until it is ready, at its start, and with connections that nobody uses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks import load, nginx, wire
from benchmarks.servers import Servers, Started

CONNECTIONS = 1_000
OURS, NGINX, BARE = "proxy", "nginx", "bare uvicorn"
_SETTLING_S = 0.3

Say = Callable[[str], None]


@dataclass(slots=True)
class Footprint:
    """Round by round, each with a new process."""

    ready_s: list[float] = field(default_factory=list)
    start_mib: list[float] = field(default_factory=list)
    idle_mib: list[float] = field(default_factory=list)  # for all the connections

    def take(self, server: Started) -> None:
        self.ready_s.append(server.ready_s)
        self.start_mib.append(server.rss_mib())
        self.idle_mib.append(idle_mib(server))


def measure(servers: Servers, provider: Started, rounds: int, say: Say) -> dict[str, Footprint]:
    taken: dict[str, Footprint] = {}
    for number in range(rounds):
        say(f"memory, round {number + 1} of {rounds}")
        proxy = servers.proxy(f"memory-{number}", provider, servers.sqlite(f"memory-{number}"))
        started = {OURS: proxy, BARE: servers.bare(f"memory-bare-{number}", wire.MODEL)}
        if program := nginx.program():
            name = f"memory-nginx-{number}"
            started[NGINX] = nginx.start(servers, program, name, provider, caching=True)
        for whom, server in started.items():
            taken.setdefault(whom, Footprint()).take(server)
    return taken


def idle_mib(server: Started) -> float:
    """How much more it takes once so many connections have had an answer and stay open."""
    request = wire.asking("idle").request(0)
    for _ in range(3):
        load.ask_each(server.port, [request] * 100)
    before = server.rss_mib()
    with load.files(CONNECTIONS + 100), load.connected(server.port, CONNECTIONS) as (poll, by_fd):
        load.ask_all(poll, by_fd, [request] * CONNECTIONS)
        time.sleep(_SETTLING_S)
        return server.rss_mib() - before
