"""The clients that people have work unchanged, and cannot tell a hit from what it repeats."""

from __future__ import annotations

import asyncio
import base64
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import orjson
import pytest
from langchain_core.messages import BaseMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from openai import AsyncOpenAI, AsyncStream

from tests.fakes.clients import Clients, forget_environment
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import event, expected, expected_vector, tokens
from tests.fakes.provider import Answer, FakeProvider
from tests.fakes.raw_client import RawClient

VECTORS = Path(__file__).parent / "dialects" / "vectors" / "chat"
CREDENTIAL = "Bearer mine"
JOKE: Any = {"model": "m", "messages": [{"role": "user", "content": "Tell me a joke"}]}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
USAGE: Any = {"include_usage": True}

Sdk = Callable[[LiveProxy], AsyncOpenAI]
LangChain = Callable[[type[Any], LiveProxy], Any]


@pytest.fixture
def sdk(clients: Clients) -> Sdk:
    """`sdk(live)`: the official client."""
    return clients.openai


@pytest.fixture
def langchain(clients: Clients) -> LangChain:
    """`langchain(ChatOpenAI, live)`: a model of LangChain's."""
    return clients.langchain


def vector(name: str) -> dict[str, Any]:
    told: dict[str, Any] = orjson.loads((VECTORS / f"{name}.json").read_bytes())
    return told


async def told(stream: AsyncStream[Any]) -> dict[str, Any]:
    """What a stream comes to, as a user puts it together."""
    whole: dict[str, Any] = {"text": "", "calls": {}, "usage": None}
    async for chunk in stream:
        whole |= {"id": chunk.id, "created": chunk.created, "model": chunk.model}
        whole["usage"] = whole["usage"] or chunk.usage
        for choice in chunk.choices:
            whole["text"] += choice.delta.content or ""
            whole["finish_reason"] = choice.finish_reason
            for call in choice.delta.tool_calls or ():
                _add_call(whole["calls"].setdefault(call.index, ["", "", ""]), call)
    return whole


def _add_call(parts: list[str], call: Any) -> None:
    said = (call.id, call.function.name, call.function.arguments)
    parts[:] = [before + (more or "") for before, more in zip(parts, said, strict=True)]


async def test_chat(proxy: StartProxy, provider: FakeProvider, sdk: Sdk) -> None:
    """The second answer has the first one's id, usage, text and everything else."""
    chat = sdk(live := await proxy()).chat.completions.with_raw_response
    first, second = await chat.create(**JOKE), await chat.create(**JOKE)
    assert [each.headers["x-cache"] for each in (first, second)] == ["MISS", "HIT"]
    assert (answer := first.parse()) == second.parse()
    assert first.http_response.json() == second.http_response.json()
    assert answer.choices[0].message.content == expected(JOKE, credential=CREDENTIAL)
    assert answer.usage is not None
    assert len(provider.calls) == await live.stored() == 1


async def test_streamed_chat(proxy: StartProxy, provider: FakeProvider, sdk: Sdk) -> None:
    """Streams repeat as they were, with usage for those who ask for it and for no one else."""
    chat = sdk(await proxy()).chat.completions
    plain = [await told(await chat.create(**JOKE, stream=True)) for _ in range(2)]
    asked = {"stream": True, "stream_options": USAGE}
    counted = [await told(await chat.create(**JOKE, **asked)) for _ in range(2)]
    assert plain[0] == plain[1]
    assert counted[0] == counted[1] == plain[0] | {"usage": counted[0]["usage"]}
    assert plain[0]["usage"] is None
    assert counted[0]["usage"].completion_tokens == 12
    assert plain[0]["text"] == expected(JOKE, credential=CREDENTIAL)
    assert plain[0]["finish_reason"] == "stop"
    assert len(provider.calls) == 1


async def test_the_stream_helper(proxy: StartProxy, provider: FakeProvider, sdk: Sdk) -> None:
    """`.stream()` tells the same events of text, and the same completion in the end."""
    chat = sdk(await proxy()).chat.completions

    async def ask() -> tuple[str, Any]:
        async with chat.stream(**JOKE) as stream:
            text = "".join([each.delta async for each in stream if each.type == "content.delta"])
            return text, await stream.get_final_completion()

    first, second = await ask(), await ask()
    assert first == second
    assert first[0] == expected(JOKE, credential=CREDENTIAL)
    assert len(provider.calls) == 1


@pytest.mark.parametrize("streamed_first", [False, True])
async def test_one_entry_for_both_ways(
    proxy: StartProxy, provider: FakeProvider, sdk: Sdk, streamed_first: bool
) -> None:
    """A stream after a plain answer, and the reverse, tell the same without another call."""
    chat = sdk(await proxy()).chat.completions
    if streamed_first:
        stream = await told(await chat.create(**JOKE, stream=True, stream_options=USAGE))
        plain = await chat.create(**JOKE)
    else:
        plain = await chat.create(**JOKE)
        stream = await told(await chat.create(**JOKE, stream=True, stream_options=USAGE))
    assert stream["text"] == plain.choices[0].message.content
    assert stream["usage"] == plain.usage
    assert [stream[name] for name in ("id", "created", "model")] == [
        plain.id,
        plain.created,
        plain.model,
    ]
    assert len(provider.calls) == 1


async def test_tools(proxy: StartProxy, provider: FakeProvider, sdk: Sdk) -> None:
    """Calls of tools come back with their ids and arguments."""
    answer = vector("plain_tool_calls")
    provider.script(Answer(body=orjson.dumps(answer["body"])))
    chat = sdk(await proxy()).chat.completions
    first, second = [await chat.create(**JOKE, tools=TOOLS) for _ in range(2)]
    assert first == second
    calls = answer["body"]["choices"][0]["message"]["tool_calls"]
    assert [call.to_dict() for call in second.choices[0].message.tool_calls or ()] == calls
    assert len(provider.calls) == 1


async def test_streamed_tools(proxy: StartProxy, provider: FakeProvider, sdk: Sdk) -> None:
    """Parallel calls that come in fragments come together to the same from a hit."""
    chunks = [event(chunk) for chunk in vector("parallel_tool_calls")["stream"]]
    provider.script(Answer(chunks=[*chunks, event("[DONE]")]))
    chat = sdk(await proxy()).chat.completions
    asked = {**JOKE, "tools": TOOLS, "stream": True}
    first, second = [await told(await chat.create(**asked)) for _ in range(2)]
    assert first == second
    assert len(first["calls"]) == 2
    for _, name, arguments in first["calls"].values():
        assert name
        assert isinstance(orjson.loads(arguments), dict)
    assert len(provider.calls) == 1


async def test_completions(proxy: StartProxy, provider: FakeProvider, sdk: Sdk) -> None:
    """Two of two texts come back, plain and streamed, in their order."""
    completions = sdk(await proxy()).completions
    asked: Any = {"model": "m", "prompt": "Say this is a test", "n": 2, "best_of": 2}
    first, second = [await completions.create(**asked) for _ in range(2)]
    assert first == second
    assert [choice.text for choice in first.choices] == [
        expected(asked, credential=CREDENTIAL, path="/v1/completions", choice=choice)
        for choice in range(2)
    ]
    texts = ["", ""]
    async for chunk in await completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in first.choices]
    assert len(provider.calls) == 1


@pytest.mark.parametrize("encoding", ["float", "base64", None])
async def test_embeddings_of_a_batch(
    proxy: StartProxy, provider: FakeProvider, sdk: Sdk, encoding: Any
) -> None:
    """Of a hundred texts of which ninety are known, ten are fetched; all come in their order."""
    embeddings = sdk(live := await proxy()).embeddings.with_raw_response
    texts = [f"text {'long ' * (number % 7)}{number}" for number in range(100)]
    how = {"model": "e"} | ({"encoding_format": encoding} if encoding else {})
    await embeddings.create(input=[text for at, text in enumerate(texts) if at % 10], **how)
    answers = [await embeddings.create(input=texts, **how) for _ in range(2)]
    assert [each.headers["x-cache"] for each in answers] == ["PARTIAL", "HIT"]
    assert orjson.loads(provider.calls[1].body)["input"] == texts[::10]
    for answer in (each.parse() for each in answers):
        vectors = [_floats(each.embedding) for each in answer.data]
        asked = provider.calls[0].json()
        assert vectors == [expected_vector(text, asked, credential=CREDENTIAL) for text in texts]
        assert [each.index for each in answer.data] == list(range(100))
        assert answer.usage.total_tokens == sum(tokens(text) for text in texts)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens
    assert len(provider.calls) == 2
    assert await live.stored() == 100


def _floats(value: list[float] | str) -> list[float]:
    if not isinstance(value, str):
        return value
    raw = base64.b64decode(value)
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))


async def test_the_synchronous_client(
    proxy: StartProxy, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works as the other one does, on a thread of its own."""
    forget_environment(monkeypatch)
    live = await proxy()

    def ask() -> list[str | None]:
        with openai.OpenAI(base_url=live.base_url, api_key="mine", max_retries=0) as client:
            first, second = [client.chat.completions.create(**JOKE) for _ in range(2)]
            assert first == second
            stream = client.chat.completions.create(**JOKE, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return [first.choices[0].message.content, text]

    assert await asyncio.to_thread(ask) == [expected(JOKE, credential=CREDENTIAL)] * 2
    assert len(provider.calls) == 1


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
    proxy: StartProxy,
    provider: FakeProvider,
    sdk: Sdk,
    status: int,
    kind: type[openai.APIStatusError],
    stream: bool,
) -> None:
    """The client raises its own exception, with the provider's words, and nothing is stored."""
    error = {"message": "no, and here is why", "type": "why", "param": "messages", "code": "x"}
    provider.script(Answer(status=status, error=error, headers=[(b"retry-after", b"17")]))
    chat = sdk(live := await proxy()).chat.completions
    with pytest.raises(kind) as caught:
        await chat.create(**JOKE, stream=stream)
    assert caught.value.body == error
    assert caught.value.response.headers["retry-after"] == "17"
    assert caught.value.request_id == "req_1"
    assert await live.stored() == 0
    assert (await chat.create(**JOKE)).choices[0].message.content
    assert len(provider.calls) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_answer_raises(
    proxy: StartProxy, provider: FakeProvider, sdk: Sdk, stream: bool
) -> None:
    """Half an answer is an error to the client, and is not kept."""
    chunks = [event(chunk) for chunk in vector("text")["stream"]]
    cut = Answer(chunks=chunks, cut_after=3) if stream else Answer(body=b"{}", content_length=9999)
    provider.script(cut)
    chat = sdk(live := await proxy()).chat.completions
    with pytest.raises((openai.APIError, _transport_error())):
        await told(await chat.create(**JOKE, stream=True)) if stream else await chat.create(**JOKE)
    assert await live.stored() == 0
    await live.settled()


def _transport_error() -> type[Exception]:
    """What the client's HTTP library raises when a body breaks off: openai lets it through."""
    import httpx2

    error: type[Exception] = httpx2.TransportError
    return error


async def test_an_error_of_the_proxy_is_one_of_the_client(
    proxy: StartProxy, provider: FakeProvider, sdk: Sdk
) -> None:
    """What the proxy itself refuses can be caught and read like the provider's own errors."""
    chat = sdk(await proxy()).chat.completions
    with pytest.raises(openai.BadRequestError) as caught:
        await chat.create(**JOKE, extra_headers={"llm-cache-control": "ttl=soon"})
    assert caught.value.type == "llm_cache_proxy_error"
    assert "ttl" in caught.value.message
    assert not provider.calls


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


async def test_langchain_chat(
    proxy: StartProxy, provider: FakeProvider, langchain: LangChain
) -> None:
    """`invoke` and `stream` say the same, and a hit says what the miss said."""
    model = langchain(ChatOpenAI, await proxy())
    first, second = [await model.ainvoke("Tell me a joke") for _ in range(2)]
    assert _told(first) == _told(second)
    streamed = [await _streamed(model) for _ in range(2)]
    assert streamed[0].content == streamed[1].content == first.content
    assert first.usage_metadata == streamed[0].usage_metadata == streamed[1].usage_metadata
    assert first.usage_metadata is not None
    assert first.content == expected(provider.calls[0].body, credential=CREDENTIAL)
    assert len(provider.calls) == 1


async def test_langchain_tools(
    proxy: StartProxy, provider: FakeProvider, langchain: LangChain
) -> None:
    """A model with tools bound calls them from a hit as it did from the miss."""
    answer = vector("plain_tool_calls")["body"]
    provider.script(Answer(body=orjson.dumps(answer)))
    model = langchain(ChatOpenAI, await proxy()).bind_tools([weather])
    first, second = [await model.ainvoke("Tell me a joke") for _ in range(2)]
    assert first.tool_calls == second.tool_calls
    assert len(first.tool_calls) == len(answer["choices"][0]["message"]["tool_calls"])
    assert len(provider.calls) == 1


async def test_langchain_completions(
    proxy: StartProxy, provider: FakeProvider, langchain: LangChain
) -> None:
    """Two prompts at once give two answers, from a hit too."""
    model = langchain(OpenAI, await proxy())
    first, second = [await model.agenerate(["one", "two"]) for _ in range(2)]
    assert first.generations == second.generations
    assert first.llm_output == second.llm_output
    assert [len(each) for each in first.generations] == [1, 1]
    assert first.generations[0][0].text != first.generations[1][0].text
    assert len(provider.calls) == 1


async def _streamed(model: ChatOpenAI) -> Any:
    chunks = [each async for each in model.astream("Tell me a joke", stream_usage=True)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


def _told(message: BaseMessage) -> dict[str, Any]:
    """All but the id that LangChain makes up for each run."""
    return message.model_dump(exclude={"id"})


@pytest.mark.parametrize("stream", [False, True])
async def test_curl(proxy: StartProxy, provider: FakeProvider, stream: bool) -> None:
    """What the command prints is the same the second time, events included."""
    live = await proxy()
    first, second = await _curl(live, stream), await _curl(live, stream)
    assert first[0] == "MISS"
    assert second[0] == "HIT"
    texts = [_text(body) for _, body in (first, second)]
    assert texts == [expected(JOKE, credential=CREDENTIAL)] * 2
    if stream:
        assert second[1].rstrip().endswith(b"data: [DONE]")
    else:
        assert orjson.loads(first[1]) == orjson.loads(second[1])
    assert len(provider.calls) == 1


async def _curl(live: LiveProxy, stream: bool) -> tuple[str, bytes]:
    """X-Cache and the body. Where there is no curl, its bytes are sent without it."""
    body = orjson.dumps(JOKE | {"stream": stream})
    path = f"{live.base_url}/chat/completions"
    printed = await (_run_curl if shutil.which("curl") else _send_as_curl)(path, body)
    head, _, body = printed.partition(b"\r\n\r\n")
    lines = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:])
    return lines["x-cache"].upper(), body


async def _run_curl(url: str, body: bytes) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *("curl", "-N", "-sS", "--noproxy", "*", "--include", url),
        *("-H", "Content-Type: application/json", "-H", f"Authorization: {CREDENTIAL}"),
        *("-d", body.decode()),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed


async def _send_as_curl(url: str, body: bytes) -> bytes:
    """What curl 7.88 sends, to the letter."""
    parts = urlsplit(url)
    raw = await RawClient.connect(url)
    await raw.send_bytes(
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: curl/7.88.1\r\n"
        f"Accept: */*\r\nContent-Type: application/json\r\nAuthorization: {CREDENTIAL}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    status = await raw.head()
    head = "".join(f"{name}: {value}\r\n" for name, value in raw.headers.items())
    printed = f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + (await raw.rest()).body
    await raw.aclose()
    return printed


def _text(body: bytes) -> str:
    if not body.startswith(b"data:"):
        text: str = orjson.loads(body)["choices"][0]["message"]["content"]
        return text
    events = [line[6:] for line in body.splitlines() if line.startswith(b"data: {")]
    choices = [choice for each in events for choice in orjson.loads(each)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
