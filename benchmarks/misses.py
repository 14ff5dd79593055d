"""Misses: the proxy, bare forwarders and nginx pass on what nobody has asked before."""

from __future__ import annotations

import functools
from collections.abc import Callable

from benchmarks import load, nginx, wire
from benchmarks.samples import Samples
from benchmarks.servers import Servers, Started

CONNECTIONS = (32, 1)
OURS, MEMORY, NGINX = "proxy", "proxy, memory://", "nginx"
# By the app of `benchmarks.forwarder`.
FORWARDERS = {
    "over_httpx": "httpx client",
    "over_transport": "httpx over aiohttp",
    "over_aiohttp": "aiohttp",
}
_MISS = b": MISS\r\n"
EQUAL = 500
# As long as all of them need to come in, and longer.
_SLOWLY = "answer:1000:0.5"

Say = Callable[[str], None]


def what(connections: int) -> str:
    return "1 connection" if connections == 1 else f"{connections} connections"


def measure(
    servers: Servers, provider: Started, rounds: int, seconds: float, samples: Samples, say: Say
) -> list[str]:
    """Take samples of all that can be measured here; return what the reader has to know."""
    notes = []
    targets: dict[str, tuple[Started, bytes]] = {
        OURS: (servers.proxy("misses", provider, servers.sqlite("misses")), _MISS),
        MEMORY: (servers.proxy("misses-memory", provider, "memory://"), _MISS),
    }
    for app, title in FORWARDERS.items():
        targets[title] = (servers.forwarder(app, app, provider), b"200 OK")
    if program := nginx.program():
        started = nginx.start(servers, program, "nginx", provider, caching=False)
        targets[NGINX] = (started, b"200 OK")
    else:
        notes.append(nginx.MISSING)
    following = wire.asking("unheard-of", 0).following()
    asked = servers.asked(provider)
    for server, _ in targets.values():
        load.measure(server.port, CONNECTIONS[0], 0.3, following)
    for number in range(rounds):
        say(f"misses, round {number + 1} of {rounds}")
        for connections in CONNECTIONS:
            for whom, (server, mark) in targets.items():
                asking = functools.partial(
                    load.measure, server.port, connections, seconds, following, mark
                )
                samples.take(what(connections), whom, server, asking)
    answers = sum(each.rate.answers for taken in samples.of.values() for each in taken)
    if (passed_on := servers.asked(provider) - asked) < answers:
        raise load.UnexpectedError(f"{answers} misses, but {passed_on} reached the provider")
    return notes


def calls_for_equal(servers: Servers, provider: Started, rounds: int, say: Say) -> int:
    """How many of the equal questions that come at the same time reach the provider, at most."""
    proxy = servers.proxy("equal", provider, servers.sqlite("equal"))
    calls = []
    for number in range(rounds):
        say(f"{EQUAL} equal questions, round {number + 1} of {rounds}")
        asking = wire.asking(f"equal-{number}", model=_SLOWLY)
        before = servers.asked(provider)
        with load.files(EQUAL + 100):
            answers = load.ask_together(proxy.port, [asking.request(0)] * EQUAL)
        if not all(asking.word(0) in answer for answer in answers):
            raise load.UnexpectedError("one of the equal questions got another answer")
        calls.append(servers.asked(provider) - before)
    return max(calls)
