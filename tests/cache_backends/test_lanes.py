"""Lanes: one thread that takes all that waits."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cache_backends import CacheError, lanes
from cache_backends.lanes import Lane


class Crew:
    """Does tasks when `gate` is open, and tells how many it got at once."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.was_idle = threading.Event()
        self.idle_again_after: float | None = None
        self.rounds: list[int] = []
        self.finished = False

    def work(self, tasks: Sequence[Callable[[Any], Any]]) -> list[Any]:
        self.started.set()
        assert self.gate.wait(10)
        self.rounds.append(len(tasks))
        return [task(self) for task in tasks]

    def idle(self) -> float | None:
        self.was_idle.set()
        return self.idle_again_after

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def crew() -> Crew:
    return Crew()


async def test_what_waits_is_done_in_one_round(crew: Crew) -> None:
    """While one round runs the next one gathers, and everyone gets the own answer."""
    lane = Lane("lane", crew)
    crew.gate.clear()
    first = asyncio.create_task(lane.ask(lambda _: 0))
    await asyncio.to_thread(crew.started.wait, 10)
    others = [asyncio.create_task(lane.ask(lambda _, n=n: n)) for n in range(1, 100)]
    await asyncio.sleep(0)
    crew.gate.set()
    assert await asyncio.gather(first, *others) == list(range(100))
    assert crew.rounds == [1, 99]
    await asyncio.wrap_future(lane.close())


async def test_an_error_goes_to_all_of_its_round_and_to_nobody_else(crew: Crew) -> None:
    """The lane lives on."""
    lane = Lane("lane", crew)
    with pytest.raises(ZeroDivisionError):
        await lane.ask(lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        lane.call(lambda _: 1 // 0)
    assert await lane.ask(lambda _: "fine") == "fine"
    await asyncio.wrap_future(lane.close())


async def test_closing_does_what_waits_first(crew: Crew) -> None:
    """Then the crew finishes; closing again waits for the same end."""
    lane = Lane("lane", crew)
    crew.gate.clear()
    waiting = asyncio.create_task(lane.ask(lambda _: "done"))
    await asyncio.to_thread(crew.started.wait, 10)
    closing = lane.close()
    assert not closing.done()
    assert lane.close() is closing
    with pytest.raises(CacheError, match="lane is closed"):
        lane.call(lambda _: None)
    crew.gate.set()
    await asyncio.wrap_future(closing)
    assert await waiting == "done"
    assert crew.finished


def test_a_loop_that_was_closed_harms_nobody(crew: Crew) -> None:
    """Its answers are dropped, those of others arrive."""
    lane = Lane("lane", crew)
    crew.gate.clear()

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lane.ask(lambda _: None), 0.01)

    asyncio.run(leave())
    crew.gate.set()
    assert lane.call(lambda _: "here") == "here"
    lane.close().result(10)


def test_a_lane_that_does_not_keep_up_says_so(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may wait is bounded."""
    monkeypatch.setattr(lanes, "MAX_WAITING", 0)
    with pytest.raises(CacheError, match="lane does not keep up"):
        Lane("lane", crew).call(lambda _: None)


def test_an_idle_crew_may_keep_house(crew: Crew) -> None:
    """When nothing came for a while it is told."""
    lane = Lane("lane", crew, idle_after=0.01)
    lane.start()
    assert crew.was_idle.wait(10)
    lane.close().result(10)
    lane.start()
    assert crew.finished


def test_an_idle_crew_says_when_it_is_to_be_told_again(crew: Crew) -> None:
    """Sooner or later than usual, until there was work again."""
    crew.idle_again_after = 3600
    lane = Lane("lane", crew, idle_after=0.01)
    lane.start()
    assert crew.was_idle.wait(10)
    crew.was_idle.clear()
    assert not crew.was_idle.wait(0.05)
    lane.call(lambda _: None)
    assert crew.was_idle.wait(10)
    lane.close().result(10)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_after_a_fork_it_says_so_instead_of_waiting(crew: Crew) -> None:
    """Threads do not follow into a child process."""
    lane = Lane("lane", crew)
    lane.call(lambda _: None)
    parent, child = multiprocessing.Pipe()

    def ask() -> None:
        try:
            lane.call(lambda _: None)
        except CacheError as error:
            child.send(str(error))

    process = multiprocessing.get_context("fork").Process(target=ask)
    process.start()
    process.join(10)
    assert parent.poll(0)
    assert "did not survive a fork" in parent.recv()
    lane.close().result(10)
    for end in (parent, child):
        end.close()
