"""Figures over time: the sums of each day in five minutes, for charts.

Their names are those of `figures` with the five minutes before them: "13:05 saved/usd".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from proxy.figures import CLASSES, Amounts, Figures, savings_of
from proxy.tally import Kind, Taken

BUCKET_MINUTES = 5


def amounts_at(taken: Taken, at: float) -> Amounts:
    """The sums under their names, as far as charts show them."""
    bucket = bucket_of(at)
    amounts: Amounts = defaultdict(float)
    for cell, sums in taken.cells.items():
        amounts[f"outcome/{cell.kind}"] += sums.requests
        for name, amount in savings_of(sums):
            amounts[f"saved/{name}"] += amount
        if cell.kind in CLASSES:
            amounts[f"seconds/{CLASSES[cell.kind]}"] += sums.seconds
            amounts["seconds/upstream"] += sums.upstream_seconds
            amounts["asked/upstream"] += sum(sums.upstream)
    return {f"{bucket} {name}": amount for name, amount in amounts.items() if amount}


def day_of(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def bucket_of(at: float) -> str:
    """The five minutes that a moment is in, within its day."""
    now = datetime.fromtimestamp(at, UTC)
    return f"{now.hour:02d}:{now.minute - now.minute % BUCKET_MINUTES:02d}"


def buckets_of(day: str, amounts: Mapping[str, float]) -> Iterator[tuple[datetime, Amounts]]:
    """The sums of a day by their five minutes, in order."""
    apart: dict[str, Amounts] = defaultdict(dict)
    for name, amount in amounts.items():
        bucket, _, rest = name.partition(" ")
        apart[bucket][rest] = amount
    for bucket in sorted(apart):
        try:
            at = datetime.strptime(f"{day} {bucket}", "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
        except ValueError:
            continue  # nothing of ours
        yield at, apart[bucket]


def point_of(amounts: Iterable[Amounts]) -> dict[str, Any]:
    """What a chart shows of some time."""
    summed: Amounts = defaultdict(float)
    for each in amounts:
        for name, amount in each.items():
            summed[name] += amount
    figures = Figures(summed)
    hits = figures.hits - figures.outcome(Kind.COLLAPSED) - figures.outcome(Kind.PARTIAL)
    misses = figures.misses + figures.outcome(Kind.PARTIAL)
    return {
        "requests": figures.requests,
        "hits": figures.hits,
        "misses": figures.misses,
        "bypasses": figures.outcome(Kind.BYPASS),
        "errors": figures.outcome(Kind.ERROR),
        "hit_ratio": figures.hit_ratio if figures.hits + figures.misses else None,
        "saved": figures.saved(),
        "latency": {
            "hits": _mean(summed["seconds/hit"], hits),
            "misses": _mean(summed["seconds/miss"], misses),
            "upstream": _mean(summed["seconds/upstream"], round(summed["asked/upstream"])),
        },
    }


def _mean(seconds: float, count: int) -> float | None:
    return round(seconds / count, 6) if count else None
