"""How an answer is framed for its caller: one length, and the true one."""

from __future__ import annotations

import httpx
import orjson
import pytest

from tests.fakes.chat import MINE, PATH, asking, events
from tests.fakes.live_proxy import StartProxy
from tests.fakes.provider import Answer, FakeProvider
from tests.fakes.raw_client import Connect

USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


@pytest.mark.parametrize("status", [200, 400])
async def test_a_fetched_answer_has_one_length(
    proxy: StartProxy, provider: FakeProvider, connect: Connect, status: int
) -> None:
    """Node's parser, for one, takes a second Content-Length for an attack."""
    live = await proxy()
    provider.script(Answer(status=status))
    raw = await connect(live.origin)
    await raw.post(PATH, asking(), MINE)
    told = b""
    while b"\r\n\r\n" not in told:  # h11, and so httpx, shows two as one
        told += await raw.read(2**16)
    assert told.startswith(b"HTTP/1.1 %d" % status)
    assert told.lower().count(b"content-length:") == 1


async def test_a_stream_that_came_with_a_length_loses_it(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """What the proxy hides of it (usage that only it asked for) makes it shorter."""
    choice = {"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}
    chunks = [{"choices": [choice], "usage": None}, {"choices": [], "usage": USAGE}]
    body = b"".join(b"data: %b\n\n" % orjson.dumps(each) for each in chunks) + b"data: [DONE]\n\n"
    live = await proxy()
    provider.script(Answer(headers=[(b"content-type", b"text/event-stream")], body=body))
    told = await client.post(live.origin + PATH, json=asking(stream=True), headers=MINE)
    assert "content-length" not in told.headers
    assert [each["choices"] for each in events(told.content)] == [[choice]]
    await live.settled()


@pytest.mark.parametrize("size", [10, 20_000])
async def test_what_goes_past_the_cache_goes_as_it_came(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, size: int
) -> None:
    """However long: written anew, an integer beyond 64 bits would become a float."""
    live = await proxy()
    body = b'{"seed":%d,"stream":true,"stream_options":{"x":1},"messages":[%b]}' % (
        2**70,
        orjson.dumps({"role": "user", "content": "x" * size}),
    )
    told = await client.post(live.origin + PATH, content=body, headers=MINE)
    assert told.headers["x-cache"] == "BYPASS"
    assert provider.calls[-1].body == body
    await live.settled()


@pytest.mark.parametrize("size", [10, 20_000])
async def test_what_two_parsers_read_differently_never_hits(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, size: int
) -> None:
    """Not even the entry of the request that one of them takes it for."""
    live = await proxy()
    text = orjson.dumps([{"role": "user", "content": "x" * size}])
    once, twice = b'{"n":1,"messages":%b}' % text, b'{"n":2,"n":1,"messages":%b}' % text
    told = [
        (await client.post(live.origin + PATH, content=body, headers=MINE)).headers["x-cache"]
        for body in (once, once, twice, twice)
    ]
    assert told == ["MISS", "HIT", "BYPASS", "BYPASS"]
