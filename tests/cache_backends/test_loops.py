"""A loop on a thread of its own: nobody waits for ever, nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from cache_backends.loops import LoopThread

PATIENCE_S = 5.0


async def thread_id() -> int:
    return threading.get_ident()


def gone(name: str) -> bool:
    """Has the thread ended, if it is given a moment?"""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if name not in {thread.name for thread in threading.enumerate()}:
            return True
        time.sleep(0.005)
    return False


def test_all_callers_share_one_thread() -> None:
    """It is not theirs, and it starts with the first of them."""
    loops = LoopThread("shared")
    assert not loops.started
    with ThreadPoolExecutor(4) as pool:
        threads = set(pool.map(lambda _: loops.call(thread_id()), range(20)))
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert loops.started
    loops.close()
    assert gone("shared")


def test_what_it_raises_is_raised_to_the_caller() -> None:
    """As if it had been awaited."""

    async def fail() -> None:
        raise LookupError("no")

    loops = LoopThread("failing")
    with pytest.raises(LookupError, match="no"):
        loops.call(fail())
    loops.close()


def test_who_waits_while_it_is_closed_does_not_wait_for_ever() -> None:
    """He hears that his call was cancelled."""
    loops, begun = LoopThread("closing"), threading.Event()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loops.call, wait())
        begun.wait(PATIENCE_S)
        loops.close()
        with pytest.raises(CancelledError):
            waiting.result(PATIENCE_S)
    assert gone("closing")


def test_calls_and_closings_may_come_at_once() -> None:
    """Each call is answered or cancelled; a closed one starts again when it is needed."""
    loops = LoopThread("hurried")

    def call(_: int) -> bool:
        try:
            return loops.call(thread_id()) > 0
        except CancelledError:
            return False

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(call, range(300), timeout=30)
        for _ in range(30):
            loops.close()
        list(answers)
    assert loops.call(thread_id()) > 0
    loops.close()
    assert gone("hurried")


async def test_it_can_be_waited_for_until_the_thread_has_ended() -> None:
    """What generators hold is let go by then."""
    loops, closed = LoopThread("awaited"), []

    async def held() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            closed.append(True)

    generator = held()

    async def begin() -> None:
        await anext(generator)

    await asyncio.to_thread(loops.call, begin())
    await loops.aclose()
    assert closed == [True]
    assert "awaited" not in {thread.name for thread in threading.enumerate()}
    await loops.aclose()


def test_a_thread_ends_with_an_owner_that_was_dropped() -> None:
    """Nobody closed it."""
    loops = LoopThread("dropped")
    loops.call(thread_id())
    del loops
    gc.collect()
    assert gone("dropped")
