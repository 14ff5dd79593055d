"""The hit lane: answers to requests that come again and again, as bytes, found by the requests'.

It says only what the full path has said to the very same bytes, from the first of the head to the
last of the body, and only while that would say it again: while what it was told from is at hand
and fresh, and the mode is the same. What a hit tells of itself (age, time to live, a request id of
its own) is told anew, and counted and logged like any other.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from email.utils import formatdate
from math import floor, inf
from time import perf_counter_ns
from typing import Any

from xxhash import xxh3_64_intdigest

from proxy.cache_status import Telling, tell
from proxy.inquiry import Inquiry
from proxy.journal import Repeated
from proxy.models import Event, Headers, Outcome, Reply
from proxy.modes import Switch
from proxy.replies import request_id
from proxy.store import Held, Store

# Under which the server's protocol finds the lane in the lifespan's state.
LANE = "llm_cache_proxy.lane"
# The head of a request as it came, where the server offers it.
HEAD_EXTENSION = "llm_cache_proxy.head"

HEAD_END = b"\r\n\r\n"

MAX_BYTES = 64 * 2**20
# Of one request, which the server's protocol gathers, and of what is kept of it in all.
MAX_BODY_BYTES = 2**20
MAX_ITEM_BYTES = 2 * 2**20
# Who tells each request apart by a header, as tracing does, never sends the same bytes again:
# what is taken in has come this often before. How often is counted in so many bytes, each for all
# requests of a digest, and anew after half as many: whoever is counted too high is let in early.
TIMES = 2
COUNTERS = 2**20
_OVERHEAD_BYTES = 1500  # the records, their values, their places
# What frames a message in other ways than by its length, or asks for more than an answer.
_UNUSUAL = frozenset({b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade"})

# Server-Timing counts in hundredths of a millisecond. The usual ones, written once.
_TICK_NS = 10_000
_TICKS = tuple(b"%.2f" % (ticks / 100) for ticks in range(1000))
_TICK = _TICKS[0]  # stands where that of the request is put


class Lane:
    """Bounded by bytes, those of the requests included; what was not asked for lately goes first.

    `listener` and `found` are told of each hit, as `Replies` tells them.
    """

    def __init__(
        self,
        store: Store,
        switch: Switch,
        *,
        listener: Callable[[Event], None],
        found: Callable[[Sequence[str]], None],
        clock: Callable[[], float] = time.time,
        max_bytes: int = MAX_BYTES,
        times: int = TIMES,
    ) -> None:
        self._store = store
        self._switch = switch
        self._listener = listener
        self._found = found
        self._clock = clock
        self._max_bytes = max_bytes
        self.times = times
        self._answers: OrderedDict[int, _Answer] = OrderedDict()  # by the digest of the request
        self._heads: dict[bytes, _Head] = {}
        self._came = bytearray(COUNTERS)
        self._counted = 0
        self._status = b""  # the line, and the date
        self._status_until = 0
        self.bytes = 0
        self.served = 0  # requests, since the start

    def __len__(self) -> int:
        return len(self._answers)

    def __repr__(self) -> str:
        return f"<Lane {len(self)} answers, {self.bytes} of {self._max_bytes} bytes>"

    def length(self, head: bytes) -> int | None:
        """Of the body that comes with this head, if the head is known."""
        known = self._heads.get(head)
        return None if known is None else known.length

    def answer(self, request: bytes) -> bytes | None:
        """All that is to be sent, if the answer to just this request is known; it is counted."""
        began = perf_counter_ns()
        digest = xxh3_64_intdigest(request)
        answer = self._answers.get(digest)
        if answer is None or answer.request != request or answer.mode is not self._switch.mode:
            return None
        now = self._clock()
        if now >= answer.fresh_until or not self._store.holds(answer.held):
            self._forget(digest)
            return None
        if not answer.told_at <= now < answer.told_until:
            answer.tell(now)
        if began >= self._status_until:
            self._begin_second(began)
        ticks = (perf_counter_ns() - began) // _TICK_NS
        told = b"".join(
            (
                self._status,
                answer.before_id,
                request_id(),
                answer.before_tick,
                _TICKS[ticks] if ticks < len(_TICKS) else b"%.2f" % (ticks / 100),
                answer.after_tick,
            )
        )
        answer.used = True
        self.served += 1
        self._count(answer, now, began)
        return told

    def _count(self, answer: _Answer, now: float, began: int) -> None:
        # One event for all hits of an answer: nobody keeps it.
        event = answer.event
        event.age = now - answer.stored_at
        event.saved_seconds = 0.0
        event.seconds = (perf_counter_ns() - began) // 1000 / 1e6
        self._found(answer.ids)
        self._listener(event)

    def _begin_second(self, began: int) -> None:
        # The server's own date lags behind by up to a second.
        now = time.time()
        self._status = b"HTTP/1.1 200 OK\r\ndate: %b\r\n" % formatdate(now, usegmt=True).encode()
        self._status_until = began + int((1 - now % 1) * 1e9)

    def offer(self, scope: Mapping[str, Any], inquiry: Inquiry, reply: Reply) -> None:
        """Take in a request that has just been served from memory, if it keeps coming."""
        extension = (scope.get("extensions") or {}).get(HEAD_EXTENSION)
        if extension is None or not _can_repeat(inquiry, reply):
            return
        head: bytes = extension["head"]
        if not _is_plain(scope, head, inquiry.call.body):
            return
        request = b"".join((head, inquiry.call.body))
        digest = xxh3_64_intdigest(request)
        if not self._comes_often(digest):
            return
        held = self._store.hold(inquiry.question.keys, inquiry.rendering.found)
        if held is None:
            return
        known = self._heads.get(head) or _Head(head, len(inquiry.call.body))
        self._enter(digest, _Answer(request, known, inquiry.rendering.body, inquiry, reply, held))

    def _comes_often(self, digest: int) -> bool:
        self._counted += 1
        if self._counted > COUNTERS // 2:
            self._came, self._counted = bytearray(COUNTERS), 0
        place = digest % COUNTERS
        times = min(self._came[place] + 1, 255)
        self._came[place] = times
        return times >= self.times

    def _enter(self, digest: int, answer: _Answer) -> None:
        self._forget(digest)
        if answer.size > min(MAX_ITEM_BYTES, self._max_bytes):
            return
        self._heads[answer.head.raw] = answer.head
        answer.head.answers += 1
        self._answers[digest] = answer
        self.bytes += answer.size
        while self.bytes > self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        """Let the oldest go; if it was used since it was looked at last, it is the newest again."""
        oldest = next(iter(self._answers))
        answer = self._answers[oldest]
        if answer.used:
            answer.used = False
            self._answers.move_to_end(oldest)
        else:
            self._forget(oldest)

    def _forget(self, digest: int) -> None:
        answer = self._answers.pop(digest, None)
        if answer is None:
            return
        self.bytes -= answer.size
        answer.head.answers -= 1
        if not answer.head.answers:
            del self._heads[answer.head.raw]

    def clear(self) -> None:
        """Forget everything: who may ask, or for what, is not what it was."""
        self._answers.clear()
        self._heads.clear()
        self._came, self._counted = bytearray(COUNTERS), 0
        self.bytes = 0


class _Head:
    """A head with which known requests begin."""

    __slots__ = ("answers", "length", "raw")

    def __init__(self, raw: bytes, length: int) -> None:
        self.raw = raw
        self.length = length  # of the body that it announces
        self.answers = 0


class _Answer:
    """One request, and what it is told. Unix seconds."""

    __slots__ = (
        *("_expires_at", "_telling", "after_tick", "before_id", "before_tick"),
        *("event", "fresh_until", "head", "held", "ids", "mode", "request", "size", "stored_at"),
        *("told_at", "told_until", "used"),
    )

    def __init__(
        self, request: bytes, head: _Head, body: bytes, inquiry: Inquiry, reply: Reply, held: Held
    ) -> None:
        rendering = inquiry.rendering
        self.request = request
        self.head = head
        self.held = held
        self.mode = inquiry.mode
        self.ids = tuple(rendering.ids)
        self.stored_at = rendering.stored_at
        self._expires_at = rendering.expires_at
        self.fresh_until = inf if rendering.expires_at is None else rendering.expires_at
        self.event = Repeated.of(
            reply.event, request_bytes=len(inquiry.call.body), answer_bytes=len(body)
        )
        self._telling = Telling(
            Outcome.HIT,
            detail=reply.event.tier,
            entry_id=reply.event.entry_id,
            timings=(("cache", 0.0),),
        )
        kind, (id_name, _) = reply.headers[:2]
        self.before_id = b"%b: %b\r\n%b: " % (*kind, id_name)
        self.after_tick = b"\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        self.size = _OVERHEAD_BYTES + len(head.raw) + len(request) + len(self.after_tick)
        self.used = False
        self.told_at = self.told_until = 0.0

    def tell(self, now: float) -> None:
        """Say how old it is, and how long it stays fresh; both count in whole seconds."""
        age = now - self.stored_at
        left = None if self._expires_at is None else self._expires_at - now
        told = tell(self._telling._replace(age=age, ttl_left=left))
        lines = b"".join([b"\r\n%b: %b" % line for line in told])
        self.before_tick = lines.removesuffix(_TICK)
        self.told_at = now
        self.told_until = self.stored_at + max(0, floor(age)) + 1
        if self._expires_at is not None and left is not None:
            self.told_until = min(self.told_until, self._expires_at - floor(left))


def _can_repeat(inquiry: Inquiry, reply: Reply) -> bool:
    """Is this a fresh answer, for one who asked nothing special of the cache?"""
    control, verdict = inquiry.call.control, inquiry.verdict
    asked = (control.max_age, control.min_fresh, control.max_stale)
    bounds = (verdict.max_age, verdict.min_fresh)
    if control.only_if_cached or verdict.counted or any(v is not None for v in (*asked, *bounds)):
        return False
    return reply.event.outcome is Outcome.HIT and len(inquiry.call.body) <= MAX_BODY_BYTES


def _is_plain(scope: Mapping[str, Any], head: bytes, body: bytes) -> bool:
    """Is this head, and a body of its length, all there is of the request, and nothing unusual?"""
    headers: Headers = scope["headers"]
    query: bytes = scope["query_string"]
    target = b"%b?%b" % (scope["raw_path"], query) if query else scope["raw_path"]
    if not head.startswith(b"%b %b HTTP/1.1\r\n" % (scope["method"].encode(), target)):
        return False
    lines = len(headers) + 2  # and each of them ends once
    if head.count(b"\n") != lines or head.count(b"\r\n") != lines:
        return False
    if [value for name, value in headers if name == b"content-length"] != [b"%d" % len(body)]:
        return False
    return not any(
        name in _UNUSUAL or (name == b"connection" and value.lower() != b"keep-alive")
        for name, value in headers
    )
