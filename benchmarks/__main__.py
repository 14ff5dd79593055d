"""`python -m benchmarks`: measure the proxy beside nginx and bare servers, in one run."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks import backend_report, backends, rows, speed
from benchmarks.load import UnexpectedError
from benchmarks.servers import Cores, StartError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter rounds, rougher figures")
    parser.add_argument(
        "--only",
        choices=[*speed.PARTS, "backends"],
        action="append",
        help="these rows of the table; or, in tables of their own, all backends",
    )
    said = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("The load generator needs epoll: run the benchmark on Linux.")
    cores = Cores.found()
    print(_where(cores), file=sys.stderr)
    parts = said.only or list(speed.PARTS)
    try:
        if names := [name for name in parts if name in speed.PARTS]:
            print(_table(names, said.quick, cores))
        if "backends" in parts:
            print(_backends(said.quick, cores))
    except (StartError, UnexpectedError) as exc:
        sys.exit(f"benchmarks: {exc}")


def _table(names: Sequence[str], quick: bool, cores: Cores) -> str:
    table = speed.Table()
    say = _clock()
    for name in names:
        speed.PARTS[name](cores, speed.QUICK if quick else speed.Plan(), table, say)
    say("done")
    return "\n".join([rows.text(table.rows), "", *table.remarks()])


def _backends(quick: bool, cores: Cores) -> str:
    say = _clock()
    results = backends.measure(cores, backends.QUICK if quick else backends.Plan(), say)
    say("done")
    return backend_report.tables(results)


def _clock() -> Callable[[str], None]:
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s  {what}", file=sys.stderr)

    return say


def _where(cores: Cores) -> str:
    python = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    if cores.server is None or cores.load is None:
        return f"{python}; with one core, or without affinity, nothing is pinned: rough figures."
    return f"{python}; servers on core {cores.server}, load and provider on core {cores.load}."


if __name__ == "__main__":
    main()
