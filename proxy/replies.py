"""Makes replies: from stored answers, from a flight, from the provider's bytes as they are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from itertools import count
from secrets import token_hex

from cache_backends.base import Entry
from proxy import sse
from proxy.cache_status import Telling, tell, tell_after
from proxy.end_to_end import without
from proxy.flights import Flight, Listener
from proxy.inquiry import Inquiry, tokens_of, usd_of
from proxy.models import AnswerFacts, Answers, Event, Headers, Outcome, Passing, Reply
from proxy.recent import Recent
from proxy.upstream import Arrival

# What those who join a fetch are told of the provider's head: the rest (request ids, rate limits,
# cookies) belongs to the exchange of the one who began it.
SHARED_HEADERS = frozenset({b"content-type", b"retry-after", b"retry-after-ms", b"x-should-retry"})

# Of a path or the name of a model, which callers make up: events wait in a queue, and are logged.
MAX_TOLD_CHARS = 256


def _nobody(ids: Sequence[str]) -> None:
    """Who does not count hits of entries."""


class Replies:
    """Makes replies; `listener` is told of each request once its reply is sent or given up.

    `found` is told the ids of the entries that serve one, `recent` what they did not serve. `tier`
    names the backend in `Cache-Status`.
    """

    def __init__(
        self,
        listener: Callable[[Event], None],
        *,
        found: Callable[[Sequence[str]], None] = _nobody,
        recent: Recent | None = None,
        tier: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._listener = listener
        self._found = found
        self._recent = Recent() if recent is None else recent
        self._tier = tier
        self._clock = clock

    def hit(
        self,
        inquiry: Inquiry,
        found: Sequence[Entry],
        outcome: Outcome,
        *,
        lookup_s: float,
        tier: str = "",
        detail: str = "",
    ) -> Reply:
        """Stored answers, told again. They were found in `tier`, if that is not the backend."""
        rendering = inquiry.rendering
        if not rendering.tells(found):
            rendering.tell(inquiry, found)
        now = self._clock()
        expires_at = rendering.expires_at
        telling = Telling(
            outcome,
            detail=detail or tier or self._tier,
            entry_id=inquiry.question.id,
            age=now - rendering.stored_at,
            ttl_left=None if expires_at is None else expires_at - now,
            timings=(("cache", lookup_s),),
        )
        event = event_of(inquiry, outcome)
        event.reason = ""  # why it might not have been stored
        event.made_seconds, event.usd = rendering.made_seconds, rendering.usd
        event.age, event.tier = round(now - rendering.stored_at, 3), tier or self._tier
        self._found(rendering.ids)
        return self._told(inquiry, rendering.body, rendering.facts, event, tell(telling))

    def from_recording(self, inquiry: Inquiry, flight: Flight, answers: Answers) -> Reply:
        """What somebody else's stream has brought, for one who asked for it in one piece."""
        event = event_of(inquiry, Outcome.COLLAPSED)
        body = inquiry.dialect.replay(inquiry.ask, answers)
        facts = inquiry.dialect.facts(inquiry.ask, answers)
        event.usd = flight.usd
        return self._told(inquiry, body, facts, event, tell(_told_live(inquiry, flight, event)))

    def live(self, inquiry: Inquiry, flight: Flight, listener: Listener, joined: bool) -> Reply:
        """What the provider says, as it says it."""
        head = flight.head
        assert head is not None
        event = event_of(inquiry, _live_outcome(inquiry, flight, joined))
        event.status = head.status
        headers = [h for h in head.headers if h[0] in SHARED_HEADERS] if joined else head.headers
        headers = tell_after(headers, _told_live(inquiry, flight, event))
        whole = flight.done and flight.error is None and not head.streams
        if whole or head.streams:  # counted when it is sent, or not of the provider's length
            headers = without(headers, b"content-length")
        body = listener.backlog() if whole else _stream(inquiry, flight, listener)
        release = partial(self._over, inquiry, flight, listener, event)
        return Reply(head.status, headers, body, event, release, whole=lambda: flight.whole)

    def passed_on(self, passing: Passing, arrival: Arrival) -> Reply:
        """An answer that is none of the cache's business."""
        head = arrival.head
        event = Event(
            passing.path[:MAX_TOLD_CHARS],
            provider=passing.provider.name,
            client=passing.client or "",
            outcome=Outcome.BYPASS,
            status=head.status,
            reason=passing.reason,
            trace_id=passing.trace_id,
        )
        headers = tell_after(
            head.headers,
            Telling(Outcome.BYPASS, forwarded=passing.forwarded, detail=passing.reason),
        )
        return Reply(
            head.status,
            headers,
            arrival.chunks(),
            event,
            partial(self._listener, event),
            arrival.aclose,
        )

    def _told(
        self, inquiry: Inquiry, body: bytes, facts: AnswerFacts, event: Event, told: Headers
    ) -> Reply:
        kind = sse.CONTENT_TYPE if inquiry.ask.stream else b"application/json"
        headers = [(b"content-type", kind), (inquiry.dialect.request_id, request_id()), *told]
        event.status = 200
        event.input_tokens, event.output_tokens = facts.input_tokens, facts.output_tokens
        return Reply(200, headers, body, event, partial(self._listener, event))

    def _over(self, inquiry: Inquiry, flight: Flight, listener: Listener, event: Event) -> None:
        listener.leave()
        if event.outcome is not Outcome.COLLAPSED:
            self._recent.fetched(inquiry, flight, event)
        # Why it was not looked for says nothing of what may be stored.
        event.reason = flight.reason if inquiry.verdict.may_write else event.reason
        event.upstream_seconds, event.usd = round(flight.upstream_s, 6), flight.usd
        if flight.facts is not None:
            event.input_tokens = flight.facts.input_tokens
            event.output_tokens = flight.facts.output_tokens
        if event.outcome is Outcome.PARTIAL:
            event.tier = self._tier
            self._found([entry.key.id for entry in flight.partial])
            event.saved_tokens = tokens_of(flight.partial)
            event.saved_usd = usd_of(flight.partial) or 0.0
        self._listener(event)


async def _stream(inquiry: Inquiry, flight: Flight, listener: Listener) -> AsyncIterator[bytes]:
    head = flight.head
    relay = inquiry.dialect.relay(inquiry.ask) if head and head.streams else None
    async for chunk in listener.chunks():
        if relay is None:
            yield chunk
        elif shown := relay.feed(chunk):
            yield shown
    if relay is not None and (rest := relay.finish()):
        yield rest


def _live_outcome(inquiry: Inquiry, flight: Flight, joined: bool) -> Outcome:
    verdict = inquiry.verdict
    if joined:
        return Outcome.COLLAPSED
    if flight.partial:
        return Outcome.PARTIAL
    return Outcome.MISS if verdict.may_read or verdict.may_write else Outcome.BYPASS


def _told_live(inquiry: Inquiry, flight: Flight, event: Event) -> Telling:
    verdict = inquiry.verdict
    refresh = verdict.may_write and not verdict.may_read
    forwarded = "request" if refresh else flight.forwarded
    return Telling(
        event.outcome or Outcome.MISS,
        forwarded=forwarded if event.outcome is Outcome.MISS else "",
        detail=verdict.reason or (flight.reason if flight.done else ""),
        entry_id=inquiry.question.id if verdict.may_write else "",
        stored=flight.stored if flight.done else None,
        timings=(("cache", flight.lookup_s), ("upstream", flight.upstream_s)),
    )


def event_of(inquiry: Inquiry, outcome: Outcome | None = None) -> Event:
    """What is known of a request before it is answered."""
    return Event(
        path=inquiry.call.path[:MAX_TOLD_CHARS],
        provider=inquiry.call.provider.name,
        dialect=inquiry.dialect.name,
        model=inquiry.ask.model[:MAX_TOLD_CHARS],
        namespace=inquiry.verdict.namespace[:MAX_TOLD_CHARS],
        client=inquiry.call.client or "",
        outcome=outcome,
        reason=inquiry.verdict.reason,
        entry_id=inquiry.question.id,
        trace_id=inquiry.call.trace_id,
    )


# Unique without asking the kernel for randomness each time, which takes 16 us.
_PROCESS = token_hex(8)
_NUMBERS = count(1)


def request_id() -> bytes:
    return f"req_{_PROCESS}{next(_NUMBERS):016x}".encode()
