"""Anthropic's messages through the clients that people have: a hit is what it repeats."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import httpx2
import orjson
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import RawMessageStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.fakes.clients import Clients, forget_environment
from tests.fakes.cuttings import CUTTINGS
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.message_events import stream as events_of
from tests.fakes.messages import (
    ANSWERS,
    COUNT_PATH,
    PATH,
    PAUSED,
    REFUSED,
    SEARCHED,
    SIGNATURE,
    asking,
    saying,
    text,
    thinking,
    tool_use,
)
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider, Gate

CREDENTIAL = "Bearer mine"
JOKE = asking()
SAID = expected(JOKE, credential=CREDENTIAL, path=PATH)
TOOLS: Any = [{"name": "weather", "input_schema": {"type": "object"}}]
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
# The provider's answer and no other's, which is not kept either.
PAST: Any = {"extra_headers": {"llm-cache-control": "no-store"}}


@pytest.fixture
async def live(proxy: StartProxy, provider: FakeProvider) -> LiveProxy:
    return await proxy(providers={"anthropic": {"base_url": provider.base_url}})


@pytest.fixture
def sdk(clients: Clients, live: LiveProxy) -> AsyncAnthropic:
    return clients.anthropic(live)


async def plain(sdk: AsyncAnthropic, **fields: Any) -> dict[str, Any]:
    """An answer in one piece, as the client has understood it."""
    message = await sdk.messages.create(**JOKE | fields)
    return message.to_dict(warnings=False)


async def streamed(sdk: AsyncAnthropic, **fields: Any) -> list[dict[str, Any]]:
    """The events of an answer, as the client has understood them."""
    stream = await sdk.messages.create(**JOKE | fields, stream=True)
    return [each.to_dict(warnings=False) async for each in stream]


async def final(sdk: AsyncAnthropic, **fields: Any) -> dict[str, Any]:
    """What the client's stream helper puts together."""
    async with sdk.messages.stream(**JOKE | fields) as stream:
        message = await stream.get_final_message()
    return message.to_dict(warnings=False)


def told(events: list[dict[str, Any]]) -> tuple[dict[Any, Any], list[Any]]:
    """What a stream comes to: the words of each block, however cut, and what is told at once."""
    words: dict[Any, Any] = {}
    rest: list[Any] = []
    for each in events:
        if each["type"] != "content_block_delta" or each["delta"]["type"] == "citations_delta":
            rest.append(each)
            continue
        (field,) = each["delta"].keys() - {"type"}
        place = (each["index"], field)
        words[place] = words.get(place, "") + each["delta"][field]
    # How a model spaces its JSON is told to nobody who gets it in one piece.
    values = {
        (index, field): orjson.loads(said or "{}") if field == "partial_json" else said
        for (index, field), said in words.items()
    }
    return values, rest


def as_told(answer: dict[str, Any], *, stream: bool) -> Answer:
    """An answer of the provider's, in the way it was asked for."""
    if stream:
        return Answer(chunks=events_of(answer))
    return Answer(body=orjson.dumps(answer))


async def test_an_answer(provider: FakeProvider, live: LiveProxy, sdk: AsyncAnthropic) -> None:
    """The second answer has the first one's id, usage, text and everything else."""
    messages = sdk.messages.with_raw_response
    first, second = [await messages.create(**JOKE) for _ in range(2)]
    assert [each.headers["x-cache"] for each in (first, second)] == ["MISS", "HIT"]
    assert first.http_response.json() == second.http_response.json()
    assert (answer := await first.parse()) == (again := await second.parse())
    assert answer._request_id != again._request_id is not None
    assert answer.content[0].to_dict() == text(SAID)
    assert answer.usage.output_tokens == 12
    assert len(provider.calls) == await live.stored() == 1


async def test_a_stream(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncAnthropic
) -> None:
    """Its events come again, in their order."""
    first, second = [await streamed(sdk) for _ in range(2)]
    assert clients.outcomes == ["MISS", "HIT"]
    assert told(first) == told(second)
    assert told(second)[0] == {(0, "text"): SAID}
    assert len(provider.calls) == await live.stored() == 1


async def test_the_stream_helpers(
    clients: Clients, provider: FakeProvider, sdk: AsyncAnthropic
) -> None:
    """They put the same message together from a hit, the one that is told in one piece."""
    first, second = [await final(sdk) for _ in range(2)]
    async with sdk.messages.stream(**JOKE) as stream:
        assert "".join([each async for each in stream.text_stream]) == SAID
    async with sdk.beta.messages.stream(**JOKE) as beta:
        third = (await beta.get_final_message()).to_dict(warnings=False)
    assert first == second
    assert first["content"] == third["content"] == [text(SAID)]
    assert (await plain(sdk))["id"] == first["id"] == third["id"]
    assert clients.outcomes == ["MISS", "HIT", "HIT", "HIT", "HIT"]


async def test_the_synchronous_client(
    live: LiveProxy, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works as the other one does, on a thread of its own."""
    forget_environment(monkeypatch)

    def ask() -> list[Any]:
        options: Any = {"base_url": f"{live.origin}/anthropic", "api_key": "mine"}
        with anthropic.Anthropic(**options, max_retries=0) as client:
            first, second = [client.messages.create(**JOKE) for _ in range(2)]
            assert first == second
            deltas = [
                each.delta.to_dict()["text"]
                for each in client.messages.create(**JOKE, stream=True)
                if each.type == "content_block_delta"
            ]
            with client.messages.stream(**JOKE) as stream:
                return [
                    first.content[0].to_dict()["text"],
                    "".join(deltas),
                    stream.get_final_text(),
                ]

    assert await asyncio.to_thread(ask) == [SAID] * 3
    assert len(provider.calls) == 1


@pytest.mark.parametrize("streamed_first", [False, True], ids=["plain first", "streamed first"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_one_entry_tells_every_kind_of_answer_both_ways(
    clients: Clients, provider: FakeProvider, sdk: AsyncAnthropic, name: str, streamed_first: bool
) -> None:
    """Whatever is in it comes back to the letter, whichever way it was asked for first."""
    answer = ANSWERS[name]
    provider.script(as_told(answer, stream=streamed_first), as_told(answer, stream=True))
    first = await streamed(sdk) if streamed_first else await plain(sdk)
    again = await plain(sdk)
    events = await streamed(sdk)
    original = await streamed(sdk, **PAST)
    assert again == answer
    assert first == (original if streamed_first else answer)
    assert told(events) == told(original)
    assert clients.outcomes == ["MISS", "HIT", "HIT", "BYPASS"]
    assert len(provider.calls) == 2


@pytest.mark.parametrize("name", ["two tool uses", "thinking", "redacted thinking", "citations"])
async def test_the_helper_on_a_stream_from_a_plain_answer(
    clients: Clients, provider: FakeProvider, sdk: AsyncAnthropic, name: str
) -> None:
    """It makes of a hit the message that it makes of the provider's own stream."""
    provider.script(*(as_told(ANSWERS[name], stream=stream) for stream in (False, True)))
    await plain(sdk)
    repeated, original = await final(sdk), await final(sdk, **PAST)
    assert repeated == original
    assert repeated["content"] == ANSWERS[name]["content"]
    assert clients.outcomes == ["MISS", "HIT", "BYPASS"]


@pytest.mark.parametrize("name", [each for each in ANSWERS if each != "unheard of"])
async def test_a_hit_tells_what_the_client_declares(
    provider: FakeProvider, sdk: AsyncAnthropic, name: str
) -> None:
    """The client builds objects of whatever comes; strictly read, all of a hit is of its types."""
    provider.script(as_told(ANSWERS[name], stream=False))
    await plain(sdk)
    for each in await streamed(sdk):
        EVENT.validate_python(each)


@pytest.mark.parametrize("how", CUTTINGS)
async def test_a_stream_however_it_is_cut(
    clients: Clients, provider: FakeProvider, sdk: AsyncAnthropic, how: str
) -> None:
    """In crumbs, with other ends of lines or compressed: it is understood and kept the same."""
    answer = ANSWERS["redacted thinking"]
    provider.script(CUTTINGS[how](b"".join(events_of(answer))))
    first, second = [await final(sdk) for _ in range(2)]
    assert first == second
    assert await plain(sdk) == answer
    assert clients.outcomes == ["MISS", "HIT", "HIT"]


async def test_a_conversation_with_thoughts_and_tools(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncAnthropic
) -> None:
    """Signed thoughts go back to the letter; told again, both turns are hits."""
    weather = tool_use("weather", {"city": "Köln", "days": [1, 2.5]})
    answer = saying(thinking("Rain?", SIGNATURE), weather, stop_reason="tool_use")
    provider.script(as_told(answer, stream=True))
    asked: Any = {"tools": TOOLS, "thinking": {"type": "enabled", "budget_tokens": 1024}}

    async def converse() -> str:
        said: list[Any] = [{"role": "user", "content": "Rain?"}]
        first = await final(sdk, **asked, messages=said)
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}
        said.append({"role": "assistant", "content": first["content"]})
        said.append({"role": "user", "content": [result]})
        second = await plain(sdk, **asked, messages=said)
        return str(second["content"][0]["text"])

    assert await converse() == await converse()
    assert provider.calls[1].json()["messages"][1]["content"] == answer["content"]
    assert clients.outcomes == ["MISS", "MISS", "HIT", "HIT"]
    assert await live.stored() == 2


@anthropic.beta_async_tool
async def weather_of(city: str) -> str:
    """Tell the weather of a city."""
    return f"rain in {city}"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("how", "outcomes"),
    [({"thread": False}, ["MISS", "MISS", "HIT", "HIT"]), ({}, ["BYPASS"] * 4)],
    ids=["without thread", "threaded"],
)
async def test_the_tool_runner(
    clients: Clients,
    provider: FakeProvider,
    sdk: AsyncAnthropic,
    how: dict[str, Any],
    outcomes: list[str],
    stream: bool,
) -> None:
    """The client's own agent calls the tool from a hit too; in threads, which the provider forgets
    after minutes, all its turns reach the provider."""
    call = tool_use("weather_of", {"city": "Köln"})
    called = as_told(saying(call, stop_reason="tool_use"), stream=stream)
    provider.script(called, Answer(), called)

    async def run() -> Any:
        runner: Any = sdk.beta.messages.tool_runner
        return await runner(**JOKE, tools=[weather_of], stream=stream, **how).until_done()

    first, second = await run(), await run()
    assert first.content == second.content
    result = provider.calls[1].json()["messages"][-1]["content"][0]
    assert (result["tool_use_id"], result["content"]) == ("toolu_1", "rain in Köln")
    assert clients.outcomes == outcomes


class Verdict(BaseModel):
    """What the model is to fill in."""

    funny: bool
    why: str


@pytest.mark.parametrize("streamed_first", [False, True])
async def test_an_answer_of_a_given_form(
    clients: Clients, provider: FakeProvider, sdk: AsyncAnthropic, streamed_first: bool
) -> None:
    """The client makes the same object of a hit; another form is another question."""
    said = text('{"funny": true, "why": "chickens"}')
    provider.script(as_told(saying(said), stream=streamed_first))

    async def parsed(stream: bool) -> Any:
        if not stream:
            return (await sdk.messages.parse(**JOKE, output_format=Verdict)).parsed_output
        async with sdk.messages.stream(**JOKE, output_format=Verdict) as events:
            return (await events.get_final_message()).parsed_output

    for stream in (streamed_first, False, True):
        assert await parsed(stream) == Verdict(funny=True, why="chickens")
    await plain(sdk)
    assert clients.outcomes == ["MISS", "HIT", "HIT", "MISS"]


async def test_who_asks_meanwhile_listens_too(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncAnthropic
) -> None:
    """One call for three clients, of which one wants the answer in one piece."""
    gate = Gate()
    provider.script(Answer(chunk_gate=gate))
    asked: list[Any] = [asyncio.create_task(streamed(sdk))]
    await gate.reached()
    asked += [asyncio.create_task(ask(sdk)) for ask in (streamed, plain)]
    await live.listening(3)
    await gate.open()
    first, second, whole = await asyncio.gather(*asked)
    assert first == second
    assert whole == await plain(sdk)
    assert whole["content"] == [text(SAID)]
    assert sorted(clients.outcomes) == ["COLLAPSED", "COLLAPSED", "HIT", "MISS"]
    await live.settled()


async def test_who_leaves_early_leaves_the_answer(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncAnthropic
) -> None:
    """A stream that was closed after its beginning is fetched to its end, and is a hit then."""
    gate = Gate()
    provider.script(Answer(chunk_gate=gate))
    await gate.release(3)
    async with sdk.messages.stream(**JOKE) as stream:
        async for _ in stream:
            break
    await gate.open()
    await live.settled()
    assert (await plain(sdk))["content"] == [text(SAID)]
    assert clients.outcomes == ["MISS", "HIT"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "name"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.InternalServerError, "overloaded_error"),
    ],
)
async def test_errors_are_the_providers(
    provider: FakeProvider,
    live: LiveProxy,
    sdk: AsyncAnthropic,
    status: int,
    kind: type[anthropic.APIStatusError],
    name: str,
    stream: bool,
) -> None:
    """The client raises its own exception, with the provider's words, and nothing is stored."""
    error = {"message": "no, and here is why"}
    provider.script(Answer(status=status, error=error, headers=[(b"retry-after", b"17")]))
    with pytest.raises(kind) as caught:
        await sdk.messages.create(**JOKE, stream=stream)
    assert (caught.value.status_code, caught.value.type) == (status, name)
    assert caught.value.api_message == "no, and here is why"
    assert caught.value.response.headers["retry-after"] == "17"
    assert caught.value.request_id == "req_1"
    assert await live.stored() == 0
    assert (await plain(sdk))["content"] == [text(SAID)]


@pytest.mark.parametrize("cut_after", [0, 1, 4, -1])
async def test_a_cut_stream_raises(
    provider: FakeProvider, live: LiveProxy, sdk: AsyncAnthropic, cut_after: int
) -> None:
    """Half an answer is an error to the client, and is not kept; also all but its last event."""
    chunks = events_of(ANSWERS["text"])
    provider.script(Answer(chunks=chunks, cut_after=cut_after % len(chunks)))
    with pytest.raises((anthropic.APIError, httpx2.TransportError)):
        await streamed(sdk)
    assert await live.stored() == 0
    assert (await final(sdk))["content"] == [text(SAID)]
    await live.settled()


async def test_a_stream_that_only_stops_is_not_an_answer(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncAnthropic
) -> None:
    """HTTP says that it is whole; without its last event it is not."""
    provider.script(Answer(done=False))
    events = await streamed(sdk)
    assert events[-1]["type"] == "message_delta"
    assert await live.stored() == 0
    assert (await streamed(sdk))[-1]["type"] == "message_stop"
    assert clients.outcomes == ["MISS", "MISS"]


async def test_a_cut_body_raises(
    provider: FakeProvider, live: LiveProxy, sdk: AsyncAnthropic
) -> None:
    """The proxy, of which nothing was seen yet, says what happened."""
    provider.script(Answer(body=b"{}", content_length=9999))
    with pytest.raises(anthropic.APIStatusError) as caught:
        await plain(sdk)
    assert caught.value.status_code == 502
    assert orjson.loads(caught.value.response.content)["error"]["code"] == "upstream_failure"
    assert await live.stored() == 0


async def test_an_error_under_way(
    provider: FakeProvider, live: LiveProxy, sdk: AsyncAnthropic
) -> None:
    """The client raises what the provider tells, with status 200; nothing is stored."""
    error = {"type": "overloaded_error", "message": "Overloaded, alas"}
    provider.script(Answer(error=error), Answer(error=error))
    for ask in (streamed, final):
        with pytest.raises(anthropic.APIStatusError) as caught:
            await ask(sdk)
        assert caught.value.type == "overloaded_error"
        assert caught.value.api_message == "Overloaded, alas"
    assert await live.stored() == 0
    assert (await plain(sdk))["stop_reason"] == "end_turn"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "answer", [REFUSED, PAUSED, SEARCHED], ids=["refused", "paused", "searched"]
)
async def test_an_answer_that_is_none(
    clients: Clients, provider: FakeProvider, live: LiveProxy, answer: dict[str, Any], stream: bool
) -> None:
    """A refusal, a turn to be continued, a search that nobody asked for: never stored."""
    sdk = clients.anthropic(live)
    for _ in range(2):
        provider.script(as_told(answer, stream=stream))
        message = await final(sdk) if stream else await plain(sdk)
        assert message["stop_reason"] == answer["stop_reason"]
        assert message["content"] == answer["content"]
    assert clients.outcomes == ["MISS", "MISS"]
    assert await live.stored() == 0


async def test_tokens_are_counted_once(
    clients: Clients, provider: FakeProvider, sdk: AsyncAnthropic
) -> None:
    """The same request has as many tokens the second time; another one is counted itself."""
    asked = {name: JOKE[name] for name in ("model", "messages")}
    first, second = [await sdk.messages.count_tokens(**asked) for _ in range(2)]
    third = await sdk.messages.count_tokens(**asked, system="Be brief")
    assert first == second
    assert (first.input_tokens, third.input_tokens) == (1, 3)
    assert clients.outcomes == ["MISS", "HIT", "MISS"]
    assert [call.path for call in provider.calls] == [COUNT_PATH] * 2


MARK = {"cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    "marked",
    [
        MARK,
        {"system": [{"type": "text", "text": "Be brief", **MARK}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Joke!", **MARK}]}]},
        {"tools": [{**TOOLS[0], **MARK}]},
        {
            "messages": [
                {"role": "user", "content": "Rain?"},
                {"role": "assistant", "content": [tool_use("weather", {})]},
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "toolu_1",
                            "content": [{"type": "text", "text": "rain", **MARK}],
                            **MARK,
                        }
                    ],
                },
            ]
        },
    ],
    ids=["top", "system", "message", "tool", "tool result"],
)
async def test_marks_for_the_providers_own_cache_make_no_difference(
    clients: Clients, provider: FakeProvider, sdk: AsyncAnthropic, marked: dict[str, Any]
) -> None:
    """They reach the provider; who asks the same without them has his answer."""
    await plain(sdk, **marked)
    await plain(sdk, **unmarked(marked))
    await final(sdk, **marked)
    assert clients.outcomes == ["MISS", "HIT", "HIT"]
    assert provider.calls[0].json() == {**JOKE, **marked}


def unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [unmarked(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: unmarked(each) for name, each in value.items() if name not in MARK}


async def test_who_asks_for_whom_makes_no_difference(
    clients: Clients, provider: FakeProvider, sdk: AsyncAnthropic
) -> None:
    """`metadata` names a user of the caller's: the provider is told it, no other caller is."""
    first = await plain(sdk, metadata={"user_id": "ann"})
    second = await plain(sdk, metadata={"user_id": "bob"}, service_tier="standard_only")
    assert first == second
    assert clients.outcomes == ["MISS", "HIT"]
    assert provider.calls[0].json()["metadata"] == {"user_id": "ann"}


async def test_an_echo_of_one_caller_is_not_told_to_another(
    clients: Clients, provider: FakeProvider, sdk: AsyncAnthropic
) -> None:
    """Should a server repeat `metadata`, which Anthropic's own does not."""
    echoing = {**ANSWERS["text"], "metadata": {"user_id": "ann"}}
    provider.script(Answer(body=orjson.dumps(echoing)))
    await plain(sdk, metadata={"user_id": "ann"})
    assert b"ann" not in orjson.dumps(await plain(sdk, metadata={"user_id": "bob"}))


async def test_versions_and_betas_are_part_of_the_question(
    clients: Clients, sdk: AsyncAnthropic
) -> None:
    """What they change is not known here: each is asked on its own."""
    await plain(sdk)
    for _ in range(2):
        await plain(sdk, extra_headers={"anthropic-version": "2023-06-01"})
        await sdk.beta.messages.create(**JOKE, betas=["interleaved-thinking-2025-05-14"])
    assert clients.outcomes == ["MISS", "MISS", "MISS", "HIT", "HIT"]


async def test_each_account_has_its_own(
    clients: Clients, provider: FakeProvider, live: LiveProxy
) -> None:
    """Whether its key is sent as older clients do it, or as newer ones."""
    options: list[Any] = [{}, {"api_key": "yours"}, older("mine"), older("yours")] * 2
    answers = [await plain(clients.anthropic(live, **each)) for each in options]
    assert clients.outcomes == ["MISS"] * 4 + ["HIT"] * 4
    assert [each["id"] for each in answers] == ["msg_1", "msg_2", "msg_3", "msg_4"] * 2
    assert provider.calls[2].header(b"x-api-key") == "mine"
    assert not provider.calls[2].header(b"authorization")


def older(key: str) -> Any:
    return {"default_headers": {"Authorization": anthropic.Omit(), "X-Api-Key": key}}


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [*TOOLS, {"type": "code_execution_20250825", "name": "code_execution"}]},
        {"tools": [{"type": "something_20300101", "name": "something"}]},
        {"mcp_servers": [{"type": "url", "url": "https://x.example", "name": "x"}]},
        {"container": "container_1"},
    ],
    ids=["search", "code", "something new", "MCP", "container"],
)
async def test_what_acts_or_looks_elsewhere_reaches_the_provider_each_time(
    clients: Clients, provider: FakeProvider, live: LiveProxy, fields: dict[str, Any]
) -> None:
    """Asked twice, streamed once more: three calls, and nothing is stored."""
    sdk = clients.anthropic(live)
    for _ in range(2):
        assert (await plain(sdk, extra_body=fields))["id"]
    async with sdk.beta.messages.stream(**JOKE, extra_body=fields) as stream:
        assert (await stream.get_final_message()).id == "msg_3"
    assert clients.outcomes == ["BYPASS"] * 3
    assert await live.stored() == 0


@pytest.mark.parametrize("kind", ["custom", "bash_20250124", "text_editor_20250728"])
async def test_tools_that_run_at_the_caller_are_answered_from_the_cache(
    clients: Clients, sdk: AsyncAnthropic, kind: str
) -> None:
    """The answer says only how they are to be called."""
    tools = [{**TOOLS[0], "type": kind}]
    assert await plain(sdk, tools=tools) == await plain(sdk, tools=tools)
    assert clients.outcomes == ["MISS", "HIT"]


async def test_the_rest_passes_through(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncAnthropic
) -> None:
    """Batches, models, and whatever else is below the provider's origin."""
    batches = sdk.messages.batches
    for _ in range(2):
        answer = await batches.create(requests=[{"custom_id": "1", "params": JOKE}])
        assert answer.to_dict()["target"] == "/v1/messages/batches"
    await batches.retrieve("msgbatch_1")
    await batches.cancel("msgbatch_1")
    await sdk.models.list(limit=3)
    assert [f"{call.method} {call.target}" for call in provider.calls[1:]] == [
        "POST /v1/messages/batches",
        "GET /v1/messages/batches/msgbatch_1",
        "POST /v1/messages/batches/msgbatch_1/cancel",
        "GET /v1/models?limit=3",
    ]
    assert set(clients.outcomes) == {"BYPASS"}
    assert await live.stored() == 0


def says(error: anthropic.APIStatusError, code: str) -> str:
    """What the proxy says in an error of its own, which the client has understood."""
    told = orjson.loads(error.response.content)
    assert (told["type"], told["error"]["code"]) == ("error", code)
    assert error.type == told["error"]["type"] == "llm_cache_proxy_error"
    assert error.response.headers["x-should-retry"] == "false"
    assert error.api_message
    return error.api_message


@pytest.mark.parametrize(
    ("fields", "kind", "code", "words"),
    [
        (
            {"messages": "Tell me a joke"},
            anthropic.BadRequestError,
            "unreadable_request",
            "messages: expected a list, got text",
        ),
        (
            {"extra_headers": {"llm-cache-control": "ttl=soon"}},
            anthropic.BadRequestError,
            "bad_cache_control",
            "ttl",
        ),
        (
            {"extra_headers": {"cache-control": "only-if-cached"}},
            anthropic.InternalServerError,
            "not_cached",
            "only-if-cached",
        ),
    ],
    ids=["body", "control", "only-if-cached"],
)
async def test_errors_of_the_proxy_are_ones_of_the_client(
    clients: Clients,
    provider: FakeProvider,
    live: LiveProxy,
    fields: dict[str, Any],
    kind: type[anthropic.APIStatusError],
    code: str,
    words: str,
) -> None:
    """They can be caught and read as Anthropic's own, and are not tried again."""
    sdk = clients.anthropic(live, max_retries=2)
    for ask in (plain, streamed):
        with pytest.raises(kind) as caught:
            await ask(sdk, **fields)
        assert words in says(caught.value, code)
    assert len(clients.outcomes) == 2
    assert not provider.calls


async def test_without_a_token_nothing_is_reached(
    proxy: StartProxy, provider: FakeProvider, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is told to present one, on paths that are cached and on those that are not."""
    monkeypatch.setenv("CI_TOKEN", "token-of-ci-00001")
    live = await proxy(
        providers={"anthropic": {"base_url": provider.base_url}},
        clients={"ci": {"token_env": "CI_TOKEN"}},
    )
    sdk = clients.anthropic(live)
    for ask in (plain(sdk), streamed(sdk), sdk.models.list()):
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await ask
        assert "client token" in says(caught.value, "unauthorized")
    assert not provider.calls
    assert (await plain(clients.anthropic(live, api_key="token-of-ci-00001")))["content"]


@pytest.mark.parametrize("base", ["antropic", ""])
async def test_a_path_that_leads_nowhere(proxy: StartProxy, clients: Clients, base: str) -> None:
    """The client is told where Anthropic is; its key is not shown to anybody else."""
    live = await proxy(upstream={"base_url": "https://api.openai.com/v1"})
    sdk = clients.anthropic(live, base_url=f"{live.origin}/{base}")
    with pytest.raises(anthropic.NotFoundError) as caught:
        await plain(sdk)
    assert "http://127.0.0.1:8484/anthropic" in says(caught.value, "unknown_path")


async def test_a_path_that_nobody_can_mean(provider: FakeProvider, sdk: AsyncAnthropic) -> None:
    """Below the provider's name, too, the client is told in its own words what is wrong."""
    with pytest.raises(anthropic.BadRequestError) as caught:
        await sdk.get("/v1/%2e%2e/admin", cast_to=object)
    assert "segment" in says(caught.value, "bad_request")
    assert not provider.calls
