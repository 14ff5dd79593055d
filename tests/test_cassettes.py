"""A proxy with a cassette: recorded once, replayed with the provider gone, and no secret in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from typer.testing import CliRunner

from proxy.app import build_keyed_headers, create_app
from proxy.cli import app
from proxy.config import load_settings
from proxy.errors import ConfigError
from tests.fakes.clients import Clients
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.process import ProxyProcess
from tests.fakes.provider import Answer, FakeProvider

JOKE: Any = {"model": "m", "messages": [{"role": "user", "content": "Tell me a joke"}]}
CANARIES = {
    "authorization": "Bearer sk-canary",
    "x-api-key": "sk-canary",
    "openai-organization": "org-canary",
    "openai-project": "proj-canary",
    "cookie": "session=canary",
    "user-agent": "canary/1.0",
    "x-request-id": "req-canary",
    "x-portkey-config": '{"api_key":"sk-canary"}',
    "x-portkey-virtual-key": "vk-canary",
}

Start = Callable[..., Awaitable[LiveProxy]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.ndjson"


@pytest.fixture
def recorder(proxy: StartProxy, path: Path) -> Start:
    """`await recorder(mode="offline")`: a proxy with the cassette."""

    async def start(mode: str | None = None, **sections: Any) -> LiveProxy:
        cache = {"url": f"cassette:{path}", "mode": mode} | sections.pop("cache", {})
        return await proxy(cache=cache, **sections)

    return start


def text_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def chat_completion(text: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **more}
    return {"id": "1", "object": "chat.completion", "choices": [choice]}


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


async def test_recorded_and_replayed_with_the_provider_gone(
    recorder: Start, provider: FakeProvider, clients: Clients, path: Path
) -> None:
    """Another process, another key or none; streamed where it was recorded plain."""
    live = await recorder()
    first = await clients.openai(live).chat.completions.create(**JOKE)
    await live.app.aclose()
    await provider.stop()
    offline = await recorder("offline")
    sdk = clients.openai(offline).with_options(api_key="dummy")
    assert await sdk.chat.completions.create(**JOKE) == first
    stream = await sdk.chat.completions.create(**JOKE, stream=True)
    told = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "".join(told) == first.choices[0].message.content
    assert len(lines(path)) == 1


async def test_a_changed_prompt_fails_loudly(
    recorder: Start, provider: FakeProvider, clients: Clients
) -> None:
    """The client's own error with an explanation, at once: it is not tried again."""
    live = await recorder()
    await clients.openai(live).chat.completions.create(**JOKE)
    await live.app.aclose()
    calls = len(provider.calls)
    sdk = clients.openai(await recorder("offline")).with_options(max_retries=5)
    changed: Any = JOKE | {"temperature": 0.5}
    with pytest.raises(
        openai.APIStatusError, match=r"offline mode.*differs in parameters.temperature"
    ) as caught:
        await sdk.chat.completions.create(**changed)
    assert caught.value.status_code == 424
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(provider.calls) == calls


async def test_a_rerun_leaves_the_file_as_it_is(
    recorder: Start, clients: Clients, path: Path
) -> None:
    """Hits change nothing, nor does an answer that is the same when it is fetched anew."""
    for mode in (None, None, "refresh"):
        live = await recorder(mode)
        before = text_of(path)
        answer = Answer(body=orjson.dumps(chat_completion("ha")))
        live.provider.script(answer)
        await clients.openai(live).chat.completions.create(**JOKE)
        await live.app.aclose()
        assert before in (b"", text_of(path))


async def test_no_secret_is_in_the_file(
    recorder: Start, client: httpx.AsyncClient, path: Path
) -> None:
    """Of headers, of the query, of fields that gateways take keys by: none, whatever the wire."""
    live = await recorder()
    secret = {"api_key": "sk-canary", "vertex_credentials": {"private_key": "canary"}}
    for place in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        body = JOKE | {"input": "Hi", "max_tokens": 9} | secret
        query = "?api_key=sk-canary&subscription-key=canary&access_token=canary"
        answer = await client.post(f"{live.origin}{place}{query}", json=body, headers=CANARIES)
        assert (answer.status_code, answer.headers["x-cache"]) == (200, "MISS")
    await live.app.aclose()
    assert len(lines(path)) == 3
    assert b"canary" not in text_of(path)


async def test_what_is_redacted_is_replayed(
    recorder: Start, provider: FakeProvider, client: httpx.AsyncClient, path: Path
) -> None:
    """The provider is asked with what was said; the file and who replays know nothing of it."""
    redact = [{"pattern": r"[a-z]+@example\.com", "replacement": "MAIL"}]
    ask: Any = JOKE | {"messages": [{"role": "user", "content": "Greet ann@example.com"}]}
    text = "Hello ann@example.com"
    provider.script(Answer(body=orjson.dumps(chat_completion(text))))
    live = await recorder(cassette={"redact": redact})
    first = await client.post(f"{live.base_url}/chat/completions", json=ask)
    assert first.json()["choices"][0]["message"]["content"] == text
    assert b"ann@example.com" in provider.calls[-1].body
    await live.app.aclose()
    assert b"ann@" not in text_of(path)
    offline = await recorder("offline", cassette={"redact": redact})
    for name in ("ann", "bob"):
        ask["messages"][0]["content"] = f"Greet {name}@example.com"
        again = await client.post(f"{offline.base_url}/chat/completions", json=ask)
        assert again.json()["choices"][0]["message"]["content"] == "Hello MAIL"


async def test_answers_that_the_provider_keeps_are_recorded(
    recorder: Start, client: httpx.AsyncClient, path: Path
) -> None:
    """They are bound to an account; whoever replays asks nothing of it."""
    live = await recorder()
    answer = await client.post(f"{live.base_url}/responses", json={"model": "m", "input": "Hi"})
    assert answer.headers["x-cache"] == "MISS"
    await live.app.aclose()
    (line,) = lines(path)
    assert "expires_at" not in line


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"server": {"workers": 2}}, "server.workers: a cassette is for 1 worker"),
        ({"cache": {"scope": "credential"}}, 'cache.scope: .* use "shared", or set scope_secret'),
        ({"server": {"host": "0.0.0.0"}}, "cache.scope: anyone who reaches"),
        (
            {"cassette": {"redact": [{"pattern": "a*"}]}},
            r"cassette.redact: 'a\*' matches the empty text",
        ),
        (
            {"cassette": {"redact": [{"pattern": "[a-z]+", "replacement": "redacted"}]}},
            "cassette.redact: 'redacted' takes the place of what matches, and matches",
        ),
    ],
    ids=["workers", "scope", "open to all", "empty match", "matches again"],
)
def test_what_does_not_go_with_a_cassette_is_refused(
    path: Path, sections: dict[str, Any], message: str
) -> None:
    """With the setting that is to be another."""
    cache = {"url": f"cassette:{path}"} | sections.pop("cache", {})
    with pytest.raises(ConfigError, match=message):
        load_settings(overrides={"cache": cache, **sections})


def test_a_header_with_a_credential_is_in_no_key(path: Path) -> None:
    """An operator who names one is told."""
    said = {"url": f"cassette:{path}", "key_headers": ["authorization"]}
    with pytest.raises(ConfigError, match="authorization holds a credential; a cassette has none"):
        build_keyed_headers(load_settings(overrides={"cache": said}))


def test_a_damaged_cassette_is_refused_at_the_start(path: Path) -> None:
    """With its line, before anything is recorded over it."""
    path.write_bytes(b"\n<<<<<<< HEAD\n")
    settings = load_settings(overrides={"cache": {"url": f"cassette:{path}"}})
    with pytest.raises(ConfigError, match=r"cache.url: .*chat.ndjson: line 2: in a git merge"):
        create_app(settings)


async def test_serve_drops_what_was_not_used(
    tmp_path: Path, provider: FakeProvider, client: httpx.AsyncClient, path: Path
) -> None:
    """With its flag, at SIGTERM; the line at its end says what became of the cassette."""
    arguments = ("--cassette", str(path), "--mode", "auto", "--upstream", provider.base_url)
    told = []
    for flags, texts in (((), "ab"), (("--cassette-prune",), "bc")):
        served = await ProxyProcess.start(tmp_path, *arguments, *flags)
        await served.up()
        for text in texts:
            ask = JOKE | {"messages": [{"role": "user", "content": text}]}
            answer = await client.post(f"{served.base_url}/chat/completions", json=ask)
            assert answer.status_code == 200
        served.terminate()
        assert await served.ended() == 0
        told.append(served.lines[-1])
    assert [(said["entries"], said["recorded"]) for said in told] == [(2, 2), (2, 1)]
    prompts = [line["prompt"]["messages"][0]["content"] for line in lines(path)]
    assert prompts == ["b", "c"]
    assert len(provider.calls) == 3


@pytest.mark.parametrize("wire", ["chat", "responses"])
async def test_tokens_do_not_tell_what_is_redacted(
    wire: str, recorder: Start, provider: FakeProvider, client: httpx.AsyncClient, path: Path
) -> None:
    """Their pieces match nothing: where a text of the answer does, they are left out."""
    pieces = [{"token": each, "logprob": -0.1} for each in ("ann", "@example.com")]
    text = "ann@example.com"
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": pieces}]
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    message["content"] = content
    told, ask = {
        "chat": (chat_completion(text, logprobs={"content": pieces}), JOKE),
        "responses": (
            {"id": "r", "object": "response", "status": "completed", "output": [message]},
            {"model": "m", "input": "Hi"},
        ),
    }[wire]
    provider.script(Answer(body=orjson.dumps(told)))
    redact = [{"pattern": r"[a-z]+@example\.com", "replacement": "MAIL"}]
    live = await recorder(cassette={"redact": redact})
    url = f"{live.base_url}/{'chat/completions' if wire == 'chat' else 'responses'}"
    first, second = [await client.post(url, json=ask) for _ in range(2)]
    assert [each.headers["x-cache"] for each in (first, second)] == ["MISS", "HIT"]
    assert "ann" not in second.text.replace("annotations", "")
    assert "MAIL" in second.text
    await live.app.aclose()
    assert b"@example.com" not in text_of(path)


def test_two_caches_are_one_too_many(path: Path) -> None:
    """A cassette is named once."""
    told = CliRunner().invoke(app, ["serve", "--cassette", str(path), "--cache", "memory://"])
    assert told.exit_code == 2
    assert "--cassette: is a cache; leave --cache out" in told.output
