"""The errand of a flight: look up, else fetch; record what passes by; store what is complete."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from cache_backends.base import Entry
from proxy.access import Access
from proxy.dialects.base import Recorder
from proxy.errors import Offline, Overloaded, UpstreamFailure
from proxy.flights import Flight
from proxy.inquiry import Inquiry, usd_of
from proxy.models import AnswerFacts, Answers, Freshness, Head, Mode, Verdict
from proxy.modes import Switch
from proxy.passage import COMMIT_WAIT_S, Passage
from proxy.policy import Policy
from proxy.prices import Prices
from proxy.store import Store
from proxy.turns import Alone
from proxy.upstream import Arrival, Upstream

log = logging.getLogger("proxy.fetch")

# What is fetched is told to newcomers until a slow save ends: not if it must be fresher than that.
SAVE_AGE_S = 60.0
# What a provider says when it cannot answer now, and perhaps later. Source: RFC 5861, section 4;
# 429 is ours: whoever is rate-limited is glad of a known answer.
FAILED_FOR_NOW = frozenset({429, 500, 502, 503, 504})

# Modes that may have begun while the answer was fetched.
_NOTHING_IS_WRITTEN = frozenset({Mode.BYPASS, Mode.READ_ONLY})

_ALONE = Alone()
# Is told what a provider took: its name, the model, tokens, USD.
Paid = Callable[[str, str, int, float], None]


def _nobody(provider: str, model: str, tokens: int, usd: float) -> None:
    """Who does not count what is paid."""


class Fetcher:
    """Runs errands."""

    def __init__(
        self,
        *,
        store: Store,
        upstream: Upstream,
        policy: Policy,
        access: Access,
        switch: Switch,
        turns: Alone | None = None,
        prices: Prices | None = None,
        paid: Paid = _nobody,
        max_misses: int = 1000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._policy = policy
        self._access = access
        self._switch = switch
        self._turns = turns or _ALONE
        self._prices = prices or Prices()
        self._paid = paid
        self._max_misses = max_misses
        self._misses = 0
        self._clock = clock

    async def run(self, inquiry: Inquiry, flight: Flight) -> None:
        """Bring an answer; raises what the callers are to be told."""
        found = await self._look_up(inquiry, flight)
        flight.seen = self._store.seen
        known = self.usable(inquiry, found)
        if known.count(Freshness.FRESH) + known.count(Freshness.STALE) == len(known):
            stale = Freshness.STALE in known
            flight.serve(_all(found), Freshness.STALE if stale else Freshness.FRESH)
            return
        if _all(found):
            self._tell_what_missed(flight, found, known)
            flight.since = float("-inf")  # part of it, or what stands in for it, is old
        if self._misses >= self._max_misses:
            raise Overloaded("Too many answers are being fetched. Try again soon.", retry_after=1)
        self._misses += 1
        try:
            await self._fetch_in_turn(inquiry, flight, found, known)
        finally:
            self._misses -= 1

    async def _fetch_in_turn(
        self,
        inquiry: Inquiry,
        flight: Flight,
        found: list[Entry | None],
        known: list[Freshness],
    ) -> None:
        """Fetch, unless another process does: then what it brings is served."""
        turns = self._turns if flight.sharable else _ALONE
        if turns is _ALONE:
            await self._fetch_or_fall_back(inquiry, flight, found, known)
            return

        async def look() -> list[Entry] | None:
            entries = await self._store.find(inquiry.question.keys)
            fresh = self.usable(inquiry, entries).count(Freshness.FRESH) == len(entries)
            return _all(entries) if fresh else None

        def obsolete() -> bool:
            return self.purged(inquiry, flight)

        turn = await turns.take(inquiry.question.keys, look, obsolete)
        try:
            if turn.found is not None:
                flight.serve(turn.found)
            else:
                await self._fetch_or_fall_back(inquiry, flight, found, known)
        finally:
            turn.end(bool(flight.stored), flight.saving)

    def _tell_what_missed(
        self, flight: Flight, found: Sequence[Entry | None], known: Sequence[Freshness]
    ) -> None:
        served = (Freshness.FRESH, Freshness.STALE)
        flight.missed = next(at for at, freshness in enumerate(known) if freshness not in served)
        flight.unfit = found[flight.missed]
        flight.forwarded = self._forwarded(found)

    def _forwarded(self, found: Sequence[Entry | None]) -> str:
        held = _all(found)
        now = self._clock()
        if any(each.expires_at is not None and each.expires_at <= now for each in held):
            return "stale"
        return "request" if held else ""

    async def _look_up(self, inquiry: Inquiry, flight: Flight) -> list[Entry | None]:
        question = inquiry.question
        if not inquiry.verdict.may_read:
            if inquiry.verdict.may_write:
                # What is fetched now must not be taken for older than the purges before it.
                await self._store.keep_up()
            return [None] * len(question.keys)
        began = time.perf_counter()
        found = await self._store.find(question.keys)
        flight.lookup_s = time.perf_counter() - began
        return found

    def usable(self, inquiry: Inquiry, found: Sequence[Entry | None]) -> list[Freshness]:
        """How each entry may serve this inquiry."""
        if found.count(None) == len(found):
            return [Freshness.UNUSABLE] * len(found)
        now = self._clock()
        known = [
            Freshness.UNUSABLE
            if entry is None
            else self._policy.freshness(inquiry.verdict, entry, now)
            for entry in found
        ]
        if inquiry.rendering.tells(found):
            return known
        entries = _all(found)
        if entries and not _can_be_told(inquiry, entries):
            return [Freshness.UNUSABLE] * len(known)
        return known

    def purged(self, inquiry: Inquiry, flight: Flight) -> bool:
        """Was what this flight brings purged? Then nobody may join it any more."""

        def entries() -> list[Entry]:
            nothing: Answers = [[]] * len(inquiry.question.keys)
            return self._entries(inquiry, flight, nothing, range(len(nothing)), AnswerFacts())

        return self._store.purged(flight.seen, flight.since, entries)

    async def aclose(self) -> None:
        """Give back what is held for fetches; they have ended."""
        await self._turns.aclose()

    async def _fetch_or_fall_back(
        self,
        inquiry: Inquiry,
        flight: Flight,
        found: list[Entry | None],
        known: list[Freshness],
    ) -> None:
        """Fetch; if the provider fails, an expired entry may stand in."""
        stand_in = _all(found) if Freshness.UNUSABLE not in known else None
        try:
            arrival = await self._send(inquiry, flight, found, known)
            try:
                if stand_in is not None and arrival.head.status in FAILED_FOR_NOW:
                    flight.serve(stand_in, Freshness.IF_ERROR)
                    return
                await self._receive(inquiry, flight, arrival, _fresh_only(found, known))
            finally:
                await arrival.aclose()
        except UpstreamFailure:
            if stand_in is None or flight.under_way:
                raise
            flight.serve(stand_in, Freshness.IF_ERROR)

    async def _send(
        self,
        inquiry: Inquiry,
        flight: Flight,
        found: list[Entry | None],
        known: list[Freshness],
    ) -> Arrival:
        if self._switch.mode is Mode.OFFLINE:
            raise Offline("Offline mode began before the provider was asked.")
        call, ask = inquiry.call, inquiry.ask
        missing = [i for i, freshness in enumerate(known) if freshness is not Freshness.FRESH]
        partly = len(missing) < len(found)
        body = inquiry.dialect.request(ask, missing if partly else None)
        began = time.perf_counter()
        headers = self._access.dress(call.headers, call.provider)
        arrival = await self._upstream.send("POST", call.url, headers, body, decode=True)
        flight.upstream_s = time.perf_counter() - began
        return arrival

    async def _receive(
        self, inquiry: Inquiry, flight: Flight, arrival: Arrival, fresh: list[Entry | None]
    ) -> None:
        began = time.perf_counter() - flight.upstream_s
        missing = [place for place, entry in enumerate(fresh) if entry is None]
        recorder = self._recorder(inquiry, arrival, missing)
        if len(missing) < len(fresh) and arrival.head.status == 200:
            await self._complete(inquiry, flight, arrival, recorder, fresh)
            return
        passage = Passage(flight, arrival, recorder, inquiry.verdict.keep.max_bytes)
        answers = await passage.run()
        flight.upstream_s = time.perf_counter() - began
        flight.answers = answers
        if arrival.head.status == 200:
            await self._keep(inquiry, flight, answers, missing, passage.bytes)
        else:
            flight.reason = f"status {arrival.head.status}"
        passage.let_go()

    async def _complete(
        self,
        inquiry: Inquiry,
        flight: Flight,
        arrival: Arrival,
        recorder: Recorder | None,
        fresh: list[Entry | None],
    ) -> None:
        """Put the parts that were fetched between those that were known."""
        began = time.perf_counter() - flight.upstream_s
        size = 0
        async for chunk in arrival.chunks():
            size += len(chunk)
            if recorder is None or size > inquiry.verdict.keep.max_bytes:
                break
            recorder.feed(chunk)
        else:
            fetched = recorder.finish() if recorder is not None else None
            if fetched is not None:
                flight.upstream_s = time.perf_counter() - began
                await self._join(inquiry, flight, fresh, fetched, size)
                return
        await self._fetch_whole(inquiry, flight)

    async def _join(
        self,
        inquiry: Inquiry,
        flight: Flight,
        fresh: list[Entry | None],
        fetched: Answers,
        size: int,
    ) -> None:
        missing = [place for place, entry in enumerate(fresh) if entry is None]
        await self._keep(inquiry, flight, fetched, missing, size)
        rest = iter(fetched)
        flight.answers = [next(rest) if entry is None else entry.generations for entry in fresh]
        flight.facts = inquiry.dialect.facts(inquiry.ask, flight.answers)
        flight.partial = _all(fresh)
        known = usd_of(flight.partial)
        if known is not None:
            flight.usd = known + (flight.usd or 0.0)
        flight.begin(Head(200, [(b"content-type", b"application/json")]))
        flight.add(inquiry.dialect.replay(inquiry.ask, flight.answers))

    async def _fetch_whole(self, inquiry: Inquiry, flight: Flight) -> None:
        """What was fetched does not fit what was known: let the provider answer all of it."""
        nothing: list[Entry | None] = [None] * len(inquiry.question.keys)
        arrival = await self._send(inquiry, flight, nothing, [Freshness.UNUSABLE] * len(nothing))
        try:
            await self._receive(inquiry, flight, arrival, nothing)
        finally:
            await arrival.aclose()

    def _recorder(
        self, inquiry: Inquiry, arrival: Arrival, missing: Sequence[int]
    ) -> Recorder | None:
        """Who listens to an answer to the missing parts."""
        if arrival.head.status != 200 or arrival.opaque:
            return None
        ask = inquiry.ask
        if len(missing) < len(ask.parts):
            ask = replace(ask, parts=tuple(ask.parts[place] for place in missing))
        return inquiry.dialect.recorder(ask, arrival.head, len(missing))

    async def _keep(
        self,
        inquiry: Inquiry,
        flight: Flight,
        answers: Answers | None,
        places: Sequence[int],
        size: int,
    ) -> None:
        """Store what may be stored; say in the flight whether, and why not."""
        if answers is not None:
            flight.facts = inquiry.dialect.facts(inquiry.ask, answers)
            flight.usd = self._prices.usd(inquiry.call.provider, inquiry.ask.model, flight.facts)
            self._tell_what_was_paid(inquiry, flight.facts, flight.usd)
        flight.reason = self._refusal(inquiry, flight.facts, size)
        if flight.reason or answers is None:
            flight.refused, flight.stored = True, False
            return
        facts = flight.facts if len(answers) == 1 else None
        entries = self._entries(inquiry, flight, answers, places, facts)
        # The entry that did not do for this caller is still good for others.
        replacing = not inquiry.verdict.may_read or flight.forwarded == "request"
        if replacing:
            entries = await self._but_pinned(entries)
            if not entries:
                flight.stored, flight.reason = False, "a pinned answer stays"
                return
        saved = await self._store.save(entries, patience_s=COMMIT_WAIT_S, replacing=replacing)
        if isinstance(saved, bool):
            flight.stored = saved
        elif _lasts(inquiry.verdict):
            flight.saving = saved
        if flight.stored is False:
            flight.reason = "the cache did not take it"

    def _tell_what_was_paid(self, inquiry: Inquiry, facts: AnswerFacts, usd: float | None) -> None:
        """Here, as those who asked may have left."""
        tokens = (facts.input_tokens or 0) + (facts.output_tokens or 0)
        self._paid(inquiry.call.provider.name, inquiry.ask.model, tokens, usd or 0.0)

    async def _but_pinned(self, entries: list[Entry]) -> list[Entry]:
        """Those in whose place no pinned entry is."""
        held = await self._store.find([entry.key for entry in entries])
        return [
            entry for entry, old in zip(entries, held, strict=True) if old is None or not old.pinned
        ]

    def _refusal(self, inquiry: Inquiry, facts: AnswerFacts | None, size: int) -> str:
        verdict = inquiry.verdict
        if not verdict.may_write:
            return verdict.reason or "not to be stored"
        if self._switch.mode in _NOTHING_IS_WRITTEN:
            return f"{self._switch.mode} mode"
        if facts is None:
            return "not a whole answer, or not to be told again"
        return self._policy.keep(verdict, facts, size)

    def _entries(
        self,
        inquiry: Inquiry,
        flight: Flight,
        answers: Answers,
        places: Sequence[int],
        facts: AnswerFacts | None,
    ) -> list[Entry]:
        now = self._clock()
        expires_at, retained_until = self._policy.expiry(inquiry.verdict, now)
        made = {"seconds": round(flight.upstream_s, 6)}
        entries = []
        for place, generations in zip(places, answers, strict=True):
            its = facts or inquiry.dialect.facts(inquiry.ask, [generations])
            key = inquiry.question.keys[place]
            usd = _share(flight, its)
            entry = Entry(
                key,
                generations,
                stored_at=now,
                expires_at=expires_at,
                retained_until=retained_until,
                tags=inquiry.verdict.tags,
                about=inquiry.about(key, its) | made | ({} if usd is None else {"usd": usd}),
                seen=flight.seen or 0,
            )
            entries.append(entry)
        return entries


def _share(flight: Flight, facts: AnswerFacts) -> float | None:
    """What one part of what was fetched costs: as much of the whole as its tokens are."""
    whole = flight.facts
    if flight.usd is None or whole is None or whole is facts:
        return flight.usd
    tokens = (whole.input_tokens or 0) + (whole.output_tokens or 0)
    its = (facts.input_tokens or 0) + (facts.output_tokens or 0)
    return round(flight.usd * its / tokens, 12) if tokens else None


def _can_be_told(inquiry: Inquiry, entries: Sequence[Entry]) -> bool:
    answers = [entry.generations for entry in entries]
    try:
        if not inquiry.dialect.can_replay(inquiry.ask, answers):
            return False
        if len(entries) == len(inquiry.question.keys):
            inquiry.rendering.tell(inquiry, entries)
    except Exception as exc:  # noqa: BLE001 - nonsense in the cache is a miss, as are its faults
        log.warning("an entry of the cache cannot be told: %s", type(exc).__name__)
        return False
    return True


def _lasts(verdict: Verdict) -> bool:
    limits = [seconds for seconds in (verdict.ttl, verdict.max_age) if seconds is not None]
    return all(seconds >= SAVE_AGE_S for seconds in limits)


def _all(found: Sequence[Entry | None]) -> list[Entry]:
    return [entry for entry in found if entry is not None]


def _fresh_only(found: Sequence[Entry | None], known: Sequence[Freshness]) -> list[Entry | None]:
    return [
        entry if freshness is Freshness.FRESH else None
        for entry, freshness in zip(found, known, strict=True)
    ]
