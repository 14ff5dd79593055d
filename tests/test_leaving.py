"""Who leaves harms nobody, and what he began is kept if it can be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.chat import MINE, PATH, asking, words
from tests.fakes.live_proxy import StartProxy
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.raw_client import Connect, Ending, RawClient

JOKE = expected(asking(), credential="Bearer mine")
LOCAL = {"upstream": {"provider": "ollama"}}
CANCEL = {"upstream": {"finish_abandoned_s": 0}}


async def answer(raw: RawClient, stream: bool = False) -> Ending:
    await raw.post(PATH, asking(stream=stream), MINE)
    assert await raw.head() == 200
    return await raw.rest()


@pytest.mark.parametrize("stream", [False, True])
async def test_what_was_begun_is_fetched_to_its_end(
    proxy: StartProxy, provider: FakeProvider, connect: Connect, stream: bool
) -> None:
    """Its only asker leaves before the first word; the answer is stored for the next."""
    provider.script(Answer(gate=(gate := Gate())))
    live = await proxy()
    leaver, later = await connect(live.base_url), await connect(live.base_url)
    await leaver.post(PATH, asking(stream=stream), MINE)
    await provider.received()
    leaver.leave()
    await live.listening(0)
    await gate.open()
    await live.settled()
    assert await live.stored() == 1
    assert words((await answer(later, stream)).body) == JOKE
    assert later.headers["x-cache"] == "HIT"
    assert len(provider.calls) == 1
    await live.settled()


async def test_a_stream_left_in_its_middle_is_fetched_to_its_end(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """Its asker breaks the connection after some words; the whole of it is stored."""
    provider.script(Answer(chunk_gate=(gate := Gate())))
    live = await proxy()
    leaver, later = await connect(live.base_url), await connect(live.base_url)
    await leaver.post(PATH, asking(stream=True), MINE)
    await gate.release(4)
    await leaver.head()
    await leaver.chunk()
    leaver.reset()
    await live.listening(0)
    await gate.open()
    await live.settled()
    assert words((await answer(later, stream=True)).body) == JOKE
    assert later.headers["x-cache"] == "HIT"
    assert len(provider.calls) == await live.stored() == 1


@pytest.mark.parametrize("settings", [LOCAL, CANCEL], ids=["local", "cancel"])
@pytest.mark.parametrize("begun", [False, True])
async def test_work_that_nobody_waits_for_can_be_cancelled(
    proxy: StartProxy,
    provider: FakeProvider,
    connect: Connect,
    settings: dict[str, Any],
    begun: bool,
) -> None:
    """On one's own machine, or where the operator says so: the provider sees the end at once."""
    provider.always = Answer(chunk_gate=(gate := Gate()))
    live = await proxy(**settings)
    leaver = await connect(live.base_url)
    await leaver.post(PATH, asking(stream=True), MINE)
    call = await provider.received()
    if begun:
        await gate.release()
        await leaver.head()
        await leaver.chunk()
    leaver.leave()
    await asyncio.wait_for(call.finished.wait(), 1)
    assert call.aborted
    assert await live.stored() == 0
    await live.settled()


async def test_what_may_not_be_stored_is_cancelled_when_nobody_waits(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """To fetch it to its end would be for nobody."""
    provider.always = Answer(hang=True)
    live = await proxy()
    leaver = await connect(live.base_url)
    await leaver.post(PATH, asking(), {**MINE, "cache-control": "no-store"})
    call = await provider.received()
    leaver.leave()
    await asyncio.wait_for(call.finished.wait(), 1)
    assert call.aborted
    await live.settled()


async def test_what_outgrew_the_cache_is_cancelled_when_nobody_waits(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """Once an answer is larger than an entry may be, only its listeners keep it going."""
    provider.always = Answer(chunk_gate=(gate := Gate()))
    live = await proxy(cache={"max_entry": 1000})
    leaver = await connect(live.base_url)
    await leaver.post(PATH, asking(stream=True), MINE)
    call = await provider.received()
    await gate.release(8)
    await leaver.head()
    read = 0
    while read < 1001:
        read += len(await leaver.chunk())
    leaver.leave()
    await asyncio.wait_for(call.finished.wait(), 1)
    assert call.aborted
    assert await live.stored() == 0
    await live.settled()


async def test_an_abandoned_fetch_ends_with_its_time(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """A provider that never answers is not waited for longer than the operator said."""
    provider.always = Answer(hang=True)
    live = await proxy(upstream={"finish_abandoned_s": 0.05})
    leaver = await connect(live.base_url)
    await leaver.post(PATH, asking(), MINE)
    call = await provider.received()
    leaver.leave()
    await asyncio.wait_for(call.finished.wait(), 1)
    assert call.aborted
    await live.settled()


@pytest.mark.parametrize("settings", [{}, LOCAL, CANCEL], ids=["finish", "local", "cancel"])
@pytest.mark.parametrize("stream", [False, True])
async def test_followers_outlive_the_first_asker(
    proxy: StartProxy,
    provider: FakeProvider,
    connect: Connect,
    settings: dict[str, Any],
    stream: bool,
) -> None:
    """Whoever began it may leave: those who joined get the whole of it, from one call."""
    provider.always = Answer(gate=(gate := Gate()))
    live = await proxy(**settings)
    leaver, *followers = [await connect(live.base_url) for _ in range(4)]
    await leaver.post(PATH, asking(stream=stream), MINE)
    await live.listening(1)
    asked = [asyncio.create_task(answer(each, stream)) for each in followers]
    await live.listening(4)
    leaver.reset()
    await live.listening(3)
    await gate.open()
    endings = await asyncio.gather(*asked)
    assert {(words(each.body), each.complete) for each in endings} == {(JOKE, True)}
    assert len(provider.calls) == await live.stored() == 1
    await live.settled()
