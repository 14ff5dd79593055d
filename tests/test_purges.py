"""What was purged nobody is told any more: also not what was being fetched at that time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cache_backends import ChatGeneration, Entry, MemoryCache, SQLiteCache, TieredCache
from cache_backends.shared import EVERYTHING, Filter, ManagedCache, SharedCache
from tests.fakes.chat import MINE, asker, asking, own, saying, tells, words
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.shared_cache import FakeSharedCache, World

# Short, so that purges are; but fetches outlast it only where a test wants them to.
LEASE_S = 0.1
JOKE = expected(asking(), credential="Bearer mine")
MARKED = own("tags=(joke), namespace=evals")
COVERING = [
    EVERYTHING,
    Filter(tag="joke"),
    Filter(model="m"),
    Filter(namespace="evals"),
    Filter(provider="openai", dialect="chat/1", model="m", namespace="evals", tag="joke"),
]
OTHERS = [
    Filter(tag="jokes"),
    Filter(model="n"),
    Filter(namespace=""),
    Filter(model="m", tag="jokes"),
    Filter(ids=("0" * 64,)),
]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def tier(world: World) -> Callable[..., TieredCache]:
    """`tier()`: the cache of one more process before the store."""

    def before(shared: SharedCache | None = None, lease: float = LEASE_S) -> TieredCache:
        memory = MemoryCache(max_bytes=2**22)
        return TieredCache(memory, shared or FakeSharedCache(world), lease=lease)

    return before


Tier = Callable[..., TieredCache]


async def begun(provider: FakeProvider, ask: Any, **fields: Any) -> asyncio.Task[httpx.Response]:
    """An ask that has reached the provider."""
    asked = asyncio.create_task(ask(**fields))
    await provider.received(len(provider.calls) + 1)
    return asked


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_fetched_during_a_purge_is_delivered_and_not_stored(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    tier: Tier,
    stream: bool,
) -> None:
    """It is what its asker wanted; who comes later is told something newer."""
    provider.script(Answer(gate=(gate := Gate())))
    live = await proxy(cache := tier())
    ask = asker(client, live)
    asked = await begun(provider, ask, stream=stream)
    await cache.purge(EVERYTHING)
    await gate.open()
    assert words((await asked).content) == JOKE
    assert await live.stored() == 0
    outcomes = [(await ask(stream=stream)).headers["x-cache"] for _ in range(2)]
    assert outcomes == ["MISS", "HIT"]
    assert len(provider.calls) == 2


async def test_an_answer_that_was_purged_does_not_claim_to_be_stored(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, tier: Tier
) -> None:
    """`Cache-Status` says so, and what comes next is not taken for one that cannot be stored."""
    provider.script(Answer(gate=(gate := Gate())))
    live = await proxy(cache := tier())
    ask = asker(client, live)
    asked = await begun(provider, ask)
    await cache.purge(EVERYTHING)
    await gate.open()
    assert "stored" not in tells(await asked)[1].replace("stored=?0", "")
    assert "stored" in tells(await ask())[1]


@pytest.mark.parametrize("filter", COVERING, ids=str)
async def test_nobody_joins_a_fetch_that_a_purge_covers(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    tier: Tier,
    filter: Filter,
) -> None:
    """Whoever asks after the purge gets a call of his own, which others join."""
    provider.always = Answer(gate=(gate := Gate()))
    live, cache = await proxy(tier()), tier()
    ask = asker(client, live)
    first = await begun(provider, ask, headers=MARKED)
    await cache.purge(filter)
    second = await begun(provider, ask, headers=MARKED)
    third = asyncio.create_task(ask(headers=MARKED))
    await live.listening(2)
    await gate.open()
    told = [tells(await each)[0] for each in (first, second, third)]
    assert told == ["MISS", "MISS", "COLLAPSED"]
    assert len(provider.calls) == 2
    assert await live.stored() == 1
    assert tells(await ask(headers=MARKED))[0] == "HIT"
    await cache.aclose()


async def test_nobody_joins_a_fetch_that_is_purged_by_its_id(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, tier: Tier
) -> None:
    """As the answer's header names it."""
    live = await proxy(cache := tier())
    ask = asker(client, live)
    key_id = (await ask()).headers["x-llm-cache-id"]
    await cache.purge(EVERYTHING)
    provider.always = Answer(gate=(gate := Gate()))
    first = await begun(provider, ask)
    await cache.purge(Filter(ids=(key_id,)))
    second = await begun(provider, ask)
    await gate.open()
    assert [tells(await each)[0] for each in (first, second)] == ["MISS", "MISS"]


@pytest.fixture(params=["memory", "tiered"])
def managed(request: pytest.FixtureRequest, tier: Tier) -> ManagedCache:
    """What one process has, alone or before a store."""
    return MemoryCache(max_bytes=2**22) if request.param == "memory" else tier()


@pytest.mark.parametrize("stream", [False, True])
async def test_one_process_alone_stores_nothing_that_was_purged_either(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    managed: ManagedCache,
    stream: bool,
) -> None:
    """What is fetched during a purge is delivered, joined by nobody after it, and not stored."""
    provider.always = Answer(gate=(gate := Gate()))
    live = await proxy(managed)
    ask = asker(client, live)
    first = await begun(provider, ask, stream=stream, headers=MARKED)
    await managed.purge(Filter(tag="joke"))
    second = await begun(provider, ask, stream=stream, headers=MARKED)
    await managed.purge(Filter(model="m"))
    await gate.open()
    assert [tells(await each)[0] for each in (first, second)] == ["MISS", "MISS"]
    assert await live.stored() == 0
    outcomes = [tells(await ask(stream=stream, headers=MARKED))[0] for _ in range(2)]
    assert outcomes == ["MISS", "HIT"]


@pytest.mark.parametrize("how", ["delete", "aclear"])
async def test_deleting_and_clearing_are_purges(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    managed: ManagedCache,
    how: str,
) -> None:
    """What is fetched anew meanwhile does not come back."""
    live = await proxy(managed)
    ask = asker(client, live)
    key_id = (await ask()).headers["x-llm-cache-id"]
    provider.script(Answer(gate=(gate := Gate())))
    refresh = await begun(provider, ask, headers=own("no-cache"))
    await (managed.delete(key_id) if how == "delete" else managed.aclear())
    await gate.open()
    await refresh
    assert await live.stored() == 0
    assert tells(await ask())[0] == "MISS"


async def test_what_was_put_right_is_not_overwritten_by_what_is_being_fetched(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, managed: ManagedCache
) -> None:
    """Its asker gets what he wanted; all others what the operator said."""
    live = await proxy(managed)
    ask = asker(client, live)
    key_id = (await ask()).headers["x-llm-cache-id"]
    provider.script(Answer(gate=(gate := Gate())))
    refresh = await begun(provider, ask, headers=own("no-cache"))
    (old,) = await managed.by_ids([key_id])
    assert old is not None
    (said,) = old.generations
    assert isinstance(said, ChatGeneration)
    message = said.message | {"content": "put right"}
    await managed.amend([replace(old, generations=[replace(said, message=message)])])
    await gate.open()
    assert words((await refresh).content) == JOKE
    answer = await ask()
    assert (tells(answer)[0], words(answer.content)) == ("HIT", "put right")


@pytest.mark.parametrize("filter", OTHERS, ids=str)
async def test_a_purge_of_others_hinders_nobody(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    tier: Tier,
    filter: Filter,
) -> None:
    """Fetches that it does not cover are joined, and stored."""
    provider.always = Answer(gate=(gate := Gate()))
    live = await proxy(cache := tier())
    ask = asker(client, live)
    first = await begun(provider, ask, headers=MARKED)
    await cache.purge(filter)
    second = asyncio.create_task(ask(headers=MARKED))
    await live.listening(2)
    await gate.open()
    assert [tells(await each)[0] for each in (first, second)] == ["MISS", "COLLAPSED"]
    assert await live.stored() == len(provider.calls) == 1


async def test_a_stream_that_is_purged_goes_on_for_those_who_listen(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, tier: Tier
) -> None:
    """Who joined before has all of it, who comes after has another."""
    provider.script(Answer(chunk_gate=(gate := Gate())))
    live = await proxy(cache := tier())
    ask = asker(client, live)
    listeners = [await begun(provider, ask, stream=True)]
    listeners.append(asyncio.create_task(ask(stream=True)))
    await live.listening(2)
    await gate.release(3)
    await cache.purge(Filter(model="m"))
    assert tells(await ask(stream=True))[0] == "MISS"
    await gate.open()
    assert [words((await each).content) for each in listeners] == [JOKE, JOKE]
    assert len(provider.calls) == 2
    assert await live.stored() == 1


async def test_light_traffic_joins_a_slow_stream(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, tier: Tier
) -> None:
    """Although nobody asked anything for longer than a lease: the purge log is read meanwhile."""
    provider.script(Answer(chunk_gate=(gate := Gate())))
    live = await proxy(tier(lease=0.5))
    ask = asker(client, live)
    first = await begun(provider, ask, stream=True)
    await gate.release(3)
    await asyncio.sleep(0.7)
    second = asyncio.create_task(ask(stream=True))
    await live.listening(2)
    await gate.open()
    assert [tells(await each)[0] for each in (first, second)] == ["MISS", "COLLAPSED"]
    assert len(provider.calls) == 1


async def test_without_the_store_a_young_fetch_is_joined_an_old_one_is_not(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, tier: Tier, world: World
) -> None:
    """What was purged meanwhile cannot be known; what began within a lease is no older."""
    store = FakeSharedCache(world)
    live = await proxy(tier(store, lease=0.5))
    ask = asker(client, live)
    await ask()
    store.down = True
    await asyncio.sleep(0.5)
    provider.always = Answer(gate=(gate := Gate()))
    young = [asyncio.create_task(ask(messages=[])) for _ in range(20)]
    await live.listening(20)
    assert len(provider.calls) == 2
    await asyncio.sleep(0.5)
    old = await begun(provider, ask, messages=[])
    await gate.open()
    outcomes = sorted(tells(each)[0] for each in await asyncio.gather(*young))
    assert outcomes == ["COLLAPSED"] * 19 + ["MISS"]
    assert tells(await old)[0] == "MISS"


async def test_what_an_idle_process_fetches_after_a_purge_is_shared_and_stored(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, tier: Tier
) -> None:
    """It hears of the purge when it looks the answer up: what it fetches then is no older."""
    live, other = await proxy(tier()), tier()
    ask = asker(client, live)
    await ask()
    await other.purge(EVERYTHING)
    provider.always = Answer(gate=(gate := Gate()))
    asked = [asyncio.create_task(ask()) for _ in range(10)]
    await live.listening(10)
    await gate.open()
    outcomes = sorted(tells(each)[0] for each in await asyncio.gather(*asked))
    assert outcomes == ["COLLAPSED"] * 9 + ["MISS"]
    assert len(provider.calls) == 2
    assert await live.stored() == 1
    await other.aclose()


@pytest.mark.parametrize("idle", [False, True])
async def test_a_refreshed_answer_is_as_old_as_its_fetch(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, tier: Tier, idle: bool
) -> None:
    """Purged while it was fetched it is not stored; purged before, by another process, it is."""
    live, other = await proxy(tier()), tier()
    ask = asker(client, live)
    await ask()
    if idle:
        await other.purge(EVERYTHING)
    provider.script(Answer(gate=(gate := Gate())))
    asked = await begun(provider, ask, headers=saying("no-cache"))
    if not idle:
        await other.purge(EVERYTHING)
    await gate.open()
    assert words((await asked).content) == JOKE
    assert tells(await ask())[0] == ("HIT" if idle else "MISS")
    await other.aclose()


async def test_a_refreshed_answer_reaches_other_processes(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, tier: Tier
) -> None:
    """Within a lease, although they have the old one in memory."""
    asks = [asker(client, await proxy(tier())) for _ in range(2)]
    old = {(await ask()).json()["id"] for ask in asks * 2}
    assert len(old) == 1
    new = (await asks[0](headers=saying("no-cache"))).json()["id"]
    await asyncio.sleep(LEASE_S)
    told = [(await ask()) for ask in asks]
    assert [(each.json()["id"], tells(each)[0]) for each in told] == [(new, "HIT")] * 2
    assert new not in old


async def test_a_slow_lookup_is_shared_during_a_purge(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, tier: Tier, world: World
) -> None:
    """It does not find what was purged before it ends: nobody needs one of his own."""
    store, other = FakeSharedCache(world), tier()
    live = await proxy(tier(store))
    ask = asker(client, live)
    await ask()
    store.gates["get"] = gate = Gate()
    live.app.store._cache._memory.clear()
    asked = [asyncio.create_task(ask())]
    await gate.reached()
    await other.purge(EVERYTHING)
    asked += [asyncio.create_task(ask()) for _ in range(4)]
    await live.listening(5)
    await gate.open()
    outcomes = sorted(tells(each)[0] for each in await asyncio.gather(*asked))
    assert outcomes == ["COLLAPSED"] * 4 + ["MISS"]
    assert len(provider.calls) == 2
    await other.aclose()


Embed = Callable[..., Any]


@pytest.fixture
def embedder(client: httpx.AsyncClient) -> Callable[[LiveProxy], Embed]:
    """`embedder(live)("a", "b")`: what became of a request for the vectors of both."""

    def of(live: LiveProxy) -> Embed:
        async def embed(*inputs: str) -> str:
            body = {"model": "e", "input": inputs}
            url = f"{live.base_url}/embeddings"
            return tells(await client.post(url, json=body, headers=MINE))[0]

        return embed

    return of


async def test_known_parts_of_a_batch_that_were_purged_are_told_to_no_newcomer(
    proxy: StartProxy, provider: FakeProvider, embedder: Callable[..., Embed], tier: Tier
) -> None:
    """They were found before the rest was fetched: who asks now has all of it fetched."""
    embed = embedder(await proxy(cache := tier()))
    assert await embed("a") == "MISS"
    provider.always = Answer(gate=(gate := Gate()))
    first = asyncio.create_task(embed("a", "b"))
    await provider.received(2)
    await cache.purge(Filter(model="e"))
    second = asyncio.create_task(embed("a", "b"))
    await provider.received(3)
    await gate.open()
    assert await asyncio.gather(first, second) == ["PARTIAL", "MISS"]
    assert [call.json()["input"] for call in provider.calls] == [["a"], ["b"], ["a", "b"]]


async def test_known_parts_of_a_batch_are_not_young(
    proxy: StartProxy,
    provider: FakeProvider,
    embedder: Callable[..., Embed],
    tier: Tier,
    world: World,
) -> None:
    """Without news of purges a fetch that began just now is joined, but not with what it found."""
    store = FakeSharedCache(world)
    embed = embedder(await proxy(cache := tier(store, lease=60.0)))
    assert await embed("a") == "MISS"
    provider.always = Answer(gate=(gate := Gate()))
    first = asyncio.create_task(embed("a", "b"))
    await provider.received(2)
    store.down, cache._trusted_until = True, 0.0
    second = asyncio.create_task(embed("a", "b"))
    await provider.received(3)
    await gate.open()
    assert await asyncio.gather(first, second) == ["PARTIAL", "MISS"]


class Recorded(SQLiteCache):
    """Remembers what was stored."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.stored: list[Entry] = []

    async def put_many(self, entries: Sequence[Entry]) -> None:
        self.stored.extend(entries)
        await super().put_many(entries)


async def test_nothing_that_was_purged_is_back_after_a_restart(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    tier: Tier,
    tmp_path: Path,
) -> None:
    """Not even what a save brought into the file too late; what was stored after the purge is."""
    file = Recorded(tmp_path / "cache.db")
    live = await proxy(cache := tier(file))
    ask = asker(client, live)
    for number in range(3):
        await ask(seed=number)
    late = tuple(file.stored)
    assert await cache.purge(EVERYTHING) == 3
    await file.put_many(late)
    assert tells(await ask(seed=0))[0] == "MISS"
    again = asker(client, await proxy(tier(SQLiteCache(tmp_path / "cache.db"))))
    assert [tells(await again(seed=number))[0] for number in range(3)] == ["HIT", "MISS", "MISS"]


async def test_without_memory_purges_are_complete_too(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """`memory_bytes = 0`: each hit is read from the store, what was purged is refused all the
    same."""
    url = f"sqlite:///{tmp_path}/cache.db"
    live = await proxy(cache={"url": url, "memory_bytes": 0, "memory_lease_s": 0.5})
    ask = asker(client, live)
    assert [tells(await ask())[0] for _ in range(2)] == ["MISS", "HIT"]
    assert "memory" not in tells(await ask())[1]
    provider.script(Answer(gate=(gate := Gate())))
    asked = await begun(provider, ask, seed=1)
    other = TieredCache(MemoryCache(max_bytes=1), SQLiteCache(tmp_path / "cache.db"))
    assert await other.purge(EVERYTHING) == 1
    await gate.open()
    await asked
    assert [tells(await ask(seed=seed))[0] for seed in (1, 1)] == ["MISS", "HIT"]
    await other.aclose()
