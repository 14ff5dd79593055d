"""LangChain's models on responses and messages: a hit is the message that it repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import openai
import orjson
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool

from tests.fakes import message_events, messages, response_events, responses
from tests.fakes.clients import Clients, merged, without_run
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider

CREDENTIAL = "Bearer mine"
# The provider's answer and no other's, which is not kept either.
PAST: Any = {"extra_headers": {"llm-cache-control": "no-store"}}
ERRORS = (openai.APIError, anthropic.APIError, httpx2.TransportError)


@dataclass(frozen=True, slots=True)
class Wire:
    """What a model speaks, and what it may be told there."""

    name: str
    make: Callable[..., Any]  # a model: of the clients, before this proxy
    path: str
    answers: Mapping[str, dict[str, Any]]
    stream: Callable[[dict[str, Any]], list[bytes]]
    called: dict[str, Any]  # an answer that thinks, then calls a tool
    thought: bytes  # what of its thoughts must come back to the letter

    def __str__(self) -> str:
        return self.name

    def as_told(self, answer: dict[str, Any], *, stream: bool) -> Answer:
        """An answer of the provider's, in the way it was asked for."""
        return Answer(chunks=self.stream(answer)) if stream else Answer(body=orjson.dumps(answer))


RESPONSES = Wire(
    "responses",
    Clients.chat_openai,
    responses.PATH,
    responses.ANSWERS,
    response_events.stream,
    responses.saying(
        responses.reasoning("Rain?", encrypted_content=responses.ENCRYPTED),
        responses.call("weather", '{"city": "Köln"}'),
    ),
    responses.ENCRYPTED.encode(),
)
MESSAGES = Wire(
    "messages",
    Clients.chat_anthropic,
    messages.PATH,
    messages.ANSWERS,
    message_events.stream,
    messages.saying(
        messages.thinking("Rain?", messages.SIGNATURE),
        messages.tool_use("weather", {"city": "Köln"}),
        stop_reason="tool_use",
    ),
    messages.SIGNATURE.encode(),
)
both_wires = pytest.mark.parametrize("wire", [RESPONSES, MESSAGES], ids=str)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


@pytest.fixture
async def live(proxy: StartProxy, provider: FakeProvider) -> LiveProxy:
    return await proxy(providers={"anthropic": {"base_url": provider.base_url}})


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


async def ask(model: Any, said: Any, *, stream: bool, **how: Any) -> Any:
    return await (merged(model.astream(said, **how)) if stream else model.ainvoke(said, **how))


@both_wires
async def test_a_model(
    clients: Clients, provider: FakeProvider, live: LiveProxy, wire: Wire
) -> None:
    """A hit is the same message in all its parts, asked for whole or added up from a stream."""
    model = wire.make(clients, live)
    first, second = [await ask(model, "Tell me a joke", stream=False) for _ in range(2)]
    third, fourth = [await ask(model, "Tell me a joke", stream=True) for _ in range(2)]
    assert without_run(first) == without_run(second)
    assert without_run(third) == without_run(fourth)
    assert first.response_metadata["id"].endswith("_1")
    assert first.text == third.text
    assert first.text == expected(provider.calls[0].body, credential=CREDENTIAL, path=wire.path)
    for tokens in ("input_tokens", "output_tokens", "total_tokens"):
        assert first.usage_metadata[tokens] == third.usage_metadata[tokens] > 0
    assert clients.outcomes == ["MISS", "HIT", "HIT", "HIT"]
    assert len(provider.calls) == 1


KINDS = [
    *((RESPONSES, name) for name in ("text", "two tool calls", "reasoning", "open reasoning")),
    *((RESPONSES, name) for name in ("citations", "refusal")),
    *((MESSAGES, name) for name in ("text", "two tool uses", "thinking", "redacted thinking")),
    *((MESSAGES, name) for name in ("citations", "kept prompt")),
]
CALLS = {"two tool calls": 2, "two tool uses": 2, "redacted thinking": 1}


@both_ways
@pytest.mark.parametrize(("wire", "name"), KINDS, ids=str)
async def test_every_kind_of_answer(
    clients: Clients, provider: FakeProvider, live: LiveProxy, wire: Wire, name: str, stream: bool
) -> None:
    """From a hit, whichever way it was stored, the model makes the very messages that it makes of
    what the provider tells."""
    answer = wire.answers[name]
    provider.script(*(wire.as_told(answer, stream=way) for way in (stream, False, True)))
    model = wire.make(clients, live).bind_tools([weather])
    await ask(model, "x", stream=stream)
    for way in (False, True):
        original = await ask(model, "x", stream=way, **PAST)
        repeated = await ask(model, "x", stream=way)
        assert without_run(repeated) == without_run(original)
        assert len(repeated.tool_calls) == CALLS.get(name, 0)
    assert clients.outcomes == ["MISS", "BYPASS", "HIT", "BYPASS", "HIT"]


@both_ways
@both_wires
async def test_an_agent(
    clients: Clients, provider: FakeProvider, live: LiveProxy, wire: Wire, stream: bool
) -> None:
    """Its thoughts go back to the letter, also those from a hit, and so all that follows is one."""
    provider.script(wire.as_told(wire.called, stream=stream))
    model = wire.make(clients, live).bind_tools([weather])

    async def converse() -> list[Any]:
        said: list[Any] = [HumanMessage("Rain?")]
        for _ in range(2):
            told = await ask(model, said, stream=stream)
            said += [told, *(weather.invoke(call) for call in told.tool_calls)]
        return [without_run(each) for each in said if isinstance(each, AIMessage)]

    assert await converse() == await converse()
    assert wire.thought in provider.calls[1].body
    assert "rain in Köln" in str(provider.calls[1].json())
    assert clients.outcomes == ["MISS", "MISS", "HIT", "HIT"]


@both_wires
async def test_what_goes_wrong(
    clients: Clients, provider: FakeProvider, live: LiveProxy, wire: Wire
) -> None:
    """Refused, or cut off under way: an exception each time, and nothing is stored."""
    model = wire.make(clients, live)
    provider.script(Answer(status=429, error={"message": "not now"}), Answer(cut_after=4))
    with pytest.raises((openai.RateLimitError, anthropic.RateLimitError), match="not now"):
        await ask(model, "Tell me a joke", stream=False)
    with pytest.raises(ERRORS):
        await ask(model, "Tell me a joke", stream=True)
    assert await live.stored() == 0
    assert (await ask(model, "Tell me a joke", stream=True)).text
    await live.settled()
