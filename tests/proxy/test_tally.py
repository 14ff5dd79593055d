"""What is summed up, and what is said to be saved."""

from __future__ import annotations

import pytest

from proxy import tally
from proxy.figures import Figures, amounts_of
from proxy.models import Event, Outcome
from proxy.savings import settle
from proxy.tally import Tally


def counted(*events: Event) -> Figures:
    sums = Tally()
    for event in events:
        settle(event)
        sums.record(event)
    return Figures(amounts_of(sums.take()))


def hit(**fields: object) -> Event:
    return Event("/", outcome=Outcome.HIT, status=200, **fields)  # type: ignore[arg-type]


def test_nothing_asked() -> None:
    """Without requests there is no ratio to be undefined."""
    figures = counted()
    assert figures.requests == figures.hit_ratio == 0
    assert figures.saved() == {"tokens": 0, "seconds": 0.0, "usd": 0.0}


def test_saved_is_what_nobody_paid() -> None:
    """A hit, a stale answer and a shared fetch save all tokens; a miss and a bypass none."""
    figures = counted(
        *(
            Event("/", outcome=outcome, input_tokens=10, output_tokens=5, usd=0.25)
            for outcome in Outcome
        )
    )
    assert figures.saved()["tokens"] == 3 * 15
    assert figures.saved()["usd"] == 3 * 0.25


def test_of_a_part_only_that_part_is_saved() -> None:
    """Who put the answer together has said what was stored of it."""
    partial = Event("/", outcome=Outcome.PARTIAL, input_tokens=10, usd=1.0)
    partial.saved_tokens, partial.saved_usd = 4, 0.25
    figures = counted(partial).as_json()
    assert figures["saved"] == {"tokens": 4, "seconds": 0.0, "usd": 0.25}


def test_spent_is_what_providers_took() -> None:
    """Whether or not a request was answered with it."""
    sums = Tally()
    sums.paid("openai", "m", 15, 0.25)
    sums.paid("openai", "n", 5, 0.0)
    taken = sums.take()
    assert taken
    assert Figures(amounts_of(taken)).as_json()["spent"] == {"tokens": 20, "usd": 0.25}
    assert not sums.take()


def test_unknown_tokens_count_as_none() -> None:
    """Entries without usage save what is known."""
    assert counted(hit(output_tokens=5)).saved()["tokens"] == 5


@pytest.mark.parametrize(("took", "saved"), [(0.25, 1.75), (3.0, 0.0)])
def test_time_is_saved_if_it_was_shorter(took: float, saved: float) -> None:
    """What the provider took, less what the hit took; never less than nothing."""
    assert counted(hit(seconds=took, made_seconds=2.0)).saved()["seconds"] == saved


def test_the_ratio_is_of_what_could_have_hit() -> None:
    """Requests that went past the cache, or failed, do not lower it."""
    outcomes = [Outcome.HIT, Outcome.COLLAPSED, Outcome.MISS, Outcome.PARTIAL, Outcome.BYPASS]
    events = [Event("/", outcome=outcome, reason="no-store") for outcome in outcomes]
    told = counted(*events, Event("/", status=400, reason="bad_request")).as_json()
    assert told["hit_ratio"] == 0.75
    assert told["requests"] == 6
    assert told["bypasses_by_reason"] == {"no-store": 1}
    assert told["refused_by_reason"] == {"no-store": 2}
    assert told["errors_by_reason"] == {"bad_request": 1}


def test_hits_are_told_apart() -> None:
    """By where they were found; the kinds add up to all hits."""
    events = [hit(tier="memory"), hit(tier="sqlite"), hit(tier="sqlite"), hit(tier="semantic")]
    told = counted(*events, Event("/", outcome=Outcome.STALE, tier="sqlite")).as_json()
    kinds = {"memory": 1, "backend": 2, "semantic": 1, "stale": 1, "collapsed": 0, "partial": 0}
    assert told["hits_by_kind"] == kinds
    assert told["hits"] == sum(kinds.values())


def test_who_asked_what() -> None:
    """By provider, model, client and namespace; where one is unknown it has no figures."""
    miss = Event("/", provider="openai", model="gpt-4o", outcome=Outcome.MISS, status=200)
    told = counted(hit(provider="openai", model="gpt-4o", client="ann", usd=2.0), miss).as_json()
    assert told["by_model"]["gpt-4o"] == {
        "requests": 2,
        "hits": 1,
        "misses": 1,
        "hit_ratio": 0.5,
        "saved": {"tokens": 0, "seconds": 0.0, "usd": 2.0},
    }
    assert told["by_client"].keys() == {"ann"}
    assert told["by_namespace"] == {}


def test_names_that_callers_make_up_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past so many the rest is one, and nothing is lost."""
    monkeypatch.setattr(tally, "MAX_MODELS", 5)
    told = counted(*(hit(model=f"model-{number}") for number in range(50))).as_json()
    assert len(told["by_model"]) <= 5
    assert sum(each["hits"] for each in told["by_model"].values()) == 50
    assert told["by_model"]["other"]["hits"] > 40


def test_a_model_that_nobody_has_takes_no_room() -> None:
    """What the provider refused may be called anything."""
    refused = Event("/", model="made up", outcome=Outcome.MISS, status=404)
    assert counted(refused).as_json()["by_model"].keys() == {"other"}


def test_names_from_before_are_known() -> None:
    """After a restart the room is taken by those that were counted."""
    sums = Tally()
    sums.expect(["old"], [], [])
    sums.record(Event("/", model="old", outcome=Outcome.MISS, status=404))
    assert Figures(amounts_of(sums.take())).as_json()["by_model"].keys() == {"old"}


def test_what_was_taken_begins_anew() -> None:
    """Sums are handed over once."""
    sums = Tally()
    sums.record(hit())
    sums.found(["a", "a", "b"])
    taken = sums.take()
    assert taken
    assert taken.entries == {"a": 2, "b": 1}
    assert not sums.take()
    sums.record(hit())
    assert Figures(amounts_of(sums.take())).hits == 1


def test_percentiles_of_latency() -> None:
    """Within the bucket in which they lie; none where nothing was counted."""
    hits = [hit(seconds=0.0003)] * 90 + [hit(seconds=0.015)] * 10
    latency = counted(*hits).as_json()["latency"]
    assert latency["hits"]["count"] == 100
    assert 0.0002 < latency["hits"]["p50"] <= 0.0005
    assert 0.01 < latency["hits"]["p99"] <= 0.02
    assert latency["misses"] == {"count": 0, "p50": None, "p90": None, "p99": None}


def test_what_lasts_longer_than_all_bounds() -> None:
    """It is counted, and told as no less than the last of them."""
    miss = Event("/", outcome=Outcome.MISS, seconds=9e9, upstream_seconds=9e9)
    latency = counted(miss).as_json()["latency"]
    assert latency["misses"]["p50"] == latency["upstream"]["p50"] == 600.0
