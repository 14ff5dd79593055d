"""A lane: one thread, and the jobs that wait for it. It takes all that wait and does them at once.

Callers come from any event loop, or from none. The answers of a round go back with one
wake-up for each loop.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple, Protocol, TypeVar

from cache_backends.base import CacheError

T = TypeVar("T")

# What a task is given is its crew's affair.
Task = Callable[[Any], Any]

# Jobs done in one round, and jobs that may wait. Beyond this the store is hopelessly behind.
ROUND = 500
MAX_WAITING = 20_000


class Crew(Protocol):
    """Who does the work, on the lane's thread."""

    def work(self, tasks: Sequence[Task]) -> list[Any]:
        """Do all tasks, or none and raise."""

    def idle(self) -> float | None:
        """Nothing came for a while. In how many seconds to say so again, if other than usual?"""

    def finish(self) -> None:
        """Let go of everything."""


class _Job(NamedTuple):
    task: Task | None  # None: this was the last one
    future: Future[Any] | asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop | None


class Lane:
    """Hands tasks to a crew on a thread of its own. The thread starts with the first task.

    It is a daemon: a program that forgets to close ends all the same. What was answered is done.
    """

    def __init__(self, name: str, crew: Crew, *, idle_after: float | None = None) -> None:
        self._name = name
        self._crew = crew
        self._idle_after = idle_after
        self._patience = idle_after
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._process = 0  # where the thread runs
        self._closing: Future[None] | None = None

    def call(self, task: Callable[[Any], T]) -> T:
        """Have the task done and wait for it, from code without an event loop."""
        future: Future[T] = Future()
        self._submit(_Job(task, future, None))
        return future.result()

    async def ask(self, task: Callable[[Any], T]) -> T:
        """Have the task done; the event loop goes on meanwhile."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._submit(_Job(task, future, loop))
        return await future

    def start(self) -> None:
        """Start the thread if there is none yet: for a crew that has something to do when idle."""
        with self._lock:
            if self._closing is None and self._thread is None:
                self._thread = self._start()

    def close(self) -> Future[None]:
        """Take no more tasks. Done when those before are done and the crew has finished."""
        with self._lock:
            if self._closing is None:
                self._closing = Future()
                if self._thread is None:
                    self._closing.set_result(None)
                else:
                    self._jobs.put(_Job(None, self._closing, None))
            return self._closing

    def _submit(self, job: _Job) -> None:
        # Locked, so that nothing can be put behind the last job, where nobody would answer it.
        with self._lock:
            if self._closing is not None:
                raise CacheError(f"{self._name} is closed")
            if self._jobs.qsize() >= MAX_WAITING:
                raise CacheError(f"{self._name} does not keep up: {MAX_WAITING} jobs wait")
            if self._thread is None:
                self._thread = self._start()
            elif os.getpid() != self._process:
                raise CacheError(f"{self._name} did not survive a fork: open one in each process")
            self._jobs.put(job)

    def _start(self) -> Thread:
        self._process = os.getpid()
        thread = Thread(target=self._run, name=self._name, daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        while self._round():
            pass

    def _round(self) -> bool:
        """Do what waits; `False` after the last job. Answers are let go of when it returns."""
        jobs = self._take()
        if not jobs:
            again_after = self._crew.idle()
            self._patience = self._idle_after if again_after is None else again_after
            return True
        self._patience = self._idle_after
        last = jobs.pop() if jobs[-1].task is None else None
        if jobs:
            self._do(jobs)
        if last is None:
            return True
        self._crew.finish()
        last.future.set_result(None)
        return False

    def _take(self) -> list[_Job]:
        jobs: list[_Job] = []
        with suppress(Empty):
            jobs.append(self._jobs.get(timeout=self._patience))
            while jobs[-1].task is not None and len(jobs) < ROUND:
                jobs.append(self._jobs.get_nowait())
        return jobs

    def _do(self, jobs: list[_Job]) -> None:
        tasks = [job.task for job in jobs if job.task is not None]
        try:
            results = self._crew.work(tasks)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it belongs to those who wait
            _settle(jobs, [None] * len(jobs), exc)
        else:
            _settle(jobs, results, None)


def _settle(jobs: list[_Job], results: list[Any], error: Exception | None) -> None:
    by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[_Job, Any]]] = defaultdict(list)
    for job, result in zip(jobs, results, strict=True):
        by_loop[job.loop].append((job, result))
    for loop, settled in by_loop.items():
        if loop is None:
            _answer(settled, error)
            continue
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(_answer, settled, error)


def _answer(settled: list[tuple[_Job, Any]], error: Exception | None) -> None:
    for job, result in settled:
        if job.future.done():  # whoever asked was cancelled
            continue
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)
