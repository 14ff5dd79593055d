"""The table's rows about hits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.hits import (
    ALONE,
    BARE,
    FEWER,
    LANELESS,
    LARGE,
    MANY,
    NGINX,
    OURS,
    PLAIN,
    SDK,
    STREAM,
)
from benchmarks.rows import Row, at_least, at_most, ms, per_s, us
from benchmarks.samples import Samples

# How many times as many hits as another's.
TARGETS = {
    (PLAIN.what, OURS, NGINX): 1.5,
    (PLAIN.what, OURS, BARE): 3.0,
    (PLAIN.what, LANELESS, BARE): 0.7,
    (SDK.what, OURS, NGINX): 1.5,
    (SDK.what, OURS, BARE): 3.0,
    (SDK.what, LANELESS, BARE): 0.7,
    (LARGE.what, OURS, NGINX): 5.0,
    (LARGE.what, OURS, BARE): 3.0,
    (STREAM.what, OURS, NGINX): 1.4,
    (STREAM.what, OURS, BARE): 1.4,
    (MANY.what, OURS, NGINX): 1.2,
}
# Times as long as nginx takes.
LATENCY_TARGET = 1.0
CPU_TARGET_US = 10.0

Of = Callable[[str, str], float]


def hit_rows(samples: Samples) -> Iterator[Row]:
    for workload in (PLAIN, SDK, LARGE, STREAM, MANY, FEWER):
        for whom in (OURS, LANELESS):
            yield from _rates(samples, workload.what, whom)
    for whom in (OURS, LANELESS):
        yield from _times(samples, f"p50 at {ALONE.connections} connection", whom, samples.p50)
        yield from _times(samples, f"p99 at {ALONE.connections} connection", whom, samples.p99)
    for whom in (OURS, LANELESS):
        yield from _cpu(samples, PLAIN.what, whom)


def _others(samples: Samples, what: str, whom: str) -> list[str]:
    if not samples.has(what, whom):
        return []
    return [other for other in (NGINX, BARE) if samples.has(what, other)]


def _rates(samples: Samples, what: str, whom: str) -> Iterator[Row]:
    for other in _others(samples, what, whom):
        verdict = samples.compare(what, whom, other)
        row = Row(
            f"hits/s, {what}{_of(whom)}",
            per_s(samples.per_s(what, whom)),
            other,
            per_s(samples.per_s(what, other)),
            f"{verdict.by_rate:.2f}",
            f"{verdict.by_cpu:.2f}",
        )
        row = at_least(row, verdict.ratio, TARGETS.get((what, whom, other)))
        yield row._replace(mark=f"{row.mark} (load full: by cpu)") if verdict.full else row


def _times(samples: Samples, title: str, whom: str, of: Of) -> Iterator[Row]:
    for other in _others(samples, ALONE.what, whom):
        ours, theirs = of(ALONE.what, whom), of(ALONE.what, other)
        row = Row(f"{title}{_of(whom)}", ms(ours), other, ms(theirs), f"{ours / theirs:.2f}")
        target = LATENCY_TARGET if other == NGINX and whom == OURS else None
        yield at_most(row, ours / theirs, target, "x")


def _cpu(samples: Samples, what: str, whom: str) -> Iterator[Row]:
    for number, other in enumerate(_others(samples, what, whom)):
        ours, theirs = samples.cpu_s(what, whom), samples.cpu_s(what, other)
        row = Row(f"CPU per hit{_of(whom)}", us(ours), other, us(theirs), f"{ours / theirs:.2f}")
        target = CPU_TARGET_US if whom == OURS and number == 0 else None
        yield at_most(row, ours * 1e6, target, "us")


def _of(whom: str) -> str:
    return "" if whom == OURS else f" ({whom.partition(', ')[2]})"
