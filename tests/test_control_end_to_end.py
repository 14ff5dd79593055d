"""What callers ask of the cache, and what it tells them, over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from cache_backends.memory import MemoryCache
from tests.fakes.admin import TOKENS, AdminClient
from tests.fakes.broken_cache import BrokenCache, Fault
from tests.fakes.chat import MINE, asker, asking, own, saying, tells
from tests.fakes.clock import FakeClock
from tests.fakes.live_proxy import StartProxy
from tests.fakes.provider import Answer, FakeProvider, Gate


async def test_a_hit_repeats_nothing_of_the_first_exchange(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """The provider's words come back as they were; its request id, cookies and limits do not."""
    provider.script(Answer(headers=[(b"set-cookie", b"who=first")]))
    live = await proxy()
    first, hit = await asker(client, live)(), await asker(client, live)()
    assert first.json() == hit.json()
    assert "set-cookie" in first.headers
    assert not {"set-cookie", "x-ratelimit-remaining-requests"} & set(hit.headers)
    assert hit.headers["x-request-id"] != first.headers["x-request-id"]


@pytest.mark.parametrize("headers", [saying("no-cache"), saying("max-age=0"), own("no-cache")])
async def test_no_cache_fetches_anew_and_stores(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """The next asker gets the newer answer."""
    live = await proxy(clock=(clock := FakeClock()))
    ask = asker(client, live)
    await ask()
    clock.advance(50)
    fresh = await ask(headers)
    assert fresh.headers["x-cache"] == "MISS"
    assert "fwd=request" in fresh.headers["cache-status"]
    hit = await ask()
    assert (hit.json()["id"], hit.headers["age"]) == (fresh.json()["id"], "0")
    assert (len(provider.calls), await live.stored()) == (2, 1)
    await live.settled()


async def test_a_pinned_answer_is_not_replaced(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Who wants a newer one gets it; the others what an operator has pinned."""
    live = await proxy(admin=TOKENS)
    ask = asker(client, live)
    first = await ask()
    async with AdminClient(live.origin) as admin:
        await admin.patch(f"/entries/{first.headers['x-llm-cache-id']}", json={"pinned": True})
    fresh = await ask(own("no-cache"))
    assert fresh.json()["id"] != first.json()["id"]
    assert "stored=?0" in fresh.headers["cache-status"]
    assert (await ask()).json() == first.json()
    assert len(provider.calls) == 2


async def test_no_store_leaves_no_trace(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Nothing is written, nothing is read."""
    live = await proxy()
    ask = asker(client, live)
    for _ in range(2):
        told = await ask(saying("no-store"))
        assert tells(told) == ("BYPASS", "llm-cache-proxy; fwd=bypass; stored=?0; detail=no-store")
        assert "x-llm-cache-id" not in told.headers
    assert await live.stored() == 0
    await ask()
    assert (await ask(saying("no-store"))).headers["x-cache"] == "BYPASS"
    assert len(provider.calls) == 4
    await live.settled()


async def test_no_store_of_stream_helpers_is_not_meant(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """SSE helpers send it on their own; who means it says LLM-Cache-Control."""
    live = await proxy()
    ask = asker(client, live)
    helper = {**saying("no-store"), "accept": "text/event-stream"}
    assert (await ask(helper, stream=True)).headers["x-cache"] == "MISS"
    assert (await ask(helper, stream=True)).headers["x-cache"] == "HIT"
    meant = {**own("no-store"), "accept": "text/event-stream"}
    assert (await ask(meant, stream=True)).headers["x-cache"] == "BYPASS"


@pytest.mark.parametrize("headers", [saying("only-if-cached"), own("only-if-cached")])
async def test_only_if_cached_never_asks_the_provider(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """A stored answer or a 504 that SDKs do not try again; no fetch in the air is joined."""
    provider.script(Answer(gate=(gate := Gate())))
    live = await proxy()
    ask = asker(client, live)
    first = asyncio.create_task(ask())
    await provider.received()
    told = await ask(headers)
    assert told.status_code == 504
    assert told.headers["x-should-retry"] == "false"
    assert told.json()["error"]["code"] == "not_cached"
    assert not {"cache-status", "x-cache"} & set(told.headers)
    await gate.open()
    await first
    assert (await ask(headers)).headers["x-cache"] == "HIT"
    assert len(provider.calls) == 1
    await live.settled()


async def test_samples_of_one_question_are_kept_apart(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Each number has an answer of its own, and finds it again; 0 is the one without a number."""
    live = await proxy()
    ask = asker(client, live)
    first = [(await ask(own(f"sample={number}"))).json()["id"] for number in range(3)]
    again = [(await ask(own(f"sample={number}"))).json()["id"] for number in range(3)]
    assert first == again
    assert len(set(first)) == 3
    assert (await ask()).json()["id"] == first[0]
    assert len(provider.calls) == 3


async def test_a_base_url_can_carry_wishes(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """For tools that can set nothing else; LLM-Cache-Control has the last word."""
    live = await proxy(clock=FakeClock())
    url = f"{live.origin}/~namespace=evals,ttl=60/v1/chat/completions"

    async def ask(headers: dict[str, str]) -> tuple[str, str]:
        return tells(await client.post(url, json=asking(), headers=headers))

    assert (await ask(MINE))[0] == "MISS"
    assert await ask(MINE) == ("HIT", "llm-cache-proxy; hit; ttl=60; detail=memory")
    assert (await ask(own("namespace=other, ttl=5")))[0] == "MISS"
    assert "ttl=5;" in (await ask(own("namespace=other")))[1]
    assert (await asker(client, live)(own("namespace=evals"))).headers["x-cache"] == "HIT"
    assert (await asker(client, live)()).headers["x-cache"] == "MISS"
    assert provider.calls[0].target == "/v1/chat/completions"
    assert not provider.calls[1].header(b"llm-cache-control")


@pytest.mark.parametrize(
    ("path", "headers", "named"),
    [
        ("/v1", own("ttl=soon"), "ttl"),
        ("/v1", own("tttl=5"), "tttl"),
        ("/v1", own("sample=-1"), "sample"),
        ("/v1", own("ttl=60; namespace=x"), "commas"),
        ("/v1", own("=="), "LLM-Cache-Control"),
        ("/~ttl=soon/v1", MINE, "base URL"),
        ("/v1", saying("x" * 5000), "Cache-Control"),
    ],
)
async def test_a_wish_that_cannot_be_read_is_refused(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    path: str,
    headers: dict[str, str],
    named: str,
) -> None:
    """With what is wrong, in OpenAI's shape; the provider is not asked."""
    live = await proxy()
    url = f"{live.origin}{path}/chat/completions"
    told = await client.post(url, json=asking(), headers=headers)
    error = told.json()["error"]
    assert (told.status_code, error["code"]) == (400, "bad_cache_control")
    assert named in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert not provider.calls
    await live.settled()


async def test_the_operator_may_leave_wishes_unheard(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Then no-cache is a hit as any."""
    live = await proxy(cache={"honour_cache_control": False})
    ask = asker(client, live)
    await ask()
    assert (await ask(saying("no-cache"))).headers["x-cache"] == "HIT"
    assert (await ask(saying("no-store"))).headers["x-cache"] == "HIT"


async def test_echoed_fields_are_the_callers_own(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """An answer made for one run tells the next its own metadata."""

    def body(run: str) -> dict[str, Any]:
        return asking(metadata={"run": run}, user=run)

    live = await proxy()
    url = f"{live.base_url}/chat/completions"
    answer = {**(await client.post(f"{provider.base_url}/chat/completions", json=asking())).json()}
    provider.script(
        Answer(body=httpx.Response(200, json=answer | {"metadata": {"run": "1"}}).content)
    )
    first = await client.post(url, json=body("1"), headers=MINE)
    hit = await client.post(url, json=body("2"), headers=MINE)
    assert (first.headers["x-cache"], first.json()["metadata"]) == ("MISS", {"run": "1"})
    assert (hit.headers["x-cache"], hit.json()["metadata"]) == ("HIT", {"run": "2"})


async def test_a_cache_that_is_down_is_no_stored_answer(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """only-if-cached gets its 504, within the lookup's deadline."""
    cache = BrokenCache(MemoryCache(max_bytes=2**20), Fault.NONE)
    live = await proxy(cache, cache={"lookup_timeout_s": 0.05})
    ask = asker(client, live)
    await ask()
    cache.fault, cache.operations = Fault.HANG, frozenset({"get_many"})
    cache.inner = MemoryCache(max_bytes=1)  # nothing is at hand either
    assert (await ask(saying("only-if-cached"))).status_code == 504
    assert len(provider.calls) == 1
    await live.settled()
