"""Waiting that ends in time."""

from __future__ import annotations

import asyncio

import pytest

from proxy.patience import within


async def test_what_is_done_in_time_is_given() -> None:
    """And nothing is left that could interrupt what follows."""

    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await within(0.01, work()) == 7
    await asyncio.sleep(0.03)


async def test_what_takes_too_long_is_given_up() -> None:
    """The task itself goes on, as if it had never been cancelled."""
    with pytest.raises(TimeoutError):
        await within(0.01, asyncio.Event().wait())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_goes_on() -> None:
    """Whoever cancels the task is not told of time."""
    task = asyncio.create_task(within(5, asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_outer_limit_is_not_taken_for_an_inner_one() -> None:
    """Both run out one after the other; the inner one leaves the outer alone."""
    limit = asyncio.timeout(0.01)

    async def both() -> None:
        async with limit:
            await within(5, asyncio.Event().wait())

    with pytest.raises(TimeoutError):
        await both()
    assert limit.expired()


async def test_work_that_does_not_give_up_may_end() -> None:
    """What it brings late is given, and the cancellation is forgotten."""

    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "late"
        return ""

    assert await within(0.01, stubborn()) == "late"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
