"""An event loop on a thread of its own, for callers of async code who have none."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine, Sequence
from threading import Lock, Thread
from typing import Any, TypeVar

from cache_backends.base import BaseCache, Generation

T = TypeVar("T")

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
        self._thread: Thread | None = None

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it to its end, and give what it returns or raises.

        `concurrent.futures.CancelledError` if the thread is closed meanwhile.
        """
        # Within the lock: what comes after the order to stop would wait for ever.
        with self._lock:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._started())
        return future.result()

    @property
    def started(self) -> bool:
        return self._loop is not None

    def close(self) -> None:
        """Cancel what runs and let the thread end; it may take a moment."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                self._ending()

    async def aclose(self) -> None:
        """The same, and wait for the end; not from within the thread."""
        self.close()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = Thread(target=_run, args=(self._loop,), name=self._name, daemon=True)
            self._thread.start()
            # Called once, by whoever is first: the loop has something to do in its last second.
            self._ending = weakref.finalize(self, _stop, self._loop)
        return self._loop


class SyncCalls(BaseCache):
    """LangChain's sync methods for a cache whose async ones are native, on a thread of its own."""

    _thread: LoopThread

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return self._thread.call(self.alookup(prompt, llm_string))

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self._thread.call(self.aupdate(prompt, llm_string, return_val))

    def clear(self, **kwargs: Any) -> None:
        self._thread.call(self.aclear(**kwargs))


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.run_until_complete(_end(loop))
    loop.close()


async def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Let finish what is under way, cancel the rest, and tell those who wait for the end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=END_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    await loop.shutdown_asyncgens()


def _stop(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
