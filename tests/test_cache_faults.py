"""Whatever the cache does, the answer is right and comes in time, over real sockets."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cache_backends.base import Entry, Generation, NullCache
from cache_backends.memory import MemoryCache
from cache_backends.plain import PlainCache
from proxy.store import Breaker
from tests.fakes.broken_cache import BrokenCache, Fault
from tests.fakes.chat import MINE, YOURS, asker, asking, words
from tests.fakes.clock import FakeClock
from tests.fakes.dict_cache import DictCache
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider, Gate

JOKE = expected(asking(), credential="Bearer mine")
SOON = {"lookup_timeout_s": 0.05, "save_timeout_s": 0.05}


class Unready(NullCache):
    """Never has anything at hand: every lookup is awaited."""

    def __init__(self) -> None:
        self.held: dict[str, Entry] = {}

    async def get_many(self, keys):  # type: ignore[no-untyped-def]
        return [self.held.get(key.id) for key in keys]

    async def put_many(self, entries):  # type: ignore[no-untyped-def]
        self.held |= {entry.key.id: entry for entry in entries}


async def ready(client: httpx.AsyncClient, live: LiveProxy) -> dict[str, Any]:
    told = await client.get(f"{live.origin}/readyz")
    assert told.status_code == 200
    state: dict[str, Any] = told.json()
    return state


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("stream", [False, True])
async def test_any_fault_of_the_cache_is_a_miss(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    fault: Fault,
    stream: bool,
) -> None:
    """It raises, hangs, holds nonsense or another's answer: the provider's answer arrives."""
    cache = BrokenCache(fault=fault)
    cache.operations = frozenset({"peek", "get_many", "put_many"})
    live = await proxy(cache, cache=SOON)
    ask = asker(client, live)
    for number, prompt in enumerate("abcdefg"):
        told = await ask(prompt=prompt, stream=stream)
        assert words(told.content) == expected(asking(prompt), credential="Bearer mine")
        assert told.headers["x-cache"] == "MISS"
        assert len(provider.calls) == number + 1
    await live.settled()


@pytest.mark.parametrize("stream", [False, True])
async def test_nonsense_in_an_entry_is_a_miss(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, stream: bool
) -> None:
    """The right key, and an answer that cannot be told: it is fetched and stored anew."""
    cache = Unready()
    live = await proxy(cache)
    ask = asker(client, live)
    await ask()
    (entry,) = cache.held.values()
    (said,) = entry.generations
    info = said.generation_info or {}
    for broken in ([7.5], {**info, "envelope": 7.5}, {**info, "choice": 7.5}):
        nonsense: Any = replace(said, generation_info=broken)
        cache.held[entry.key.id] = replace(entry, generations=[nonsense])
        answer = await ask(stream=stream)
        assert (answer.headers["x-cache"], words(answer.content)) == ("MISS", JOKE)
        assert (await ask(stream=stream)).headers["x-cache"] == "HIT"
    await live.settled()


async def test_a_lookup_that_hangs_costs_no_more_than_its_deadline(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """After five of them the cache is skipped; when it answers again, it is used again."""
    cache = BrokenCache(Unready(), Fault.HANG)
    cache.operations = frozenset({"get_many"})
    live = await proxy(cache, cache={"lookup_timeout_s": 0.1})
    ask = asker(client, live)
    for prompt in "abcdefg":
        began = time.monotonic()
        assert (await ask(prompt=prompt)).headers["x-cache"] == "MISS"
        assert time.monotonic() - began < 5  # not for ever; the fake hangs until it is cancelled
    assert cache.calls.count("get_many") >= 5
    await live.settled()


@pytest.mark.parametrize("operation", ["get_many", "put_many"])
async def test_a_cache_that_keeps_failing_is_skipped_until_it_recovers(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
) -> None:
    """/readyz says that it is degraded and why; it is tried again, and all is well."""
    monkeypatch.setattr(Breaker, "RETRY_S", 0.05)
    cache = BrokenCache(Unready(), Fault.NONE)
    live = await proxy(cache)
    ask = asker(client, live)
    cache_is = {"name": "memory", "state": "open"}
    assert await ready(client, live) == {"status": "ready", "cache": cache_is}
    cache.fault, cache.operations = Fault.ERROR, frozenset({operation, "peek"})
    for prompt in "abcdef":
        await ask(prompt=prompt)
    state = await ready(client, live)
    assert state["status"] == "degraded"
    assert state["reason"] in ("cache lookup failed: OSError", "cache save failed: OSError")
    assert state["cache"] == {"name": "memory", "state": "skipped", "failed": state["reason"]}
    cache.fault = Fault.NONE
    async with asyncio.timeout(5):
        while (await ready(client, live))["status"] != "ready":
            await ask(prompt="again")  # a save is only tried where there is one
    await ask()
    assert (await ask()).headers["x-cache"] == "HIT"
    await live.settled()


async def test_a_cache_that_cannot_be_opened_does_not_keep_requests_waiting(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They go past it, marked so, until it can; nothing is keyed before its secret is known."""
    monkeypatch.setattr("proxy.application.REOPEN_S", 0.02)
    monkeypatch.setattr(Breaker, "RETRY_S", 0.02)
    cache = BrokenCache(MemoryCache(max_bytes=2**20), Fault.ERROR)
    live = await proxy(cache)
    ask = asker(client, live)
    told = await ask()
    assert (told.headers["x-cache"], words(told.content)) == ("BYPASS", JOKE)
    assert "the cache is not available" in told.headers["cache-status"]
    reason = "cache opening failed: OSError"
    assert await ready(client, live) == {
        "status": "degraded",
        "reason": reason,
        "cache": {"name": "memory", "state": "opening", "failed": reason},
    }
    assert (await ask({**MINE, "cache-control": "only-if-cached"})).status_code == 504
    cache.fault = Fault.NONE
    async with asyncio.timeout(5):
        while (await ready(client, live))["status"] != "ready":  # noqa: ASYNC110 - as a probe does
            await asyncio.sleep(0.01)
    assert (await ask()).headers["x-cache"] == "MISS"
    assert (await ask()).headers["x-cache"] == "HIT"
    await live.settled()


async def test_a_file_that_cannot_be_opened_is_named(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """A cache in a place that is none: requests are answered."""
    (tmp_path / "file").write_text("no folder")
    live = await proxy(cache={"url": f"sqlite:///{tmp_path}/file/cache.db"})
    assert words((await asker(client, live)()).content) == JOKE
    assert (await ready(client, live))["status"] == "degraded"


async def test_a_class_of_ones_own_is_a_cache(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Named by module and class; plain and streamed, tools and usage come back as they came."""
    live = await proxy(cache={"url": "tests.fakes.dict_cache:DictCache"})
    ask = asker(client, live)
    first = await ask()
    hit, streamed = await ask(), await ask(stream=True)
    assert first.headers["x-cache"] == "MISS"
    assert hit.headers["x-cache"] == streamed.headers["x-cache"] == "HIT"
    assert hit.json() == first.json()
    assert words(streamed.content) == JOKE
    assert hit.headers["cache-status"].endswith("detail=tests.fakes.dict_cache:DictCache")
    assert (await ask(YOURS)).headers["x-cache"] == "MISS"
    await live.settled()


async def test_a_plain_cache_knows_age_and_lifetime(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Though it was told of neither: they travel inside."""
    clock = FakeClock()
    plain = PlainCache(DictCache(), clock=clock)
    live = await proxy(plain, clock=clock, cache={"ttl": 60})
    ask = asker(client, live)
    await ask()
    clock.advance(42)
    hit = await ask()
    assert hit.headers["age"] == "42"
    assert "; hit; ttl=18;" in hit.headers["cache-status"]
    clock.advance(42)
    stale = await ask({**MINE, "cache-control": "max-stale"})
    assert "; hit; ttl=-24;" in stale.headers["cache-status"]
    assert (await ask()).headers["x-cache"] == "MISS"
    await live.settled()


async def test_what_others_wrote_into_a_plain_cache_is_no_answer(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Generations without our seal, or mixed up, are a miss."""
    held = DictCache()
    live = await proxy(PlainCache(held))
    ask = asker(client, live)
    await ask()
    for key in [key for key in held.held if "messages" in key[0]]:
        held.held[key] = [Generation("something else")]
    again = await ask()
    assert (again.headers["x-cache"], words(again.content)) == ("MISS", JOKE)
    assert (await ask()).headers["x-cache"] == "HIT"


async def test_misses_have_a_limit_and_hits_do_not(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Past it a 503 that says when to come again; what is stored is still served."""
    live = await proxy(server={"max_misses": 1})
    ask = asker(client, live)
    await ask(prompt="known")
    provider.script(Answer(gate=(gate := Gate())))
    first = asyncio.create_task(ask(prompt="first"))
    await provider.received(2)
    refused = await ask(prompt="second")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "overloaded"
    assert (await ask(prompt="known")).headers["x-cache"] == "HIT"
    await gate.open()
    assert (await first).status_code == 200
    assert (await ask(prompt="second")).status_code == 200
    await live.settled()
