"""Client tokens, held keys and foreign pages, over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.fakes.chat import MINE, PATH, YOURS, asker, asking, words
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.raw_client import Connect

CI = {"authorization": "Bearer token-of-ci-00001"}
DEV = {"authorization": "Bearer token-of-dev-0001"}
HELD = expected(asking(), credential="Bearer held-key")


@pytest.fixture
def guarded(proxy: StartProxy, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`await guarded("key", "tokens")`: a proxy that holds a key, asks for tokens, or both."""
    monkeypatch.setenv("HELD_KEY", "held-key")
    monkeypatch.setenv("CI_TOKEN", "token-of-ci-00001")
    monkeypatch.setenv("DEV_TOKEN", "token-of-dev-0001")
    clients = {"ci": {"token_env": "CI_TOKEN"}, "dev": {"token_env": "DEV_TOKEN"}}

    async def start(*which: str, **sections: Any) -> LiveProxy:
        if "key" in which:
            sections["providers"] = {"openai": {"api_key_env": "HELD_KEY"}}
        if "tokens" in which:
            sections["clients"] = clients
        return await proxy(**sections)

    return start


@pytest.mark.parametrize("headers", [{}, MINE, {"authorization": "Bearer token-of-ci-00002"}])
@pytest.mark.parametrize("path", ["chat/completions", "models", "files"])
async def test_without_a_token_nothing_is_reached(
    guarded: Any,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    headers: dict[str, str],
    path: str,
) -> None:
    """401 in OpenAI's shape, which SDKs do not try again; the provider hears nothing of it."""
    live = await guarded("key", "tokens")
    told = await client.post(f"{live.base_url}/{path}", json=asking(), headers=headers)
    assert told.status_code == 401
    assert told.headers["x-should-retry"] == "false"
    assert told.json()["error"]["code"] == "unauthorized"
    assert not provider.calls
    await live.settled()


async def test_a_token_stays_here_and_the_held_key_goes_out(
    guarded: Any, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """On cached and on passed-through paths; no header of the provider's call has the token."""
    live = await guarded("key", "tokens")
    assert words((await asker(client, live)(CI)).content) == HELD
    await client.get(f"{live.base_url}/models", headers=CI)
    for call in provider.calls:
        assert call.header(b"authorization") == "Bearer held-key"
        assert not any(b"token-of" in value for _, value in call.headers)


async def test_each_client_has_answers_of_its_own(
    guarded: Any, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Though the same key was used for both."""
    live = await guarded("key", "tokens")
    ask = asker(client, live)
    assert [(await ask(who)).headers["x-cache"] for who in (CI, DEV, CI, DEV)] == [
        "MISS",
        "MISS",
        "HIT",
        "HIT",
    ]


async def test_a_client_keeps_its_answers_when_its_key_changes(
    guarded: Any, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Scope "client": entries belong to the name, however the token is presented."""
    live = await guarded("key", "tokens", cache={"scope": "client"})
    ask = asker(client, live)
    await ask(CI)
    assert (await ask({"x-api-key": "token-of-ci-00001"})).headers["x-cache"] == "HIT"
    assert (await ask(DEV)).headers["x-cache"] == "MISS"


async def test_shared_answers_serve_all(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Scope "shared": another's answer is a hit."""
    live = await proxy(cache={"scope": "shared"})
    ask = asker(client, live)
    first = await ask(MINE)
    second = await ask(YOURS)
    assert (second.headers["x-cache"], second.json()) == ("HIT", first.json())


async def test_anothers_refusal_is_not_shared(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Where answers are shared, a fetch in the air still is not: one's 401 is his own."""
    provider.script(Answer(status=401, gate=(gate := Gate())))
    live = await proxy(cache={"scope": "shared"})
    ask = asker(client, live)
    refused = asyncio.create_task(ask(MINE))
    await provider.received()
    assert (await ask(YOURS)).status_code == 200
    await gate.open()
    assert (await refused).status_code == 401
    await live.settled()


async def test_a_held_key_replaces_the_callers(
    guarded: Any, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Whatever he sends as a key."""
    live = await guarded("key")
    told = await asker(client, live)({**MINE, "api-key": "mine", "x-api-key": "mine"})
    assert words(told.content) == HELD
    sent = dict(provider.calls[0].headers)
    assert sent[b"authorization"] == b"Bearer held-key"
    assert not {b"api-key", b"x-api-key"} & set(sent)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "localhost", "origin": "https://evil.example"}, 403),
        ({"host": "localhost", "sec-fetch-site": "cross-site"}, 403),
        ({"host": "localhost", "origin": "http://localhost:3000"}, 200),
        ({"host": "ai.internal:8484"}, 200),
    ],
)
async def test_foreign_pages_cannot_spend_a_held_key(
    guarded: Any, provider: FakeProvider, connect: Connect, headers: dict[str, str], status: int
) -> None:
    """A name of another's that leads here, or a page of another's: 403, and no call."""
    live = await guarded("key", server={"allowed_hosts": ["ai.internal"]})
    raw = await connect(live.base_url)
    await raw.post(PATH, asking(), headers)
    assert await raw.head() == status
    body = (await raw.rest()).body
    assert (b'"forbidden"' in body) == (status == 403)
    assert len(provider.calls) == (status == 200)
    await live.settled()


async def test_without_a_held_key_any_host_will_do(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """There is nothing to spend: whoever asks brings his own key."""
    live = await proxy()
    raw = await connect(live.base_url)
    await raw.post(PATH, asking(), {"host": "anything.example"})
    assert await raw.head() == 200
