"""The fake provider is true to the wires of OpenAI's responses and Anthropic's messages: the real
clients, pointed at it, read what was meant."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx
import orjson
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic
from anthropic.types import Message, RawMessageStreamEvent
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.fakes import message_events, messages, response_events, responses
from tests.fakes.oracle import events, expected
from tests.fakes.provider import Answer, FakeProvider

CREDENTIAL = "Bearer mine"
JOKE: Any = responses.asking()
ASK: Any = messages.asking()
MARK = {"type": "ephemeral"}
# The types do not know what is unheard of; and a search begins without the action they demand.
TYPED_RESPONSES = [name for name in responses.ANSWERS if name != "unheard of"]
TYPED_MESSAGES = [name for name in messages.ANSWERS if name != "unheard of"]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients would go through the environment's proxies."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest_asyncio.fixture
async def openai_sdk(provider: FakeProvider) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's client, pointed at the provider."""
    async with AsyncOpenAI(base_url=provider.base_url, api_key="mine", max_retries=0) as sdk:
        yield sdk


@pytest_asyncio.fixture
async def anthropic_sdk(provider: FakeProvider) -> AsyncIterator[AsyncAnthropic]:
    """Anthropic's client, likewise."""
    async with AsyncAnthropic(base_url=provider.origin, api_key="mine", max_retries=0) as sdk:
        yield sdk


async def test_a_response_is_the_oracles(provider: FakeProvider, openai_sdk: AsyncOpenAI) -> None:
    """Plain, streamed and by the helper, the client reads the same words."""
    told = expected(JOKE, credential=CREDENTIAL, path=responses.PATH)
    assert (await openai_sdk.responses.create(**JOKE)).output_text == told
    stream = [each async for each in await openai_sdk.responses.create(**JOKE, stream=True)]
    deltas = [each.delta for each in stream if each.type == "response.output_text.delta"]
    assert "".join(deltas) == told
    async with openai_sdk.responses.stream(**JOKE) as helper:
        final = await helper.get_final_response()
    assert final.output_text == told
    assert final.usage == (await openai_sdk.responses.create(**JOKE)).usage


async def test_a_message_is_the_oracles(
    provider: FakeProvider, anthropic_sdk: AsyncAnthropic
) -> None:
    """Plain, streamed and by the helper, the client reads the same words."""
    told = expected(ASK, credential=CREDENTIAL, path=messages.PATH)
    plain = await anthropic_sdk.messages.create(**ASK)
    assert [block.to_dict() for block in plain.content] == [messages.text(told)]
    stream = [each async for each in await anthropic_sdk.messages.create(**ASK, stream=True)]
    assert stream[0].type == "message_start"
    assert stream[-1].type == "message_stop"
    async with anthropic_sdk.messages.stream(**ASK) as helper:
        assert "".join([each async for each in helper.text_stream]) == told
        final = await helper.get_final_message()
    assert final.usage == plain.usage


async def test_a_response_repeats_what_was_asked(
    provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """The caller's own fields come back, in the first event and in the last one."""
    mine: dict[str, Any] = {
        "user": "ann",
        "metadata": {"run": "1"},
        "instructions": "Rhyme.",
        "store": False,
    }
    asked = responses.asking(stream=True, **mine)
    answer = await client.post(f"{provider.base_url}/responses", json=asked)
    told = events(answer.content)
    for each in (told[0], told[-1]):
        assert {name: each["response"][name] for name in mine} == mine
    assert told[0]["response"]["usage"] is None
    assert told[-1]["response"]["usage"]["total_tokens"] > 12


async def test_deltas_are_obfuscated_unless_it_is_unwanted(
    provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """The padding is in every delta and in nothing else."""
    url = f"{provider.base_url}/responses"
    asked = responses.asking(stream=True)
    padded = events((await client.post(url, json=asked)).content)
    for each in padded:
        assert ("obfuscation" in each) == each["type"].endswith(".delta")
    options = {"stream_options": {"include_obfuscation": False}}
    bare = (await client.post(url, json={**asked, **options})).content
    assert b"obfuscation" not in bare
    assert [each["sequence_number"] for each in events(bare)] == list(range(len(padded)))


@pytest.mark.parametrize("name", TYPED_RESPONSES)
def test_a_response_and_its_events_have_the_clients_types(name: str) -> None:
    """Nothing that OpenAI's types demand is missing or of another kind."""
    response = responses.ANSWERS[name]
    Response.model_validate(response)
    told = response_events.stream(response)
    _check_names(told)
    for each in events(b"".join(told)):
        TypeAdapter(ResponseStreamEvent).validate_python(each)


@pytest.mark.parametrize("name", TYPED_MESSAGES)
def test_a_message_and_its_events_have_the_clients_types(name: str) -> None:
    """Nothing that Anthropic's types demand is missing or of another kind."""
    message = messages.ANSWERS[name]
    Message.model_validate(message)
    told = message_events.stream(message)
    _check_names(told)
    for each in events(b"".join(told)):
        if each["type"] != "ping":
            TypeAdapter(RawMessageStreamEvent).validate_python(each)


def _check_names(told: list[bytes]) -> None:
    for each in told:
        assert each.startswith(b"event: %b\ndata: {" % events(each)[0]["type"].encode())
        assert each.endswith(b"}\n\n")


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # it says what is unheard of
@pytest.mark.parametrize("name", responses.ANSWERS)
async def test_a_stream_comes_to_the_response(
    provider: FakeProvider, openai_sdk: AsyncOpenAI, name: str
) -> None:
    """The client finds the whole response in the last event, and its pieces in those before."""
    response = responses.ANSWERS[name]
    provider.script(Answer(chunks=response_events.stream(response)))
    stream = await openai_sdk.responses.create(**JOKE, stream=True)
    told = [each.to_dict(mode="json") async for each in stream]
    assert told[-1]["type"] == f"response.{response['status']}"
    assert told[-1]["response"] == response
    done = [each["item"] for each in told if each["type"] == "response.output_item.done"]
    assert done == response["output"]
    for whole, deltas in _wholes(told):
        assert "".join(deltas) == whole


def _wholes(told: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """What each event of a whole text says, and the deltas that came before it."""
    deltas: list[str] = []
    for each in told:
        said = [each[name] for name in ("text", "refusal", "arguments", "input") if name in each]
        if each["type"].endswith(".delta"):
            deltas.append(each["delta"])
        elif said:
            yield said[0], deltas
            deltas = []


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # it says what is unheard of
@pytest.mark.parametrize("name", messages.ANSWERS)
async def test_a_stream_comes_to_the_message(
    provider: FakeProvider, anthropic_sdk: AsyncAnthropic, name: str
) -> None:
    """The client puts the blocks, the ending and the usage together to the message."""
    message = messages.ANSWERS[name]
    provider.script(Answer(chunks=message_events.stream(message)))
    async with anthropic_sdk.messages.stream(**ASK) as helper:
        final = await helper.get_final_message()
    told: Any = final.to_dict(mode="json")
    for block in told["content"]:
        block.pop("parsed_output", None)
    assert told == message


async def test_tokens_are_counted_as_they_are_billed(
    provider: FakeProvider, openai_sdk: AsyncOpenAI, anthropic_sdk: AsyncAnthropic
) -> None:
    """A count says what the usage of the answer says."""
    asked: Any = {**JOKE, "instructions": "Tell it in rhymes"}
    response = await openai_sdk.responses.create(**asked)
    assert response.usage is not None
    counted = await openai_sdk.responses.input_tokens.count(**asked)
    assert counted.input_tokens == response.usage.input_tokens == 8
    said: Any = {"model": "m", "messages": ASK["messages"], "system": "Tell it in rhymes"}
    message = await anthropic_sdk.messages.create(**said, max_tokens=9)
    count = await anthropic_sdk.messages.count_tokens(**said)
    assert count.input_tokens == message.usage.input_tokens == 5


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropics_refusals(
    provider: FakeProvider, anthropic_sdk: AsyncAnthropic, stream: bool
) -> None:
    """They have Anthropic's shape, kind and headers; OpenAI's are nowhere."""
    provider.script(Answer(status=429), Answer(status=529, error={"message": "later"}))
    with pytest.raises(anthropic.RateLimitError) as caught:
        await anthropic_sdk.messages.create(**ASK, stream=stream)
    assert caught.value.request_id == "req_1"
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "status 429"},
        "request_id": "req_1",
    }
    headers = caught.value.response.headers
    assert headers["anthropic-ratelimit-requests-remaining"] == "999"
    assert headers.keys().isdisjoint({"x-request-id", "openai-processing-ms"})
    with pytest.raises(anthropic.APIStatusError, match=r"{'type': 'overloaded_error', .*later'}"):
        await anthropic_sdk.messages.count_tokens(model="m", messages=ASK["messages"])


async def test_an_error_takes_the_place_of_the_last_event(
    provider: FakeProvider, openai_sdk: AsyncOpenAI, anthropic_sdk: AsyncAnthropic
) -> None:
    """One client hands on, the other one raises what the provider says when it fails under way."""
    provider.script(*[Answer(error={"message": "later", "code": "server_error"})] * 2)
    told = [each async for each in await openai_sdk.responses.create(**JOKE, stream=True)]
    told_last = {"type": "error", "code": "server_error", "message": "later", "param": None}
    assert told[-1].to_dict() == {**told_last, "sequence_number": len(told) - 1}
    with pytest.raises(anthropic.APIStatusError, match="later"):
        [each async for each in await anthropic_sdk.messages.create(**ASK, stream=True)]


@pytest.mark.parametrize(
    ("path", "asked", "last"),
    [("responses", JOKE, b"response.completed"), ("messages", ASK, b"message_stop")],
)
async def test_a_stream_can_lack_its_last_event(
    provider: FakeProvider,
    client: httpx.AsyncClient,
    path: str,
    asked: dict[str, Any],
    last: bytes,
) -> None:
    """As where a provider ends the body well and the answer not at all."""
    provider.script(Answer(), Answer(done=False))
    url = f"{provider.base_url}/{path}"
    whole, cut = [(await client.post(url, json={**asked, "stream": True})) for _ in range(2)]
    assert last in whole.content
    assert last not in cut.content
    assert b"[DONE]" not in whole.content


@pytest.mark.parametrize(
    "beside",
    [
        {"user": "ann", "safety_identifier": "a", "metadata": {"run": "1"}},
        {"store": False, "service_tier": "flex", "prompt_cache_key": "k"},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
    ],
)
def test_who_asks_and_what_it_costs_is_no_part_of_a_response(beside: dict[str, Any]) -> None:
    """Fields beside the point leave the words as they are; all others change them."""
    asked = {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]}
    marked: Any = orjson.loads(orjson.dumps(asked))
    marked["input"][0]["content"][0]["prompt_cache_breakpoint"] = {"mode": "explicit"}
    path = responses.PATH
    assert expected({**marked, **beside}, path=path) == expected(asked, path=path)
    assert expected({**asked, "instructions": ""}, path=path) != expected(asked, path=path)
    assert expected({**asked, "previous_response_id": "r"}, path=path) != expected(asked, path=path)


def test_marks_for_a_cached_prompt_are_no_part_of_a_message() -> None:
    """Wherever the reference allows them; what a tool names so is a word like any other."""
    marked: dict[str, Any] = {
        "cache_control": MARK,
        "system": [{"type": "text", "text": "Rhyme.", "cache_control": MARK}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "tools": [{"name": "t", "input_schema": {"properties": {"cache_control": {}}}}],
    }
    bare: Any = {name: value for name, value in marked.items() if name != "cache_control"}
    bare["system"] = [{"type": "text", "text": "Rhyme."}]
    path = messages.PATH
    assert expected({**marked, "metadata": {"user_id": "a"}}, path=path) == expected(
        bare, path=path
    )
    bare["tools"] = [{"name": "t", "input_schema": {"properties": {}}}]
    assert expected(marked, path=path) != expected(bare, path=path)
