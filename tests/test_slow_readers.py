"""A caller who reads slowly, or not at all, costs himself only."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import httpx
import orjson
import pytest

from tests.fakes.chat import MINE, PATH, asking
from tests.fakes.live_proxy import StartProxy
from tests.fakes.oracle import chat_answer, chat_chunks, event
from tests.fakes.provider import Answer, FakeProvider
from tests.fakes.raw_client import Connect

EVENTS = [event(each) for each in chat_chunks(chat_answer(asking(), "", PATH, 1), usage=True)]
PADDING = [b": " + b"x" * 64_000 + b"\n\n"] * 200  # 13 MB
LARGE = Answer(chunks=[*PADDING, *EVENTS, event("[DONE]")])
WHOLE = b"".join(LARGE.chunks)  # type: ignore[arg-type]  # a list of bytes
USAGE = {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize("joins", [False, True])
async def test_one_who_stops_reading_holds_nobody_back(
    proxy: StartProxy,
    provider: FakeProvider,
    connect: Connect,
    client: httpx.AsyncClient,
    joins: bool,
) -> None:
    """The others and the provider go at full speed; he is cut off when his time is up."""
    provider.script(LARGE)
    live = await proxy(server={"send_timeout_s": 0.3})
    stuck = await connect(live.base_url, receive_buffer=4096)
    await stuck.post(PATH, asking(stream=True, **USAGE), MINE)
    call = await provider.received()
    if joins:
        told = await client.post(
            live.base_url + "/chat/completions", json=asking(stream=True, **USAGE), headers=MINE
        )
        assert told.content == WHOLE
        assert told.headers["x-cache"] in ("COLLAPSED", "HIT")
    await asyncio.wait_for(call.finished.wait(), 5)
    assert not call.aborted
    await live.settled()
    await stuck.head()
    assert not (await stuck.rest()).complete
    assert len(provider.calls) == await live.stored() == 1


async def test_one_who_reads_slowly_and_steadily_gets_it_all(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """Patience is for each piece: the whole may take longer than the limit."""
    provider.script(LARGE)
    live = await proxy(server={"send_timeout_s": 0.6})
    slow = await connect(live.base_url, receive_buffer=2**18)
    began = time.monotonic()
    await slow.post(PATH, asking(stream=True, **USAGE), MINE)
    await slow.head()
    body = b""
    while part := await slow.chunk():
        body += part
        await asyncio.sleep(0.005)
    assert body == WHOLE
    assert time.monotonic() - began > 0.6
    await live.settled()


async def test_one_who_does_not_take_a_stored_answer_is_cut_off(
    proxy: StartProxy, provider: FakeProvider, connect: Connect, client: httpx.AsyncClient
) -> None:
    """A hit that nobody reads does not stay in memory for ever."""
    text = "a long story " * 400_000
    answer = chat_answer(asking(), "", PATH, 1)
    answer["choices"][0]["message"]["content"] = text
    provider.script(Answer(body=orjson.dumps(answer)))
    live = await proxy(server={"send_timeout_s": 0.2})
    await client.post(live.base_url + "/chat/completions", json=asking(), headers=MINE)
    stuck = await connect(live.base_url, receive_buffer=4096)
    await stuck.post(PATH, asking(), MINE)
    assert await stuck.head() == 200
    assert stuck.headers["x-cache"] == "HIT"
    await asyncio.sleep(0.3)
    await live.settled()
    assert not (await stuck.rest()).complete
    assert len(provider.calls) == 1


async def test_what_cannot_be_stored_goes_at_the_pace_of_its_reader(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """Nothing is gathered for a caller who stopped: the provider waits, then is let go."""
    provider.script(LARGE)
    live = await proxy(server={"send_timeout_s": 0.5})
    stuck = await connect(live.base_url, receive_buffer=4096)
    await stuck.post(PATH, asking(stream=True), {**MINE, "cache-control": "no-store"})
    call = await provider.received()
    await asyncio.wait_for(call.finished.wait(), 5)
    assert call.aborted
    await live.settled()


async def test_one_who_asks_ahead_and_takes_nothing_is_cut_off(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """Also where each answer is small: it waits behind those that he did not take."""
    answer = chat_answer(asking(), "", PATH, 1)
    answer["choices"][0]["message"]["content"] = "x" * 50_000
    provider.script(Answer(body=orjson.dumps(answer)))
    live = await proxy(server={"send_timeout_s": 0.2})
    stuck = await connect(live.base_url, receive_buffer=4096)
    for _ in range(300):
        await stuck.post(PATH, asking(), MINE)
    await asyncio.sleep(0.5)  # past his time
    await live.settled()
    taken = 0
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while taken < 300 and await stuck.head() == 200 and (await stuck.rest()).complete:
            taken += 1
    assert taken < 300
