"""What Prometheus is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from proxy.errors import ConfigError
from proxy.metrics import FOLDER, Metrics, State
from proxy.models import Event, Outcome
from proxy.tally import BOUNDS_S, Tally

TOOK = [0.00001, 0.00005, 0.00051, 0.3, 7.0, 599.0, 600.0, 9999.0]


def told(metrics: Metrics, state: State | None = None) -> str:
    page, _ = metrics.tell(state or State())
    return page.decode()


def counted(*events: Event) -> Metrics:
    tally, metrics = Tally(), Metrics()
    for event in events:
        tally.record(event)
    metrics.add(tally.take())
    return metrics


def buckets(page: str, name: str) -> list[tuple[str, float]]:
    return [
        (sample.labels["le"], sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    ]


def test_a_histogram_is_as_if_each_had_been_observed() -> None:
    """Durations are counted in its own buckets before it sees them."""
    page = told(counted(*(Event("/", outcome=Outcome.HIT, seconds=took) for took in TOOK)))
    registry = CollectorRegistry()
    observed = Histogram("observed", "", buckets=BOUNDS_S, registry=registry)
    for took in TOOK:
        observed.observe(took)
    theirs = [
        (sample.labels["le"], sample.value)
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "observed_bucket"
    ]
    name = "llm_cache_proxy_request_duration_seconds"
    assert buckets(page, f"{name}_bucket") == theirs
    assert f'{name}_sum{{outcome="hit"}} {sum(TOOK)}' in page


def test_names_of_callers_are_written_safely() -> None:
    """Quotes, line ends and what is no ASCII do not break the page."""
    odd = 'a"b\\c\nd\N{PARROT}'
    page = told(counted(Event("/", outcome=Outcome.HIT, status=200, model=odd)))
    models = {
        sample.labels["model"]
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if "model" in sample.labels
    }
    assert models == {odd}


def test_how_it_stands() -> None:
    """Gauges are of the moment; what the cache cannot tell is left out."""
    page = told(Metrics(), State(flights=3, backlog_bytes=7, cache_skipped=True, entries=5))
    assert "\nllm_cache_proxy_flights 3.0\n" in page
    assert "\nllm_cache_proxy_cache_skipped 1.0\n" in page
    assert "\nllm_cache_proxy_cache_entries 5.0\n" in page
    assert "llm_cache_proxy_cache_bytes" not in page
    assert "_created" not in page


def test_a_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs workers in a way of their own makes one for their counters."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=FOLDER):
        Metrics()
