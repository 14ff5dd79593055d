"""What is counted, and what is said to be saved."""

from __future__ import annotations

import pytest

from proxy.metrics import Metrics
from proxy.models import Event, Outcome
from proxy.savings import settle


def metrics(*events: Event) -> Metrics:
    counted = Metrics()
    for event in events:
        settle(event)
        counted.record(event)
    return counted


def test_nothing_asked() -> None:
    """Without requests there is no ratio to be undefined."""
    assert metrics().requests == metrics().hit_ratio == metrics().saved_tokens == 0


def test_tokens_are_saved_where_nobody_paid() -> None:
    """A hit, a stale answer and a shared fetch save all tokens; a miss and a part of one none."""
    counted = metrics(
        *(Event("/", outcome=outcome, input_tokens=10, output_tokens=5) for outcome in Outcome)
    )
    assert counted.saved_tokens == 3 * 15


def test_unknown_tokens_count_as_none() -> None:
    """Entries without usage save what is known."""
    assert metrics(Event("/", outcome=Outcome.HIT, output_tokens=5)).saved_tokens == 5


@pytest.mark.parametrize(("took", "saved"), [(0.25, 1.75), (3.0, 0.0)])
def test_time_is_saved_if_it_was_shorter(took: float, saved: float) -> None:
    """What the provider took, less what the hit took; never less than nothing."""
    event = Event("/", outcome=Outcome.HIT, seconds=took, made_seconds=2.0)
    assert metrics(event).saved_seconds == saved


def test_the_ratio_is_of_what_could_have_hit() -> None:
    """Requests that went past the cache, or failed, do not lower it."""
    outcomes = [Outcome.HIT, Outcome.COLLAPSED, Outcome.MISS, Outcome.PARTIAL, Outcome.BYPASS]
    events = [Event("/", outcome=outcome, reason="no-store") for outcome in outcomes]
    counted = metrics(*events, Event("/", status=400, reason="bad_request"))
    assert counted.hit_ratio == 0.5
    assert counted.requests == 6
    assert counted.bypasses == {"no-store": 1}
    assert counted.errors == {"bad_request": 1}
