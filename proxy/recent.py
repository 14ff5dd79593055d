"""What was asked lately and not answered from the cache, with why: bounded, in memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from proxy.errors import ProxyError
from proxy.flights import Flight
from proxy.inquiry import Inquiry
from proxy.journal import utc
from proxy.models import Event, Outcome

MAX_COUNT = 1000
MAX_BYTES = 16 * 2**20
# Of a larger key only the id is kept, and of whoever wants no trace to be left (no-store).
MAX_KEY_BYTES = 2**20
_OVERHEAD_BYTES = 1000
_MAX_TOLD_CHARS = 256
FAILED = "ERROR"  # an outcome of the proxy's own


class Miss(NamedTuple):
    """One request."""

    at: float  # Unix seconds
    id: str
    path: str
    provider: str
    model: str
    client: str
    outcome: str
    status: int
    reasons: tuple[str, ...]
    key: tuple[str, str] | None  # prompt and llm_string; None: too large, or not to be kept

    @property
    def bytes(self) -> int:
        # At most four bytes a character, mostly one.
        return _OVERHEAD_BYTES + (sum(map(len, self.key)) if self.key else 0)


class Recent:
    """The latest misses and bypasses; the oldest goes first."""

    def __init__(
        self,
        *,
        max_count: int = MAX_COUNT,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._clock = clock
        self._bytes = 0
        self._held: deque[Miss] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def last(self, count: int, client: str | None = None) -> list[Miss]:
        """The latest, the newest first; of one client only, if it is named."""
        held = (each for each in reversed(self._held) if client in (None, each.client))
        return [each for each, _ in zip(held, range(count), strict=False)]

    def of_id(self, id: str, client: str | None = None) -> Miss | None:
        """The latest request for the entry with this id."""
        return next((each for each in self.last(len(self._held), client) if each.id == id), None)

    def fetched(self, inquiry: Inquiry, flight: Flight, event: Event) -> None:
        """The provider was asked."""
        outcome = event.outcome or Outcome.MISS
        reasons = self._why_fetched(inquiry, flight)
        self._add(inquiry, flight.missed, outcome, event.status, reasons)

    def failed(self, inquiry: Inquiry, error: ProxyError) -> None:
        """The proxy itself answered with an error."""
        reasons = tuple(filter(None, (error.code, inquiry.verdict.reason)))
        self._add(inquiry, 0, FAILED, error.status, reasons)

    def _add(
        self, inquiry: Inquiry, place: int, outcome: str, status: int, reasons: tuple[str, ...]
    ) -> None:
        key = inquiry.question.keys[place]
        size = len(key.prompt) + len(key.llm_string)
        traceless = inquiry.call.control.no_store
        miss = Miss(
            at=self._clock(),
            id=key.id,
            path=inquiry.call.path[:_MAX_TOLD_CHARS],
            provider=inquiry.call.provider.name,
            model=inquiry.ask.model[:_MAX_TOLD_CHARS],
            client=inquiry.call.client or "",
            outcome=str(outcome),
            status=status,
            reasons=reasons,
            key=None if traceless or size > MAX_KEY_BYTES else (key.prompt, key.llm_string),
        )
        self._held.append(miss)
        self._bytes += miss.bytes
        while self._bytes > self._max_bytes or len(self._held) > self._max_count:
            self._bytes -= self._held.popleft().bytes

    def _why_fetched(self, inquiry: Inquiry, flight: Flight) -> tuple[str, ...]:
        verdict = inquiry.verdict
        if not (verdict.may_read or verdict.may_write):
            return (f"past the cache: {verdict.reason}",)
        return (self._why_not_found(inquiry, flight), _what_was_kept(flight))

    def _why_not_found(self, inquiry: Inquiry, flight: Flight) -> str:
        which = f"input {flight.missed}: " if len(inquiry.question.keys) > 1 else ""
        unfit = flight.unfit
        if not inquiry.verdict.may_read:
            return f"fetched anew: {inquiry.verdict.reason}"
        if unfit is None:
            return f"{which}nothing was stored under this id"
        if unfit.expires_at is not None and unfit.expires_at <= self._clock():
            return f"{which}the stored answer had expired at {utc(unfit.expires_at)}"
        return f"{which}the stored answer did not do for this request"


def _what_was_kept(flight: Flight) -> str:
    if flight.stored:
        return "it is stored now"
    if flight.saving is not None:
        return "it is being stored"
    if not flight.done:
        return "the caller left before it was known whether it could be stored"
    return f"not stored: {flight.reason or 'the answer broke off'}"
