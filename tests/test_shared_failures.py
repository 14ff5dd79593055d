"""What many share when a call fails, hangs, or brings what cannot be stored."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from proxy.models import Event
from tests.fakes.broken_cache import BrokenCache, Fault
from tests.fakes.chat import MINE, PATH, asker, asking, words
from tests.fakes.live_proxy import StartProxy
from tests.fakes.oracle import chat_answer, chat_chunks, event, expected
from tests.fakes.provider import Answer, FakeProvider, Gate

WITHOUT_END = [event(each) for each in chat_chunks(chat_answer(asking(), "", PATH, 1), usage=False)]
JOKE = expected(asking(), credential="Bearer mine")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_told_to_all_at_once(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, stream: bool
) -> None:
    """One call; five equal errors, of which only the first asker's shows whose exchange it was."""
    personal = [(b"set-cookie", b"who=first"), (b"retry-after", b"7")]
    provider.always = Answer(status=500, headers=personal, gate=(gate := Gate()))
    live = await proxy()
    ask = asker(client, live)
    asked = [asyncio.create_task(ask(stream=stream)) for _ in range(5)]
    await live.listening(5)
    await gate.open()
    answers = sorted(await asyncio.gather(*asked), key=lambda each: each.headers["x-cache"])
    assert {(each.status_code, each.content) for each in answers} == {
        (500, b'{"error":{"message":"status 500","type":"fake_error"}}')
    }
    assert [each.headers["retry-after"] for each in answers] == ["7"] * 5
    whose = ("set-cookie", "x-request-id", "x-ratelimit-remaining-requests")
    assert [sum(name in each.headers for name in whose) for each in answers] == [0, 0, 0, 0, 3]
    assert len(provider.calls) == 1
    assert await live.stored() == 0
    await live.settled()


async def test_a_refused_connection_is_one_call_and_five_errors(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """All who wait get the proxy's own 502, and nobody tries again on his own account."""
    provider.always = Answer(refuse=True, gate=(gate := Gate()))
    live = await proxy()
    ask = asker(client, live)
    asked = [asyncio.create_task(ask()) for _ in range(5)]
    await live.listening(5)
    await gate.open()
    answers = await asyncio.gather(*asked)
    assert [each.status_code for each in answers] == [502] * 5
    assert {each.json()["error"]["code"] for each in answers} == {"upstream_failure"}
    assert len(provider.calls) == 1
    await live.settled()


async def test_what_cannot_be_kept_makes_nobody_wait(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Once an answer was not storable, equal calls run side by side until one is."""
    live = await proxy(cache={"refuse_finish_reasons": ["stop"]})
    ask = asker(client, live)
    first = await ask()
    assert first.headers["cache-status"].endswith('stored=?0; detail="finish_reason stop"')
    provider.always = Answer(gate=(gate := Gate()))
    asked = [asyncio.create_task(ask()) for _ in range(5)]
    await provider.received(6)
    await gate.open()
    assert {each.headers["x-cache"] for each in await asyncio.gather(*asked)} == {"MISS"}
    assert await live.stored() == 0
    await live.settled()


async def test_a_shared_answer_that_cannot_be_kept_reaches_all(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Five who wait together for what will not be stored share it all the same."""
    provider.always = Answer(gate=(gate := Gate()))
    live = await proxy(cache={"refuse_finish_reasons": ["stop"]})
    ask = asker(client, live)
    asked = [asyncio.create_task(ask()) for _ in range(5)]
    await live.listening(5)
    await gate.open()
    assert {words(each.content) for each in await asyncio.gather(*asked)} == {JOKE}
    assert len(provider.calls) == 1
    assert await live.stored() == 0
    await live.settled()


@pytest.mark.parametrize("fault", [Fault.ERROR, Fault.HANG])
async def test_calls_are_shared_while_the_cache_is_down(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, fault: Fault
) -> None:
    """That an answer could not be saved is no reason to ask for it five times."""
    cache = BrokenCache(fault=fault)
    cache.operations = frozenset({"get_many", "put_many"})
    live = await proxy(cache, cache={"lookup_timeout_s": 0.02, "save_timeout_s": 0.02})
    ask = asker(client, live)
    await ask()
    provider.always = Answer(gate=(gate := Gate()))
    asked = [asyncio.create_task(ask()) for _ in range(5)]
    await live.listening(5)
    await gate.open()
    assert {words(each.content) for each in await asyncio.gather(*asked)} == {JOKE}
    assert len(provider.calls) == 2
    await live.settled()


async def test_a_call_that_hangs_is_overtaken_once(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Those who lose patience with another's call share one more; its answer is stored."""
    provider.script(Answer(gate=(gate := Gate())))
    live = await proxy(upstream={"flight_patience_s": 0.1})
    ask = asker(client, live)
    first = asyncio.create_task(ask())
    await provider.received()
    followers = await asyncio.gather(*(ask() for _ in range(4)))
    assert {words(each.content) for each in followers} == {JOKE}
    assert sorted(each.headers["x-cache"] for each in followers) == ["COLLAPSED"] * 3 + ["MISS"]
    assert sum("x-ratelimit-remaining-requests" in each.headers for each in followers) == 1
    assert len(provider.calls) == 2
    await gate.open()
    assert words((await first).content) == JOKE
    assert await live.stored() == 1
    await live.settled()


async def test_a_failure_of_the_overtaken_call_is_not_the_followers(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Once one more call is out, its answer is waited for."""
    hung, second = Gate(), Gate()
    provider.script(Answer(refuse=True, gate=hung), Answer(gate=second))
    live = await proxy(upstream={"flight_patience_s": 0.05})
    ask = asker(client, live)
    first = asyncio.create_task(ask())
    await provider.received()
    follower = asyncio.create_task(ask())
    await provider.received(2)
    await hung.open()
    assert (await first).status_code == 502
    await second.open()
    assert words((await follower).content) == JOKE
    await live.settled()


async def test_a_lone_call_is_not_paid_twice(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """However long the provider thinks, whoever asked first waits for that call."""
    provider.always = Answer(delay_s=0.2)
    live = await proxy(upstream={"flight_patience_s": 0.01})
    assert words((await asker(client, live)()).content) == JOKE
    assert len(provider.calls) == 1
    await live.settled()


async def test_a_plain_asker_overtakes_a_stream_that_hangs(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """What he is told in the end is JSON, and the second streamed asker shares nothing with it."""
    provider.script(Answer(gate=(gate := Gate())))
    live = await proxy(upstream={"flight_patience_s": 0.05})
    ask = asker(client, live)
    first = asyncio.create_task(ask(stream=True))
    await provider.received()
    streamed, plain = await asyncio.gather(ask(stream=True), ask())
    assert plain.headers["content-type"] == "application/json"
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert words(streamed.content) == words(plain.content) == JOKE
    await gate.open()
    await first
    await live.settled()


async def test_plain_askers_of_a_stream_without_an_end_share_one_more_call(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """The stream they joined came to nothing that could be told: one call for all of them."""
    said = WITHOUT_END[:4]
    provider.script(Answer(chunks=said, gate=(gate := Gate())))
    live = await proxy()
    ask = asker(client, live)
    streamed = asyncio.create_task(ask(stream=True))
    await live.listening(1)
    plain = [asyncio.create_task(ask()) for _ in range(5)]
    await live.listening(6)
    await gate.open()
    assert (await streamed).content == b"".join(said)
    assert {words(each.content) for each in await asyncio.gather(*plain)} == {JOKE}
    assert len(provider.calls) == 2
    await live.settled()


async def test_the_line_of_a_failed_request_names_what_was_asked(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Provider, dialect and model are known, also where an error of the proxy's own is told."""
    live = await proxy()
    await provider.stop()
    told: list[Event] = []
    live.app.journal.record = told.append
    answer = await client.post(live.origin + PATH, json=asking(), headers=MINE)
    assert answer.status_code == 502
    (event,) = told
    assert (event.provider, event.dialect, event.model) == ("openai", "chat", asking()["model"])
    assert (event.outcome, event.status, event.reason) == (None, 502, "upstream_failure")
