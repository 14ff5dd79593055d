"""What is saved, told over HTTP: stats, charts, Prometheus, the log line, and who may see them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.models import Event
from tests.fakes.admin import FULL, READ, TOKENS, bearing
from tests.fakes.chat import MINE, asker, own
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.prometheus import samples
from tests.fakes.provider import Answer, FakeProvider, Gate

PRICED = {"prices": {"m": {"input": 1_000_000.0, "output": 2_000_000.0}}}
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"

Ask = Callable[..., Awaitable[httpx.Response]]


async def told(
    client: httpx.AsyncClient, live: LiveProxy, path: str = "/admin/stats", **query: Any
) -> dict[str, Any]:
    answer = await client.get(f"{live.origin}{path}", headers=bearing(FULL), params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """All that the journal was told."""
    seen: list[Event] = []
    monkeypatch.setattr("proxy.journal.Journal.record", lambda self, event: seen.append(event))
    return seen


async def test_a_hit_saves_what_the_miss_cost(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """Tokens, seconds and money, each as much as the provider took."""
    live = await proxy(admin=TOKENS, **PRICED)
    ask = asker(client, live)
    usage = (await ask()).json()["usage"]
    cost = usage["prompt_tokens"] + 2 * usage["completion_tokens"]
    for _ in range(3):
        assert (await ask()).headers["x-cache"] == "HIT"
    stats = await told(client, live)
    assert (stats["hits"], stats["misses"], stats["hit_ratio"]) == (3, 1, 0.75)
    assert (stats["entries"], stats["stored"]) == (1, 1)
    assert stats["bytes"] > 0
    assert stats["saved"]["tokens"] == 3 * usage["total_tokens"]
    assert stats["saved"]["usd"] == 3 * cost
    assert stats["saved"]["seconds"] > 0
    assert stats["spent"] == {"tokens": usage["total_tokens"], "usd": cost}
    assert stats["hits_by_kind"]["memory"] == 3
    assert stats["by_model"]["m"]["saved"]["usd"] == 3 * cost
    assert stats["latency"]["upstream"]["count"] == 1


async def test_a_part_that_was_stored_is_saved(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """Of a batch each entry has its share; where some were known only these are saved."""
    live = await proxy(admin=TOKENS, **PRICED)

    async def embed(*inputs: str) -> httpx.Response:
        body = {"model": "m", "input": list(inputs)}
        return await client.post(f"{live.base_url}/embeddings", json=body, headers=MINE)

    first = await embed("one", "another")
    both = await told(client, live)
    assert first.json()["usage"]["total_tokens"] == both["spent"]["tokens"] == both["spent"]["usd"]
    assert (await embed("one", "third")).headers["x-cache"] == "PARTIAL"
    partly = await told(client, live)
    assert 0 < partly["saved"]["usd"] < both["spent"]["usd"]
    assert partly["saved"]["usd"] == partly["saved"]["tokens"]
    assert (await embed("one", "another")).headers["x-cache"] == "HIT"
    known = await told(client, live)
    saved = known["saved"]["usd"] - partly["saved"]["usd"]
    assert saved == pytest.approx(both["spent"]["usd"])


async def test_what_is_not_stored_has_a_reason(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """As have requests that go past the cache, and those that are refused."""
    live = await proxy(admin=TOKENS)
    ask = asker(client, live)
    await ask(own("no-store"))
    await client.get(f"{live.base_url}/models", headers=MINE)
    await client.post(f"{live.base_url}/chat/completions", content=b"{", headers=MINE)
    stats = await told(client, live)
    assert sum(stats["bypasses_by_reason"].values()) == stats["bypasses"] == 2
    assert "path not cached" in stats["bypasses_by_reason"]
    assert sum(stats["errors_by_reason"].values()) == stats["errors"] == 1


async def test_what_is_fetched_anew_and_stored_was_not_refused(
    proxy: StartProxy, client: httpx.AsyncClient, events: list[Event]
) -> None:
    """Only what is then not stored, for its own reason."""
    live = await proxy(admin=TOKENS)
    ask = asker(client, live)
    await ask(own("no-cache"))
    assert (await told(client, live))["refused_by_reason"] == {}
    live.provider.script(Answer(status=429))
    await ask(own("no-cache"))
    stats = await told(client, live)
    assert (stats["stored"], stats["misses"]) == (1, 2)
    assert (stats["refused"], stats["refused_by_reason"]) == (1, {"status 429": 1})
    assert [event.reason for event in events] == ["", "status 429"]


async def test_who_leaves_before_the_answer_is_counted(
    proxy: StartProxy, client: httpx.AsyncClient, events: list[Event]
) -> None:
    """As a request that the cache did not answer, and that was cut; as is what it cost."""
    live = await proxy(admin=TOKENS, **PRICED)
    live.provider.always = Answer(gate=(gate := Gate()))
    asking = asyncio.create_task(asker(client, live)())
    await gate.reached()
    asking.cancel()
    async with asyncio.timeout(10):
        while not events:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    await gate.open()
    (event,) = events
    assert (event.outcome, event.status, event.cut, event.model) == ("MISS", 499, True, "m")
    await live.settled()
    stats = await told(client, live)
    assert (stats["requests"], stats["misses"], stats["stored"]) == (1, 1, 1)
    (entry,) = (await told(client, live, "/admin/entries"))["entries"]
    made = (await told(client, live, f"/admin/entries/{entry['id']}"))["made_by"]
    tokens = made["input_tokens"] + made["output_tokens"]
    assert stats["spent"] == {"tokens": tokens, "usd": made["usd"]}
    assert stats["refused_by_reason"] == {}


async def test_history_has_points(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """For charts: what was hit and saved, and how long it took."""
    live = await proxy(admin=TOKENS, **PRICED)
    ask = asker(client, live)
    await ask()
    await ask()
    history = await told(client, live, "/admin/stats/history", hours=1)
    points = history["points"]
    assert history["step_minutes"] == 5
    assert sum(point["hits"] for point in points) == 1
    assert sum(point["saved"]["usd"] for point in points) > 0
    assert points[-1]["latency"]["misses"] > 0


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"hours": 0}, 400),
        ({"hours": 745}, 400),
        ({"hours": "x"}, 400),
        ({"step_minutes": 7}, 400),
        ({"step_minutes": 5, "hours": 744}, 200),
        ({"hours": 744}, 200),
        ({"step_minutes": 60}, 200),
    ],
)
async def test_what_cannot_be_told(
    proxy: StartProxy, client: httpx.AsyncClient, query: dict[str, Any], status: int
) -> None:
    """More than a month, or steps that are not kept."""
    live = await proxy(admin=TOKENS)
    url = f"{live.origin}/admin/stats/history"
    answer = await client.get(url, headers=bearing(FULL), params=query)
    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]["type"] == "llm_cache_proxy_error"


async def test_who_sees_figures(
    proxy: StartProxy, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both tokens of the operator; no client's, and nobody without one."""
    monkeypatch.setenv("ALICE", "alices-token-0123456789")
    live = await proxy(admin=TOKENS, clients={"alice": {"token_env": "ALICE"}})
    tokens = {FULL: 200, READ: 200, "alices-token-0123456789": 403, "wrong": 401}
    for path in ("/admin/stats", "/admin/stats/history"):
        for token, status in tokens.items():
            answer = await client.get(f"{live.origin}{path}", headers=bearing(token))
            assert (path, answer.status_code) == (path, status)
        assert (await client.get(f"{live.origin}{path}")).status_code == 401


@pytest.fixture(params=["sqlite", "redis", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path, fresh_name: str) -> dict[str, Any]:
    """The settings of a cache that outlives the process."""
    if request.param == "sqlite":
        return {"url": f"sqlite:///{tmp_path}/cache.db"}
    place = "prefix" if request.param == "redis" else "schema"
    url = request.getfixturevalue(f"{request.param.removesuffix('ql')}_url")
    return {"url": url, "options": {place: fresh_name}, "lookup_timeout_s": 5}


async def test_figures_survive_a_restart(
    proxy: StartProxy, client: httpx.AsyncClient, shared: dict[str, Any]
) -> None:
    """They are in the cache, as are the hits of entries; those of the last second too."""
    cache = shared
    first = await proxy(cache=cache, admin=TOKENS)
    ask = asker(client, first)
    await ask()
    async with asyncio.timeout(10):
        while await first.stored() < 1:  # noqa: ASYNC110 - hits of what is not there are not kept
            await asyncio.sleep(0.01)
    await ask()
    await ask()
    await first.app.aclose()
    second = await proxy(cache=cache, admin=TOKENS)
    stats = await told(client, second)
    assert (stats["hits"], stats["misses"]) == (2, 1)
    entries = await told(client, second, "/admin/entries")
    assert [entry["hits"] for entry in entries["entries"]] == [2]


async def test_a_page_for_prometheus(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """Counters by outcome and model, histograms, savings, how it stands; no keys, no prompts."""
    live = await proxy(admin=TOKENS, **PRICED)
    ask = asker(client, live)
    for _ in range(3):
        await ask(prompt="a secret question")
    page = await client.get(f"{live.origin}/metrics")
    found = samples(page)
    whose = "model=m,outcome=hit,provider=openai,status=2xx,tier=memory"
    assert found[f"llm_cache_proxy_requests_total{{{whose}}}"] == 2
    assert found["llm_cache_proxy_request_duration_seconds_count{outcome=hit}"] == 2
    assert found["llm_cache_proxy_request_duration_seconds_bucket{le=+Inf,outcome=hit}"] == 2
    assert found["llm_cache_proxy_upstream_duration_seconds_count{provider=openai}"] == 1
    assert found["llm_cache_proxy_saved_usd_total{model=m,provider=openai}"] > 0
    assert found["llm_cache_proxy_stored_total"] == found["llm_cache_proxy_cache_entries"] == 1
    assert found["llm_cache_proxy_cache_skipped"] == 0
    assert "secret" not in page.text
    assert "mine" not in page.text
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_scraping_again_counts_nothing_twice(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """What was taken is shown, however often it is asked for."""
    live = await proxy(admin=TOKENS)
    await asker(client, live)()
    pages = [samples(await client.get(f"{live.origin}/metrics")) for _ in range(3)]
    totals = [{name: value for name, value in page.items() if "_total" in name} for page in pages]
    assert totals[0] == totals[1] == totals[2]


async def test_openmetrics_is_spoken_too(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """To who asks for it."""
    live = await proxy(admin=TOKENS)
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    page = await client.get(f"{live.origin}/metrics", headers=accept)
    assert page.headers["content-type"].startswith("application/openmetrics-text")
    assert page.text.endswith("# EOF\n")


async def test_metrics_on_loopback_are_open_but_not_to_other_sites(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """Nor to a page that took our name."""
    live = await proxy(admin=TOKENS)
    url = f"{live.origin}/metrics"
    assert (await client.get(url)).status_code == 200
    for foreign in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        assert (await client.get(url, headers=foreign)).status_code == 403


async def test_metrics_where_others_can_ask_need_a_token(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """One of the operator's; `[ops]` gives them a listener of their own without one."""
    live = await proxy(admin=TOKENS, server={"host": "0.0.0.0"})
    url = f"{live.origin}/metrics"
    assert (await client.get(url)).status_code == 401
    assert (await client.get(url, headers=bearing(READ))).status_code == 200
    apart = await proxy(admin=TOKENS, server={"host": "0.0.0.0"}, ops={"port": 0})
    assert (await client.get(f"{apart.origin}/metrics")).status_code == 404
    transport = httpx.ASGITransport(apart.app.ops)
    async with httpx.AsyncClient(transport=transport, base_url="http://pod:8485") as scraper:
        assert (await scraper.get("/metrics")).status_code == 200


async def test_a_hits_event_is_complete(
    proxy: StartProxy, client: httpx.AsyncClient, events: list[Event], tmp_path: Path
) -> None:
    """Where it was found, how old it was, how large it was, what it saved."""
    cache = {"url": f"sqlite:///{tmp_path}/cache.db", "memory_bytes": 0, "namespace": "tests"}
    live = await proxy(cache=cache, **PRICED)
    ask = asker(client, live)
    missed, found = await ask(), await ask()
    miss, hit = events
    assert (miss.tier, hit.tier, hit.namespace) == ("", "sqlite", "tests")
    assert hit.request_bytes == len(found.request.content)
    assert hit.answer_bytes == len(found.content)
    assert miss.answer_bytes == len(missed.content)
    assert hit.saved_usd == hit.usd == miss.usd
    assert miss.saved_usd == 0
    assert hit.age is not None
    assert 0 <= hit.age < 60


async def test_a_traces_headers_go_on_unchanged(
    proxy: StartProxy, client: httpx.AsyncClient, provider: FakeProvider, events: list[Event]
) -> None:
    """On misses and past the cache; they are not in the key, and the log names the trace."""
    live = await proxy()
    ask = asker(client, live)
    trace = {"traceparent": PARENT, "tracestate": "vendor=a:1,other=b"}
    await ask(MINE | trace)
    other = await ask(MINE | {"traceparent": PARENT.replace("0af7", "1af7")})
    await client.get(f"{live.base_url}/models", headers=MINE | trace)
    assert other.headers["x-cache"] == "HIT"
    assert [event.trace_id for event in events] == [TRACE, "1af7" + TRACE[4:], TRACE]
    assert len(provider.calls) == 2
    for call in provider.calls:
        headers = dict(call.headers)
        assert headers[b"traceparent"] == PARENT.encode()
        assert headers[b"tracestate"] == b"vendor=a:1,other=b"


@pytest.mark.parametrize(
    "parent", ["", "no trace", "00-" + "0" * 32 + "-b7ad6b7169203331-01", f"ff{PARENT[2:]}"]
)
async def test_what_is_no_trace_has_no_id(
    proxy: StartProxy, client: httpx.AsyncClient, events: list[Event], parent: str
) -> None:
    """Nothing that a caller makes up is taken for one."""
    live = await proxy()
    await asker(client, live)(MINE | {"traceparent": parent})
    assert [event.trace_id for event in events] == [""]


async def test_stats_while_the_proxy_is_busy(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """However many ask for figures at once, each request is counted once."""
    live = await proxy(admin=TOKENS)
    ask = asker(client, live)
    await ask()
    await asyncio.gather(*(ask() for _ in range(20)), *(told(client, live) for _ in range(10)))
    assert (await told(client, live))["hits"] == 20
