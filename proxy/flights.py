"""One errand for one question, however many ask it at once.

A Flight is the errand: looking up, fetching, saving, in a task of its own. Whoever asks listens to
it: the backlog at once, then the live chunks. Who leaves harms nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Sequence
from functools import partial
from typing import Any

from cache_backends.base import Entry
from cache_backends.steady import steady
from proxy.errors import ProxyError, UpstreamFailure
from proxy.models import AnswerFacts, Answers, Freshness, Head

log = logging.getLogger("proxy.flights")

# What a flight keeps so that newcomers can have it all. Past it, only listeners that are already
# there are served, at the pace of the slowest, who is cut off when he takes nothing for too long.
MAX_BACKLOG_BYTES = 64 * 2**20
WINDOW_BYTES = 2**20
# How long a question whose answer could not be kept is not shared, and how many are remembered.
UNSHARED_S = 120.0
MAX_UNSHARED = 10_000

# What all flights together may hold. Past it they are not shared any more, and go at the pace of
# their listeners.
MAX_ALL_BACKLOGS_BYTES = 512 * 2**20

GIVEN_UP = "The request was given up."

Errand = Callable[["Flight"], Coroutine[Any, Any, None]]


class Backlogs:
    """The bytes that all flights hold, and how many they may."""

    def __init__(self, max_bytes: int = MAX_ALL_BACKLOGS_BYTES) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0

    @property
    def full(self) -> bool:
        return self.bytes > self.max_bytes


class Flight:
    """What an errand has brought so far."""

    seen: int | None = None  # the last purge known when it was looked up; None: not yet
    head: Head | None = None  # the provider's, once it answers
    found: Sequence[Entry] | None = None  # or what the cache had
    freshness: Freshness = Freshness.FRESH
    missed: int = 0  # the first place of what was not found, or did not do
    unfit: Entry | None = None  # what was found there
    forwarded: str = ""  # why what was found did not do: RFC 9211's "stale" or "request"
    partial: Sequence[Entry] = ()  # the parts that were stored, where the rest was fetched
    answers: Answers | None = None  # what was recorded, once complete
    facts: AnswerFacts | None = None  # of it
    usd: float | None = None  # what it costs, if that is known
    stored: bool | None = None  # known once the save is tried
    saving: asyncio.Task[bool] | None = None  # a save that takes longer than the rest
    reason: str = ""  # why it was not stored
    refused: bool = False  # may it not be stored, whatever state the cache is in?
    upstream_s: float = 0.0  # until the provider answered; in the end: until it was done
    lookup_s: float = 0.0
    error: ProxyError | None = None
    done: bool = False
    forgotten: bool = False  # can nobody find it any more?
    _dropped: int = 0  # chunks that every listener has had, and that are gone
    _bytes: int = 0
    _taken: asyncio.Future[None] | None = None  # waits until a listener takes something
    _task: asyncio.Task[None] | None = None
    _abandoned: asyncio.TimerHandle | None = None

    def __init__(
        self, *, may_share: bool, finish_alone_s: float, max_backlog: int, backlogs: Backlogs
    ) -> None:
        self.since = steady()  # nothing that it brings is older, as far as can be told
        self.sharable = may_share
        self._finish_alone_s = finish_alone_s
        self._max_backlog = max_backlog
        self._backlogs = backlogs
        self._chunks: list[bytes] = []
        self._listeners: set[Listener] = set()
        self._waiting: list[asyncio.Future[None]] = []  # for more of it

    def __repr__(self) -> str:
        state = "done" if self.done else "live" if self.head else "waiting"
        return f"<Flight {state}, {len(self._listeners)} listening, {self._bytes} bytes>"

    # What the errand calls.

    def serve(self, found: Sequence[Entry], freshness: Freshness = Freshness.FRESH) -> None:
        """The cache has the answer."""
        self.found, self.freshness = found, freshness
        self._tell()

    def begin(self, head: Head) -> None:
        """The provider answers; chunks follow."""
        self.head = head
        self._tell()

    def add(self, chunk: bytes) -> None:
        """Pass on a chunk."""
        self._chunks.append(chunk)
        self.weigh(len(chunk))
        if self._bytes > self._max_backlog or self.crowded:
            self.sharable = False
        self._tell()

    def weigh(self, size: int) -> None:
        """Count bytes that are held for this flight, or (below 0) no longer."""
        self._bytes += size
        self._backlogs.bytes += size

    @property
    def crowded(self) -> bool:
        """Do all flights together hold too much?"""
        return self._backlogs.full

    def need_not_finish(self) -> None:
        """Nothing of it can be kept: it ends once nobody listens."""
        self._finish_alone_s = 0.0
        if not self._listeners:
            self._give_up()

    async def room(self) -> None:
        """Wait for the slowest listener, if the whole answer need not be held for newcomers."""
        if self.sharable:
            return
        while True:
            self._drop_what_all_had()
            if self._bytes <= WINDOW_BYTES or not self._listeners:
                return
            self._taken = asyncio.get_running_loop().create_future()
            await self._taken

    def _drop_what_all_had(self) -> None:
        had = min((each.position for each in self._listeners), default=self._end)
        gone = had - self._dropped
        self.weigh(-sum(map(len, self._chunks[:gone])))
        del self._chunks[:gone]
        self._dropped = had

    def _finish(self, error: ProxyError | None) -> None:
        self.error = error
        self.done = True
        if self._abandoned:
            self._abandoned.cancel()
        self._tell()
        self._let_go()

    def _let_go(self) -> None:
        """Once it is over and nobody listens, or can, nothing is held any more."""
        if self.done and self.forgotten and not self._listeners:
            self.weigh(-self._bytes)
            self._chunks.clear()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    async def changed(self) -> None:
        """Wait until there is more to tell."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def took(self) -> None:
        """A listener has taken something, or is gone."""
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)

    # What listeners call.

    def listen(self) -> Listener:
        listener = Listener(self)
        self._listeners.add(listener)
        if self._abandoned:
            self._abandoned.cancel()
            self._abandoned = None
        return listener

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        self.took()
        self._let_go()
        if self._listeners or self.done or self._task is None:
            return
        if self._finish_alone_s <= 0:
            self._give_up()
        else:
            loop = asyncio.get_running_loop()
            self._abandoned = loop.call_later(self._finish_alone_s, self._give_up)

    def _give_up(self) -> None:
        # It takes a moment to end: who comes in between must not go down with it.
        self.sharable = False
        if self._task is not None:
            self._task.cancel()

    @property
    def _end(self) -> int:
        return self._dropped + len(self._chunks)

    @property
    def whole(self) -> bool:
        """Has the provider given a whole answer?"""
        return self.answers is not None

    @property
    def under_way(self) -> bool:
        """Is there something to tell: an entry, a head, or the end?"""
        return self.done or self.head is not None or self.found is not None


class Listener:
    """One caller's ear on a flight."""

    def __init__(self, flight: Flight) -> None:
        self.flight = flight
        self.position = 0

    async def wait_for_start(self, patience_s: float | None = None) -> bool:
        """Wait until there is something to tell; false if patience (seconds) ran out."""
        if patience_s is None:
            await self._start()
            return True
        try:
            async with asyncio.timeout(patience_s):
                await self._start()
        except TimeoutError:
            return self.flight.under_way
        return True

    async def _start(self) -> None:
        while not self.flight.under_way:
            await self.flight.changed()

    async def wait_for_end(self) -> None:
        """Wait until the errand is over; raises what it failed with."""
        flight = self.flight
        while not flight.done:
            # This listener wants no chunks: it must not hold the others back.
            self.position = flight._end
            flight.took()
            await flight.changed()
        if flight.error is not None:
            raise flight.error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The backlog in one piece, then each chunk as it arrives; raises what it failed with."""
        flight = self.flight
        while True:
            if self.position < flight._end:
                fresh = flight._chunks[self.position - flight._dropped :]
                yield fresh[0] if len(fresh) == 1 else b"".join(fresh)
                self.position += len(fresh)
                flight.took()
            elif flight.done:
                break
            else:
                await flight.changed()
        if flight.error is not None:
            raise flight.error

    def backlog(self) -> bytes:
        """All that has arrived, in one piece."""
        return b"".join(self.flight._chunks)

    def leave(self) -> None:
        self.flight.leave(self)


class Flights:
    """The errands that are under way."""

    def __init__(
        self,
        *,
        finish_abandoned_s: float = 60.0,
        max_backlog: int = MAX_BACKLOG_BYTES,
        max_all_backlogs: int = MAX_ALL_BACKLOGS_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._finish_abandoned_s = finish_abandoned_s
        self._max_backlog = max_backlog
        self.backlogs = Backlogs(max_all_backlogs)
        self._clock = clock
        self._table: dict[Hashable, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unshared: dict[int, float] = {}  # by the hash of keys, which hold whole prompts

    def __len__(self) -> int:
        return len(self._tasks | {flight._task for flight in self._table.values()})

    @property
    def listening(self) -> int:
        """How many callers listen to errands that can be joined by key."""
        return sum(len(flight._listeners) for flight in self._table.values())

    def joinable(self, key: Hashable) -> Flight | None:
        """The flight of this key that still takes newcomers; none under `None`."""
        flight = self._table.get(key)
        return flight if flight is not None and flight.sharable else None

    def start(self, key: Hashable, errand: Errand, *, worth_finishing: bool) -> Flight:
        """Begin an errand. It can be joined under `key`, unless its last answer could not be kept
        or `key` is `None`."""
        sharable = key is not None and not self._is_unshared(key)
        flight = Flight(
            may_share=sharable,
            finish_alone_s=self._finish_abandoned_s if worth_finishing else 0.0,
            max_backlog=self._max_backlog,
            backlogs=self.backlogs,
        )
        if sharable:
            self._table[key] = flight
        flight._task = asyncio.create_task(self._run(key, flight, errand))
        self._tasks.add(flight._task)
        flight._task.add_done_callback(partial(self._ended, key, flight))
        return flight

    def _ended(self, key: Hashable, flight: Flight, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not flight.done:  # cancelled before its first step
            self._land(key, flight, UpstreamFailure(GIVEN_UP))
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an errand failed: a fault of the proxy", exc_info=error)

    async def _run(self, key: Hashable, flight: Flight, errand: Errand) -> None:
        error: ProxyError | None = UpstreamFailure(GIVEN_UP)
        try:
            await errand(flight)
            error = None
        except ProxyError as exc:
            error = exc
        finally:
            self._land(key, flight, error)

    def _land(self, key: Hashable, flight: Flight, error: ProxyError | None) -> None:
        if flight.saving is None or flight.saving.done():
            self._forget(key, flight)
        else:
            # Until its entry can be found, who asks now is told what it brought.
            flight.saving.add_done_callback(lambda _: self._forget(key, flight))
        self._remember(key, flight)
        flight._finish(error)

    def _forget(self, key: Hashable, flight: Flight) -> None:
        if self._table.get(key) is flight:
            del self._table[key]
        flight.forgotten = True
        flight._let_go()

    def _remember(self, key: Hashable, flight: Flight) -> None:
        """Answers that cannot be kept must not make the next askers wait for each other."""
        if key is None:
            return
        if flight.stored:
            self._unshared.pop(hash(key), None)
        elif flight.refused:
            while len(self._unshared) >= MAX_UNSHARED:
                del self._unshared[next(iter(self._unshared))]
            self._unshared[hash(key)] = self._clock() + UNSHARED_S

    def _is_unshared(self, key: Hashable) -> bool:
        until = self._unshared.get(hash(key))
        if until is None:
            return False
        if self._clock() < until:
            return True
        del self._unshared[hash(key)]
        return False

    async def aclose(self) -> None:
        """Give up what is still under way."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
