"""Anthropic's messages through the clients that people have in Node: a hit is what it repeats."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.fakes.aimock import StartAimock
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.message_events import stream as events_of
from tests.fakes.messages import ANSWERS, PATH, SIGNATURE, asking, saying, text, thinking, tool_use
from tests.fakes.node import RunScript
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider
from tests.fakes.seen import caches, columns, told

# The provider's answer and no other's, which is not kept either.
PAST = {"headers": {"llm-cache-control": "no-store"}}
# So that streams are asked for with the same tools as whole answers are.
SAME_TOOLS = {"providerOptions": {"anthropic": {"toolStreaming": False}}}
TOOLS = ["weather", "time"]
WEATHER = {"city": "Köln", "days": [1, 2.5]}
THOUGHT = thinking("Rain?", SIGNATURE)
# The ai package refuses what it has not heard of, whoever tells it.
KNOWN = {name: ANSWERS[name] for name in ANSWERS if name != "unheard of"}


@pytest.fixture
async def live(proxy: StartProxy, provider: FakeProvider) -> LiveProxy:
    return await proxy(providers={"anthropic": {"base_url": provider.base_url}})


def ask(way: str, prompt: str = "Tell me a joke", **beside: Any) -> dict[str, Any]:
    """One for the client of Anthropic."""
    return {"way": way, "body": asking(prompt), **beside}


def as_told(answer: dict[str, Any], *, stream: bool) -> Answer:
    """An answer of the provider's, in the way it was asked for."""
    if stream:
        return Answer(chunks=events_of(answer))
    return Answer(body=orjson.dumps(answer))


@pytest.mark.parametrize("streamed_first", [False, True], ids=["plain first", "streamed first"])
async def test_anthropic(
    provider: FakeProvider, live: LiveProxy, node: RunScript, streamed_first: bool
) -> None:
    """Every kind of answer comes again to the letter, whichever way it was asked for first."""
    way, other = ("events", "create") if streamed_first else ("create", "events")
    ways = [ask(way), ask(way), ask(other), ask(other, **PAST), ask("helper")]
    for answer in ANSWERS.values():
        provider.script(*(as_told(answer, stream=each == "events") for each in (way, other)))
    asks = [{**each, "body": asking(name)} for name in ANSWERS for each in ways]
    seen = await node("anthropic_messages", base_url=f"{live.origin}/anthropic", asks=asks)
    outcomes = ["MISS", "HIT", "HIT", "BYPASS", "HIT"]
    first, again, turned, original, helped = columns(seen, outcomes)
    assert told(again) == told(first)
    assert told(turned) == told(original)
    assert helped == (turned if streamed_first else again) == list(ANSWERS.values())
    assert await live.stored() == len(ANSWERS)


async def test_anthropic_counts_tokens(
    provider: FakeProvider, live: LiveProxy, node: RunScript
) -> None:
    """The same request has as many the second time; another one is counted itself."""
    body = {"model": "m", "messages": asking()["messages"]}
    bodies = [body, body, {**body, "system": "Be brief"}]
    asks = [{"way": "count", "body": each} for each in bodies]
    seen = await node("anthropic_messages", base_url=f"{live.origin}/anthropic", asks=asks)
    assert caches(seen) == ["MISS", "HIT", "MISS"]
    assert [each["answer"] for each in seen] == [{"input_tokens": count} for count in (1, 1, 3)]
    assert len(provider.calls) == 2


async def test_anthropic_hears_of_errors(
    provider: FakeProvider, live: LiveProxy, node: RunScript
) -> None:
    """The provider's come in its words, the proxy's own likewise; what follows is another call."""
    refusal = Answer(status=529, error={"message": "busy, alas"})
    under_way = Answer(error={"message": "the model fell over"})
    provider.script(refusal, refusal, refusal, under_way, under_way)
    alone = {"headers": {"cache-control": "only-if-cached"}}
    ways = ["create", "events", "helper", "events", "helper"]
    asks = [*map(ask, ways), ask("create", **alone), ask("create")]
    base_url = f"{live.origin}/anthropic"
    *seen, answer = await node("anthropic_messages", base_url=base_url, asks=asks, caught=True)
    said = [*["busy, alas"] * 3, *["the model fell over"] * 2, "llm_cache_proxy_error"]
    for words, each in zip(said, seen, strict=True):
        assert words in each["error"]["message"]
    statuses = [each["error"].get("status") for each in seen]
    assert statuses == [529, 529, 529, None, None, 504]
    assert answer["cache"] == "MISS"
    assert len(provider.calls) == 6
    assert await live.stored() == 1


async def test_anthropic_hears_of_cuts(
    provider: FakeProvider, live: LiveProxy, node: RunScript
) -> None:
    """Half a stream is an error to the client, and is not kept; also all but its last event."""
    chunks = events_of(ANSWERS["thinking"])
    ends = [0, 1, 4, len(chunks) - 1]
    cuts = [(way, end) for way in ("events", "helper") for end in ends]
    provider.script(*(Answer(chunks=chunks, cut_after=end) for _, end in cuts))
    asks = [*(ask(way) for way, _ in cuts), ask("helper")]
    base_url = f"{live.origin}/anthropic"
    *seen, answer = await node("anthropic_messages", base_url=base_url, asks=asks, caught=True)
    assert [each.keys() for each in seen] == [{"error"}] * len(cuts)
    assert answer["cache"] == "MISS"
    said = expected(asking(), credential="Bearer mine", path=PATH)
    assert answer["answer"]["content"] == [text(said)]
    assert await live.stored() == 1


@pytest.mark.parametrize("streamed_first", [False, True], ids=["plain first", "streamed first"])
async def test_ai_sdk(
    provider: FakeProvider, live: LiveProxy, node: RunScript, streamed_first: bool
) -> None:
    """From a hit it makes the steps and the parts that it makes of what the provider tells."""
    way, other = {"stream": streamed_first}, {"stream": not streamed_first}
    ways = [way, way, other, {**other, **PAST}]
    for answer in KNOWN.values():
        provider.script(*(as_told(answer, stream=each["stream"]) for each in (way, other)))
    asks = [
        {"prompt": name, "tools": TOOLS, **SAME_TOOLS, **each} for name in KNOWN for each in ways
    ]
    base_url = f"{live.origin}/anthropic/v1"
    seen = await node("ai_anthropic_messages", base_url=base_url, asks=asks)
    first, again, turned, original = columns(seen, ["MISS", "HIT", "HIT", "BYPASS"])
    assert told(again) == told(first)
    assert told(turned) == told(original)
    assert await live.stored() == len(KNOWN)


@pytest.mark.parametrize("stream", [False, True])
async def test_ai_sdk_takes_turns(
    provider: FakeProvider, live: LiveProxy, node: RunScript, stream: bool
) -> None:
    """Signed thoughts go back to the letter with the tool's result; told again, both turns hit."""
    hidden = {"type": "redacted_thinking", "data": SIGNATURE}
    content = [hidden, THOUGHT, tool_use("weather", WEATHER)]
    provider.script(as_told(saying(*content, stop_reason="tool_use"), stream=stream))
    turns = {"prompt": "Rain?", "stream": stream, "tools": TOOLS, "turns": 2}
    base_url = f"{live.origin}/anthropic/v1"
    seen = await node("ai_anthropic_messages", base_url=base_url, asks=[turns, turns])
    assert caches(seen) == ["MISS MISS", "HIT HIT"]
    first, second = (each["answer"]["steps"] for each in seen)
    assert first == second
    called, answered = provider.calls
    assert called.header(b"x-api-key") == "mine"
    assert answered.json()["messages"][1]["content"] == content
    assert first[1]["content"][-1]["text"] == expected(answered.body, credential="mine", path=PATH)
    assert await live.stored() == 2


async def test_ai_sdk_asks_for_streams_with_other_tools(
    provider: FakeProvider, live: LiveProxy, node: RunScript
) -> None:
    """Unless told otherwise it wants their input untested there: each way has its own entry."""
    ways = [{"prompt": "x", "tools": TOOLS, "stream": way} for way in (False, True)]
    base_url = f"{live.origin}/anthropic/v1"
    seen = await node("ai_anthropic_messages", base_url=base_url, asks=ways * 2)
    assert caches(seen) == ["MISS", "MISS", "HIT", "HIT"]
    untested = ["eager_input_streaming" in call.json()["tools"][0] for call in provider.calls]
    assert untested == [False, True]


async def test_ai_sdk_hears_of_errors(
    provider: FakeProvider, live: LiveProxy, node: RunScript
) -> None:
    """Refused, failed or cut off under way: an error of its own, and nothing is stored."""
    refusal = Answer(status=429, error={"message": "slow down"})
    failure = Answer(error={"message": "the model fell over"})
    cuts = [Answer(cut_after=end) for end in (0, 1, 4, 17)]
    provider.script(refusal, refusal, failure, *cuts)
    streams = [False, *[True] * 7]
    asks = [{"prompt": "Tell me a joke", "stream": stream} for stream in streams]
    base_url = f"{live.origin}/anthropic/v1"
    asked = node("ai_anthropic_messages", base_url=base_url, asks=asks, caught=True)
    plain, stream, failed, *cut, answer = await asked
    error = {"kind": "APICallError", "message": "slow down", "status": 429}
    assert plain == stream == {"error": error}
    assert failed["error"]["message"] == "the model fell over"
    assert [each.keys() for each in cut] == [{"error"}] * len(cuts)
    assert answer["cache"] == "MISS"
    assert await live.stored() == 1


# What aimock says, by what it is asked. Of its own it has another id for each call, and tells the
# sum of the output's tokens before the output: of Anthropic's streams the first event counts one.
USAGE = {"input_tokens": 7, "output_tokens": 1}
THOUGHTS = {"reasoning": "Rain?", "reasoningSignature": SIGNATURE, "redactedThinking": [SIGNATURE]}
CALLED = {"name": "weather", "arguments": orjson.dumps(WEATHER).decode(), "id": "toolu_1"}
SAYINGS: dict[str, dict[str, Any]] = {
    "joke": {"content": "Knock, knock"},
    "sum": {"content": "It is 4.", **THOUGHTS},
    "rain": {"toolCalls": [CALLED], **THOUGHTS},
}
FIXTURES = [
    {"match": {"userMessage": name}, "response": {**said, "id": f"msg_{name}", "usage": USAGE}}
    for name, said in SAYINGS.items()
]
ONCE = ["MISS", "HIT", "HIT"]


async def test_anthropic_before_a_provider_from_elsewhere(
    proxy: StartProxy, aimock: StartAimock, node: RunScript
) -> None:
    """What aimock says once is told again both ways, as it would tell it; it counts one call."""
    mock = await aimock(*FIXTURES)
    live = await proxy(providers={"anthropic": {"base_url": mock.base_url}})
    orders = [("create", "create", "helper"), ("helper", "helper", "create")]
    asks = [ask(way, f"{order[0]} {name}") for name in SAYINGS for order in orders for way in order]
    seen = await node("anthropic_messages", base_url=f"{live.origin}/anthropic", asks=asks)
    first, *others = columns(seen, ONCE * 2)
    assert others == [first] * 5
    hidden = {"type": "redacted_thinking", "data": SIGNATURE}
    assert [each["content"] for each in first] == [
        [text("Knock, knock")],
        [hidden, THOUGHT, text("It is 4.")],
        [hidden, THOUGHT, tool_use("weather", WEATHER)],
    ]
    assert [call["path"] for call in await mock.calls()] == [PATH] * 2 * len(SAYINGS)


async def test_ai_sdk_before_a_provider_from_elsewhere(
    proxy: StartProxy, aimock: StartAimock, node: RunScript
) -> None:
    """What aimock says once is told again both ways, as it would tell it; it counts one call."""
    mock = await aimock(*FIXTURES)
    live = await proxy(providers={"anthropic": {"base_url": mock.base_url}})
    asks = [
        {"prompt": f"{first} {name}", "stream": stream, "tools": TOOLS, **SAME_TOOLS}
        for name in SAYINGS
        for first in (False, True)
        for stream in (first, first, not first)
    ]
    base_url = f"{live.origin}/anthropic/v1"
    seen = await node("ai_anthropic_messages", base_url=base_url, asks=asks)
    plain, again, streamed, own_streamed, streamed_again, from_stream = columns(seen, ONCE * 2)
    assert plain == again == from_stream
    assert told(streamed) == told(own_streamed) == told(streamed_again)
    assert len(await mock.calls()) == 2 * len(SAYINGS)
