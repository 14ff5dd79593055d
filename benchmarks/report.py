"""The table about the proxy."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from benchmarks.columns import aligned
from benchmarks.rounds import CONNECTIONS, Results

HIT_TARGET = 0.6
MISS_TARGET = 0.7
FIRST_CHUNK_TARGET_S = 0.001
# Above this the generator may have held the server back.
_GENERATOR_LIMIT = 0.95
# Less of the core than this, and the rates tell of other work on the machine.
_UNDISTURBED = 0.9

_HITS = {
    "bare": "bare uvicorn, the same bytes",
    "memory": "hit from memory",
    "sqlite": "hit from SQLite",
}
_MISSES = {
    "forwarder": "bare forwarder, same transport",
    "memory miss": "miss, stored in memory",
    "sqlite miss": "miss, stored in SQLite",
}
_FLOWS = {
    "direct": "direct",
    "forwarder": "through the bare forwarder",
    "proxied": "through the proxy",
}


class Line(NamedTuple):
    what: str
    connections: str = ""
    rate: str = ""
    p50: str = ""
    p99: str = ""
    cpu: str = ""
    ratio: str = ""
    by_cpu: str = ""
    target: str = ""
    mark: str = ""


def table(results: Results) -> str:
    """All results as text."""
    head = Line(
        "", "conns", "per second", "p50 ms", "p99 ms", "cpu us", "ratio", "by cpu", "target", ""
    )
    lines = [head, *_rates(results, _HITS, HIT_TARGET), Line("")]
    lines += [*_rates(results, _MISSES, MISS_TARGET), Line("")]
    lines += [*_flows(results), *_crowd(results)]
    return "\n".join([aligned(lines), *_remarks(results)])


def _rates(results: Results, names: dict[str, str], target: float) -> Iterator[Line]:
    first, judged, *_ = names
    for connections in CONNECTIONS:
        for name, what in names.items():
            rates = results.rates[name, connections]
            line = Line(
                what,
                str(connections),
                f"{results.per_s(name, connections):,.0f}",
                _ms(median(rate.p50 for rate in rates)),
                _ms(median(rate.p99 for rate in rates)),
                f"{1e6 * median(results.cpu_s[name, connections]):.0f}",
            )
            if name != first:
                line = line._replace(
                    ratio=f"{results.ratio(name, first, connections):.2f}",
                    by_cpu=f"{results.cpu_ratio(name, first, connections):.2f}",
                )
            if name == judged:
                line = line._replace(
                    target=f">= {target}",
                    mark=_mark(_worse_ratio(results, name, first, connections) >= target),
                )
            yield line


def _worse_ratio(results: Results, name: str, to: str, connections: int) -> float:
    """Neighbours on the core can flatter a rate, and waiting costs no processor time."""
    by_rate = results.ratio(name, to, connections)
    return min(by_rate, results.cpu_ratio(name, to, connections))


def _flows(results: Results) -> Iterator[Line]:
    for name, what in _FLOWS.items():
        line = Line(f"first chunk, {what}", "1", p50=_ms(results.first_chunk_s(name)))
        later = results.first_chunk_s(name) - results.first_chunk_s("direct")
        if name != "direct":
            line = line._replace(ratio=f"+{1000 * later:.2f} ms")
        if name == "proxied":
            met = later <= FIRST_CHUNK_TARGET_S
            target = f"<= {1000 * FIRST_CHUNK_TARGET_S:.0f} ms"
            line = line._replace(target=target, mark=_mark(met))
        yield line
    direct = results.chunks_per_s("direct")
    for name, what in _FLOWS.items():
        per_s = results.chunks_per_s(name)
        yield Line(f"chunks, {what}", "1", f"{per_s:,.0f}", ratio=f"{per_s / direct:.2f}")


def _crowd(results: Results) -> Iterator[Line]:
    crowd = results.crowd
    if crowd is None:
        return
    yield Line(
        "streams at a time, complete and right",
        str(crowd.asked),
        f"{crowd.chunks_per_s:,.0f}",
        ratio=f"{crowd.right}",
        target=f"{crowd.asked}",
        mark=_mark(crowd.right == crowd.asked),
    )


def _remarks(results: Results) -> Iterator[str]:
    crowd = results.crowd
    if crowd is not None:
        growth = results.crowd_rss_mib - results.idle_rss_mib
        yield (
            f"\n{crowd.asked} streams took {crowd.seconds:.1f} s where the provider alone takes"
            f" {crowd.ideal_s:.1f} s; last first chunk after {crowd.worst_first_chunk_s:.2f} s;"
            f" {results.crowd_rss_mib:.0f} MiB RSS, {growth:+.0f} MiB for them"
        )
    got = results.server_share(CONNECTIONS[-1])
    if got < _UNDISTURBED:
        soonest = {name: min(flow.first_chunk_s for flow in results.flows[name]) for name in _FLOWS}
        yield (
            f"The servers got only {got:.0%} of their core: go by the processor time. The soonest"
            f" first chunk took {_ms(soonest['direct'])} ms direct, {_ms(soonest['forwarder'])} ms"
            f" through the forwarder, {_ms(soonest['proxied'])} ms through the proxy."
        )
    shares = [rate.generator_share for rates in results.rates.values() for rate in rates]
    if max(shares) > _GENERATOR_LIMIT:
        yield f"The load generator used up to {max(shares):.0%} of its core: rates may be higher."
    else:
        yield f"The load generator used at most {max(shares):.0%} of its core: not the limit."


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"


def _mark(met: bool) -> str:
    return "pass" if met else "short"
