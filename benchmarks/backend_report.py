"""The tables about backends, and about the codec that they share."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from benchmarks.backends import Measured, Results
from benchmarks.codec import Codec
from benchmarks.columns import aligned
from benchmarks.stores import Work
from benchmarks.worker import HOT

GROWTH_TARGET = 1.5
CODEC_TARGET = 20.0


class Line(NamedTuple):
    what: str
    entries: str = ""
    tasks: str = ""
    rate: str = ""
    p50: str = ""
    p99: str = ""
    cpu: str = ""
    ratio: str = ""
    by_cpu: str = ""
    target: str = ""
    mark: str = ""


class Size(NamedTuple):
    what: str
    entries: str = ""
    each: str = ""
    ratio: str = ""
    filling: str = ""
    mark: str = ""


class Call(NamedTuple):
    what: str
    each: str = ""
    ratio: str = ""
    target: str = ""
    mark: str = ""


def tables(results: Results) -> str:
    """All results as text."""
    head = Line(
        *("", "entries", "tasks", "per second", "p50 us", "p99 us", "cpu us"),
        *("ratio", "by cpu", "target", ""),
    )
    lines = [head]
    for measured in results.measured:
        lines += [*_speeds(measured), Line("")]
    sizes = [Size("", "entries", "bytes each", "ratio", "filled in", ""), *_sizes(results)]
    parts = [aligned(lines), aligned(sizes)]
    if results.codec is not None:
        calls = [Call("", "us", "ratio", "target", ""), *_calls(results.codec)]
        parts += ["", aligned(calls)]
    return "\n".join([*parts, *_remarks(results)])


def _speeds(measured: Measured) -> Iterator[Line]:
    for work in measured.store.lookups + measured.store.storing:
        for size in measured.sizes:
            speeds = measured.speeds[work, size]
            line = Line(
                _what(work, measured),
                f"{size:,}",
                str(work.tasks),
                f"{measured.per_s(work, size):,.0f}",
                _us(median(speed.p50 for speed in speeds)),
                _us(median(speed.p99 for speed in speeds)),
                _us(median(speed.cpu_s for speed in speeds)),
            )
            yield line if size < measured.sizes[-1] else _judged(line, work, measured)


def _what(work: Work, measured: Measured) -> str:
    title = measured.store.title
    if work.what != "hot":
        return f"{work.what} in {title}"
    if title == "memory":
        return f"lookup in memory, {HOT} in turn"
    return f"lookup in memory before {title}"


def _judged(line: Line, work: Work, measured: Measured) -> Line:
    """The last line tells how the store bears its size."""
    by_time = measured.growth(work, lambda speed: 1 / speed.per_s)
    by_cpu = measured.growth(work, lambda speed: speed.cpu_s)
    line = line._replace(ratio=f"{by_time:.2f}", by_cpu=f"{by_cpu:.2f}")
    if work.what != "lookup" or not measured.store.judged:
        return line
    # Neighbours on the core can spoil a rate, and waiting costs no processor time.
    met = max(by_time, by_cpu) < GROWTH_TARGET
    return line._replace(target=f"< {GROWTH_TARGET}", mark=_mark(met))


def _sizes(results: Results) -> Iterator[Size]:
    for measured in results.measured:
        size = measured.sizes[-1]
        filled = measured.filled[size]
        yield Size(
            f"an entry in {measured.store.title} ({measured.store.taken})",
            f"{size:,}",
            f"{filled.bytes_each:,.0f}",
            f"{filled.bytes_each / filled.entry_bytes:.2f}",
            f"{filled.seconds:.0f} s",
        )


def _calls(codec: Codec) -> Iterator[Call]:
    yield Call("encode + decode of one choice", _us(median(codec.ours)))
    if codec.theirs:
        faster = codec.times_faster
        target, mark = f">= {CODEC_TARGET:.0f}", _mark(faster >= CODEC_TARGET)
        them = "langchain-core's dumps + loads"
        yield Call(them, _us(median(codec.theirs)), f"{faster:.1f}", target, mark)


def _remarks(results: Results) -> Iterator[str]:
    yield (
        "\nratio and by cpu: how many times longer it takes with the most entries than with the"
        " fewest; cpu us is the client's alone."
    )
    for measured in results.measured[:1]:
        entry_bytes = measured.filled[measured.sizes[-1]].entry_bytes
        yield f"An entry is {entry_bytes:,} bytes of prompt, llm_string and answer."
    if results.codec is not None and not results.codec.theirs:
        yield "Not measured: langchain-core, which is not installed; `make bench` has it in .venv."
    yield from (f"Not measured: {missing}" for missing in results.missing)


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:,.1f}"


def _mark(met: bool) -> str:
    return "pass" if met else "short"
