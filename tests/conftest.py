"""What most tests start from: a fake provider, a served proxy before it, and a client."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from hypothesis import settings

from cache_backends import EntryCache, MemoryCache
from proxy.app import create_app
from proxy.config import load_settings
from proxy.lane_protocol import LaneProtocol
from proxy.protocol import Protocol
from tests.fakes.aimock import Aimock, StartAimock
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.node import RunScript, run_script
from tests.fakes.provider import FakeProvider
from tests.fakes.raw_client import Connect, RawClient
from tests.fakes.server import AppServer, Serve

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from tests.fakes.browser import Stage
    from tests.fakes.clients import Clients
    from tests.fakes.fault_proxy import FaultProxy
    from tests.fakes.postgres_server import PostgresServer
    from tests.fakes.redis_servers import RedisCluster, RedisSentinel, RedisServer

# The machine may be busy: a slow example is not a failing one.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--hit-lane",
        choices=("on", "off"),
        default="on",
        help="off: run the tests that ask a served proxy, and serve it without the hit lane",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("hit_lane") == "on":
        return
    asking = [item for item in items if "proxy" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in asking])
    items[:] = asking


@pytest.fixture(autouse=True, scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's data directory, of tests and of what they start: not the developer's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    """A provider on a port of its own."""
    fake = FakeProvider()
    await fake.start()
    yield fake
    await fake.stop()


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(app)`: the origin at which a real uvicorn serves the app until the test ends."""
    async with AsyncExitStack() as stack:

        async def start(app: Any, **options: Any) -> str:
            server = AppServer(app, **options)
            stack.push_async_callback(server.stop)
            await server.start()
            return server.origin

        yield start


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client that knows nothing of the environment's proxies."""
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as http:
        yield http


@pytest_asyncio.fixture
async def clients(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clients]:
    """`clients.openai(live)`: what people use, closed at the end of the test."""
    # Seconds to import, which the other tests do without.
    from tests.fakes.clients import Clients, forget_environment

    forget_environment(monkeypatch)
    made = Clients()
    yield made
    await made.aclose()


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    """`await connect(base_url)`: a raw connection, closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(base_url: str, **options: Any) -> RawClient:
            raw = await RawClient.connect(base_url, **options)
            stack.push_async_callback(raw.aclose)
            return raw

        yield start


@pytest.fixture
def node() -> RunScript:
    """`await node("openai_chat", base_url=live.base_url, asks=[...])`: what Node's client saw."""
    return run_script


@pytest_asyncio.fixture
async def aimock(tmp_path: Path) -> AsyncIterator[StartAimock]:
    """`await aimock({"match": {}, "response": {"content": "Hi"}})`: a provider from elsewhere."""
    async with AsyncExitStack() as stack:

        async def start(*answers: dict[str, Any]) -> Aimock:
            mock = await Aimock.start(tmp_path, *answers)
            stack.push_async_callback(mock.stop)
            await mock.up()
            return mock

        yield start


@pytest_asyncio.fixture
async def proxy(
    provider: FakeProvider,
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> StartProxy:
    """`await proxy(cache={"ttl": 60})`: a served proxy with these settings before the provider.

    Its cache is in memory unless another is named, or handed over as `backend`. What hits once is
    in its hit lane, unless that is off.
    """
    lane = {"hit_lane": request.config.getoption("hit_lane") == "on"}

    for name in [name for name in os.environ if name.startswith("LLM_CACHE_PROXY_")]:
        monkeypatch.delenv(name)

    async def start(
        backend: EntryCache | None = None,
        clock: Callable[[], float] | None = None,
        **sections: Any,
    ) -> LiveProxy:
        if clock is not None and backend is None:
            backend = MemoryCache(max_bytes=2**26, clock=clock)
        sections["upstream"] = {"base_url": provider.base_url} | sections.get("upstream", {})
        sections["cache"] = {"url": "memory://"} | sections.get("cache", {})
        sections["server"] = lane | sections.get("server", {})
        settings = load_settings(overrides=sections)
        app = create_app(settings, cache=backend, clock=clock or time.time)
        app.lane.times = 1
        http = LaneProtocol if settings.server.hit_lane else Protocol
        origin = await serve(app, http=http, ws="none", server_header=False)
        return LiveProxy(app, origin, provider)

    return start


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """For tests in which a process of our own sets its logging up."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    handlers, level, filters = root.handlers[:], root.level, uvicorn.filters[:]
    yield
    root.handlers[:], root.level, uvicorn.filters[:] = handlers, level, filters


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis that all tests share: each uses a prefix of its own, `fresh_name`."""
    from tests.fakes.redis_servers import RedisServer
    from tests.fakes.servers import own_or_given

    with ExitStack() as stack:
        yield own_or_given(stack, RedisServer, "REDIS_URL")


@pytest.fixture(scope="session")
def redis_cluster_url() -> Iterator[str]:
    """A Redis cluster of three nodes, shared like `redis_url`."""
    from tests.fakes.redis_servers import RedisCluster
    from tests.fakes.servers import own_or_given

    with ExitStack() as stack:
        yield own_or_given(stack, RedisCluster, "REDIS_CLUSTER_URL")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres that all tests share: each uses a schema of its own, `fresh_name`."""
    from tests.fakes.postgres_server import PostgresServer
    from tests.fakes.servers import own_or_given

    with ExitStack() as stack:
        yield own_or_given(stack, PostgresServer, "POSTGRES_URL")


@pytest.fixture
def fresh_name() -> str:
    """A prefix or schema that nobody has used."""
    return f"test_{uuid4().hex}"


@pytest.fixture
def private() -> Iterator[ExitStack]:
    """What the servers of one test are entered into, so that they go with it."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def redis_server(private: ExitStack) -> Callable[..., RedisServer]:
    """`redis_server(maxmemory="1mb")`: a Redis that the test may break."""
    from tests.fakes.redis_servers import RedisServer

    return lambda **options: private.enter_context(RedisServer(**options))


@pytest.fixture
def redis_cluster(private: ExitStack) -> Callable[[], RedisCluster]:
    """`redis_cluster()`: a cluster whose `nodes` the test may break."""
    from tests.fakes.redis_servers import RedisCluster

    return lambda: private.enter_context(RedisCluster())


@pytest.fixture
def redis_sentinel(private: ExitStack) -> Callable[[], RedisSentinel]:
    """`redis_sentinel()`: a Sentinel with a `primary` and a `replica` that the test may break."""
    from tests.fakes.redis_servers import RedisSentinel

    return lambda: private.enter_context(RedisSentinel())


@pytest.fixture
def postgres_server(private: ExitStack) -> Callable[..., PostgresServer]:
    """`postgres_server(max_connections=5)`: a Postgres that the test may break."""
    from tests.fakes.postgres_server import PostgresServer

    return lambda **options: private.enter_context(PostgresServer(**options))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for all tests that look at the dashboard; they share its loop."""
    from playwright.async_api import async_playwright

    from tests.fakes.browser import launch

    async with async_playwright() as playwright:
        launched = await launch(playwright)
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="session")
async def stage(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """`await stage.begin()`, `page = await stage.look("Entries")`: a proxy, and who looks at it."""
    from tests.fakes.browser import Stage

    for name in [name for name in os.environ if name.startswith("LLM_CACHE_PROXY_")]:
        monkeypatch.delenv(name)
    async with AsyncExitStack() as stack:
        yield Stage(browser, stack)


@pytest.fixture
def fault_proxy(private: ExitStack) -> Callable[[str], FaultProxy]:
    """`fault_proxy(redis_url)`: a network to that server that breaks when the test says so."""
    from tests.fakes.fault_proxy import FaultProxy

    return lambda url: private.enter_context(FaultProxy(url))
