"""An event loop on a thread of its own, for callers of async code who have none."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine
from threading import Lock, Thread
from typing import Any, TypeVar

T = TypeVar("T")

FINISH_S = 1.0

# What is still under way when the thread is to end has this long to finish.
END_S = 1.0


class LoopThread:
    """Runs coroutines for callers from any thread, also from within another running loop.

    The thread starts with the first of them. It is a daemon, and ends also when its owner was
    dropped without being closed.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it to its end, and give what it returns or raises."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._started()).result()

    @property
    def started(self) -> bool:
        return self._loop is not None

    def close(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            self._ending()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                Thread(target=_run, args=(self._loop,), name=self._name, daemon=True).start()
                # Called once, by whoever is first: the loop has something to do in its last second.
                self._ending = weakref.finalize(self, _stop, self._loop)
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(_finish(loop))
    loop.close()


async def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """What ends with its loop, connections above all, may need a moment for that."""
    await loop.shutdown_asyncgens()
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others, timeout=FINISH_S)


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
