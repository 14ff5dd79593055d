"""What would become of a request now, without sending it: from what is stored, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from cache_backends.base import CacheError, Entry, Key
from proxy import keys
from proxy.engine import Engine
from proxy.explain import Calls, Request
from proxy.fetch import Fetcher
from proxy.inquiry import Inquiry
from proxy.journal import utc
from proxy.models import Call, Freshness, Mode, Outcome, Question, Scope
from proxy.nearest import Asked, Near, Nearest, Whose
from proxy.policy import Policy
from proxy.store import Store

# What else may come of it, beside the outcomes of requests.
OFFLINE = "OFFLINE"  # 424
NOT_CACHED = "NOT_CACHED"  # 504
_SERVES = frozenset({Freshness.FRESH, Freshness.STALE})


@dataclass(slots=True)
class Forecast:
    """What would be told in `X-Cache`, or which error; in words, why."""

    question: Question
    key: Key  # of the first part; where nobody says who asks, that of the entry
    outcome: str = ""
    reasons: list[str] = field(default_factory=list)
    near: list[Near] = field(default_factory=list)


class Forecaster:
    """Foresees with the parts that answer."""

    def __init__(
        self,
        *,
        calls: Calls,
        engine: Engine,
        fetcher: Fetcher,
        policy: Policy,
        store: Store,
        nearest: Nearest,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._calls = calls
        self._engine = engine
        self._fetcher = fetcher
        self._policy = policy
        self._store = store
        self._nearest = nearest
        self._clock = clock

    async def forecast(self, request: Request, client: str | None = None) -> Forecast:
        """For whoever the request says it is from; where it does not, with the entries of all. A
        client is shown no entries but its own. Raises ProxyError where the proxy would."""
        inquiry = self._engine.inquire(*self._calls.of(request, client))
        if inquiry.unproven:
            inquiry = await self._engine.strictly_parsed(inquiry)
        forecast = Forecast(inquiry.question, inquiry.question.keys[0])
        if self._is_past_the_cache(inquiry, forecast):
            return forecast
        anybodys = inquiry.verdict.scope.startswith("credential:") and _is_anonymous(inquiry.call)
        whose = Whose.ANYBODYS if anybodys else Whose.ALL
        found = await self._found(inquiry, forecast, whose, client)
        if found[0] is not None:
            forecast.key = found[0].key
        self._judge(inquiry, forecast, found)
        if forecast.outcome not in (Outcome.HIT, Outcome.STALE):
            missing = next((at for at, entry in enumerate(found) if entry is None), 0)
            asked = self._asked(inquiry, missing, whose, client)
            forecast.near = await self._near(asked, forecast)
        return forecast

    def _is_past_the_cache(self, inquiry: Inquiry, forecast: Forecast) -> bool:
        verdict = inquiry.verdict
        if verdict.counted:
            forecast.reasons.append(
                f"in the run {verdict.run} each equal request is the next sample; this is sample 0"
            )
        if verdict.may_read:
            return False
        if inquiry.mode is Mode.OFFLINE:
            forecast.outcome = OFFLINE
        elif verdict.only_if_cached:
            forecast.outcome = NOT_CACHED
        else:
            forecast.outcome = Outcome.MISS if verdict.may_write else Outcome.BYPASS
        forecast.reasons.append(verdict.reason)
        return True

    async def _found(
        self, inquiry: Inquiry, forecast: Forecast, whose: Whose, client: str | None
    ) -> list[Entry | None]:
        if whose is not Whose.ANYBODYS:
            return await self._store.find(inquiry.question.keys)
        forecast.reasons.append("no credential was given: the entries of all were looked at")
        found: list[Entry | None] = []
        for place in range(len(inquiry.question.keys)):
            near = await self._near(self._asked(inquiry, place, whose, client), forecast)
            same = [each.entry for each in near if not each.comparison.differences]
            found.append(same[0] if same else None)
            if not same:  # the rest makes no difference
                found += [None] * (len(inquiry.question.keys) - len(found))
                break
        return found

    def _judge(self, inquiry: Inquiry, forecast: Forecast, found: Sequence[Entry | None]) -> None:
        known = self._fetcher.usable(inquiry, found)
        served = [freshness in _SERVES for freshness in known]
        for place, entry in enumerate(found):
            which = f"input {place}: " if len(found) > 1 else ""
            forecast.reasons.append(which + self._state(inquiry, entry, known[place], all(served)))
        if all(served):
            stale = Freshness.STALE in known
            forecast.outcome = Outcome.STALE if stale else Outcome.HIT
            return
        verdict, mode = inquiry.verdict, inquiry.mode
        if mode is not Mode.NORMAL:
            forecast.reasons.append(f"{mode} mode")
        if mode is Mode.OFFLINE:
            forecast.outcome = OFFLINE
        elif verdict.only_if_cached:
            forecast.outcome = NOT_CACHED
        else:
            # What is expired is fetched anew with the rest.
            forecast.outcome = Outcome.PARTIAL if Freshness.FRESH in known else Outcome.MISS

    def _state(self, inquiry: Inquiry, entry: Entry | None, known: Freshness, whole: bool) -> str:
        """How an entry that was looked for is, in words; `whole`: do all of them serve?"""
        if entry is None:
            trouble = self._store.degraded
            return f"the cache cannot be used: {trouble}" if trouble else "nothing is stored for it"
        now, expires_at = self._clock(), entry.expires_at
        stored = f"stored at {utc(entry.stored_at)}"
        expired = expires_at is not None and expires_at <= now
        if expires_at is not None and expired:
            stored += f", expired at {utc(expires_at)}"
        if known in _SERVES:
            return f"{stored}; it is told as it is" if expired and whole else stored
        if self._policy.freshness(inquiry.verdict, entry, now) in _SERVES:
            return f"{stored}, but cannot be told as this request wants it"
        if not expired:
            stored += ", but the request wants a fresher one"
        stands_in = known is Freshness.IF_ERROR
        return f"{stored}; it stands in if the provider fails" if stands_in else stored

    def _asked(self, inquiry: Inquiry, place: int, whose: Whose, client: str | None) -> Asked:
        provider, model = inquiry.call.provider.name, inquiry.ask.model
        return Asked(inquiry.question.keys[place], provider, model, whose, client)

    async def _near(self, asked: Asked, forecast: Forecast) -> list[Near]:
        try:
            return await self._nearest.find(asked)
        except CacheError as exc:
            why = f"the nearest entries are not known: {exc}"
            if why not in forecast.reasons:
                forecast.reasons.append(why)
            return []


def _is_anonymous(call: Call) -> bool:
    """Does nothing in it name a caller?"""
    nobody = replace(call, headers=[], query="")
    return keys.partition(Scope.CREDENTIAL, call, b"") == keys.partition(
        Scope.CREDENTIAL, nobody, b""
    )
