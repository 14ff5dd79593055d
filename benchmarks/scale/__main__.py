"""`python -m benchmarks.scale`: print the tables of scale.md; with `--update`, put them there."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.scale import calls, demand, hit_ratio, leases, replicas
from benchmarks.scale.calls import Server
from benchmarks.scale.tables import Table, put_in_place
from benchmarks.servers import Cores, StartError, running
from benchmarks.stores import STORES, Missing, Place

PAGE = Path(__file__).parents[1] / "scale.md"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is simulated and measured; what is left out of a quick run are digits, no rows."""

    stream_requests: int = 100_000
    calls: int = 1_000
    requests: int = 1_000
    rate: float = 100.0  # a second
    equal_requests: int = 500
    upstream_s: float = 0.5
    log_reads: int = 500
    lease_seconds: float = 3.0
    purges: int = 3
    sums_seconds: float = 1.0


QUICK = Plan(
    stream_requests=2_000,
    calls=10,
    requests=50,
    rate=200.0,
    equal_requests=20,
    upstream_s=0.02,
    log_reads=10,
    lease_seconds=0.2,
    purges=1,
    sums_seconds=0.05,
)


async def tables(plan: Plan) -> AsyncIterator[Table]:
    """All tables of the page, as they come about."""
    for table in hit_ratio.tables(plan.stream_requests):
        yield table
    cores = Cores(None, None)
    with tempfile.TemporaryDirectory() as name, running(Path(name), cores) as started:
        place = Place(started, cores, Path(name))
        servers = [_server(place, title) for title in ("Redis", "Postgres")]
        async for table in _of_servers(plan, servers, Path(name)):
            yield table


async def _of_servers(plan: Plan, servers: list[Server], folder: Path) -> AsyncIterator[Table]:
    costs = [(server, await calls.measure(server, plan.calls)) for server in servers]
    yield calls.table(costs)
    counts = [
        (
            server,
            each,
            {
                mode: await demand.count(server, mode, plan.requests, plan.rate)
                for mode in demand.MODES
            },
        )
        for server, each in costs
    ]
    yield demand.counted_table(counts)
    _, _, by_mode = counts[0]
    yield demand.rates_table(by_mode["worker"].mix, costs)
    yield await replicas.equal_requests_table(servers[0], plan.equal_requests, plan.upstream_s)
    for table in replicas.tables(plan.stream_requests):
        yield table
    yield await leases.reads_table(folder, plan.log_reads)
    yield await leases.purges_table(costs, plan.lease_seconds, plan.purges)
    yield leases.workers_table({server.title: each for server, each in costs})
    yield await leases.sums_table(costs, plan.sums_seconds)


def _server(place: Place, title: str) -> Server:
    store = next(store for store in STORES if store.title == title)
    name = title.lower()
    return Server(title, store.make(place, name), place.folder / f"{name}.log")


async def _print(plan: Plan, *, update: bool) -> None:
    began = time.monotonic()
    made = []
    async for table in tables(plan):
        print(table.markdown(), flush=True)
        print(f"{time.monotonic() - began:4.0f} s  {table.title}", file=sys.stderr)
        made.append(table)
    if update:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(put_in_place(text, made), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few requests, rough figures")
    parser.add_argument("--update", action="store_true", help="put the tables into scale.md")
    said = parser.parse_args()
    if said.quick and said.update:
        parser.error("the page has no rough figures: --update without --quick")
    try:
        asyncio.run(_print(QUICK if said.quick else Plan(), update=said.update))
    except (Missing, StartError) as exc:
        sys.exit(f"benchmarks: {exc}")


if __name__ == "__main__":
    main()
