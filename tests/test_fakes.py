"""The fake provider and the raw client do what the other tests rely on."""

from __future__ import annotations

import asyncio

import httpx
import orjson
import pytest

from tests.fakes import oracle
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.raw_client import Connect, Ending

ASK = {"model": "m", "messages": [{"role": "user", "content": "Tell me a joke"}]}
STREAMED = {"stream": True, **ASK}


def content(answer: httpx.Response) -> str:
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


async def test_the_answer_tells_who_asked_what(
    provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Another body, credential or path is another answer; the way of telling is not."""
    url = f"{provider.base_url}/chat/completions"
    mine = content(await client.post(url, json=ASK, headers={"authorization": "Bearer me"}))
    assert mine == oracle.expected(STREAMED, credential="Bearer me")
    assert mine != oracle.expected(ASK, credential="Bearer you")
    assert mine != oracle.expected({**ASK, "seed": 1}, credential="Bearer me")
    assert mine != oracle.expected(ASK, credential="Bearer me", path="/v2/chat/completions")


async def test_a_stream_says_the_same_as_a_plain_answer(
    provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """The words of the events join to the text; usage comes only when asked for."""
    asked = {**STREAMED, "stream_options": {"include_usage": True}}
    answer = await client.post(f"{provider.base_url}/chat/completions", json=asked)
    events = [line[6:] for line in answer.text.split("\n\n") if line]
    chunks = [orjson.loads(event) for event in events[:-1]]
    words = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]]
    assert events[-1] == "[DONE]"
    assert "".join(words) == oracle.expected(ASK)
    assert chunks[-1]["usage"]["completion_tokens"] == 12


async def test_a_batch_of_embeddings_is_the_sum_of_its_inputs(
    provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """What an input's embedding is does not depend on the others."""
    asked = {"model": "e", "input": ["one", "and two", "three"]}
    answer = await client.post(f"{provider.base_url}/embeddings", json=asked)
    told = [each["embedding"] for each in answer.json()["data"]]
    assert told == [oracle.expected_vector(item, asked) for item in asked["input"]]
    assert answer.json()["usage"]["total_tokens"] == 4


async def test_an_upload_is_measured_and_not_kept(
    provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """A body of any size is known by its length and its digest."""
    files = {"file": ("big.bin", bytes(20 * 2**20))}
    answer = await client.post(f"{provider.base_url}/files?a=%3A", files=files)
    assert answer.json()["size"] > 20 * 2**20
    assert answer.json()["target"] == "/v1/files?a=%3A"
    assert provider.calls[0].body == b""


@pytest.mark.parametrize("fault", [Answer(cut_after=3), Answer(reset_after=3)])
async def test_a_cut_stream_has_no_last_chunk(
    provider: FakeProvider, connect: Connect, fault: Answer
) -> None:
    """The connection ends after so many chunks, with FIN or with RST."""
    provider.script(fault)
    raw = await connect(provider.base_url)
    await raw.post("/v1/chat/completions", STREAMED)
    await raw.head()
    ending = await raw.rest()
    assert not ending.complete
    assert ending.body.count(b"data: ") <= 3
    assert provider.open_connections == 0


async def test_a_length_can_be_a_lie(provider: FakeProvider, connect: Connect) -> None:
    """A body shorter than its length is no answer."""
    provider.script(Answer(body=b"{}", content_length=10))
    raw = await connect(provider.base_url)
    await raw.post("/v1/chat/completions", ASK)
    assert await raw.head() == 200
    assert await raw.rest() == Ending(b"{}", complete=False)


async def test_gates_hold_answers_and_chunks(provider: FakeProvider, connect: Connect) -> None:
    """The test decides when the head and each chunk leave."""
    before_head, before_chunk = Gate(), Gate()
    provider.script(Answer(gate=before_head, chunk_gate=before_chunk))
    raw = await connect(provider.base_url)
    await raw.post("/v1/chat/completions", STREAMED)
    await before_head.reached()
    await before_head.open()
    assert await raw.head() == 200
    await before_chunk.release()
    assert b'"role":"assistant"' in await raw.chunk()
    await before_chunk.reached()
    await before_chunk.open()
    assert (await raw.rest()).complete


async def test_a_client_that_leaves_is_noticed(provider: FakeProvider, connect: Connect) -> None:
    """Also one that waits for an answer that never comes."""
    provider.script(Answer(hang=True))
    raw = await connect(provider.base_url)
    await raw.post("/v1/chat/completions", ASK)
    call = await provider.received()
    raw.leave()
    await asyncio.wait_for(call.finished.wait(), 5)
    assert call.aborted
    assert provider.busy_connections == 0


async def test_a_compressed_stream_arrives_piece_by_piece(
    provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Every chunk can be read before the next one leaves."""
    gate = Gate()
    provider.script(Answer(gzip=True, chunk_gate=gate))
    url = f"{provider.base_url}/chat/completions"
    async with client.stream("POST", url, json=STREAMED) as answer:
        await gate.release()
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        await gate.open()
        assert [line async for line in lines if line][-1] == "data: [DONE]"
