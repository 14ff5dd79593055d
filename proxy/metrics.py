"""What Prometheus is told, summed over all workers of this host.

Sums come from the tally each second, not with each request: there they cost a few additions, here
each would take a lock and, with several workers, a write to a file.

With several workers each writes to files of its own in PROMETHEUS_MULTIPROC_DIR, which outlive it,
and whoever is asked adds them up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.errors import ConfigError
from proxy.tally import BOUNDS_S, Cell, Kind, Sums, Taken

# Where the workers of this host leave what they counted; the parent makes it.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

# The outcome of each kind, and where it was found.
_OUTCOMES = {
    Kind.MEMORY: ("hit", "memory"),
    Kind.BACKEND: ("hit", "backend"),
    Kind.SEMANTIC: ("hit", "semantic"),
}


def mark_process_dead(pid: int | None) -> None:
    """A worker is gone: what it held does not count any more, what it counted does."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]  # it has no types


class State(NamedTuple):
    """What is so at the moment, in this process."""

    flights: int = 0
    backlog_bytes: int = 0
    cache_skipped: bool = False
    entries: int | None = None  # of the cache; None: it cannot tell
    bytes: int | None = None


class _Durations(Histogram):
    """A histogram that takes many at once, counted by its own buckets already."""

    def add(self, counts: Sequence[int], seconds: float) -> None:
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(seconds)


class Metrics:
    """Is told of what was taken from the tally, and tells it to Prometheus."""

    def __init__(self) -> None:
        self._folder = os.environ.get(FOLDER)
        if self._folder and not Path(self._folder).is_dir():
            raise ConfigError(f"{FOLDER}: there is no such folder")
        self._registry = CollectorRegistry()
        counter = partial(Counter, namespace="llm_cache_proxy", registry=self._registry)
        durations = partial(
            _Durations, namespace="llm_cache_proxy", registry=self._registry, buckets=BOUNDS_S
        )
        whose = ("provider", "model")
        self._requests = counter(
            "requests", "Requests that were answered.", ("outcome", "tier", "status", *whose)
        )
        self._client_requests = counter(
            "client_requests", "Requests by client.", ("client", "outcome")
        )
        self._took = durations(
            "request_duration_seconds", "Until the answer was sent to its end.", ("outcome",)
        )
        self._upstream = durations(
            "upstream_duration_seconds",
            "Until the provider's answer was at its end.",
            ("provider",),
        )
        self._saved = {
            "tokens": counter("saved_tokens", "Tokens that nobody paid for.", whose),
            "seconds": counter("saved_seconds", "Time that nobody waited for a provider.", whose),
            "usd": counter("saved_usd", "Dollars that nobody paid, at list prices.", whose),
        }
        self._spent = {
            "tokens": counter("spent_tokens", "Tokens that providers counted.", whose),
            "usd": counter(
                "spent_usd", "Dollars for what providers answered, at list prices.", whose
            ),
        }
        self._reasons = {
            "bypassed": counter("bypassed", "Requests that went past the cache.", ("reason",)),
            "refused": counter("refused", "Answers that were not stored.", ("reason",)),
            "failed": counter(
                "errors", "Requests that the proxy answered with an error.", ("reason",)
            ),
        }
        self._stored = counter("stored", "Entries that were stored.")
        self._evicted = counter("evicted", "Entries that were pushed out.")
        gauge = partial(Gauge, namespace="llm_cache_proxy", registry=self._registry)
        self._flights = gauge("flights", "Fetches under way.", multiprocess_mode="livesum")
        self._backlog = gauge(
            "backlog_bytes", "What fetches under way hold in memory.", multiprocess_mode="livesum"
        )
        self._skipped = gauge(
            "cache_skipped",
            "1 while the cache is skipped because it fails.",
            multiprocess_mode="livemax",
        )

    def add(self, taken: Taken) -> None:
        for cell, sums in taken.cells.items():
            self._add(cell, sums)
        for (what, reason), count in taken.reasons.items():
            self._reasons[what].labels(reason).inc(count)
        for (provider, model), spent in taken.spent.items():
            self._sum(self._spent, spent._asdict(), (provider, model))
        self._stored.inc(taken.stored)
        self._evicted.inc(taken.evicted)

    def _add(self, cell: Cell, sums: Sums) -> None:
        outcome, tier = _OUTCOMES.get(cell.kind, (str(cell.kind), ""))
        labels, requests = cell.labels, sums.requests
        whose = (labels.provider, labels.model)
        status = f"{cell.status}xx" if cell.status else ""
        self._requests.labels(outcome, tier, status, *whose).inc(requests)
        if labels.client:
            self._client_requests.labels(labels.client, outcome).inc(requests)
        self._took.labels(outcome).add(sums.took, sums.seconds)
        if any(sums.upstream):
            self._upstream.labels(labels.provider).add(sums.upstream, sums.upstream_seconds)
        saved = {"tokens": sums.saved_tokens, "seconds": sums.saved_seconds, "usd": sums.saved_usd}
        self._sum(self._saved, saved, whose)

    @staticmethod
    def _sum(
        counters: Mapping[str, Counter], amounts: Mapping[str, float], whose: tuple[str, str]
    ) -> None:
        for name, amount in amounts.items():
            if amount:
                counters[name].labels(*whose).inc(amount)

    def note(self, state: State) -> None:
        """Show how it is at the moment."""
        self._flights.set(state.flights)
        self._backlog.set(state.backlog_bytes)
        self._skipped.set(state.cache_skipped)

    def tell(self, state: State, accept: str = "") -> tuple[bytes, str]:
        """The page, in the format that is wanted, and its content type. Reads files."""
        self.note(state)
        registry = self._registry
        if self._folder:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry, self._folder)  # type: ignore[no-untyped-call]  # it has no types
        encode, content_type = choose_encoder(accept)
        return encode(_Joined(registry, _AtTheMoment(state))), content_type


class _Joined(Collector):
    """What several tell; without the moments at which counters were made, which nobody asks for."""

    def __init__(self, *collectors: Collector) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            for metric in collector.collect():
                kept = [each for each in metric.samples if not each.name.endswith("_created")]
                metric.samples = kept
                yield metric


class _AtTheMoment(Collector):
    """What all workers would tell alike."""

    def __init__(self, state: State) -> None:
        self._state = state

    def collect(self) -> Iterator[GaugeMetricFamily]:
        built = GaugeMetricFamily(
            "llm_cache_proxy_build_info", "Which version this is.", labels=("version",)
        )
        built.add_metric((__version__,), 1)
        yield built
        for name, what, value in (
            ("entries", "Entries in the cache.", self._state.entries),
            ("bytes", "What they take.", self._state.bytes),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"llm_cache_proxy_cache_{name}", what, value=value)
