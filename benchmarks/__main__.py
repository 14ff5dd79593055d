"""`python -m benchmarks`: measure the proxy beside bare servers, and backends as they fill up."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import backend_report, backends, report, rounds
from benchmarks.load import UnexpectedError
from benchmarks.servers import Cores, StartError, running


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter rounds, rougher figures")
    parser.add_argument("--only", choices=_PARTS, help="one of the two tables")
    said = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("The load generator needs epoll: run the benchmark on Linux.")
    cores = Cores.found()
    print(_where(cores), file=sys.stderr)
    parts = _PARTS if said.only is None else {said.only: _PARTS[said.only]}
    try:
        for table_of in parts.values():
            print(table_of(said.quick, cores), end="\n\n", flush=True)
    except (StartError, UnexpectedError) as exc:
        sys.exit(f"benchmarks: {exc}")


def _proxy(quick: bool, cores: Cores) -> str:
    plan = rounds.QUICK if quick else rounds.Plan()
    results = rounds.Results()
    say = _clock()
    with (
        _on(cores.load),
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), cores) as servers,
    ):
        provider = servers.provider()
        rounds.hits(servers, provider, plan, results, say)
        rounds.misses(servers, provider, plan, results, say)
        rounds.streamed(servers, provider, plan, results, say)
    say("done")
    return report.table(results)


def _backends(quick: bool, cores: Cores) -> str:
    say = _clock()
    results = backends.measure(cores, backends.QUICK if quick else backends.Plan(), say)
    say("done")
    return backend_report.tables(results)


_PARTS = {"proxy": _proxy, "backends": _backends}


def _clock() -> Callable[[str], None]:
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s  {what}", file=sys.stderr)

    return say


@contextmanager
def _on(core: int | None) -> Iterator[None]:
    """Run on this core alone meanwhile."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _where(cores: Cores) -> str:
    python = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    if cores.server is None or cores.load is None:
        return f"{python}; with one core, or without affinity, nothing is pinned: rough figures."
    return f"{python}; servers on core {cores.server}, load and provider on core {cores.load}."


if __name__ == "__main__":
    main()
