"""What the whole proxy does with its cache: no rule and no request loosens it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from cache_backends import MemoryCache, TieredCache
from cache_backends.base import NullCache
from proxy.errors import CacheOutOfReach
from proxy.models import Mode
from tests.fakes.chat import MINE, asker, asking, own, saying, tells
from tests.fakes.clock import FakeClock
from tests.fakes.live_proxy import StartProxy
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.replicas import STORES, SharedStore
from tests.fakes.shared_cache import FakeSharedCache, World

if TYPE_CHECKING:
    from tests.fakes.clients import Clients

OFFLINE: dict[str, Any] = {"cache": {"mode": "offline"}}


async def test_offline_stored_answers_serve_however_old(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Also those that expired, and for callers who want newer ones."""
    live = await proxy(clock=(clock := FakeClock()), cache={"ttl": 60})
    ask = asker(client, live)
    first = await ask()
    await live.app.switch.set(Mode.OFFLINE)
    assert (await ask()).headers["x-cache"] == "HIT"
    clock.advance(3600)
    for headers in (MINE, saying("no-cache"), saying("max-age=1"), own("min-fresh=5")):
        told = await ask(headers)
        assert told.json() == first.json()
        assert tells(told) == ("STALE", 'llm-cache-proxy; hit; ttl=-3540; detail="offline mode"')
    assert len(provider.calls) == 1


@pytest.mark.parametrize("path", ["chat/completions", "messages", "embeddings", "responses"])
async def test_offline_a_miss_is_an_error_that_is_not_retried(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, path: str
) -> None:
    """424 in the format of whoever asks; the provider hears nothing."""
    live = await proxy(**OFFLINE)
    body = asking(input="Hi") if path in ("embeddings", "responses") else asking(max_tokens=9)
    told = await client.post(f"{live.base_url}/{path}", json=body, headers=MINE)
    assert (told.status_code, told.headers["x-should-retry"]) == (424, "false")
    error = told.json()["error"]
    assert "offline mode" in error["message"]
    assert error["code"] == "offline"
    assert ("type" in told.json()) is (path == "messages")
    assert not provider.calls


async def test_offline_sdks_try_once(proxy: StartProxy, clients: Clients) -> None:
    """Trying again could not help; the message reaches whoever wrote the test."""
    live = await proxy(**OFFLINE)
    said: Any = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    openai = clients.openai(live, max_retries=2).chat.completions
    anthropic = clients.anthropic(live, max_retries=2).messages
    for asked in (openai.create(**said), anthropic.create(max_tokens=9, **said)):
        with pytest.raises(Exception, match="nothing is stored for this request") as caught:
            await asked
        assert getattr(caught.value, "status_code", 0) == 424
    assert len(clients.outcomes) == 2


async def test_offline_nothing_is_passed_through(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Lists of models, uploads, and what cannot be read."""
    live = await proxy(**OFFLINE)
    models = await client.get(f"{live.base_url}/models", headers=MINE)
    upload = await client.post(f"{live.base_url}/files", content=b"x" * 2**20, headers=MINE)
    packed = await client.post(
        f"{live.base_url}/chat/completions",
        content=b"\x1f\x8b",
        headers={**MINE, "content-encoding": "gzip"},
    )
    assert [told.status_code for told in (models, upload, packed)] == [424] * 3
    assert not provider.calls


async def test_offline_a_batch_is_told_whole_or_not_at_all(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """One input that is not stored is enough."""
    live = await proxy()

    async def embed(*inputs: str) -> int:
        body = {"model": "m", "input": inputs}
        told = await client.post(f"{live.base_url}/embeddings", json=body, headers=MINE)
        return told.status_code

    await embed("a", "b")
    await live.app.switch.set(Mode.OFFLINE)
    assert [await embed("b", "a"), await embed("a", "c")] == [200, 424]
    assert len(provider.calls) == 1


async def test_what_may_not_be_read_is_not_read_offline(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """Who says no-store wants no answer from another's trace; a rule that refuses stands."""
    live = await proxy()
    ask = asker(client, live)
    await ask()
    await live.app.switch.set(Mode.OFFLINE)
    told = await ask(own("no-store"))
    assert told.status_code == 424
    assert "no-store" in told.json()["error"]["message"]


async def test_a_fetch_that_has_not_been_sent_is_not_sent_any_more(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """It was looking for an entry when offline mode began."""
    shared = FakeSharedCache(World())
    live = await proxy(
        backend=TieredCache(MemoryCache(max_bytes=2**20), shared),
        cache={"lookup_timeout_s": 0.1},
    )
    shared.gates["get"] = gate = Gate()
    asked = asyncio.ensure_future(asker(client, live)())
    await gate.reached()
    switched = asyncio.create_task(live.app.switch.set(Mode.OFFLINE))
    assert (await asked).status_code == 424
    assert await switched
    assert not provider.calls


async def test_refresh_fetches_all_anew_and_stores_it(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """As if everybody said no-cache, once too often for the memory of requests."""
    live = await proxy()
    ask = asker(client, live)
    await ask()
    assert (await ask()).headers["x-cache"] == "HIT"
    await live.app.switch.set(Mode.REFRESH)
    fresh = await ask()
    told = 'llm-cache-proxy; fwd=request; stored; detail="refresh mode"'
    assert tells(fresh) == ("MISS", told)
    await live.app.switch.set(Mode.NORMAL)
    assert (await ask()).json()["id"] == fresh.json()["id"]
    assert (len(provider.calls), await live.stored()) == (2, 1)


async def test_bypass_neither_reads_nor_writes(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """The provider answers everything."""
    live = await proxy(cache={"mode": "bypass"})
    ask = asker(client, live)
    for _ in range(2):
        told = 'llm-cache-proxy; fwd=bypass; stored=?0; detail="bypass mode"'
        assert tells(await ask()) == ("BYPASS", told)
    assert (len(provider.calls), await live.stored()) == (2, 0)


async def test_read_only_reads(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """What is stored serves, what is fetched is not kept."""
    live = await proxy()
    ask = asker(client, live)
    await ask()
    await live.app.switch.set(Mode.READ_ONLY)
    assert (await ask()).headers["x-cache"] == "HIT"
    told = 'llm-cache-proxy; fwd=miss; stored=?0; detail="read-only mode"'
    assert tells(await ask(prompt="Another")) == ("MISS", told)
    assert (len(provider.calls), await live.stored()) == (2, 1)


async def test_what_is_fetched_when_writing_ends_is_not_written(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """The mode counts that holds when the answer is there."""
    provider.script(Answer(gate=(gate := Gate())))
    live = await proxy()
    asked = asyncio.ensure_future(asker(client, live)())
    await gate.reached()
    await live.app.switch.set(Mode.READ_ONLY)
    await gate.open()
    assert (await asked).status_code == 200
    assert await live.stored() == 0


@pytest.mark.parametrize("kind", STORES)
async def test_a_mode_holds_everywhere_once_it_is_set(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    request: pytest.FixtureRequest,
    kind: str,
) -> None:
    """Another process that uses the same store asks no provider any more."""
    store = SharedStore.of(kind, request)
    one, other = [
        await proxy(backend=TieredCache(MemoryCache(max_bytes=2**20), store.open()))
        for _ in range(2)
    ]
    assert await one.app.switch.set(Mode.OFFLINE)
    assert (await asker(client, other)()).status_code == 424
    assert not provider.calls


async def test_who_starts_later_knows_the_mode(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Before the first request."""
    live = await proxy(backend=FakeSharedCache(World(facts={"mode": "offline"})))
    assert (await asker(client, live)()).status_code == 424
    assert not provider.calls


async def test_what_the_settings_say_is_set_for_all(proxy: StartProxy) -> None:
    """It takes the place of what was set before."""
    world = World(facts={"mode": "offline"})
    await proxy(backend=FakeSharedCache(world), cache={"mode": "refresh"})
    assert world.facts["mode"] == "refresh"


async def test_with_the_store_down_nobody_claims_to_have_set_it(
    proxy: StartProxy,
) -> None:
    """The last mode known stays, however often the store is asked in vain."""
    shared = FakeSharedCache(World())
    live = await proxy(backend=shared, cache={"mode": "offline"})
    shared.down = True
    with pytest.raises(CacheOutOfReach):
        await live.app.switch.set(Mode.NORMAL)
    await live.app.switch.read()
    assert live.app.switch.mode is Mode.OFFLINE


async def test_the_settings_hold_at_once_and_are_told_when_the_store_answers(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """A proxy that is started offline asks no provider, whatever its store does."""
    shared = FakeSharedCache(world := World(facts={"mode": "normal"}))
    shared.down = True
    live = await proxy(backend=shared, **OFFLINE)
    assert (await asker(client, live)()).status_code == 424
    shared.down = False
    await live.app.switch.read()
    assert world.facts["mode"] == "offline"
    assert not provider.calls


async def test_a_cache_without_facts_keeps_the_mode_to_its_process(proxy: StartProxy) -> None:
    """What it would say of the mode is not believed after that."""
    live = await proxy(backend=NullCache())
    assert not await live.app.switch.set(Mode.OFFLINE)
    await live.app.switch.read()
    assert live.app.switch.mode is Mode.OFFLINE
