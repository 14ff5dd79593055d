"""Sums up what happens, request by request, until somebody takes the sums: cheap, and bounded."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from proxy.models import Event, Outcome
from proxy.savings import SPARED

# Upper bounds of the buckets in which durations are counted; what is above all has one more.
BOUNDS_S = (
    *(0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 600.0),
)

# Callers make names of models up, and some tell their users apart by namespaces. Past so many the
# rest is one: a name of which no answer came is not even remembered.
MAX_MODELS = 200
MAX_OTHERS = 100
OTHER = "other"
_MAX_NAME_CHARS = 100
# Combinations of names that are remembered until sums are taken.
_MAX_KNOWN = 2000


class Kind(StrEnum):
    """What became of a request, in more detail than `X-Cache` tells it."""

    MEMORY = "memory"
    BACKEND = "backend"
    SEMANTIC = "semantic"
    STALE = "stale"
    COLLAPSED = "collapsed"
    PARTIAL = "partial"
    MISS = "miss"
    BYPASS = "bypass"
    ERROR = "error"

    __hash__ = str.__hash__  # as that of Outcome


HITS = (Kind.MEMORY, Kind.BACKEND, Kind.SEMANTIC, Kind.STALE, Kind.COLLAPSED, Kind.PARTIAL)
# What `X-Cache` tells of each kind; of errors nothing.
OUTCOMES = {
    Kind.MEMORY: Outcome.HIT,
    Kind.BACKEND: Outcome.HIT,
    Kind.SEMANTIC: Outcome.HIT,
    Kind.MISS: Outcome.MISS,
    Kind.PARTIAL: Outcome.PARTIAL,
    Kind.STALE: Outcome.STALE,
    Kind.COLLAPSED: Outcome.COLLAPSED,
    Kind.BYPASS: Outcome.BYPASS,
}

_KINDS: dict[Outcome | None, Kind] = {
    None: Kind.ERROR,
    Outcome.HIT: Kind.BACKEND,
    Outcome.STALE: Kind.STALE,
    Outcome.COLLAPSED: Kind.COLLAPSED,
    Outcome.PARTIAL: Kind.PARTIAL,
    Outcome.MISS: Kind.MISS,
    Outcome.BYPASS: Kind.BYPASS,
}
_TIERS = {Kind.MEMORY.value: Kind.MEMORY, Kind.SEMANTIC.value: Kind.SEMANTIC}
# What the reason of an event is the reason for: going past the cache, not being stored, failing.
_WHY = {
    Outcome.BYPASS: "bypassed",
    Outcome.MISS: "refused",
    Outcome.PARTIAL: "refused",
    None: "failed",
}
# Outcomes of those who asked the provider themselves.
_ASKED = frozenset({Outcome.MISS, Outcome.PARTIAL})


class Labels(NamedTuple):
    """Whose requests these are; "" where that does not apply."""

    provider: str
    model: str
    client: str
    namespace: str


class Cell(NamedTuple):
    """Requests that are counted together. `status` is the first digit of the HTTP status."""

    kind: Kind
    status: int
    labels: Labels


def _no_counts() -> list[int]:
    return [0] * (len(BOUNDS_S) + 1)


@dataclass(slots=True)
class Sums:
    """Of the requests of one cell. `took` counts them by how long they took, `upstream` by how
    long the provider did."""

    took: list[int] = field(default_factory=_no_counts)
    seconds: float = 0.0
    upstream: list[int] = field(default_factory=_no_counts)
    upstream_seconds: float = 0.0
    saved_tokens: int = 0
    saved_seconds: float = 0.0
    saved_usd: float = 0.0

    @property
    def requests(self) -> int:
        return sum(self.took)


class Spent(NamedTuple):
    """What a provider took for answers, whoever was told them."""

    tokens: int = 0
    usd: float = 0.0


_NOTHING = Spent()


@dataclass(slots=True)
class Taken:
    """All that happened since sums were taken last."""

    cells: dict[Cell, Sums] = field(default_factory=dict)
    reasons: dict[tuple[str, str], int] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)  # hits, by id
    spent: dict[tuple[str, str], Spent] = field(default_factory=dict)  # by provider and model
    stored: int = 0
    evicted: int = 0

    def __bool__(self) -> bool:
        return bool(self.cells or self.entries or self.spent or self.stored or self.evicted)


class Tally:
    """Is told of every request, and of the entries that answered some."""

    def __init__(self) -> None:
        self._taken = Taken()
        # The sums to add to, by what an event says: names are looked at once.
        self._known: dict[Hashable, Sums] = {}
        self._models, self._reasons = Names(MAX_MODELS), Names(MAX_OTHERS)
        self._clients, self._namespaces = Names(MAX_OTHERS), Names(MAX_OTHERS)

    def record(self, event: Event) -> None:
        # All in one place: a hit has 40 us in all.
        said = (
            event.outcome,
            event.tier,
            event.status,
            event.provider,
            event.model,
            event.client,
            event.namespace,
        )
        sums = self._known.get(said) or self._begin(said, event)
        sums.took[bisect_left(BOUNDS_S, event.seconds)] += 1
        sums.seconds += event.seconds
        sums.saved_tokens += event.saved_tokens
        sums.saved_seconds += event.saved_seconds
        sums.saved_usd += event.saved_usd
        if event.outcome not in SPARED:
            self._look_closer(event, sums)

    def found(self, ids: Iterable[str]) -> None:
        """Count hits of these entries."""
        entries = self._taken.entries
        for each in ids:
            entries[each] = entries.get(each, 0) + 1

    def paid(self, provider: str, model: str, tokens: int, usd: float) -> None:
        """Count what a provider took for an answer, also where nobody waits for it any more."""
        whose, spent = (provider, self._models.admit(model)), self._taken.spent
        known = spent.get(whose, _NOTHING)
        spent[whose] = Spent(known.tokens + tokens, known.usd + usd)

    def take(self) -> Taken:
        """The sums, which begin anew."""
        taken, self._taken = self._taken, Taken()
        self._known.clear()
        return taken

    def expect(
        self, models: Iterable[str], clients: Iterable[str], namespaces: Iterable[str]
    ) -> None:
        """Go on with names that were counted before the start: they take up room already."""
        for known, names in (
            (self._models, models),
            (self._clients, clients),
            (self._namespaces, namespaces),
        ):
            for name in names:
                known.admit(name)

    def _begin(self, said: Hashable, event: Event) -> Sums:
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        cell = Cell(_kind(event), event.status // 100, self._labels(event))
        sums = self._known[said] = self._taken.cells.setdefault(cell, Sums())
        return sums

    def _look_closer(self, event: Event, sums: Sums) -> None:
        """At what cost something, or was not as it should be."""
        if event.outcome in _ASKED and event.upstream_seconds:
            sums.upstream[bisect_left(BOUNDS_S, event.upstream_seconds)] += 1
            sums.upstream_seconds += event.upstream_seconds
        if event.reason:
            reason = _WHY[event.outcome], self._reasons.admit(event.reason)
            reasons = self._taken.reasons
            reasons[reason] = reasons.get(reason, 0) + 1

    def _labels(self, event: Event) -> Labels:
        # What was refused may be called anything.
        model = self._models.find if event.status >= 400 else self._models.admit
        namespace = self._namespaces.find if event.status >= 400 else self._namespaces.admit
        return Labels(
            event.provider,
            model(event.model),
            self._clients.admit(event.client),
            namespace(event.namespace),
        )


def _kind(event: Event) -> Kind:
    kind = _KINDS[event.outcome]
    return _TIERS.get(event.tier, kind) if kind is Kind.BACKEND else kind


class Names:
    """The names that are counted apart: those that came first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: set[str] = {"", OTHER}

    def admit(self, name: str) -> str:
        name = _short(name)
        if name not in self._names and len(self._names) < self._most:
            self._names.add(name)
        return self.find(name)

    def find(self, name: str) -> str:
        name = _short(name)
        return name if name in self._names else OTHER


def _short(name: str) -> str:
    return name[:_MAX_NAME_CHARS]
