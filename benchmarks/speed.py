"""What the one table is made of: its parts, how much is measured for each, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks import hits, rows
from benchmarks.hit_rows import hit_rows
from benchmarks.rows import Row
from benchmarks.samples import Samples
from benchmarks.servers import Servers

# Less of the core than this, and the rates tell of other work on the machine.
_UNDISTURBED = 0.9

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    hit_s: int = 1


QUICK = Plan(rounds=1)


@dataclass(slots=True)
class Table:
    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    disturbed: float = 1.0

    def remarks(self) -> Iterator[str]:
        """What the reader has to know."""
        judged = sum(bool(row.target) for row in self.rows)
        if judged:
            yield f"{judged - rows.short(self.rows)} of {judged} targets are reached."
        if self.disturbed < _UNDISTURBED:
            yield (
                f"The servers got only {self.disturbed:.0%} of their core: rates tell of other"
                " work on the machine, so go by the processor time."
            )
        yield from (f"Not measured: {missing}" for missing in self.missing)


def _hits(servers: Servers, plan: Plan, table: Table, say: Say) -> None:
    samples = Samples()
    table.missing += hits.measure(servers, plan.rounds, plan.hit_s, samples, say)
    table.rows += hit_rows(samples)
    table.disturbed = min(table.disturbed, samples.disturbed())


PARTS: dict[str, Callable[[Servers, Plan, Table, Say], None]] = {"hits": _hits}
