"""Counts what happened since the start: outcomes, bypasses by reason, tokens and time saved."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from proxy.models import Event, Outcome
from proxy.savings import SPARED


@dataclass(slots=True)
class Metrics:
    """Is told of every request. Tokens are those the provider would have counted."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    bypasses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    saved_tokens: int = 0
    saved_seconds: float = 0.0
    saved_usd: float = 0.0

    def record(self, event: Event) -> None:
        if event.outcome is None:
            self.errors[event.reason] += 1
            return
        self.outcomes[event.outcome] += 1
        if event.outcome is Outcome.BYPASS:
            self.bypasses[event.reason] += 1
        self.saved_tokens += event.saved_tokens
        self.saved_seconds += event.saved_seconds
        self.saved_usd += event.saved_usd

    @property
    def requests(self) -> int:
        return self.outcomes.total() + self.errors.total()

    @property
    def hit_ratio(self) -> float:
        """Of the requests that the cache could have answered, the part that it did."""
        asked = self.outcomes.total() - self.outcomes[Outcome.BYPASS]
        spared = sum(self.outcomes[outcome] for outcome in SPARED)
        return spared / asked if asked else 0.0
