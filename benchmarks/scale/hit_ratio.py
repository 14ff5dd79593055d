"""Tables of hit ratios: against the size of the cache, and against the policy."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, log

from benchmarks import entries
from benchmarks.scale.policies import POLICIES, Policy
from benchmarks.scale.tables import Table
from benchmarks.scale.traffic import SEED, Stream, streams
from cache_backends import MemoryCache
from cache_backends.base import Entry, Key

SPACES = (0.01, 0.03, 0.10, 0.30)  # of all that is asked for
MIXED_SPACE = 0.10
# Of entries of different sizes: half of them are smaller; one in six is e times as large or more.
MEDIAN_BYTES = 3_000
SPREAD = 1.0

MEMORY_MIB = (64, 256, 1024, 4096)
PROMPT_CHARS = {"short question": 600, "agent step": 20_000, "long document": 200_000}


def tables(requests: int) -> list[Table]:
    all_streams = streams(requests)
    return [_by_size(all_streams), _of_sizes(all_streams), _entries_in_memory()]


def _by_size(all_streams: Sequence[Stream]) -> Table:
    rows = []
    for stream in all_streams:
        sizes = dict.fromkeys(stream.questions, 1)
        most = _percent(1 - len(sizes) / len(stream.asked))
        for share in SPACES:
            ratios = _ratios(stream, sizes, share)
            rows.append([stream.title, f"{share:.0%}", *map(_percent, ratios), most])
    header = ["stream", "space", *POLICIES, "unbounded"]
    return Table("Hits in percent, by policy and space", header, rows, labels=2)


def _of_sizes(all_streams: Sequence[Stream]) -> Table:
    rows = []
    for stream in all_streams:
        draw = random.Random(SEED)
        sizes = {
            each: int(exp(draw.gauss(log(MEDIAN_BYTES), SPREAD))) + 1
            for each in dict.fromkeys(stream.questions)
        }
        rows.append([stream.title, *map(_percent, _ratios(stream, sizes, MIXED_SPACE))])
    title = f"Hits in percent with entries of different sizes, space for {MIXED_SPACE:.0%} of them"
    return Table(title, ["stream", *POLICIES], rows)


def _ratios(stream: Stream, sizes: Mapping[int, int], share: float) -> list[float]:
    space = max(1, int(share * sum(sizes.values())))
    questions = stream.questions
    return [ratio(make(space, questions), questions, sizes) for make in POLICIES.values()]


def ratio(policy: Policy, questions: Sequence[int], sizes: Mapping[int, int]) -> float:
    ask = policy.ask
    return sum(ask(each, sizes[each]) for each in questions) / len(questions)


def _entries_in_memory() -> Table:
    """Counted in the real cache, filled until it pushes out."""
    each = [_bytes_each(chars) for chars in PROMPT_CHARS.values()]
    rows = [
        ["bytes each", *(f"{size:,.0f}" for size in each)],
        *([f"{mib:,} MiB", *(f"{mib * 2**20 / size:,.0f}" for size in each)] for mib in MEMORY_MIB),
    ]
    header = ["memory_bytes", *(f"{what}, {chars:,}" for what, chars in PROMPT_CHARS.items())]
    return Table("Entries in memory, by characters of the prompt", header, rows)


def _bytes_each(chars: int) -> float:
    cache = MemoryCache(max_bytes=40 * (chars + 2_000))
    for number in range(10_000):
        cache.hold(_entry(number, chars))
        if cache.evictions:
            break
    held = sum(cache.peek(_entry(each, chars).key) is not None for each in range(number + 1))
    return 40 * (chars + 2_000) / held


def _entry(number: int, chars: int) -> Entry:
    made = entries.entry(number)
    prompt = made.key.prompt.ljust(chars, "x")
    return replace(made, key=Key.of(prompt, made.key.llm_string))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
