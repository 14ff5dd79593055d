"""What the provider breaks off, ends too early or makes too large is passed on so, never stored."""

from __future__ import annotations

import asyncio

import httpx
import orjson
import pytest

from tests.fakes.chat import MINE, PATH, asking, words
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import chat_answer, chat_chunks, event, expected
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.raw_client import Connect, Ending, RawClient

JOKE = expected(asking(), credential="Bearer mine")
EVENTS = [event(each) for each in chat_chunks(chat_answer(asking(), "", PATH, 1), usage=True)]
DONE = event("[DONE]")
CUTS = [Answer(cut_after=3), Answer(cut_after=14), Answer(reset_after=3), Answer(reset_after=0)]
FAULT = {"message": "the model fell over", "code": 500}


async def answer(raw: RawClient, *, stream: bool = True) -> Ending:
    await raw.post(PATH, asking(stream=stream), MINE)
    await raw.head()
    return await raw.rest()


async def holds_nothing(live: LiveProxy, connect: Connect) -> None:
    """The cache is empty, and the next asker gets the whole answer."""
    await live.settled()
    assert await live.stored() == 0
    raw = await connect(live.base_url)
    assert words((await answer(raw)).body) == JOKE
    assert raw.headers["x-cache"] == "MISS"
    await live.settled()


@pytest.mark.parametrize("cut", CUTS, ids=str)
async def test_a_stream_that_breaks_off_is_cut_for_its_asker(
    proxy: StartProxy, provider: FakeProvider, connect: Connect, cut: Answer
) -> None:
    """He gets what came and then the end of the connection, not the end of the answer."""
    provider.script(cut)
    live = await proxy()
    raw = await connect(live.base_url)
    ending = await answer(raw)
    assert (raw.status, ending.complete) == (200, False)
    assert JOKE.startswith(words(ending.body) if ending.body else "")
    assert DONE not in ending.body
    assert len(provider.calls) == 1
    await holds_nothing(live, connect)


async def test_a_stream_that_breaks_off_is_cut_for_all(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """Three who listen are cut, one who waits for the whole gets an error; nobody hangs."""
    provider.script(Answer(cut_after=5, gate=(gate := Gate())))
    live = await proxy()
    raws = [await connect(live.base_url) for _ in range(4)]
    asked = [asyncio.create_task(answer(raw)) for raw in raws[:3]]
    await live.listening(3)
    asked.append(asyncio.create_task(answer(raws[3], stream=False)))
    await live.listening(4)
    await gate.open()
    endings = await asyncio.gather(*asked)
    assert [each.complete for each in endings] == [False, False, False, True]
    assert [raw.status for raw in raws] == [200, 200, 200, 502]
    assert orjson.loads(endings[3].body)["error"]["code"] == "upstream_failure"
    assert len(provider.calls) == 1
    await holds_nothing(live, connect)


@pytest.mark.parametrize("cut", [Answer(content_length=5000), Answer(reset_after=0)], ids=str)
async def test_a_body_shorter_than_its_length_is_an_error(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    connect: Connect,
    cut: Answer,
) -> None:
    """Nothing of it was sent yet: the asker gets a 502 that he may try again."""
    provider.script(cut)
    live = await proxy()
    told = await client.post(f"{live.base_url}/chat/completions", json=asking(), headers=MINE)
    assert told.status_code == 502
    assert told.json()["error"]["type"] == "llm_cache_proxy_error"
    assert "x-should-retry" not in told.headers
    await holds_nothing(live, connect)


@pytest.mark.parametrize(
    "chunks",
    [
        EVENTS[:-3],  # nothing more: neither finish_reason nor [DONE]
        [*EVENTS[:-3], DONE],  # llama-cpp-python's interrupted streams
        [*EVENTS[:4], event({"error": FAULT})],
        [*EVENTS, event({"error": FAULT}), DONE],
        [*EVENTS[:4], b"data: {]\n\n", *EVENTS[4:], DONE],
        [],
    ],
    ids=["no end", "only DONE", "error", "late error", "garbage", "nothing"],
)
async def test_a_stream_without_a_proper_end_is_passed_on_and_not_stored(
    proxy: StartProxy, provider: FakeProvider, connect: Connect, chunks: list[bytes]
) -> None:
    """HTTP says that it is whole; what it says is not."""
    asked_for = asking(stream=True, stream_options={"include_usage": True})
    provider.script(Answer(chunks=chunks))
    live = await proxy()
    raw = await connect(live.base_url)
    await raw.post(PATH, asked_for, MINE)
    await raw.head()
    assert await raw.rest() == Ending(b"".join(chunks), complete=True)
    await holds_nothing(live, connect)


async def test_a_stream_without_done_is_whole(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """Every choice has its finish_reason: some servers never say more."""
    provider.script(Answer(done=False))
    live = await proxy()
    first, second = await connect(live.base_url), await connect(live.base_url)
    assert words((await answer(first)).body) == words((await answer(second)).body) == JOKE
    assert second.headers["x-cache"] == "HIT"
    assert await live.stored() == 1
    await live.settled()


async def test_a_connection_left_open_after_the_last_event_does_not_matter(
    proxy: StartProxy, provider: FakeProvider, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The asker has his whole answer, and it is stored."""
    monkeypatch.setattr("proxy.passage.LINGER_S", 0.05)
    gate = Gate()
    provider.script(Answer(chunks=[*EVENTS, DONE, b": the end"], chunk_gate=gate))
    live = await proxy()
    raw = await connect(live.base_url)
    await gate.release(len(EVENTS) + 1)
    ending = await answer(raw)
    assert ending.complete
    assert ending.body.endswith(DONE)
    assert await live.stored() == 1
    await live.settled()


@pytest.mark.parametrize(
    "said", [b"", b"{", b"[]", b'{"choices":[]}', orjson.dumps({"error": FAULT})], ids=repr
)
async def test_a_body_that_is_no_answer_is_passed_on_and_not_stored(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    connect: Connect,
    said: bytes,
) -> None:
    """Status 200 alone makes no answer."""
    provider.script(Answer(body=said))
    live = await proxy()
    told = await client.post(f"{live.base_url}/chat/completions", json=asking(), headers=MINE)
    assert (told.status_code, told.content) == (200, said)
    await holds_nothing(live, connect)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_too_large_to_store_arrives_whole(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    stream: bool,
    packed: bool,
) -> None:
    """It passes byte for byte, is not kept, and pushes nothing out of the cache."""
    live = await proxy(cache={"max_entry": 2000})
    url = f"{live.base_url}/chat/completions"
    await client.post(url, json=asking("a small one"), headers=MINE)
    filler = [b": %d %b\n\n" % (number, b"x" * 1000) for number in range(300)]
    chunks = [*filler, *EVENTS, DONE] if stream else filler
    kind = b"text/event-stream" if stream else b"application/json"
    provider.script(Answer(chunks=chunks, headers=[(b"content-type", kind)], gzip=packed))
    told = await client.post(url, json=asking(stream=stream), headers=MINE)
    assert told.content.startswith(b"".join(filler))
    assert told.headers["x-cache"] == "MISS"
    assert await live.stored() == 1
    again = await client.post(url, json=asking("a small one"), headers=MINE)
    assert again.headers["x-cache"] == "HIT"
    await live.settled()


async def test_a_large_body_that_cannot_be_read_keeps_its_order(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """A coding that nobody asked for is passed on as it came, however long it is."""
    parts = [b"%06d" % number * 200 for number in range(100)]
    headers = [(b"content-type", b"application/json"), (b"content-encoding", b"secret")]
    provider.script(Answer(chunks=parts, headers=headers))
    live = await proxy(cache={"max_entry": 20_000})
    told = await client.post(f"{live.base_url}/chat/completions", json=asking(), headers=MINE)
    assert told.content == b"".join(parts)
    assert told.headers["content-encoding"] == "secret"
    assert await live.stored() == 0
    await live.settled()
