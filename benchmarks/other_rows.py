"""The table's rows about all but hits: misses, streams, memory, lookups."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from benchmarks import flows, footprint, misses
from benchmarks.backends import Measured, Results
from benchmarks.flows import Flows
from benchmarks.footprint import Footprint
from benchmarks.rows import Row, at_least, at_most, ms, per_s, us
from benchmarks.samples import Samples
from benchmarks.stores import Work

MISSES_TARGET = 0.8
FIRST_CHUNK_TARGET_MS = 0.5
CHUNKS_TARGET = 0.7
READY_TARGET_S = 1.5
START_TARGET_MIB = 80.0
GROWTH_TARGET = 1.3
# What the proxy is judged by: a client of the same kind without a cache.
_JUDGED = misses.FORWARDERS["over_transport"]


def miss_rows(samples: Samples) -> Iterator[Row]:
    others = [*misses.FORWARDERS.values(), misses.NGINX, misses.MEMORY]
    busy, alone = map(misses.what, misses.CONNECTIONS)
    told = [other for other in others if samples.has(busy, other)]
    for other in told:
        verdict = samples.compare(busy, misses.OURS, other)
        row = Row(
            f"misses/s, {busy}",
            per_s(samples.per_s(busy, misses.OURS)),
            other,
            per_s(samples.per_s(busy, other)),
            f"{verdict.by_rate:.2f}",
            f"{verdict.by_cpu:.2f}",
        )
        yield at_least(row, verdict.ratio, MISSES_TARGET if other == _JUDGED else None)
    for title, of in {"p50": samples.p50, "p99": samples.p99}.items():
        for other in told:
            ours, theirs = of(alone, misses.OURS), of(alone, other)
            ratio = f"{ours / theirs:.2f}"
            yield Row(f"{title} of a miss at {alone}", ms(ours), other, ms(theirs), ratio)
    for other in told:
        ours, theirs = samples.cpu_s(busy, misses.OURS), samples.cpu_s(busy, other)
        yield Row("CPU per miss", us(ours), other, us(theirs), f"{ours / theirs:.2f}")


def equal_row(calls: int) -> Row:
    row = Row(f"calls upstream for {misses.EQUAL} equal cold requests", f"{calls:,}")
    return at_most(row, calls, 1)


def flow_rows(results: Flows) -> Iterator[Row]:
    ours, direct = flows.PROXIED, flows.DIRECT
    added_ms = 1e3 * results.added_s(ours)
    first = Row("first chunk, added to direct", f"{added_ms:.3f} ms", direct)
    first = first._replace(other=ms(results.first_chunk_s(direct)))
    yield at_most(first, added_ms, FIRST_CHUNK_TARGET_MS, "ms")
    forwarded = f"{1e3 * results.added_s(flows.FORWARDED):.3f} ms"
    yield first._replace(than=flows.FORWARDED, other=forwarded)
    for other in (direct, flows.FORWARDED):
        ratio = results.ratio(ours) / (1.0 if other == direct else results.ratio(other))
        row = Row(
            "chunks/s of one stream",
            per_s(results.chunks_per_s(ours)),
            other,
            per_s(results.chunks_per_s(other)),
            f"{ratio:.2f}",
        )
        yield at_least(row, ratio, CHUNKS_TARGET if other == direct else None)
    if results.crowd is not None:
        row = Row("streams at a time, complete and right", f"{results.crowd.right:,}")
        row = row._replace(than="asked", other=f"{results.crowd.asked:,}")
        yield at_least(row, results.crowd.right, results.crowd.asked, "")
        yield Row("RSS for them", f"{results.crowd_mib:.0f} MiB")


def footprint_rows(taken: dict[str, Footprint]) -> Iterator[Row]:
    ours = taken[footprint.OURS]
    others = {whom: each for whom, each in taken.items() if each is not ours}
    for whom, theirs in others.items():
        yield at_most(
            Row("ready after", _s(ours.ready_s), whom, _s(theirs.ready_s)),
            median(ours.ready_s),
            READY_TARGET_S if whom == footprint.BARE else None,
            "s",
        )
    for whom, theirs in others.items():
        yield at_most(
            Row("RSS at start", _mib(ours.start_mib), whom, _mib(theirs.start_mib)),
            median(ours.start_mib),
            START_TARGET_MIB if whom == footprint.BARE else None,
            "MiB",
        )
    for whom, theirs in others.items():
        what = f"RSS per {footprint.CONNECTIONS:,} idle connections"
        yield Row(what, _mib(ours.idle_mib), whom, _mib(theirs.idle_mib))


def store_rows(results: Results) -> Iterator[Row]:
    """Lookups as a store fills up: the figure is that of the most entries."""
    for measured in results.measured:
        largest = measured.sizes[-1]
        filled = measured.filled[largest]
        title = f"{measured.store.title}, {measured.store.taken} per million entries"
        told = f"from {largest:,} of {filled.entry_bytes:,} B each"
        yield Row(title, f"{filled.bytes_each * 1e6 / 2**20:,.0f} MiB", told)
    for measured in results.measured:
        yield from _lookups(measured)


def _lookups(measured: Measured) -> Iterator[Row]:
    work = Work("lookup")
    least, largest = measured.sizes[0], measured.sizes[-1]
    by_time = measured.growth(work, lambda speed: 1 / speed.per_s)
    for size in measured.sizes[:-1]:
        row = Row(
            f"lookups/s in {measured.store.title}, {largest:,} entries",
            per_s(measured.per_s(work, largest)),
            f"{size:,} entries",
            per_s(measured.per_s(work, size)),
        )
        if size != least:
            yield row
            continue
        by_cpu = measured.growth(work, lambda speed: speed.cpu_s)
        row = row._replace(ratio=f"{by_time:.2f}", by_cpu=f"{by_cpu:.2f}")
        # How many times longer a lookup takes; neighbours on the core can flatter a rate.
        target = GROWTH_TARGET if measured.store.judged else None
        yield at_most(row, max(by_time, by_cpu), target, "x time")


def _s(values: list[float]) -> str:
    return f"{median(values):.2f} s"


def _mib(values: list[float]) -> str:
    return f"{median(values):.1f} MiB"
