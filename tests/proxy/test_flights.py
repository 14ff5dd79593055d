"""Flights: one errand for all who ask, and what remains of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest

from proxy.errors import ProxyError, UpstreamFailure
from proxy.flights import (
    MAX_UNSHARED,
    UNSHARED_S,
    WINDOW_BYTES,
    Backlogs,
    Errand,
    Flight,
    Flights,
)
from proxy.models import Head
from tests.fakes.clock import FakeClock

HEAD = Head(200, [])


def saying(*chunks: bytes) -> Errand:
    async def errand(flight: Flight) -> None:
        flight.begin(HEAD)
        for chunk in chunks:
            flight.add(chunk)

    return errand


async def hang(flight: Flight) -> None:
    await asyncio.Event().wait()


def refusing() -> Errand:
    async def errand(flight: Flight) -> None:
        flight.begin(HEAD)
        flight.refused = True

    return errand


async def ended(flights: Flights) -> None:
    async with asyncio.timeout(1):
        while len(flights):  # noqa: ASYNC110 - they tell nobody
            await asyncio.sleep(0)


async def test_who_comes_late_hears_all_of_it() -> None:
    """The backlog in one piece."""
    flights = Flights()
    flight = flights.start("q", saying(b"one ", b"two"), worth_finishing=True)
    listener = flight.listen()
    await ended(flights)
    assert [chunk async for chunk in listener.chunks()] == [b"one two"]
    assert [chunk async for chunk in flight.listen().chunks()] == [b"one two"]


async def test_an_errand_that_is_over_takes_nobody_in() -> None:
    """It leaves the table with its last step."""
    flights = Flights()
    flight = flights.start("q", saying(b"x"), worth_finishing=True)
    assert flights.joinable("q") is flight
    await ended(flights)
    assert flights.joinable("q") is None


async def test_a_flight_that_is_given_up_takes_nobody_in() -> None:
    """Not even in the moment between the order to end and the end."""
    flights = Flights()
    flight = flights.start("q", hang, worth_finishing=False)
    listener = flight.listen()
    await asyncio.sleep(0)
    listener.leave()
    assert flights.joinable("q") is None
    await ended(flights)
    assert isinstance(flight.error, UpstreamFailure)


async def test_who_joins_an_abandoned_flight_saves_it() -> None:
    """The time that it had left to be finished in no longer counts."""
    flights = Flights(finish_abandoned_s=0.01)
    flight = flights.start("q", hang, worth_finishing=True)
    flight.listen().leave()
    listener = flight.listen()
    await asyncio.sleep(0.03)
    assert not flight.done
    listener.leave()
    await ended(flights)
    assert flight.done


async def test_a_flight_that_ends_before_it_began_leaves_nothing() -> None:
    """Cancelled before its first step, it tells whoever listens, and the table forgets it."""
    flights = Flights()
    flight = flights.start("q", hang, worth_finishing=True)
    listener = flight.listen()
    await flights.aclose()
    with pytest.raises(UpstreamFailure):
        await asyncio.wait_for(listener.wait_for_end(), 1)
    assert flights.joinable("q") is None
    assert len(flights) == 0


async def test_a_fault_of_the_proxy_reaches_all_and_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody waits for an errand that stumbled."""

    async def stumble(flight: Flight) -> None:
        raise KeyError("x")

    flights = Flights()
    listeners = [flights.start("q", stumble, worth_finishing=True).listen()]
    listeners.append(listeners[0].flight.listen())
    with caplog.at_level(logging.ERROR):
        for listener in listeners:
            with pytest.raises(ProxyError):
                await listener.wait_for_end()
        await ended(flights)
    assert "KeyError" in caplog.text


async def test_what_was_refused_is_not_shared_for_a_while() -> None:
    """Its next askers go side by side, until its time is over."""
    flights = Flights(clock=(clock := FakeClock()))
    flights.start("q", refusing(), worth_finishing=True)
    await ended(flights)
    assert not flights.start("q", hang, worth_finishing=True).sharable
    assert flights.joinable("q") is None
    clock.advance(UNSHARED_S)
    assert flights.start("q", hang, worth_finishing=True).sharable
    await flights.aclose()


async def test_an_answer_that_was_stored_is_shared_again() -> None:
    """The mark goes with the first answer that could be kept."""

    async def stored(flight: Flight) -> None:
        flight.stored = True

    flights = Flights()
    for errand in (refusing(), stored):
        flights.start("q", errand, worth_finishing=True)
        await ended(flights)
    assert flights.start("q", hang, worth_finishing=True).sharable
    await flights.aclose()


async def test_the_marks_are_bounded() -> None:
    """The oldest go."""
    flights = Flights()
    for number in range(MAX_UNSHARED + 1):
        flights.start(number, refusing(), worth_finishing=True)
    await ended(flights)
    assert flights.start(0, hang, worth_finishing=True).sharable
    assert not flights.start(1, hang, worth_finishing=True).sharable
    await flights.aclose()


async def test_the_marks_hold_no_prompts() -> None:
    """A question may have 32 MB, and ten thousand of them may be marked."""

    class Key:
        pass

    flights, key = Flights(), Key()
    flights.start(key, refusing(), worth_finishing=True)
    await ended(flights)
    assert not flights.start(key, saying(), worth_finishing=True).sharable
    await ended(flights)
    gone = weakref.ref(key)
    del key
    gc.collect()
    assert gone() is None


async def test_what_is_not_shared_waits_for_its_slowest_listener() -> None:
    """No more than a window of it is held."""
    flown = 0

    async def errand(flight: Flight) -> None:
        nonlocal flown
        flight.begin(HEAD)
        for _ in range(8):
            flight.add(bytes(WINDOW_BYTES // 2))
            flown += 1
            await flight.room()

    flights = Flights()
    listener = flights.start(None, errand, worth_finishing=True).listen()
    await listener.wait_for_start()
    await asyncio.sleep(0.01)
    assert flown == 3
    assert sum([len(chunk) async for chunk in listener.chunks()]) == 4 * WINDOW_BYTES


async def test_a_flight_too_long_to_be_held_takes_nobody_in() -> None:
    """Who is there hears it to its end; who comes then begins anew."""
    flights = Flights(max_backlog=4)
    gate = asyncio.Event()

    async def errand(flight: Flight) -> None:
        flight.begin(HEAD)
        flight.add(b"12345")
        await gate.wait()
        flight.add(b"6")

    listener = flights.start("q", errand, worth_finishing=True).listen()
    await listener.wait_for_start()
    assert flights.joinable("q") is None
    gate.set()
    assert b"".join([chunk async for chunk in listener.chunks()]) == b"123456"


def test_a_flight_tells_its_state() -> None:
    """In words, for logs and debuggers."""
    flight = Flight(may_share=True, finish_alone_s=1.0, max_backlog=10, backlogs=Backlogs())
    assert repr(flight) == "<Flight waiting, 0 listening, 0 bytes>"
    flight.begin(HEAD)
    flight.add(b"abc")
    assert repr(flight) == "<Flight live, 0 listening, 3 bytes>"


async def test_what_all_flights_hold_is_bounded() -> None:
    """Past the bound an answer is not held for newcomers: it waits for its listener instead."""
    flights = Flights(max_all_backlogs=2 * WINDOW_BYTES)

    async def errand(flight: Flight) -> None:
        flight.begin(HEAD)
        for _ in range(8):
            flight.add(b"x" * WINDOW_BYTES)
            await flight.room()

    listeners = [flights.start(n, errand, worth_finishing=True).listen() for n in range(4)]
    for _ in range(50):
        await asyncio.sleep(0)
        assert flights.backlogs.bytes <= 9 * WINDOW_BYTES  # of 32 that are there to be had
    assert not any(flights.joinable(n) for n in range(4))
    for listener in listeners:
        assert sum([len(chunk) async for chunk in listener.chunks()]) == 8 * WINDOW_BYTES


async def test_nothing_is_held_for_nobody() -> None:
    """When the last listener has left, the bytes of what is over count no more."""
    flights = Flights()
    listener = flights.start("q", saying(b"one ", b"two"), worth_finishing=True).listen()
    await ended(flights)
    assert flights.backlogs.bytes == 7
    listener.leave()
    assert flights.backlogs.bytes == 0


async def test_what_can_still_be_joined_is_still_held() -> None:
    """A save has ended, the table does not know it yet: who comes now is told all or nothing."""
    flights = Flights()
    saving: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def errand(flight: Flight) -> None:
        await saying(b"all of it")(flight)
        flight.saving = asyncio.create_task(saved())

    async def saved() -> bool:
        return await saving

    first = flights.start("q", errand, worth_finishing=True).listen()
    await first.wait_for_end()
    task = first.flight.saving
    assert task is not None
    task.get_loop().call_soon(saving.set_result, True)
    while not task.done():
        assert (joined := flights.joinable("q")) is first.flight
        await asyncio.sleep(0)
    first.leave()
    joined = flights.joinable("q")
    assert joined is None or joined.listen().backlog() == b"all of it"
