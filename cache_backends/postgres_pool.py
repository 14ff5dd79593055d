"""The sessions of one event loop: lent, waited for, replaced when they break."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from threading import Lock
from typing import Any, TypeVar

from cache_backends.base import CacheError
from cache_backends.postgres_session import Session

T = TypeVar("T")

CLOSED = "the cache is closed"

Work = Callable[[Session], Awaitable[T]]


class Pools:
    """A pool for each event loop, made when it is first needed; it goes with its loop."""

    def __init__(self, connect: Callable[[], Awaitable[Session]], size: int) -> None:
        self._connect = connect
        self._size = size
        # Not by weak references: a pool knows its loop, so that neither would ever go.
        self._by_loop: dict[asyncio.AbstractEventLoop, Pool] = {}
        self._lock = Lock()
        self._closed = False

    async def here(self) -> Pool:
        """The pool of the running loop."""
        loop = asyncio.get_running_loop()
        pool = self._by_loop.get(loop)
        if pool is not None:
            return pool
        with self._lock:
            if self._closed:
                raise CacheError(CLOSED)
            for ended in [each for each in self._by_loop if each.is_closed()]:
                del self._by_loop[ended]
            pool = self._by_loop[loop] = Pool(self._connect, self._size)
        await pool.start()
        return pool

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done in the running loop, unless all is closed before."""
        pool = self._by_loop.get(asyncio.get_running_loop())
        if pool is None:
            work.close()
        else:
            pool.in_background(work)

    async def close(self) -> None:
        """Close the pool of the running loop, and have the others closed by theirs."""
        pool = self._by_loop.pop(asyncio.get_running_loop(), None)
        self.close_soon()
        if pool is not None:
            await pool.close()

    def close_soon(self) -> None:
        """Have all pools closed by their loops; from any thread."""
        with self._lock:
            self._closed = True
            pools = list(self._by_loop.items())
        for loop, pool in pools:
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(pool.close_soon)


class Pool:
    """At most `size` sessions, made by `connect` when somebody waits for one.

    Whoever is cancelled leaves at once, but the work goes on to its end, so that no session is
    given to the next one in the middle of a reply. After any error a session is closed. A session
    is made in the background: a slow connect costs those who wait their time, not the session.
    """

    def __init__(self, connect: Callable[[], Awaitable[Session]], size: int) -> None:
        self._connect = connect
        self._size = size
        self._loop = asyncio.get_running_loop()
        self._idle: list[Session] = []
        self._waiting: deque[asyncio.Future[Session]] = deque()
        self._open: set[Session] = set()
        self._opening = 0
        self._working: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._farewells: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._farewell = _at_the_end_of_the_loop(self)

    async def start(self) -> None:
        await anext(self._farewell)

    async def run(self, work: Work[T], seconds: float) -> T:
        """Have it done within so many seconds, waiting for a session included."""
        if self._closed:
            raise CacheError(CLOSED)
        deadline = self._loop.time() + seconds
        session = self._unused() or await self._wait(deadline)
        return await asyncio.shield(_begin(self._work(session, work, deadline), self._working))

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Have it done unless the pool is closed before."""
        if self._closed:
            work.close()
        else:
            _begin(work, self._background)

    def close_soon(self) -> None:
        _begin(self.close(), self._farewells)

    async def close(self) -> None:
        """Finish what is under way and close all sessions. Done when it returns, also twice."""
        self._closed = True
        self._fail_all(CacheError(CLOSED))
        for task in self._background:
            task.cancel()
        while tasks := self._background | self._working:
            await asyncio.wait(tasks)
        # Also those whose work was cancelled before it began.
        while self._open:
            await self._open.pop().close()

    async def _work(self, session: Session, work: Work[T], deadline: float) -> T:
        began = self._loop.time()
        try:
            async with asyncio.timeout_at(deadline):
                result = await work(session)
        except BaseException as exc:
            self._discard(session)
            if isinstance(exc, TimeoutError):
                self._discard_unused_since(began)
            raise
        self._give(session)
        return result

    def _unused(self) -> Session | None:
        while self._idle:
            session = self._idle.pop()
            if not session.closed:
                return session
            self._discard(session)
        return None

    async def _wait(self, deadline: float) -> Session:
        future: asyncio.Future[Session] = self._loop.create_future()
        self._waiting.append(future)
        self._open_one()
        try:
            async with asyncio.timeout_at(deadline):
                return await future
        except BaseException:
            with suppress(ValueError):  # it was given a session, or an error
                self._waiting.remove(future)
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give(future.result())
            raise

    def _give(self, session: Session) -> None:
        if self._closed or session.closed:
            self._discard(session)
            return
        session.used_at = self._loop.time()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(session)
                return
        self._idle.append(session)

    def _discard(self, session: Session) -> None:
        self._open.discard(session)
        _begin(session.close(), self._working)
        self._open_one()

    def _discard_unused_since(self, then: float) -> None:
        # Where one connection has died without a word, those that lay idle may have too.
        old = [session for session in self._idle if session.used_at < then]
        self._idle = [session for session in self._idle if session.used_at >= then]
        for session in old:
            self._discard(session)

    def _open_one(self) -> None:
        # For everyone who waits one, as those that are being opened may never be.
        if self._waiting and not self._closed and len(self._open) + self._opening < self._size:
            self._opening += 1
            self.in_background(self._add())

    async def _add(self) -> None:
        try:
            session = await self._connect()
        except BaseException as exc:
            self._opening -= 1
            if not self._open and not self._opening:
                # None is there that could serve them.
                self._fail_all(exc if isinstance(exc, Exception) else CacheError(CLOSED))
            if not isinstance(exc, Exception):
                raise
        else:
            self._opening -= 1
            self._open.add(session)
            self._give(session)

    def _fail_all(self, exc: Exception) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(exc)


async def _at_the_end_of_the_loop(pool: Pool) -> AsyncGenerator[None, None]:
    """Close the pool when its loop ends (`asyncio.run` closes generators that were begun), or when
    nobody knows the pool any more."""
    try:
        yield
    finally:
        await pool.close()


def _begin(work: Coroutine[Any, Any, T], tasks: set[asyncio.Task[Any]]) -> asyncio.Task[T]:
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)

    def end(done: asyncio.Task[T]) -> None:
        tasks.discard(done)
        if not done.cancelled():
            done.exception()  # nobody may be there any more to hear of it

    task.add_done_callback(end)
    return task
