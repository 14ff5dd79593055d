"""No reader that began after a purge returned sees what was there before it, on any process.

The provider's answers carry a version that only grows; each purge is called after it has grown. All
that was asked, told and purged is written down with its times, and judged afterwards.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest

from cache_backends import CacheError, Entry, MemoryCache, TieredCache
from cache_backends.known_purges import KnownPurges
from cache_backends.shared import EVERYTHING, Filter
from tests.fakes.chat import MINE, asking, words
from tests.fakes.live_proxy import StartProxy
from tests.fakes.provider import Answer, FakeProvider
from tests.fakes.replicas import STORES, SharedStore, replicas
from tests.fakes.shared_cache import FakeSharedCache, World

if TYPE_CHECKING:
    from tests.fakes.fault_proxy import FaultProxy

READERS = 20
LEASE_S = 0.5
FILTERS = (EVERYTHING, Filter(model="m"), Filter(provider="openai", namespace=""))

Purge = Callable[[Filter], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Read:
    """What one reader was told, and when he began to ask."""

    prompt: str
    began: float
    version: int
    outcome: str


@dataclass(slots=True)
class History:
    reads: list[Read] = field(default_factory=list)
    returned: list[float] = field(default_factory=list)  # when purge 1, 2, ... did

    def violations(self) -> list[Read]:
        """Reads of a version below that of a purge that had returned before."""
        return [read for read in self.reads if read.version < self._least(read.began)]

    def _least(self, began: float) -> int:
        return sum(returned < began for returned in self.returned)

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(read.outcome for read in self.reads)


class Storm:
    """Readers of a few questions at all proxies, and one who purges their answers."""

    def __init__(self, provider: FakeProvider, base_urls: Sequence[str], purge: Purge) -> None:
        self._provider = provider
        self._base_urls = base_urls
        self._purge = purge
        self._dice = random.Random(7)
        self._history = History()
        self._over = False

    async def rage(self, seconds: float) -> History:
        self._grow(0)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(trust_env=False, timeout=30.0, limits=limits) as client:
            readers = [asyncio.create_task(self._read(client, each)) for each in range(READERS)]
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                await self._purge_once()
                await asyncio.sleep(self._dice.uniform(0, 0.3))
            self._over = True
            await asyncio.gather(*readers)
        return self._history

    async def _purge_once(self) -> None:
        number = len(self._history.returned) + 1
        self._grow(number)
        while True:
            try:
                await self._purge(FILTERS[number % len(FILTERS)])
            except CacheError:  # it is not complete, and says so
                await asyncio.sleep(0.05)
            else:
                break
        self._history.returned.append(time.monotonic())

    def _grow(self, version: int) -> None:
        message = {"role": "assistant", "content": str(version)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        told = {"id": "a", "object": "chat.completion", "model": "m", "choices": [choice]}
        delay_s = self._dice.choice([0, 0.02, 0.2, 0.6])
        self._provider.always = Answer(body=orjson.dumps(told), delay_s=delay_s)

    async def _read(self, client: httpx.AsyncClient, number: int) -> None:
        while not self._over:
            prompt = f"prompt {self._dice.randrange(3)}"
            url = f"{self._base_urls[number % len(self._base_urls)]}/chat/completions"
            began = time.monotonic()
            answer = await client.post(url, json=asking(prompt), headers=MINE)
            version = int(words(answer.content))
            self._history.reads.append(Read(prompt, began, version, answer.headers["x-cache"]))
            await asyncio.sleep(self._dice.uniform(0, 0.02))


Trouble = Callable[[], Awaitable[None]]


@asynccontextmanager
async def troubled(*troubles: Trouble) -> AsyncGenerator[None, None]:
    """Each of them comes again and again meanwhile."""

    async def go_on(trouble: Trouble) -> None:
        while True:
            await trouble()

    tasks = [asyncio.create_task(go_on(trouble)) for trouble in troubles]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def locking(file: Path) -> Trouble:
    """Another program that holds the file's lock for a while: saves are slow."""
    dice = random.Random(1)

    async def trouble() -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("PRAGMA busy_timeout = 5000")
            await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
            await asyncio.sleep(dice.uniform(0.1, 0.8))
        await asyncio.sleep(dice.uniform(0.1, 0.5))

    return trouble


def stumbling(network: FaultProxy, seed: int) -> Trouble:
    """A network that holds back what is said for a while, or is slow: lookups and saves are."""
    dice = random.Random(seed)

    async def trouble() -> None:
        if dice.random() < 0.6:
            await asyncio.to_thread(network.hang)
        else:
            await asyncio.to_thread(network.slow, dice.uniform(0.01, 0.2))
        await asyncio.sleep(dice.uniform(0.1, 0.9))
        await asyncio.to_thread(network.pass_on)
        await asyncio.sleep(dice.uniform(0.1, 0.6))

    return trouble


def way(url: str, fault_proxy: Callable[[str], FaultProxy], seed: int) -> tuple[str, Trouble]:
    """A way to the store with troubles of its own."""
    if url.startswith("sqlite"):
        return url, locking(Path(url.removeprefix("sqlite:///")))
    network = fault_proxy(url)
    return network.url, stumbling(network, seed)


@pytest.mark.parametrize("kind", STORES)
async def test_no_reader_sees_what_was_purged_before_he_began(
    kind: str,
    request: pytest.FixtureRequest,
    provider: FakeProvider,
    fault_proxy: Callable[[str], FaultProxy],
    tmp_path: Path,
) -> None:
    """Twenty readers, two processes, and a third that purges; the ways to the store are bad."""
    store = SharedStore.of(kind, request)
    patient = store if kind == "sqlite" else store.told(timeout=2.0)
    ways = [way(store.url, fault_proxy, seed) for seed in (1, 2)]
    said = f"memory_lease_s = {LEASE_S}\nlookup_timeout_s = 2\n"
    configs = [patient.at(url).config(said) for url, _ in ways]
    cache = TieredCache(MemoryCache(max_bytes=2**20), store.open(), lease=LEASE_S)
    async with replicas(tmp_path, provider.base_url, *configs) as processes:
        storm = Storm(provider, [each.base_url for each in processes], cache.purge)
        async with troubled(*(trouble for _, trouble in ways)):
            history = await storm.rage(6.0)
    await cache.aclose()
    assert history.violations() == []
    assert len(history.returned) >= 4
    assert history.outcomes["HIT"] > 100


class SlowStore(FakeSharedCache):
    """Saves arrive late, some of them after a purge that began later; lookups are slow as well."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._dice = random.Random(3)

    async def _called(self, what: str) -> None:
        slow = {"put": (0.0, 1.2), "get": (0.0, 0.1)}
        await asyncio.sleep(self._dice.uniform(*slow.get(what, (0.0, 0.0))))
        await super()._called(what)


class Hasty(TieredCache):
    """Does not wait until the others know of a purge."""

    async def purge(self, filter: Filter) -> int:
        number = await self._shared.announce(filter)
        return await self._shared.remove(filter, before=number)


class Heedless(KnownPurges):
    """Knows the purges, and hands out and stores what they cover all the same."""

    def covers(self, entry: Entry) -> bool:
        return False


async def storm_within(
    proxy: StartProxy, provider: FakeProvider, known: type[KnownPurges], purger: type[TieredCache]
) -> History:
    """The same in one process: two proxies on one slow store."""
    world = World()

    def cache(kind: type[TieredCache], known: type[KnownPurges]) -> TieredCache:
        made = kind(MemoryCache(max_bytes=2**20), SlowStore(world), lease=LEASE_S)
        made._known = known()
        return made

    lives = [await proxy(cache(TieredCache, known)) for _ in range(2)]
    purging = cache(purger, KnownPurges)
    history = await Storm(provider, [live.base_url for live in lives], purging.purge).rage(3.0)
    await purging.aclose()
    return history


async def test_no_reader_does_in_one_process_either(
    proxy: StartProxy, provider: FakeProvider
) -> None:
    """Where saves are slower than purges."""
    history = await storm_within(proxy, provider, KnownPurges, TieredCache)
    assert history.violations() == []
    assert len(history.returned) >= 3
    assert history.outcomes["HIT"] > 10


@pytest.mark.parametrize(
    ("known", "purger"), [(Heedless, TieredCache), (KnownPurges, Hasty)], ids=["seen", "lease"]
)
async def test_what_keeps_it_is_needed(
    proxy: StartProxy, provider: FakeProvider, known: Any, purger: Any
) -> None:
    """Without one half of it, readers see what was purged: what `seen` says, or the lease."""
    assert len((await storm_within(proxy, provider, known, purger)).violations()) > 5
