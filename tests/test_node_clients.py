"""The clients that people have in Node work unchanged too, also before a provider from elsewhere.

Each is a script in tests/node, which asks what it is told to and prints what it saw.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.aimock import StartAimock
from tests.fakes.live_proxy import StartProxy
from tests.fakes.node import RunScript
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider

CREDENTIAL = "Bearer mine"
JOKE: Any = {"model": "m", "messages": [{"role": "user", "content": "Tell me a joke"}]}
STREAMED: Any = {**JOKE, "stream": True, "stream_options": {"include_usage": True}}


def caches(seen: list[dict[str, Any]]) -> list[str]:
    return [each["cache"] for each in seen]


@pytest.mark.parametrize("streamed_first", [False, True])
async def test_openai_chat(
    proxy: StartProxy, provider: FakeProvider, node: RunScript, streamed_first: bool
) -> None:
    """Of one call come equal answers, plain and streamed, whichever is asked for first."""
    live = await proxy()
    ways = [STREAMED, JOKE] if streamed_first else [JOKE, STREAMED]
    asks = [ways[0], ways[0], ways[1], ways[1]]
    seen = await node("openai_chat", base_url=live.base_url, asks=asks)
    assert caches(seen) == ["MISS", "HIT", "HIT", "HIT"]
    answers = [each["answer"] for each in (seen[1], seen[2])]
    assert answers == [seen[0]["answer"], seen[3]["answer"]]
    stream, plain = answers if streamed_first else answers[::-1]
    assert stream == streamed(plain)
    assert stream["text"] == expected(JOKE, credential=CREDENTIAL)
    assert len(provider.calls) == await live.stored() == 1


def streamed(answer: dict[str, Any]) -> dict[str, Any]:
    """What a stream of this answer comes to."""
    [choice] = answer["choices"]
    envelope = {name: answer[name] for name in ("id", "created", "model", "usage")}
    said = {"text": choice["message"]["content"], "finish_reason": choice["finish_reason"]}
    return envelope | said


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_errors(
    proxy: StartProxy, provider: FakeProvider, node: RunScript, stream: bool
) -> None:
    """An error of the provider is the client's own, and the next answer is another call's."""
    provider.script(Answer(status=429, error={"message": "slow down", "type": "rate_limit"}))
    live = await proxy()
    ask = {**JOKE, "stream": stream}
    first, second = await node("openai_chat", base_url=live.base_url, asks=[ask, ask], caught=True)
    error = {"kind": "RateLimitError", "message": "429 slow down", "status": 429}
    assert first == {"error": error}
    assert second["cache"] == "MISS"
    assert len(provider.calls) == 2


@pytest.mark.parametrize("streamed_first", [False, True])
async def test_ai_sdk_chat(
    proxy: StartProxy, provider: FakeProvider, node: RunScript, streamed_first: bool
) -> None:
    """`generateText` and `streamText` tell one answer, text, usage and all, of one call."""
    live = await proxy()
    ways = [
        {"prompt": "Tell me a joke", "stream": way} for way in (streamed_first, not streamed_first)
    ]
    seen = await node("ai_openai_chat", base_url=live.base_url, asks=[ways[0], *ways])
    assert caches(seen) == ["MISS", "HIT", "HIT"]
    first, *others = (each["answer"] for each in seen)
    assert others == [first, first]
    assert first["text"] == expected(provider.calls[0].body, credential=CREDENTIAL)
    assert first["usage"]["outputTokens"] == 12
    assert len(provider.calls) == 1


async def test_a_provider_from_elsewhere(
    proxy: StartProxy, aimock: StartAimock, node: RunScript
) -> None:
    """What aimock says once is told again, streamed too; it counts one call."""
    mock = await aimock({"match": {"userMessage": "joke"}, "response": {"content": "Knock, knock"}})
    live = await proxy(upstream={"base_url": mock.base_url})
    seen = await node("openai_chat", base_url=live.base_url, asks=[JOKE, JOKE, STREAMED])
    assert caches(seen) == ["MISS", "HIT", "HIT"]
    first, second, stream = (each["answer"] for each in seen)
    assert first == second
    assert first["choices"][0]["message"]["content"] == "Knock, knock"
    assert stream == streamed(first)
    [call] = await mock.calls()
    assert (call["path"], call["response"]["status"]) == ("/v1/chat/completions", 200)


async def test_a_stream_from_elsewhere(
    proxy: StartProxy, aimock: StartAimock, node: RunScript
) -> None:
    """aimock's own stream is complete to the proxy: it is kept, and told plain too."""
    mock = await aimock({"match": {"userMessage": "joke"}, "response": {"content": "Knock, knock"}})
    live = await proxy(upstream={"base_url": mock.base_url})
    seen = await node("openai_chat", base_url=live.base_url, asks=[STREAMED, STREAMED, JOKE])
    assert caches(seen) == ["MISS", "HIT", "HIT"]
    first, second, plain = (each["answer"] for each in seen)
    assert first == second == streamed(plain)
    assert first["text"] == "Knock, knock"
    assert len(await mock.calls()) == 1


async def test_a_script_that_fails_says_why(provider: FakeProvider, node: RunScript) -> None:
    """An error that nobody asked to see fails the test, in the script's own words."""
    provider.script(Answer(status=500))
    with pytest.raises(AssertionError, match=r"openai_chat\.mjs: (?s:.*)InternalServerError"):
        await node("openai_chat", base_url=provider.base_url, asks=[JOKE])


async def test_a_script_ends_with_its_test(provider: FakeProvider, node: RunScript) -> None:
    """One that is given up, or has had its time, asks nobody any more."""
    provider.always = Answer(hang=True)
    asking = node("openai_chat", seconds=30, base_url=provider.base_url, asks=[JOKE])
    running = asyncio.ensure_future(asking)
    call = await provider.received()
    running.cancel()
    await asyncio.wait([running])
    await asyncio.wait_for(call.finished.wait(), 5)
    assert call.aborted
