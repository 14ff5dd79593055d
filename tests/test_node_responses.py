"""OpenAI's responses through the clients that people have in Node: a hit is what it repeats."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.fakes.aimock import StartAimock
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.node import RunScript
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider
from tests.fakes.response_events import stream as events_of
from tests.fakes.responses import (
    ANSWERS,
    ENCRYPTED,
    PATH,
    asking,
    call,
    input_tokens,
    message,
    reasoning,
    saying,
    text,
)
from tests.fakes.seen import caches, columns, told

# The provider's answer and no other's, which is not kept either.
PAST = {"headers": {"llm-cache-control": "no-store"}}
# What is told of an item before anything of it is known: providers put there what they like.
BEGINNINGS = (
    *("response.created", "response.in_progress", "response.output_item.added"),
    "reasoning-start",
)
# The ai package refuses what it has not heard of, whoever tells it.
KNOWN = {name: ANSWERS[name] for name in ANSWERS if name != "unheard of"}
TOOLS = ["weather", "time"]
ARGUMENTS = '{"city":  "Köln", "days": [1, 2.5]}'
# So that the ai package sends all again in place of naming it by ids.
UNSTORED = {
    "providerOptions": {"openai": {"store": False, "include": ["reasoning.encrypted_content"]}}
}


@pytest.fixture
async def live(proxy: StartProxy) -> LiveProxy:
    return await proxy()


def ask(way: str, prompt: str = "Tell me a joke", **beside: Any) -> dict[str, Any]:
    """One for the client of OpenAI."""
    return {"way": way, "body": asking(prompt), **beside}


def as_told(answer: dict[str, Any], *, stream: bool) -> Answer:
    """An answer of the provider's, in the way it was asked for."""
    if stream:
        return Answer(chunks=events_of(answer))
    return Answer(body=orjson.dumps(answer))


@pytest.mark.parametrize("streamed_first", [False, True], ids=["plain first", "streamed first"])
async def test_openai(
    provider: FakeProvider, live: LiveProxy, node: RunScript, streamed_first: bool
) -> None:
    """Every kind of answer comes again to the letter, whichever way it was asked for first."""
    way, other = ("events", "create") if streamed_first else ("create", "events")
    ways = [ask(way), ask(way), ask(other), ask(other, **PAST), ask("helper")]
    for answer in ANSWERS.values():
        provider.script(*(as_told(answer, stream=each == "events") for each in (way, other)))
    asks = [{**each, "body": asking(name)} for name in ANSWERS for each in ways]
    seen = await node("openai_responses", base_url=live.base_url, asks=asks)
    outcomes = ["MISS", "HIT", "HIT", "BYPASS", "HIT"]
    first, again, turned, original, helped = columns(seen, outcomes)
    for repeated, own in ((again, first), (turned, original)):
        assert told(repeated, but=BEGINNINGS) == told(own, but=BEGINNINGS)
    assert helped == (turned if streamed_first else again) == list(ANSWERS.values())
    assert await live.stored() == len(ANSWERS)


async def test_openai_counts_tokens(
    provider: FakeProvider, live: LiveProxy, node: RunScript
) -> None:
    """The same request has as many the second time; another one is counted itself."""
    asks = [ask("count"), ask("count"), ask("count", "Another, and longer, joke")]
    seen = await node("openai_responses", base_url=live.base_url, asks=asks)
    assert caches(seen) == ["MISS", "HIT", "MISS"]
    counts = [input_tokens(each["body"]) for each in asks]
    assert [each["answer"]["input_tokens"] for each in seen] == counts
    assert len(provider.calls) == 2


async def test_openai_hears_of_errors(
    provider: FakeProvider, live: LiveProxy, node: RunScript
) -> None:
    """The provider's come in its words, the proxy's own likewise; what follows is another call."""
    refused = Answer(status=429, error={"message": "slow down"})
    failed = Answer(error={"message": "the model fell over"})
    provider.script(refused, refused, refused, failed, failed)
    ways = ["create", "events", "helper", "events", "helper"]
    alone = {"headers": {"cache-control": "only-if-cached"}}
    asks = [*map(ask, ways), ask("create", **alone), ask("create")]
    asked = node("openai_responses", base_url=live.base_url, asks=asks, caught=True)
    *seen, answer = await asked
    refusal = {"kind": "RateLimitError", "message": "429 slow down", "status": 429}
    failure = {"kind": "APIError", "message": "the model fell over"}
    said = "504 No answer is stored for this request, and only-if-cached was asked."
    own = {"kind": "InternalServerError", "message": said, "status": 504}
    assert [each["error"] for each in seen] == [refusal] * 3 + [failure] * 2 + [own]
    assert answer["cache"] == "MISS"
    assert len(provider.calls) == 6
    assert await live.stored() == 1


async def test_openai_hears_of_cuts(
    provider: FakeProvider, live: LiveProxy, node: RunScript
) -> None:
    """Half a stream is an error to the client, and is not kept; also all but its last event."""
    chunks = events_of(ANSWERS["reasoning"])
    ends = [0, 1, 5, len(chunks) - 1]
    cuts = [(way, end) for way in ("events", "helper") for end in ends]
    provider.script(*(Answer(chunks=chunks, cut_after=end) for _, end in cuts))
    asks = [*(ask(way) for way, _ in cuts), ask("helper")]
    asked = node("openai_responses", base_url=live.base_url, asks=asks, caught=True)
    *seen, answer = await asked
    assert [each.keys() for each in seen] == [{"error"}] * len(cuts)
    assert answer["cache"] == "MISS"
    said = expected(asking(), credential="Bearer mine", path=PATH)
    assert answer["answer"]["output"] == [message(text(said), number=9)]
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
    asks = [{"prompt": name, "tools": TOOLS, **each} for name in KNOWN for each in ways]
    seen = await node("ai_openai_responses", base_url=live.base_url, asks=asks)
    first, again, turned, original = columns(seen, ["MISS", "HIT", "HIT", "BYPASS"])
    for repeated, own in ((again, first), (turned, original)):
        assert told(repeated, but=BEGINNINGS) == told(own, but=BEGINNINGS)
    assert await live.stored() == len(KNOWN)


@pytest.mark.parametrize("stream", [False, True])
async def test_ai_sdk_takes_turns(
    provider: FakeProvider, live: LiveProxy, node: RunScript, stream: bool
) -> None:
    """Hidden thoughts go back to the letter with the tool's result; told again, both turns hit."""
    thought = reasoning("**Rain**", encrypted_content=ENCRYPTED)
    provider.script(as_told(saying(thought, call("weather", ARGUMENTS)), stream=stream))
    turns = {"prompt": "Rain?", "stream": stream, "tools": TOOLS, "turns": 2, **UNSTORED}
    seen = await node("ai_openai_responses", base_url=live.base_url, asks=[turns, turns])
    assert caches(seen) == ["MISS MISS", "HIT HIT"]
    first, second = (each["answer"]["steps"] for each in seen)
    assert first == second
    _, answered = provider.calls
    assert answered.json()["input"][1] == thought
    said = expected(answered.body, credential="Bearer mine", path=PATH)
    assert first[1]["content"][0]["text"] == said
    assert await live.stored() == 2


async def test_ai_sdk_refers_to_what_is_stored(
    provider: FakeProvider, live: LiveProxy, node: RunScript
) -> None:
    """Unless told otherwise it names earlier items by their ids: told again, both turns hit."""
    provider.script(as_told(saying(reasoning("**Rain**"), call("weather", ARGUMENTS)), stream=True))
    turns = {"prompt": "Rain?", "stream": True, "tools": TOOLS, "turns": 2}
    seen = await node("ai_openai_responses", base_url=live.base_url, asks=[turns, turns])
    assert caches(seen) == ["MISS MISS", "HIT HIT"]
    first, second = (each["answer"] for each in seen)
    assert first["steps"] == second["steps"]
    items = provider.calls[1].json()["input"]
    assert {"type": "item_reference", "id": "rs_1"} in items


async def test_ai_sdk_hears_of_errors(
    provider: FakeProvider, live: LiveProxy, node: RunScript
) -> None:
    """Refused, failed or cut off under way: an error of its own, and nothing is stored."""
    refusal = Answer(status=429, error={"message": "slow down"})
    failure = Answer(error={"message": "the model fell over"})
    cuts = [Answer(cut_after=end) for end in (0, 1, 5, 19)]
    provider.script(refusal, refusal, failure, *cuts)
    streams = [False, *[True] * 7]
    asks = [{"prompt": "Tell me a joke", "stream": stream} for stream in streams]
    asked = node("ai_openai_responses", base_url=live.base_url, asks=asks, caught=True)
    plain, stream, failed, *cut, answer = await asked
    error = {"kind": "APICallError", "message": "slow down", "status": 429}
    assert plain == stream == {"error": error}
    assert failed["error"]["message"] == "the model fell over"
    assert [each.keys() for each in cut] == [{"error"}] * len(cuts)
    assert answer["cache"] == "MISS"
    assert await live.stored() == 1


# What aimock says, by what it is asked. Of its own it has another id for each call.
USAGE = {"input_tokens": 7, "output_tokens": 9}
CALLED = {"name": "weather", "arguments": ARGUMENTS, "id": "call_1"}
SAYINGS: dict[str, dict[str, Any]] = {
    "joke": {"content": "Knock, knock"},
    "sum": {"content": "It is 4.", "reasoning": "Two and two."},
    "rain": {"toolCalls": [CALLED], "reasoning": "Rain?"},
}
FIXTURES = [
    {"match": {"userMessage": name}, "response": {**said, "id": f"resp_{name}", "usage": USAGE}}
    for name, said in SAYINGS.items()
]
ONCE = ["MISS", "HIT", "HIT"]


async def test_openai_before_a_provider_from_elsewhere(
    proxy: StartProxy, aimock: StartAimock, node: RunScript
) -> None:
    """What aimock says once is told again both ways, as it would tell it; it counts one call."""
    mock = await aimock(*FIXTURES)
    live = await proxy(upstream={"base_url": mock.base_url})
    orders = [("create", "create", "helper"), ("helper", "helper", "create")]
    asks = [ask(way, f"{order[0]} {name}") for name in SAYINGS for order in orders for way in order]
    seen = await node("openai_responses", base_url=live.base_url, asks=asks)
    plain, again, helped, own_helped, helped_again, from_stream = columns(seen, ONCE * 2)
    assert plain == again == helped
    assert own_helped == helped_again == from_stream
    for answers in (plain, from_stream):
        joke, total, rain = (each["output"] for each in answers)
        assert joke[0]["content"][0]["text"] == "Knock, knock"
        assert total[0]["summary"][0]["text"] == "Two and two."
        assert (rain[1]["call_id"], rain[1]["arguments"]) == ("call_1", ARGUMENTS)
    assert [each["path"] for each in await mock.calls()] == [PATH] * 2 * len(SAYINGS)


async def test_ai_sdk_before_a_provider_from_elsewhere(
    proxy: StartProxy, aimock: StartAimock, node: RunScript
) -> None:
    """What aimock says once is told again both ways, as it would tell it; it counts one call."""
    mock = await aimock(*FIXTURES)
    live = await proxy(upstream={"base_url": mock.base_url})
    asks = [
        {"prompt": f"{first} {name}", "stream": stream, "tools": TOOLS}
        for name in SAYINGS
        for first in (False, True)
        for stream in (first, first, not first)
    ]
    seen = await node("ai_openai_responses", base_url=live.base_url, asks=asks)
    plain, again, streamed, own_streamed, streamed_again, from_stream = columns(seen, ONCE * 2)
    assert plain == again
    assert told(streamed_again, but=BEGINNINGS) == told(own_streamed, but=BEGINNINGS)
    for one, other in ((plain, streamed), (own_streamed, from_stream)):
        assert [each["steps"] for each in one] == [each["steps"] for each in other]
    assert len(await mock.calls()) == 2 * len(SAYINGS)
