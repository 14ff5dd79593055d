"""How old an answer may be, and when an expired one stands in, over real sockets."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.fakes.chat import asker, asking, own, saying, tells, words
from tests.fakes.clock import FakeClock
from tests.fakes.live_proxy import StartProxy
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider, Gate

JOKE = expected(asking(), credential="Bearer mine")
HOUR = {"ttl": 3600}


async def test_a_hit_tells_its_age_and_what_is_left(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Age grows, ttl shrinks; once it is used up, the provider is asked again."""
    live = await proxy(clock=(clock := FakeClock()), cache=HOUR)
    ask = asker(client, live)
    first = await ask()
    assert tells(first) == ("MISS", "llm-cache-proxy; fwd=miss; stored")
    assert "age" not in first.headers
    clock.advance(95.5)
    hit = await ask()
    assert tells(hit) == ("HIT", "llm-cache-proxy; hit; ttl=3504; detail=memory")
    assert hit.headers["age"] == "95"
    assert hit.headers["x-llm-cache-id"] == first.headers["x-llm-cache-id"]
    assert hit.headers["server-timing"].startswith("cache;dur=")
    clock.advance(3600)
    assert tells(await ask()) == ("MISS", "llm-cache-proxy; fwd=stale; stored")
    assert (await ask()).headers["age"] == "0"
    await live.settled()


@pytest.mark.parametrize(
    ("control", "outcome"),
    [
        ("max-age=100", "HIT"),
        ("max-age=99", "MISS"),
        ("min-fresh=3500", "HIT"),
        ("min-fresh=3501", "MISS"),
        ('max-age="100", min-fresh=1', "HIT"),
        ("max-age=nonsense, pragma", "HIT"),
    ],
)
async def test_a_caller_says_how_fresh_an_answer_must_be(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    control: str,
    outcome: str,
) -> None:
    """An entry of 100 seconds with 3,500 to go serves whom it is fresh enough for."""
    live = await proxy(clock=(clock := FakeClock()), cache=HOUR)
    ask = asker(client, live)
    await ask()
    clock.advance(100)
    told = tells(await ask(saying(control)))
    assert told[0] == outcome
    assert ("fwd=request" in told[1]) == (outcome == "MISS")
    await live.settled()


@pytest.mark.parametrize(
    ("control", "outcome"),
    [("max-stale", "STALE"), ("max-stale=40", "STALE"), ("max-stale=39", "MISS"), ("", "MISS")],
)
async def test_a_caller_may_take_an_expired_answer(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    control: str,
    outcome: str,
) -> None:
    """Forty seconds past its end, marked as stale; the provider is not asked."""
    live = await proxy(clock=(clock := FakeClock()), cache={"ttl": 60})
    ask = asker(client, live)
    await ask()
    clock.advance(100)
    told = await ask(saying(control))
    assert told.headers["x-cache"] == outcome
    if outcome == "STALE":
        assert "; hit; ttl=-40" in told.headers["cache-status"]
        assert told.headers["age"] == "100"
    assert len(provider.calls) == (1 if outcome == "STALE" else 2)
    await live.settled()


FAILURES = [
    *(Answer(status=status) for status in (429, 500, 502, 503, 504)),
    Answer(hang=True),
    Answer(body=b"{", content_length=9999),
    None,  # nobody listens there any more
]


@pytest.mark.parametrize("failure", FAILURES, ids=str)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_expired_answer_stands_in_when_the_provider_fails(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    failure: Answer | None,
    stream: bool,
) -> None:
    """Known questions are answered while the provider is down, and are marked so."""
    live = await proxy(
        clock=(clock := FakeClock()),
        cache={"ttl": 60},
        upstream={"first_byte_timeout_s": 0.15, "connect_timeout_s": 0.15},
    )
    ask = asker(client, live)
    await ask()
    clock.advance(155)
    if failure is None:
        await provider.stop()
    else:
        provider.script(failure)
    told = await ask(stream=stream)
    status = "llm-cache-proxy; hit; ttl=-95; detail=stale-if-error"
    assert tells(told) == ("STALE", status)
    assert (told.status_code, words(told.content)) == (200, JOKE)
    assert len(provider.calls) == (1 if failure is None else 2)
    await live.settled()


@pytest.mark.parametrize(
    ("status", "control"), [(400, ""), (401, ""), (404, ""), (500, "stale-if-error=94")]
)
async def test_an_expired_answer_does_not_hide_what_the_caller_must_know(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, status: int, control: str
) -> None:
    """The provider's refusal comes through, and so does an error past the caller's own limit."""
    live = await proxy(clock=(clock := FakeClock()), cache={"ttl": 60})
    ask = asker(client, live)
    await ask()
    clock.advance(155)
    provider.script(Answer(status=status))
    told = await ask(saying(control))
    assert (told.status_code, told.headers["x-cache"]) == (status, "MISS")
    await live.settled()


async def test_an_expired_answer_stands_in_for_all_who_wait(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """One failing call, and everybody has the stale answer."""
    live = await proxy(clock=(clock := FakeClock()), cache={"ttl": 60})
    ask = asker(client, live)
    await ask()
    clock.advance(155)
    provider.script(Answer(status=503, gate=(gate := Gate())))
    asked = [asyncio.create_task(ask()) for _ in range(5)]
    await live.listening(5)
    await gate.open()
    assert {each.headers["x-cache"] for each in await asyncio.gather(*asked)} == {"STALE"}
    assert len(provider.calls) == 2
    await live.settled()


async def test_a_ttl_is_bounded_by_the_operators(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """A caller may have it shorter, not longer."""
    live = await proxy(clock=FakeClock(), cache={"ttl": 60})
    ask = asker(client, live)
    for number, (asked, given) in enumerate([(5, 5), (600, 60)]):
        headers = own(f"ttl={asked}, sample={number}")
        await ask(headers)
        assert f"ttl={given};" in (await ask(headers)).headers["cache-status"]
