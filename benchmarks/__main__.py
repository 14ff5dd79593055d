"""`python -m benchmarks`: measure the proxy against bare servers and print one table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import rounds
from benchmarks.load import UnexpectedError
from benchmarks.report import table
from benchmarks.servers import Cores, StartError, running


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter rounds, rougher figures")
    plan = rounds.QUICK if parser.parse_args().quick else rounds.Plan()
    if not sys.platform.startswith("linux"):
        sys.exit("The load generator needs epoll: run the benchmark on Linux.")
    cores = Cores.found()
    print(_where(cores), file=sys.stderr)
    try:
        results = _measured(plan, cores)
    except (StartError, UnexpectedError) as exc:
        sys.exit(f"benchmarks: {exc}")
    print(table(results))


def _measured(plan: rounds.Plan, cores: Cores) -> rounds.Results:
    began = time.monotonic()
    results = rounds.Results()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s  {what}", file=sys.stderr)

    if cores.load is not None:
        os.sched_setaffinity(0, {cores.load})
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), cores) as servers:
        provider = servers.provider()
        rounds.hits(servers, provider, plan, results, say)
        rounds.misses(servers, provider, plan, results, say)
        rounds.streamed(servers, provider, plan, results, say)
    say("done")
    return results


def _where(cores: Cores) -> str:
    python = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    if cores.server is None or cores.load is None:
        return f"{python}; with one core, or without affinity, nothing is pinned: rough figures."
    return f"{python}; servers on core {cores.server}, load and provider on core {cores.load}."


if __name__ == "__main__":
    main()
