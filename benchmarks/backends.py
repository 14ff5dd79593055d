"""The measurements of backends: a worker for each size, asked in turn, round by round."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import codec
from benchmarks.load import UnexpectedError
from benchmarks.servers import ROOT, Cores, clean_environment, running
from benchmarks.stores import STORES, Missing, Place, Store, Work
from benchmarks.worker import Filled, Speed

# What an entry may take, in memory and on disk, with the log of a file that is being filled.
_ROOM_BYTES = 6_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    sizes: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    rounds: int = 5
    seconds: float = 0.3
    codec_rounds: int = 21


QUICK = Plan(sizes=(1_000, 20_000), rounds=3, seconds=0.08, codec_rounds=7)


@dataclass(slots=True)
class Measured:
    """One kind of store."""

    store: Store
    sizes: list[int]
    filled: dict[int, Filled] = field(default_factory=dict)
    speeds: dict[tuple[Work, int], list[Speed]] = field(default_factory=lambda: defaultdict(list))

    def per_s(self, work: Work, size: int) -> float:
        return median(speed.per_s for speed in self.speeds[work, size])

    def growth(self, work: Work, of: Callable[[Speed], float]) -> float:
        """How many times longer it takes with the most entries than with the fewest."""
        few, many = self.speeds[work, self.sizes[0]], self.speeds[work, self.sizes[-1]]
        return median(of(more) / of(less) for less, more in zip(few, many, strict=True))


@dataclass(slots=True)
class Results:
    measured: list[Measured] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    codec: codec.Codec | None = None


Say = Callable[[str], None]


def measure(cores: Cores, plan: Plan, say: Say, stores: Sequence[Store] = STORES) -> Results:
    results = Results()
    say("codec")
    results.codec = codec.measure(plan.codec_rounds)
    for store in stores:
        sizes = [size for size in plan.sizes if size <= store.most]
        fitting = [size for size in sizes if _there_is_room(size)]
        if fitting != sizes:
            left_out = " and ".join(f"{size:,}" for size in sizes[len(fitting) :])
            results.missing.append(f"{store.title} with {left_out}: too little memory or disk")
        try:
            results.measured.append(_measured(Measured(store, fitting), cores, plan, say))
        except Missing as missing:
            results.missing.append(f"{store.title}: {missing}")
    return results


def _measured(measured: Measured, cores: Cores, plan: Plan, say: Say) -> Measured:
    title = measured.store.title
    with _place(cores) as place, ExitStack() as stack:
        workers = {}
        for size in measured.sizes:
            say(f"{title}, filling {size:,}")
            url = measured.store.make(place, f"{title.lower()}-{size}")
            worker = workers[size] = stack.enter_context(Worker(url, size, cores))
            measured.filled[size] = worker.filled
        # What is stored pushes out of memory what would be looked up later.
        for works in filter(None, (measured.store.lookups, measured.store.storing)):
            for number in range(plan.rounds):
                say(f"{title}, {works[0].what}, round {number + 1} of {plan.rounds}")
                for work in works:
                    for size, worker in workers.items():
                        measured.speeds[work, size].append(worker.tell(work, plan.seconds))
    return measured


class Worker:
    """A process with a cache of its own, filled when this is entered."""

    def __init__(self, url: str, size: int, cores: Cores) -> None:
        core = [] if cores.server is None else [str(cores.server)]
        self._url = url
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", url, str(size), *core],
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Worker:
        try:
            self.filled = Filled(*self._heard())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        # It ends when it is told no more.
        self._process.communicate()

    def tell(self, work: Work, seconds: float) -> Speed:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([*work, seconds]) + "\n")
        self._process.stdin.flush()
        return Speed(*self._heard())

    def _heard(self) -> list[Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UnexpectedError(f"the worker of {self._url} has ended")
        told: list[Any] = json.loads(line)
        return told


@contextmanager
def _place(cores: Cores) -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), cores) as servers:
        yield Place(servers, cores, Path(folder))


def _there_is_room(size: int) -> bool:
    told = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(line.split()[1] for line in told if line.startswith("MemAvailable"))
    free = min(int(available) * 1024, shutil.disk_usage(tempfile.gettempdir()).free)
    return size * _ROOM_BYTES < free
