"""OpenAI's responses through the clients that people have: a hit is what it repeats."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import orjson
import pytest
from openai import AsyncOpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.fakes.clients import Clients, forget_environment
from tests.fakes.cuttings import CUTTINGS
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.response_events import stream as events_of
from tests.fakes.responses import (
    ANSWERS,
    ENCRYPTED,
    FAILED,
    FILTERED,
    PATH,
    SEARCHED,
    asking,
    call,
    message,
    reasoning,
    saying,
    text,
)

CREDENTIAL = "Bearer mine"
JOKE = asking()
SAID = expected(JOKE, credential=CREDENTIAL, path=PATH)
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
BEGINNINGS = ("response.created", "response.in_progress")


@pytest.fixture
async def live(proxy: StartProxy) -> LiveProxy:
    return await proxy()


@pytest.fixture
def sdk(clients: Clients, live: LiveProxy) -> AsyncOpenAI:
    return clients.openai(live)


async def plain(sdk: AsyncOpenAI, **fields: Any) -> dict[str, Any]:
    """An answer in one piece, as the client has understood it."""
    response = await sdk.responses.create(**JOKE | fields)
    return response.to_dict(warnings=False)


async def streamed(sdk: AsyncOpenAI, **fields: Any) -> list[dict[str, Any]]:
    """The events of an answer, as the client has understood them."""
    stream = await sdk.responses.create(**JOKE | fields, stream=True)
    return [each.to_dict(warnings=False) async for each in stream]


async def final(sdk: AsyncOpenAI, **fields: Any) -> dict[str, Any]:
    """What the client's stream helper puts together."""
    async with sdk.responses.stream(**JOKE | fields) as stream:
        response = await stream.get_final_response()
    return response.to_dict(warnings=False)


def whole(events: list[dict[str, Any]]) -> Any:
    """The response that the last event tells."""
    return events[-1]["response"]


def told(events: list[dict[str, Any]]) -> tuple[dict[Any, str], list[Any]]:
    """What a stream comes to: the words at each place, however cut, and what is told at once."""
    words: dict[Any, str] = {}
    rest: list[Any] = []
    for each in events:
        if each["type"].endswith(".delta"):
            names = ("type", "item_id", "output_index", "content_index", "summary_index")
            place = tuple(each.get(name) for name in names)
            words[place] = words.get(place, "") + each["delta"]
        elif each["type"] in BEGINNINGS:
            rest.append((each["type"], each["response"]["id"], each["response"]["output"]))
        elif each["type"] == "response.output_item.added":
            rest.append((each["type"], each["output_index"], each["item"]["type"]))
        else:
            rest.append({name: each[name] for name in each if name != "sequence_number"})
    return words, rest


def as_told(answer: dict[str, Any], *, stream: bool) -> Answer:
    """An answer of the provider's, in the way it was asked for."""
    if stream:
        return Answer(chunks=events_of(answer))
    return Answer(body=orjson.dumps(answer))


async def test_an_answer(clients: Clients, provider: FakeProvider, live: LiveProxy) -> None:
    """The second answer has the first one's id, usage, text and everything else."""
    responses = clients.openai(live).responses.with_raw_response
    first, second = [await responses.create(**JOKE) for _ in range(2)]
    assert [each.headers["x-cache"] for each in (first, second)] == ["MISS", "HIT"]
    assert first.http_response.json() == second.http_response.json()
    assert (answer := first.parse()) == second.parse()
    assert answer.output_text == SAID
    assert answer.usage is not None
    assert len(provider.calls) == await live.stored() == 1


async def test_a_stream(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncOpenAI
) -> None:
    """Its events come again, in their order and numbered anew."""
    first, second = [await streamed(sdk) for _ in range(2)]
    assert clients.outcomes == ["MISS", "HIT"]
    assert told(first) == told(second)
    assert whole(first) == whole(second)
    assert [each["sequence_number"] for each in second] == list(range(len(second)))
    assert "".join(each["delta"] for each in second if each["type"].endswith(".delta")) == SAID
    assert len(provider.calls) == await live.stored() == 1


async def test_the_stream_helper(
    clients: Clients, provider: FakeProvider, sdk: AsyncOpenAI
) -> None:
    """It puts the same response together from a hit, and it is the one told in one piece."""
    first, second = [await final(sdk) for _ in range(2)]
    assert first == second
    assert first["output"][0]["content"][0]["text"] == SAID
    assert second["id"] == (await plain(sdk))["id"]
    assert clients.outcomes == ["MISS", "HIT", "HIT"]
    assert len(provider.calls) == 1


@pytest.mark.parametrize("streamed_first", [False, True], ids=["plain first", "streamed first"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_one_entry_tells_every_kind_of_answer_both_ways(
    clients: Clients, provider: FakeProvider, sdk: AsyncOpenAI, name: str, streamed_first: bool
) -> None:
    """Whatever is in it comes back to the letter, whichever way it was asked for first."""
    answer = ANSWERS[name]
    provider.script(as_told(answer, stream=streamed_first))
    first = whole(await streamed(sdk)) if streamed_first else await plain(sdk)
    again = await plain(sdk)
    events = await streamed(sdk)
    assert first == again == whole(events) == answer
    assert clients.outcomes == ["MISS", "HIT", "HIT"]
    assert len(provider.calls) == 1


@pytest.mark.parametrize("name", ANSWERS)
async def test_the_words_of_a_stream_from_a_plain_answer(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncOpenAI, name: str
) -> None:
    """Who listens to deltas hears what the provider would have told in a stream."""
    provider.script(*(as_told(ANSWERS[name], stream=stream) for stream in (False, True)))
    await plain(sdk)
    repeated = await streamed(sdk)
    original = await streamed(sdk, extra_headers={"llm-cache-control": "no-store"})
    assert clients.outcomes == ["MISS", "HIT", "BYPASS"]
    assert told(repeated) == told(original)


@pytest.mark.parametrize("name", [each for each in ANSWERS if each != "unheard of"])
async def test_a_hit_tells_what_the_client_declares(
    provider: FakeProvider, sdk: AsyncOpenAI, name: str
) -> None:
    """The client builds objects of whatever comes; strictly read, all of a hit is of its types."""
    provider.script(as_told(ANSWERS[name], stream=False))
    await plain(sdk)
    for each in await streamed(sdk):
        EVENT.validate_python(each)


@pytest.mark.parametrize("how", CUTTINGS)
async def test_a_stream_however_it_is_cut(
    clients: Clients, provider: FakeProvider, sdk: AsyncOpenAI, how: str
) -> None:
    """In crumbs, with other ends of lines or compressed: it is understood and kept the same."""
    answer = ANSWERS["reasoning"]
    provider.script(CUTTINGS[how](b"".join(events_of(answer))))
    first, second = [await final(sdk) for _ in range(2)]
    assert first == second
    assert await plain(sdk) == answer
    assert clients.outcomes == ["MISS", "HIT", "HIT"]


@pytest.mark.parametrize("streamed_first", [False, True])
async def test_a_call_of_a_tool(
    clients: Clients, provider: FakeProvider, sdk: AsyncOpenAI, streamed_first: bool
) -> None:
    """Arguments that came in pieces are one text, with the spaces that the model wrote."""
    arguments = '{"city":  "Köln", "days": [1, 2.0]}'
    answer = saying(call("weather", arguments))
    provider.script(as_told(answer, stream=streamed_first))
    tools = [{"type": "function", "name": "weather", "parameters": {}, "strict": False}]
    ask = final if streamed_first else plain
    first, second = [await ask(sdk, tools=tools) for _ in range(2)]
    pieces = [
        each["delta"]
        for each in await streamed(sdk, tools=tools)
        if each["type"] == "response.function_call_arguments.delta"
    ]
    assert "".join(pieces) == arguments
    for each in (first, second):
        assert each["output"][0]["arguments"] == arguments
        assert each["output"][0]["call_id"] == "call_1"
    assert clients.outcomes == ["MISS", "HIT", "HIT"]


async def test_a_conversation_with_thoughts_and_tools(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncOpenAI
) -> None:
    """What was hidden in the first answer goes back to the letter; told again, all turns hit."""
    tools = [{"type": "function", "name": "weather", "parameters": {}, "strict": False}]
    thought = reasoning("**Rain**", encrypted_content=ENCRYPTED)
    asked: Any = {"tools": tools, "store": False, "include": ["reasoning.encrypted_content"]}
    provider.script(as_told(saying(thought, call("weather", "{}")), stream=True))

    async def converse() -> str:
        said: list[Any] = [{"role": "user", "content": "Rain?"}]
        first = await final(sdk, **asked, input=said)
        said += first["output"]
        said.append({"type": "function_call_output", "call_id": "call_1", "output": "rain"})
        second = await sdk.responses.create(**JOKE | asked | {"input": said})
        return second.output_text

    assert await converse() == await converse()
    assert provider.calls[1].json()["input"][1]["encrypted_content"] == ENCRYPTED
    assert clients.outcomes == ["MISS", "MISS", "HIT", "HIT"]
    assert await live.stored() == 2


class Verdict(BaseModel):
    """What the model is to fill in."""

    funny: bool
    why: str


@pytest.mark.parametrize("streamed_first", [False, True])
async def test_an_answer_of_a_given_form(
    clients: Clients, provider: FakeProvider, sdk: AsyncOpenAI, streamed_first: bool
) -> None:
    """The client makes the same object of a hit; another form is another question."""
    said = message(text('{"funny": true, "why": "chickens"}'))
    provider.script(as_told(saying(said), stream=streamed_first))

    async def parsed(stream: bool) -> Any:
        if not stream:
            return (await sdk.responses.parse(**JOKE, text_format=Verdict)).output_parsed
        async with sdk.responses.stream(**JOKE, text_format=Verdict) as events:
            return (await events.get_final_response()).output_parsed

    for stream in (streamed_first, False, True):
        assert await parsed(stream) == Verdict(funny=True, why="chickens")
    await plain(sdk)
    assert clients.outcomes == ["MISS", "HIT", "HIT", "MISS"]


async def test_the_synchronous_client(
    proxy: StartProxy, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works as the other one does, on a thread of its own."""
    forget_environment(monkeypatch)
    live = await proxy()

    def ask() -> list[Any]:
        with openai.OpenAI(base_url=live.base_url, api_key="mine", max_retries=0) as client:
            first = client.responses.create(**JOKE)
            with client.responses.stream(**JOKE) as stream:
                return [first.output_text, stream.get_final_response().output_text]

    assert await asyncio.to_thread(ask) == [SAID, SAID]
    assert len(provider.calls) == 1


async def test_who_asks_meanwhile_listens_too(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncOpenAI
) -> None:
    """One call for three clients, of which one wants the answer in one piece."""
    gate = Gate()
    provider.script(Answer(chunk_gate=gate))
    asked: list[Any] = [asyncio.create_task(streamed(sdk))]
    await gate.reached()
    asked += [asyncio.create_task(ask(sdk)) for ask in (streamed, plain)]
    await live.listening(3)
    await gate.open()
    first, second, third = await asyncio.gather(*asked)
    assert first == second
    assert third == await plain(sdk) == whole(first)
    assert sorted(clients.outcomes) == ["COLLAPSED", "COLLAPSED", "HIT", "MISS"]
    await live.settled()


async def test_who_leaves_early_leaves_the_answer(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncOpenAI
) -> None:
    """A stream that was closed after its beginning is fetched to its end, and is a hit then."""
    gate = Gate()
    provider.script(Answer(chunk_gate=gate))
    await gate.release(3)
    async with sdk.responses.stream(**JOKE) as stream:
        async for _ in stream:
            break
    await gate.open()
    await live.settled()
    assert (await plain(sdk))["output"][0]["content"][0]["text"] == SAID
    assert clients.outcomes == ["MISS", "HIT"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_errors_are_the_providers(
    provider: FakeProvider,
    live: LiveProxy,
    sdk: AsyncOpenAI,
    status: int,
    kind: type[openai.APIStatusError],
    stream: bool,
) -> None:
    """The client raises its own exception, with the provider's words, and nothing is stored."""
    error = {"message": "no, and here is why", "type": "why", "param": "input", "code": "x"}
    provider.script(Answer(status=status, error=error, headers=[(b"retry-after", b"17")]))
    with pytest.raises(kind) as caught:
        await sdk.responses.create(**JOKE, stream=stream)
    assert caught.value.body == error
    assert caught.value.response.headers["retry-after"] == "17"
    assert caught.value.request_id == "req_1"
    assert await live.stored() == 0
    assert (await sdk.responses.create(**JOKE)).output_text == SAID


@pytest.mark.parametrize("cut_after", [0, 1, 5, -1])
async def test_a_cut_stream_raises(
    provider: FakeProvider, live: LiveProxy, sdk: AsyncOpenAI, cut_after: int
) -> None:
    """Half an answer is an error to the client, and is not kept; also all but its last event."""
    chunks = events_of(ANSWERS["text"])
    provider.script(Answer(chunks=chunks, cut_after=cut_after % len(chunks)))
    with pytest.raises(openai.APIConnectionError):
        await streamed(sdk)
    assert await live.stored() == 0
    assert whole(await streamed(sdk))["output"][0]["content"][0]["text"] == SAID
    await live.settled()


async def test_a_stream_that_only_stops_is_not_an_answer(
    provider: FakeProvider, live: LiveProxy, sdk: AsyncOpenAI
) -> None:
    """HTTP says that it is whole; without its last event it is not."""
    provider.script(Answer(done=False))
    with pytest.raises(RuntimeError, match=r"response\.completed"):
        await final(sdk)
    assert await live.stored() == 0


async def test_a_cut_body_raises(provider: FakeProvider, live: LiveProxy, sdk: AsyncOpenAI) -> None:
    """The proxy, of which nothing was seen yet, says what happened."""
    provider.script(Answer(body=b"{}", content_length=9999))
    with pytest.raises(openai.APIStatusError) as caught:
        await plain(sdk)
    assert caught.value.status_code == 502
    assert caught.value.type == "llm_cache_proxy_error"
    assert await live.stored() == 0


async def test_an_error_under_way(
    provider: FakeProvider, live: LiveProxy, sdk: AsyncOpenAI
) -> None:
    """The client is told of it as the provider tells it; nothing is stored."""
    error = {"code": "server_error", "message": "the model fell over", "param": None}
    provider.script(Answer(error=error), Answer(error=error))
    events = await streamed(sdk)
    assert events[-1]["type"] == "error"
    assert events[-1]["message"] == "the model fell over"
    with pytest.raises(RuntimeError):
        await final(sdk)
    assert await live.stored() == 0
    assert (await plain(sdk))["status"] == "completed"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "answer", [FAILED, FILTERED, SEARCHED], ids=["failed", "filtered", "searched"]
)
async def test_an_answer_that_is_none(
    clients: Clients, provider: FakeProvider, live: LiveProxy, answer: dict[str, Any], stream: bool
) -> None:
    """Failed, cut, or of a search that nobody asked for: passed on, asked again, never stored."""
    sdk = clients.openai(live)
    for _ in range(2):
        provider.script(as_told(answer, stream=stream))
        told = whole(await streamed(sdk)) if stream else await plain(sdk)
        assert told == answer
    assert clients.outcomes == ["MISS", "MISS"]
    assert await live.stored() == 0


@pytest.mark.parametrize(
    ("fields", "kind", "code"),
    [
        ({"input": 7}, openai.BadRequestError, "unreadable_request"),
        (
            {"extra_headers": {"cache-control": "only-if-cached"}},
            openai.InternalServerError,
            "not_cached",
        ),
    ],
)
async def test_errors_of_the_proxy_are_ones_of_the_client(
    clients: Clients,
    provider: FakeProvider,
    live: LiveProxy,
    fields: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
) -> None:
    """They can be caught and read as OpenAI's own, and are not tried again."""
    sdk = clients.openai(live, max_retries=2)
    for ask in (plain, streamed):
        with pytest.raises(kind) as caught:
            await ask(sdk, **fields)
        assert (caught.value.type, caught.value.code) == ("llm_cache_proxy_error", code)
    assert len(clients.outcomes) == 2
    assert not provider.calls


async def test_tokens_are_counted_once(
    clients: Clients, provider: FakeProvider, sdk: AsyncOpenAI
) -> None:
    """The same request has as many tokens the second time; another one is counted itself."""
    count = sdk.responses.input_tokens.count
    first, second = [await count(**JOKE) for _ in range(2)]
    third = await count(**asking("Another, and longer"))
    assert first == second
    assert first.input_tokens == 4
    assert third.input_tokens == 3
    assert clients.outcomes == ["MISS", "HIT", "MISS"]
    assert len(provider.calls) == 2


async def test_what_went_before_is_part_of_the_question(clients: Clients, sdk: AsyncOpenAI) -> None:
    """The same words after another answer are another question."""
    ids = [None, "resp_a", "resp_b", "resp_a"]
    answers = [await plain(sdk, previous_response_id=each) for each in ids]
    assert clients.outcomes == ["MISS", "MISS", "MISS", "HIT"]
    assert [each["previous_response_id"] for each in answers] == ids
    assert answers[1] == answers[3]


ANN: Any = {
    "metadata": {"trace": "ann-0"},
    "user": "ann-3",
    "safety_identifier": "ann-1",
    "prompt_cache_key": "ann-2",
}
BOB: Any = {"metadata": {"trace": "bob-0"}, "safety_identifier": "bob-1"}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hit_names_its_own_caller(
    clients: Clients, provider: FakeProvider, sdk: AsyncOpenAI, stream: bool
) -> None:
    """Whatever the first caller called himself, the others are told none of it."""
    nobody = {"metadata": {}, "user": None, "safety_identifier": None, "prompt_cache_key": None}
    await plain(sdk, **ANN)
    for caller in (BOB, {}):
        events = await streamed(sdk, **caller) if stream else []
        told = [each["response"] for each in events if "response" in each]
        for response in told or [await plain(sdk, **caller)]:
            assert {name: response.get(name) for name in nobody} == nobody | caller
            assert b"ann-" not in orjson.dumps(response)
        assert b"ann-" not in orjson.dumps(events)
    assert clients.outcomes == ["MISS", "HIT", "HIT"]
    assert len(provider.calls) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_who_calls_himself_otherwise_does_not_join(
    provider: FakeProvider, live: LiveProxy, sdk: AsyncOpenAI, stream: bool
) -> None:
    """Two at once get an answer each, in which they find themselves."""
    gate = Gate()
    provider.script(Answer(gate=gate), Answer(gate=gate))

    async def ask(caller: Any) -> Any:
        return whole(await streamed(sdk, **caller)) if stream else await plain(sdk, **caller)

    asked = [asyncio.create_task(ask(caller)) for caller in (ANN, BOB)]
    await gate.reached(2)
    await gate.open()
    ann, bob = await asyncio.gather(*asked)
    assert (ann["metadata"], bob["metadata"]) == (ANN["metadata"], BOB["metadata"])
    await live.settled()


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x.example"}]},
        {"tools": [{"type": "something_new"}]},
        {"background": True},
        {"conversation": "conv_1"},
        {"prompt": {"id": "pmpt_1"}},
    ],
    ids=lambda fields: str(next(iter(fields.values())))[:40],
)
async def test_what_acts_or_looks_elsewhere_reaches_the_provider_each_time(
    clients: Clients, provider: FakeProvider, live: LiveProxy, fields: dict[str, Any]
) -> None:
    """Asked twice, streamed once more: three calls, and nothing is stored."""
    sdk = clients.openai(live)
    for _ in range(2):
        assert (await plain(sdk, **fields))["id"]
    assert whole(await streamed(sdk, **fields))["id"] == "resp_3"
    assert clients.outcomes == ["BYPASS"] * 3
    assert len(provider.calls) == 3
    assert await live.stored() == 0


async def test_the_rest_passes_through(
    clients: Clients, provider: FakeProvider, live: LiveProxy, sdk: AsyncOpenAI
) -> None:
    """What is stored at the provider is read, cancelled and deleted there; batches too."""
    for _ in range(2):
        answer = await sdk.responses.retrieve("resp_1", include=["reasoning.encrypted_content"])
        assert answer.to_dict()["target"].startswith("/v1/responses/resp_1?include")
    await sdk.responses.cancel("resp_1")
    await sdk.responses.delete("resp_1")
    await sdk.responses.input_items.list("resp_1")
    await sdk.responses.compact(**JOKE)
    await sdk.batches.create(
        input_file_id="file_1", endpoint="/v1/responses", completion_window="24h"
    )
    assert [f"{call.method} {call.path}" for call in provider.calls[1:]] == [
        "GET /v1/responses/resp_1",
        "POST /v1/responses/resp_1/cancel",
        "DELETE /v1/responses/resp_1",
        "GET /v1/responses/resp_1/input_items",
        "POST /v1/responses/compact",
        "POST /v1/batches",
    ]
    assert set(clients.outcomes) == {"BYPASS"}
    assert await live.stored() == 0


@pytest.mark.parametrize(
    ("fields", "outcomes"),
    [
        ({}, ["BYPASS", "BYPASS"]),
        ({"store": True}, ["BYPASS", "BYPASS"]),
        ({"store": False}, ["MISS", "HIT"]),
        ({"store": False, "previous_response_id": "resp_1"}, ["BYPASS", "BYPASS"]),
    ],
)
async def test_where_all_share_only_what_the_provider_does_not_store(
    proxy: StartProxy, clients: Clients, fields: dict[str, Any], outcomes: list[str]
) -> None:
    """The id of a stored response leads into the account of the one who asked first."""
    live = await proxy(cache={"scope": "shared"})
    for key in ("mine", "yours"):
        await plain(clients.openai(live, api_key=key), **fields)
    assert clients.outcomes == outcomes


async def test_each_account_has_its_own(
    clients: Clients, provider: FakeProvider, live: LiveProxy
) -> None:
    """Where entries are not shared, another key gets its own answer, whatever `store` says."""
    answers = [await plain(clients.openai(live, api_key=key)) for key in ("mine", "yours", "mine")]
    assert clients.outcomes == ["MISS", "MISS", "HIT"]
    assert [each["id"] for each in answers] == ["resp_1", "resp_2", "resp_1"]
