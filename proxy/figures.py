"""The names under which sums are kept in the cache, and what they come to.

A name is `what/which`: "model.hits/gpt-5", "latency.miss/0.5", "saved/usd".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from proxy.models import Outcome
from proxy.tally import BOUNDS_S, HITS, OUTCOMES, Cell, Kind, Sums, Taken

# What requests are told apart by.
DIMENSIONS = ("provider", "model", "client", "namespace")
PERCENTILES = (50, 90, 99)
_BOUND_NAMES = (*(f"{bound:g}" for bound in BOUNDS_S), "inf")
_BOUNDS = dict(zip(_BOUND_NAMES, (*BOUNDS_S, math.inf), strict=True))
# Whose durations are told together. Who waited for another's fetch took as long as that did.
CLASSES = {
    Kind.MEMORY: "hit",
    Kind.BACKEND: "hit",
    Kind.SEMANTIC: "hit",
    Kind.STALE: "hit",
    Kind.MISS: "miss",
    Kind.PARTIAL: "miss",
}

Amounts = dict[str, float]


def amounts_of(taken: Taken) -> Amounts:
    """The sums under their names."""
    amounts: Amounts = defaultdict(float)
    for cell, sums in taken.cells.items():
        _add_cell(amounts, cell, sums)
    for (what, reason), count in taken.reasons.items():
        amounts[f"{what}/{reason}"] += count
    for spent in taken.spent.values():
        amounts["spent/tokens"] += spent.tokens
        amounts["spent/usd"] += spent.usd
    amounts["entries/stored"] += taken.stored
    amounts["entries/evicted"] += taken.evicted
    return {name: amount for name, amount in amounts.items() if amount}


def _add_cell(amounts: Amounts, cell: Cell, sums: Sums) -> None:
    requests = sums.requests
    amounts[f"outcome/{cell.kind}"] += requests
    for name, amount in savings_of(sums):
        amounts[f"saved/{name}"] += amount
    for dimension, label in zip(DIMENSIONS, cell.labels, strict=True):
        if not label:
            continue
        amounts[f"{dimension}.requests/{label}"] += requests
        if cell.kind in HITS:
            amounts[f"{dimension}.hits/{label}"] += requests
        elif cell.kind is Kind.MISS:
            amounts[f"{dimension}.misses/{label}"] += requests
        for name, amount in savings_of(sums):
            amounts[f"{dimension}.{name}/{label}"] += amount
    if cell.kind in CLASSES:
        _add_durations(amounts, CLASSES[cell.kind], sums.took)
        _add_durations(amounts, "upstream", sums.upstream)


def savings_of(sums: Sums) -> tuple[tuple[str, float], ...]:
    return (
        ("tokens", sums.saved_tokens),
        ("seconds", sums.saved_seconds),
        ("usd", sums.saved_usd),
    )


def _add_durations(amounts: Amounts, whose: str, counts: list[int]) -> None:
    for name, count in zip(_BOUND_NAMES, counts, strict=True):
        if count:
            amounts[f"latency.{whose}/{name}"] += count


class Figures:
    """What sums come to."""

    def __init__(self, amounts: Mapping[str, float]) -> None:
        self._by: dict[str, dict[str, float]] = defaultdict(dict)
        for name, amount in amounts.items():
            what, _, which = name.partition("/")
            self._by[what][which] = amount

    def counts(self, what: str) -> dict[str, int]:
        """Whole numbers by what they are of, the largest first."""
        counted = {which: round(amount) for which, amount in self._by[what].items()}
        return dict(sorted(counted.items(), key=lambda each: -each[1]))

    def outcome(self, kind: Kind) -> int:
        return round(self._by["outcome"].get(kind, 0))

    def outcomes(self) -> dict[Outcome, int]:
        """How often each value of `X-Cache` was told."""
        counts: dict[Outcome, int] = {}
        for kind, outcome in OUTCOMES.items():
            counts[outcome] = counts.get(outcome, 0) + self.outcome(kind)
        return {outcome: count for outcome, count in counts.items() if count}

    @property
    def requests(self) -> int:
        return sum(map(self.outcome, Kind))

    @property
    def hits(self) -> int:
        return sum(map(self.outcome, HITS))

    @property
    def misses(self) -> int:
        return self.outcome(Kind.MISS)

    @property
    def hit_ratio(self) -> float:
        """Of the requests that the cache could have answered, the part that it did."""
        return _ratio(self.hits, self.misses)

    def saved(self) -> dict[str, Any]:
        return _saved(self._by["saved"])

    def as_json(self) -> dict[str, Any]:
        kinds = {str(kind): self.outcome(kind) for kind in HITS}
        entries = self.counts("entries")
        return {
            "requests": self.requests,
            "hits": self.hits,
            "misses": self.misses,
            "hit_ratio": self.hit_ratio,
            "saved": self.saved(),
            "spent": {
                "tokens": round(self._by["spent"].get("tokens", 0)),
                "usd": round(self._by["spent"].get("usd", 0.0), 9),
            },
            "hits_by_kind": kinds,
            "bypasses": self.outcome(Kind.BYPASS),
            "bypasses_by_reason": self.counts("bypassed"),
            "stored": entries.get("stored", 0),
            "refused": sum(self.counts("refused").values()),
            "refused_by_reason": self.counts("refused"),
            "evictions": entries.get("evicted", 0),
            "errors": self.outcome(Kind.ERROR),
            "errors_by_reason": self.counts("failed"),
            "latency": {
                "hits": self._percentiles("hit"),
                "misses": self._percentiles("miss"),
                "upstream": self._percentiles("upstream"),
            },
            **{f"by_{dimension}": self._apart(dimension) for dimension in DIMENSIONS},
        }

    def _apart(self, dimension: str) -> dict[str, Any]:
        told = {}
        for label, requests in self.counts(f"{dimension}.requests").items():
            hits, misses = (
                round(self._by[f"{dimension}.{what}"].get(label, 0)) for what in ("hits", "misses")
            )
            told[label] = {
                "requests": requests,
                "hits": hits,
                "misses": misses,
                "hit_ratio": _ratio(hits, misses),
                "saved": _saved(
                    {
                        name: self._by[f"{dimension}.{name}"].get(label, 0.0)
                        for name in ("tokens", "seconds", "usd")
                    }
                ),
            }
        return told

    def _percentiles(self, whose: str) -> dict[str, Any]:
        counts = self._by[f"latency.{whose}"]
        known = sorted((_BOUNDS[name], count) for name, count in counts.items() if name in _BOUNDS)
        told: dict[str, Any] = {"count": round(sum(count for _, count in known))}
        for percentile in PERCENTILES:
            told[f"p{percentile}"] = _percentile(known, percentile / 100)
        return told


def _percentile(counted: list[tuple[float, float]], part: float) -> float | None:
    """Seconds, from counts by upper bound: inside a bucket as if all were spread evenly."""
    wanted = part * sum(count for _, count in counted)
    for bound, count in counted:
        if count >= wanted and count:
            below = max((each for each in BOUNDS_S if each < bound), default=0.0)
            if math.isinf(bound):
                return below
            return round(below + (bound - below) * wanted / count, 6)
        wanted -= count
    return None


def _saved(amounts: Mapping[str, float]) -> dict[str, Any]:
    return {
        "tokens": round(amounts.get("tokens", 0)),
        "seconds": round(amounts.get("seconds", 0.0), 3),
        "usd": round(amounts.get("usd", 0.0), 9),
    }


def _ratio(hits: int, misses: int) -> float:
    return round(hits / (hits + misses), 6) if hits + misses else 0.0
