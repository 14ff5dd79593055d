"""Within a run the k-th equal request is sample k: told apart, stored, and replayed in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from cache_backends import MemoryCache, TieredCache, open_cache
from cache_backends.shared import Filter, SharedCache
from proxy.models import Mode
from tests.fakes.chat import MINE, PATH, asker, asking, own
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.raw_client import Connect
from tests.fakes.shared_cache import FakeSharedCache, World

Ask = Callable[..., Coroutine[Any, Any, httpx.Response]]


def runner(client: httpx.AsyncClient, live: LiveProxy, run: str = "first") -> Ask:
    """`ask()`: the next answer of the run."""
    ask = asker(client, live)

    async def ask_in_run(more: str = "", **fields: Any) -> httpx.Response:
        return await ask(own(f"run={run}{more}"), **fields)

    return ask_in_run


def ids(told: list[httpx.Response]) -> list[str]:
    """The ids of answers: each call to the provider has another."""
    return [answer.json()["id"] for answer in told]


async def test_a_run_asks_anew_each_time_and_the_next_replays_it(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Five equal requests are five answers; in another run the same, in order, for nothing."""
    live = await proxy()
    ask, again = runner(client, live), runner(client, live, "second")
    first = [await ask() for _ in range(5)]
    assert len(set(ids(first))) == len(provider.calls) == 5
    second = [await again() for _ in range(5)]
    assert ids(second) == ids(first)
    assert {told.headers["x-cache"] for told in second} == {"HIT"}
    assert (await again()).headers["x-cache"] == "MISS"
    assert len(provider.calls) == 6
    await live.settled()


async def test_concurrent_requests_of_a_run_share_nothing(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Eight at once are eight samples."""
    provider.always = Answer(gate=(gate := Gate()))
    live = await proxy()
    ask = runner(client, live)
    asked = [asyncio.create_task(ask()) for _ in range(8)]
    await gate.reached(8)
    await gate.open()
    told = await asyncio.gather(*asked)
    assert len({answer.headers["x-llm-cache-id"] for answer in told}) == 8
    assert len(set(ids(told))) == len(provider.calls) == await live.stored() == 8


async def test_the_plain_entry_is_sample_0(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """A run begins with what was stored without one, and leaves the others where `sample` is."""
    live = await proxy()
    plain = asker(client, live)
    stored = await plain()
    ask = runner(client, live)
    told = [await ask(), await ask()]
    assert ids(told)[0] == ids([stored])[0]
    assert ids([await plain(own("sample=1"))])[0] == ids(told)[1]
    assert len(provider.calls) == 2


@pytest.mark.parametrize(
    "failure",
    [Answer(status=500), Answer(status=429), Answer(reset_after=0), Answer(cut_after=0)],
    ids=["500", "429", "reset", "cut"],
)
async def test_a_failed_attempt_gives_its_number_back(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, failure: Answer
) -> None:
    """The next one gets it, so that the samples have no gap."""
    live = await proxy()
    ask = runner(client, live)
    first = await ask()
    provider.script(failure)
    assert (await ask()).status_code >= 429
    rest = [await ask() for _ in range(2)]
    again = runner(client, live, "second")
    assert ids([await again() for _ in range(3)]) == ids([first, *rest])
    assert len(provider.calls) == 4


@pytest.mark.parametrize("broken", [Answer(cut_after=2), Answer(error={"message": "overloaded"})])
async def test_a_stream_that_breaks_off_gives_its_number_back(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, broken: Answer
) -> None:
    """Whether the connection is cut or an event says it."""
    live = await proxy()
    ask = runner(client, live)
    provider.script(broken)
    try:
        await ask(stream=True)
    except httpx.RemoteProtocolError:
        assert broken.cut_after
    told = await ask(stream=True)
    replayed = await runner(client, live, "second")(stream=True)
    assert (replayed.headers["x-cache"], replayed.headers["x-llm-cache-id"]) == (
        "HIT",
        told.headers["x-llm-cache-id"],
    )


async def test_who_leaves_before_an_answer_and_asks_again_gets_that_answer(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, connect: Connect
) -> None:
    """As an SDK does that lost patience: what is being fetched for it is not paid twice."""
    provider.script(Answer(gate=(gate := Gate())))
    live = await proxy()
    raw = await connect(live.base_url)
    await raw.post(PATH, asking(), own("run=first"))
    await gate.reached()
    raw.leave()
    await live.listening(0)
    again = asyncio.create_task(runner(client, live)())
    await live.listening(1)
    await gate.open()
    told = await again
    assert len(provider.calls) == 1
    assert ids([await runner(client, live, "second")()]) == ids([told])
    assert (await runner(client, live)()).headers["x-cache"] == "MISS"


async def test_a_sample_that_is_named_is_not_counted(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Beside `sample=` the run only says who made the entry."""
    live = await proxy(backend=(cache := MemoryCache(max_bytes=2**20)))
    ask = runner(client, live)
    assert [(await ask(", sample=3")).headers["x-cache"] for _ in range(2)] == ["MISS", "HIT"]
    assert (await ask()).headers["x-cache"] == "MISS"
    (made, other) = (await cache.page(Filter(run="first"))).entries
    assert made.about["run"] == other.about["run"] == "first"


async def test_a_run_may_be_named_in_the_base_url(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """For harnesses that can set nothing else; numbers need no quotes."""
    live = await proxy()
    for _ in range(2):
        for url in ("/~run=7/v1", "/~run=%22a%20b%22/v1"):
            target = f"{live.origin}{url}/chat/completions"
            await client.post(target, json=asking(), headers=MINE)
    assert len(provider.calls) == 2
    refused = await asker(client, live)(own('run=""'))
    assert refused.status_code == 400
    assert "run" in refused.json()["error"]["message"]


async def test_who_wants_no_answer_of_the_cache_is_not_counted(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """`no-store` in a run leaves the numbers to the others."""
    live = await proxy()
    ask = runner(client, live)
    await ask(", no-store")
    told = await ask()
    assert ids([await asker(client, live)()]) == ids([told])


async def test_runs_of_others_have_their_own_numbers(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """As many credentials may call a run "first"."""
    live = await proxy()
    ask = asker(client, live)
    for credential in ("mine", "yours"):
        headers = {"authorization": f"Bearer {credential}", "llm-cache-control": "run=first"}
        told = await ask(headers)
        assert (await ask({"authorization": f"Bearer {credential}"})).json() == told.json()


async def test_a_batch_is_counted_as_one_question(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """The second equal batch is sample 1 of each input; a new run has both for nothing."""
    live = await proxy()

    async def embed(run: str) -> httpx.Response:
        body = {"model": "m", "input": ["a", "b"]}
        return await client.post(f"{live.base_url}/embeddings", json=body, headers=own(run))

    told = [await embed("run=first") for _ in range(2)]
    assert (len(provider.calls), await live.stored()) == (2, 4)
    assert [(await embed("run=second")).json() for _ in range(2)] == [
        answer.json() for answer in told
    ]
    assert len(provider.calls) == 2


async def test_offline_a_run_is_replayed(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Sample after sample, then an error that takes no number."""
    live = await proxy()
    recorded = [await runner(client, live)() for _ in range(2)]
    await live.app.switch.set(Mode.OFFLINE)
    ask = runner(client, live, "second")
    assert ids([await ask() for _ in range(2)]) == ids(recorded)
    assert [(await ask()).status_code for _ in range(2)] == [424, 424]
    await live.app.switch.set(Mode.NORMAL)
    third = await ask()
    again = runner(client, live, "third")
    assert ids([await again() for _ in range(3)])[2] == ids([third])[0]


@pytest.fixture
def workers(proxy: StartProxy) -> Callable[..., Awaitable[list[LiveProxy]]]:
    """`await workers(open)`: two proxies on one store; `open` gives each a cache of its own."""

    async def start(opened: Callable[[], SharedCache], **sections: Any) -> list[LiveProxy]:
        return [
            await proxy(
                backend=TieredCache(MemoryCache(max_bytes=2**22), opened(), lease=0.1), **sections
            )
            for _ in range(2)
        ]

    return start


Workers = Callable[..., Awaitable[list[LiveProxy]]]


async def test_workers_never_hand_out_a_number_twice(
    workers: Workers, tmp_path: Path, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Two on one SQLite file, asked at the same time and in turn."""

    def opened() -> SharedCache:
        cache = open_cache(f"sqlite:///{tmp_path}/cache.db")
        assert isinstance(cache, SharedCache)
        return cache

    both = await workers(opened, cache={"lookup_timeout_s": 5.0})
    asks = [runner(client, live) for live in both]
    told = await asyncio.gather(*(ask() for ask in asks * 4))
    told += [await ask() for ask in asks * 2]
    assert len(set(ids(list(told)))) == len(provider.calls) == 12
    again = [runner(client, live, "second") for live in both]
    replayed = [await ask() for ask in again * 6]
    assert sorted(ids(replayed)) == sorted(ids(list(told)))
    assert len(provider.calls) == 12


async def test_a_number_given_back_to_one_worker_is_used_by_another(
    workers: Workers, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """The SDK's second try may come to either of them."""
    world = World()
    one, other = [runner(client, live) for live in await workers(lambda: FakeSharedCache(world))]
    told = [await one(), await other()]
    provider.script(Answer(status=500))
    gate = Gate()
    provider.script(Answer(gate=gate))
    failing = asyncio.create_task(one())
    waiting = asyncio.create_task(other())
    await failing
    await gate.reached()
    told.append(await other())
    await gate.open()
    told.append(await waiting)
    replay = asker(client, (await workers(lambda: FakeSharedCache(world)))[0])
    kept = [await replay(own(f"sample={number}, only-if-cached")) for number in range(4)]
    assert sorted(ids(kept)) == sorted(ids(told))


async def test_with_the_store_down_a_process_counts_alone(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Nobody waits, and nobody is told a sample twice."""
    shared = FakeSharedCache(World())
    live = await proxy(backend=TieredCache(MemoryCache(max_bytes=2**20), shared))
    ask = runner(client, live)
    first = await ask()
    shared.down = True
    rest = [await ask() for _ in range(3)]
    assert len(set(ids([first, *rest]))) == 4
