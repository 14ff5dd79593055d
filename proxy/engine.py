"""The way of a request, in order: read, judge, key; at hand? else join or start a flight; reply.

Nothing else stands here, and nowhere else is this order known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import replace
from functools import partial

import orjson

from cache_backends.base import Entry
from proxy import keys
from proxy.access import Access
from proxy.dialects.base import Dialect
from proxy.errors import NotCached, Offline, ProxyError, UpstreamFailure
from proxy.fetch import Fetcher
from proxy.flights import GIVEN_UP, Flight, Flights, Listener
from proxy.inquiry import Inquiry, Rendering
from proxy.models import (
    Answers,
    Ask,
    Call,
    Freshness,
    Mode,
    Outcome,
    Passing,
    Reply,
    Scope,
    Verdict,
)
from proxy.modes import Switch
from proxy.nearest import Nearest
from proxy.offline import NOT_ASKED, offline
from proxy.policy import Policy
from proxy.recent import Recent
from proxy.replies import Replies
from proxy.runs import Attempt, Runs
from proxy.store import Store
from proxy.upstream import Upstream

# Above this the strict parse of a body, where it is needed, is done off the loop.
STRICT_PARSE_AT_ONCE_BYTES = 16 * 2**10


class Engine:
    """Answers calls."""

    def __init__(
        self,
        *,
        policy: Policy,
        store: Store,
        fetcher: Fetcher,
        flights: Flights,
        upstream: Upstream,
        access: Access,
        replies: Replies,
        runs: Runs,
        nearest: Nearest,
        recent: Recent,
        switch: Switch,
        scope: Scope = Scope.CREDENTIAL,
        keyed_headers: frozenset[bytes] = keys.KEYED_HEADERS,
        patience_s: float = 60.0,
    ) -> None:
        self._policy = policy
        self._store = store
        self._fetcher = fetcher
        self._flights = flights
        self._upstream = upstream
        self._access = access
        self._replies = replies
        self._runs = runs
        self._nearest = nearest
        self._recent = recent
        self._switch = switch
        self._scope = scope
        self._keyed_headers = keyed_headers
        self._patience_s = patience_s

    @property
    def mode(self) -> Mode:
        """The mode in which inquiries are judged now."""
        return self._switch.mode

    def inquire(self, call: Call, dialect: Dialect) -> Inquiry:
        """Read, judge and key a call; raises what is wrong with it."""
        ask = dialect.read(call)
        secret, mode = self._store.scope_secret, self._switch.mode
        partition = keys.partition(self._scope, call, secret or b"")
        verdict = self._policy.judge(call, ask, partition, mode)
        if secret is None:
            verdict = _past_the_cache(verdict, "the cache is not available")
        unproven = not keys.is_plain(ask.raw, ask.body)
        if unproven and len(ask.raw) <= STRICT_PARSE_AT_ONCE_BYTES:
            unproven = False
            if why := keys.ambiguity(ask.raw):
                verdict = _past_the_cache(verdict, why)
        if not verdict.may_write:
            ask = _as_it_came(ask)
        question = keys.question(call, ask, verdict, self._keyed_headers)
        return Inquiry(
            call,
            dialect,
            ask,
            verdict,
            question,
            mode=mode,
            unproven=unproven,
            credential=partition if self._scope is Scope.CREDENTIAL else "",
        )

    def at_hand(self, inquiry: Inquiry) -> Reply | None:
        """The reply, if the answer is in memory."""
        verdict = inquiry.verdict
        if not verdict.may_read or verdict.counted or inquiry.unproven:
            return None
        began = time.perf_counter()
        found = self._store.peek(inquiry.question.keys)
        if found is None:
            return None
        known = self._fetcher.usable(inquiry, found)
        if not _serves(known):
            return None
        lookup_s = time.perf_counter() - began
        return self._hit(inquiry, found, known, lookup_s, "memory")

    def _hit(
        self,
        inquiry: Inquiry,
        found: Sequence[Entry],
        known: list[Freshness],
        lookup_s: float,
        tier: str = "",
    ) -> Reply:
        outcome, detail = Outcome.HIT, ""
        if Freshness.STALE in known:
            outcome = Outcome.STALE
            if inquiry.mode is Mode.OFFLINE:
                detail = "offline mode"  # why it is told all the same
        return self._replies.hit(
            inquiry, found, outcome, lookup_s=lookup_s, tier=tier, detail=detail
        )

    async def answer(self, inquiry: Inquiry) -> Reply:
        """The reply, from the cache or the provider; raises what went wrong instead."""
        if inquiry.unproven:
            inquiry = await self.strictly_parsed(inquiry)
        verdict = inquiry.verdict
        if verdict.counted and (verdict.may_read or verdict.may_write):
            return await self._answer_in_run(inquiry)
        return await self._answer(inquiry)

    async def _answer_in_run(self, inquiry: Inquiry) -> Reply:
        attempt = await self._runs.begin(inquiry.verdict.run, inquiry.question.keys)
        try:
            reply = await self._answer(self._numbered(inquiry, attempt.number))
            if isinstance(reply.body, bytes):
                await _judge(attempt, reply)
            else:
                reply.body = _judged(attempt, reply, reply.body)
        except BaseException:
            await attempt.failed()
            raise
        return reply

    def _numbered(self, inquiry: Inquiry, sample: int) -> Inquiry:
        verdict = replace(inquiry.verdict, sample=sample)
        question = keys.question(inquiry.call, inquiry.ask, verdict, self._keyed_headers)
        return replace(inquiry, verdict=verdict, question=question, rendering=Rendering())

    async def _answer(self, inquiry: Inquiry) -> Reply:
        try:
            return await self._find_or_fetch(inquiry)
        except ProxyError as error:
            self._recent.failed(inquiry, error)
            raise

    async def _find_or_fetch(self, inquiry: Inquiry) -> Reply:
        if inquiry.verdict.only_if_cached or inquiry.mode is Mode.OFFLINE:
            return await self._cached_only(inquiry)
        key = self._flight_key(inquiry)
        flight, joined = self._board(inquiry, key)
        listener = flight.listen()
        try:
            # Who began it waits for as long as it takes: his alone, it must not be paid twice.
            if not await listener.wait_for_start(self._patience_s if joined else None):
                listener, joined = await self._overtake(inquiry, key, listener)
            return await self._reply(inquiry, key, listener, joined)
        except BaseException:
            listener.leave()
            raise

    async def pass_on(self, passing: Passing) -> Reply:
        """Hand a request to the provider and its answer back, both as they come."""
        if self._switch.mode is Mode.OFFLINE:
            raise Offline(f"{NOT_ASKED}; this is passed on to one: {passing.reason}.")
        headers = self._access.dress(passing.headers, passing.provider)
        arrival = await self._upstream.send(
            passing.method, passing.url, headers, passing.body, decode=False
        )
        return self._replies.passed_on(passing, arrival)

    async def strictly_parsed(self, inquiry: Inquiry) -> Inquiry:
        """The same, once it is known whether two parsers read it alike."""
        why = await asyncio.to_thread(keys.ambiguity, inquiry.ask.raw)
        if not why:
            return inquiry
        verdict = _past_the_cache(inquiry.verdict, why)
        return replace(inquiry, ask=_as_it_came(inquiry.ask), verdict=verdict)

    async def _cached_only(self, inquiry: Inquiry) -> Reply:
        """A stored answer or none: no flight is joined, the provider is not asked."""
        began = time.perf_counter()
        found = await self._store.find(inquiry.question.keys)
        known = self._fetcher.usable(inquiry, found)
        if not inquiry.verdict.may_read or not _serves(known):
            if inquiry.mode is Mode.OFFLINE:
                raise await offline(inquiry, found, known, self._nearest)
            raise NotCached("No answer is stored for this request, and only-if-cached was asked.")
        entries = [entry for entry in found if entry is not None]
        return self._hit(inquiry, entries, known, time.perf_counter() - began)

    def _flight_key(self, inquiry: Inquiry) -> Hashable:
        """What must be equal to share one fetch; `None`: nobody may."""
        verdict = inquiry.verdict
        if not (verdict.may_read and verdict.may_write):
            return None
        # The caller too, also where entries are shared: one's 401 must not reach the others.
        caller = inquiry.credential
        if not caller:
            secret = self._store.scope_secret or b""
            caller = keys.partition(Scope.CREDENTIAL, inquiry.call, secret)
        echoed = inquiry.ask.echoed
        told = orjson.dumps(echoed, option=orjson.OPT_SORT_KEYS) if echoed else b""
        return _FlightKey(inquiry.question.keys, caller, told, verdict)

    def _board(
        self, inquiry: Inquiry, key: Hashable, *, but: Flight | None = None
    ) -> tuple[Flight, bool]:
        """A flight for this inquiry that is not `but`, and whether somebody else began it."""
        # One who wants it in one piece can be told what a stream brings, but not the reverse.
        for stream in (True,) if inquiry.ask.stream else (True, False):
            flight = self._flights.joinable(_shared(key, inquiry, stream))
            if flight is None or flight is but or self._fetcher.purged(inquiry, flight):
                continue
            return flight, True
        return self._start(inquiry, key), False

    def _start(self, inquiry: Inquiry, key: Hashable) -> Flight:
        return self._flights.start(
            _shared(key, inquiry, inquiry.ask.stream),
            partial(self._fetcher.run, inquiry),
            worth_finishing=inquiry.verdict.may_write and not inquiry.call.provider.local,
        )

    async def _overtake(
        self, inquiry: Inquiry, key: Hashable, first: Listener
    ) -> tuple[Listener, bool]:
        """Another's flight without a sign of life: send one more, and listen to both."""
        flight, joined = self._board(inquiry, key, but=first.flight)
        second = flight.listen()
        try:
            chosen = await _first_to_start(first, second)
        except BaseException:
            second.leave()
            raise
        (second if chosen is first else first).leave()
        return chosen, joined or chosen is first

    async def _reply(
        self, inquiry: Inquiry, key: Hashable, listener: Listener, joined: bool
    ) -> Reply:
        flight = listener.flight
        if flight.found is not None:
            if joined and not inquiry.dialect.can_replay(inquiry.ask, _answers(flight.found)):
                return await self._instead(inquiry, key, listener)
            listener.leave()
            return self._from_cache(inquiry, flight)
        if flight.head is None:
            raise flight.error or UpstreamFailure(GIVEN_UP)
        if flight.head.streams and not inquiry.ask.stream and joined:
            return await self._one_piece(inquiry, key, listener)
        return self._replies.live(inquiry, flight, listener, joined)

    def _from_cache(self, inquiry: Inquiry, flight: Flight) -> Reply:
        assert flight.found is not None
        fresh = flight.freshness is Freshness.FRESH
        detail = "stale-if-error" if flight.freshness is Freshness.IF_ERROR else ""
        return self._replies.hit(
            inquiry,
            flight.found,
            Outcome.HIT if fresh else Outcome.STALE,
            lookup_s=flight.lookup_s,
            detail=detail,
        )

    async def _one_piece(self, inquiry: Inquiry, key: Hashable, listener: Listener) -> Reply:
        """Wait for the end of another's stream, and tell what it brought."""
        await listener.wait_for_end()
        answers = listener.flight.answers
        if answers is None or not inquiry.dialect.can_replay(inquiry.ask, answers):
            return await self._instead(inquiry, key, listener)
        listener.leave()
        return self._replies.from_recording(inquiry, listener.flight, answers)

    async def _instead(self, inquiry: Inquiry, key: Hashable, listener: Listener) -> Reply:
        """What the others share does not do here: one more flight, the last that is shared."""
        flight, joined = self._board(inquiry, key, but=listener.flight)
        other = flight.listen()
        try:
            await other.wait_for_start()
            reply = await self._reply(inquiry, None, other, joined)
        except BaseException:
            other.leave()
            raise
        listener.leave()
        return reply

    async def aclose(self) -> None:
        """Give up what is in the air, finish what is being saved, let go of connections."""
        await self._flights.aclose()
        await self._fetcher.aclose()
        await self._store.aclose()
        await self._upstream.aclose()


class _FlightKey:
    """Parts that must be equal. Hashed once: a verdict alone takes 2 us, and a flight six looks."""

    __slots__ = ("_hash", "_parts")

    def __init__(self, *parts: Hashable) -> None:
        self._parts = parts
        self._hash = hash(parts)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _FlightKey) and self._parts == other._parts


def _shared(key: Hashable, inquiry: Inquiry, stream: bool) -> Hashable:
    """A flight's key: also how the answer is told, and whether with usage."""
    if key is None:
        return None
    usage = inquiry.ask.wants_usage or inquiry.ask.asks_usage_upstream
    return (key, stream, usage)


async def _first_to_start(*listeners: Listener) -> Listener:
    """Whichever has something to tell first; a failure only if all failed."""
    waits = {asyncio.create_task(each.wait_for_start()): each for each in listeners}
    pending = set(waits)
    try:
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                if waits[wait].flight.error is None or not pending:
                    return waits[wait]
    finally:
        for wait in pending:
            wait.cancel()


async def _judged(
    attempt: Attempt, reply: Reply, body: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    try:
        async for chunk in body:
            yield chunk
    except ProxyError:
        await attempt.failed()
        raise
    await _judge(attempt, reply)


async def _judge(attempt: Attempt, reply: Reply) -> None:
    """Before the caller can try again: his number is free if that was no answer."""
    if not reply.whole():
        await attempt.failed()


def _answers(found: Sequence[Entry]) -> Answers:
    return [entry.generations for entry in found]


def _past_the_cache(verdict: Verdict, why: str) -> Verdict:
    return replace(verdict, may_read=False, may_write=False, reason=why)


def _as_it_came(ask: Ask) -> Ask:
    """The same, sent as it came: with nothing to store, nothing is gained by asking for usage."""
    return replace(ask, asks_usage_upstream=False) if ask.asks_usage_upstream else ask


def _serves(known: list[Freshness]) -> bool:
    return Freshness.UNUSABLE not in known and Freshness.IF_ERROR not in known
