"""What the one table is made of: its parts, how much is measured for each, and what it tells."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import backends, flows, footprint, hits, misses, other_rows, rows
from benchmarks.hit_rows import hit_rows
from benchmarks.rows import Row
from benchmarks.samples import Samples
from benchmarks.servers import Cores, Servers, Started, on, running
from benchmarks.stores import STORES, Work

# Less of the core than this, and the rates tell of other work on the machine.
_UNDISTURBED = 0.9
# The others need servers: `--only backends` measures them too.
_STORES = ("a bare dict", "memory", "SQLite")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    hits: hits.Plan = field(default_factory=hits.Plan)
    miss_s: float = 1.0
    footprints: int = 3
    flows: flows.Plan = field(default_factory=flows.Plan)
    stores: backends.Plan = field(default_factory=partial(backends.Plan, codec_rounds=0))


QUICK = Plan(
    rounds=1,
    hits=hits.Plan(rounds=1, workloads=hits.QUICK),
    miss_s=0.5,
    footprints=1,
    flows=flows.QUICK,
    stores=backends.Plan(sizes=(1_000, 20_000), rounds=3, seconds=0.08, codec_rounds=0),
)


@dataclass(slots=True)
class Table:
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    disturbed: float = 1.0

    def remarks(self) -> Iterator[str]:
        """What the reader has to know."""
        judged = sum(bool(row.target) for row in self.rows)
        if judged:
            reached = judged - rows.short(self.rows)
            yield f"{reached} of {judged} targets are reached; of rate and CPU the worse counts."
        if self.disturbed < _UNDISTURBED:
            yield (
                f"The servers got only {self.disturbed:.0%} of their core: rates tell of other"
                " work on the machine, so go by the processor time."
            )
        yield from dict.fromkeys(self.notes)


def _hits(cores: Cores, plan: Plan, table: Table, say: Say) -> None:
    samples = Samples()
    with _provided(cores) as (servers, provider):
        table.notes += hits.measure(servers, provider, plan.hits, samples, say)
    table.rows += hit_rows(samples)
    table.disturbed = min(table.disturbed, samples.disturbed())


def _misses(cores: Cores, plan: Plan, table: Table, say: Say) -> None:
    samples = Samples()
    with _provided(cores) as (servers, provider):
        table.notes += misses.measure(servers, provider, plan.rounds, plan.miss_s, samples, say)
        calls = misses.calls_for_equal(servers, provider, plan.rounds, say)
    table.rows += [*other_rows.miss_rows(samples), other_rows.equal_row(calls)]
    table.disturbed = min(table.disturbed, samples.disturbed())


def _streams(cores: Cores, plan: Plan, table: Table, say: Say) -> None:
    with _provided(cores) as (servers, provider):
        table.rows += other_rows.flow_rows(flows.measure(servers, provider, plan.flows, say))


def _memory(cores: Cores, plan: Plan, table: Table, say: Say) -> None:
    with _provided(cores) as (servers, provider):
        taken = footprint.measure(servers, provider, plan.footprints, say)
    table.rows += other_rows.footprint_rows(taken)


def _lookups(cores: Cores, plan: Plan, table: Table, say: Say) -> None:
    stores = [
        store._replace(lookups=(Work("lookup"),), storing=())
        for store in STORES
        if store.title in _STORES
    ]
    results = backends.measure(cores, plan.stores, say, stores)
    table.rows += other_rows.store_rows(results)
    table.notes += [f"Not measured: {missing}" for missing in results.missing]


Part = Callable[[Cores, Plan, Table, Say], None]

PARTS: dict[str, Part] = {
    "hits": _hits,
    "misses": _misses,
    "streams": _streams,
    "memory": _memory,
    "lookups": _lookups,
}


@contextmanager
def _provided(cores: Cores) -> Iterator[tuple[Servers, Started]]:
    """Where servers are started, and a provider for them; those of other parts are gone."""
    with (
        on(cores.load),
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), cores) as servers,
    ):
        yield servers, servers.provider()
