"""The way of one body from the provider to a flight, past the recorder."""

from __future__ import annotations

import asyncio
import logging

from proxy.dialects.base import Recorder
from proxy.flights import Flight
from proxy.models import Answers
from proxy.upstream import Arrival

log = logging.getLogger("proxy.passage")

# Whoever has the last bytes may ask again at once, and should then find the entry: so they wait
# for the commit, but not for a slow one.
COMMIT_WAIT_S = 0.02
# How long a provider may take to end a stream after its last event.
LINGER_S = 1.0


class Passage:
    """Passes a stream on as it comes; but its last chunk, and a body that is no stream, are held
    until the entry is stored (or `let_go` says so): nobody can ask again before it can be found.
    """

    def __init__(
        self, flight: Flight, arrival: Arrival, recorder: Recorder | None, max_bytes: int
    ) -> None:
        self._flight = flight
        self._arrival = arrival
        self._recorder = recorder
        self._max_bytes = max_bytes
        self._held: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._limit: asyncio.Timeout | None = None
        self._streamed = arrival.head.streams
        self.bytes = 0

    async def run(self) -> Answers | None:
        if self._streamed:
            self._flight.begin(self._arrival.head)
            await self._pass_on_events()
        else:
            await self._pass_on()
        return self._recorder.finish() if self._recorder else None

    async def _pass_on_events(self) -> None:
        try:
            async with asyncio.timeout(None) as self._limit:
                await self._pass_on()
        except TimeoutError:
            log.debug("the provider leaves the connection open after the last event")

    async def _pass_on(self) -> None:
        async for chunk in self._arrival.chunks():
            await self._pass(chunk)

    async def _pass(self, chunk: bytes) -> None:
        self.bytes += len(chunk)
        self._record(chunk)
        if self._must_hold():
            self._held.append(chunk)
            self._flight.weigh(len(chunk))
            return
        if self._held or self._flight.head is None:
            self.let_go()
        self._flight.add(chunk)
        if not self._flight.sharable:
            await self._flight.room()

    def _record(self, chunk: bytes) -> None:
        if self._recorder is None:
            return
        if self.bytes > self._max_bytes:  # too large to be stored: what it gathered is let go
            self._recorder = None
            self._flight.need_not_finish()
        else:
            self._recorder.feed(chunk)

    def _must_hold(self) -> bool:
        if not self._streamed:
            return self.bytes <= self._max_bytes and not self._flight.crowded
        if self._recorder is None or not self._recorder.ended:
            return False
        if self._timer is None:
            # Some providers leave the connection open after the last event.
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(COMMIT_WAIT_S, self.let_go)
            if self._limit is not None:
                self._limit.reschedule(loop.time() + LINGER_S)
        return True

    def let_go(self) -> None:
        """Pass on what is held."""
        if self._timer is not None:
            self._timer.cancel()
        if self._flight.head is None:
            self._flight.begin(self._arrival.head)
        for chunk in self._held:
            self._flight.weigh(-len(chunk))
            self._flight.add(chunk)
        self._held.clear()
