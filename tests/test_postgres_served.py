"""A served proxy and a Postgres in every bad state: answers stay right, and it is used again.

All with and without memory before the cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it comes without types
import httpx
import pytest
import pytest_asyncio

from proxy.store import Breaker
from tests.fakes.callers import Callers, settled, together, with_and_without_memory
from tests.fakes.live_proxy import StartProxy
from tests.fakes.postgres_server import PASSWORD, PostgresServer
from tests.fakes.servers import HOST

TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
CONNECTIONS = 12


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is skipped is tried again soon: the tests need not wait."""
    monkeypatch.setattr(Breaker, "RETRY_S", 0.3)
    monkeypatch.setattr("proxy.application.REOPEN_S", 0.1)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One for all of these tests: they repair what they break."""
    with PostgresServer(max_connections=CONNECTIONS, superuser_reserved_connections=0) as started:
        yield started


@pytest_asyncio.fixture
async def operator(server: PostgresServer) -> AsyncIterator[Any]:
    """A session of who was there before the trouble began, and sees to it that it has ended."""
    session = await asyncpg.connect(server.url)
    yield session
    await repair(session)
    await session.close()


async def repair(operator: Any) -> None:
    await operator.execute("SET default_transaction_read_only = off")
    await operator.execute(f"ALTER ROLE CURRENT_USER PASSWORD '{PASSWORD}'")
    await operator.execute("ALTER SYSTEM RESET ALL")
    await operator.execute("SELECT pg_reload_conf()")


async def both_behind(
    proxy: StartProxy, client: httpx.AsyncClient, server: PostgresServer
) -> list[Callers]:
    # Few connections each, so that there are some left for others.
    return await with_and_without_memory(proxy, client, server.url, options={"max_connections": 4})


async def test_what_is_stored_is_served_by_one_that_takes_no_writes(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    impatient: None,
    server: PostgresServer,
    operator: Any,
) -> None:
    """Read-only, as a standby is: /readyz says why nothing new is stored, until it is again."""
    both = await both_behind(proxy, client, server)
    await together(Callers.known, both)
    await operator.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    await operator.execute("SELECT pg_reload_conf()")
    for why in await together(Callers.troubled, both, by="in a read-only transaction"):
        assert why.startswith(f"cache save failed: postgresql://{HOST}:{server.port}/postgres: ")
    for callers in both:
        assert await callers.ask("known") == "HIT"
        callers.waited_no_longer_than_told()
    await repair(operator)
    await together(Callers.recovered, both)
    await settled(both)


async def test_one_that_does_not_take_the_password_any_more_is_skipped(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    impatient: None,
    server: PostgresServer,
    operator: Any,
) -> None:
    """/readyz does not tell it; what was stored is found again when it is right again."""
    both = await both_behind(proxy, client, server)
    await together(Callers.known, both)
    await operator.execute("ALTER ROLE CURRENT_USER PASSWORD 'another-secret'")
    await operator.execute(TERMINATE)
    await together(Callers.troubled, both, by="password authentication failed")
    for callers in both:
        await callers.without_waiting()
    await repair(operator)
    await together(Callers.recovered, both)
    assert await together(Callers.ask, both, prompt="known") == ["HIT", "HIT"]
    await settled(both)


async def test_one_without_connections_left_at_the_start_joins_when_it_has_some(
    proxy: StartProxy, client: httpx.AsyncClient, impatient: None, server: PostgresServer
) -> None:
    """Others have them all; requests are served all the same."""
    others = [await asyncpg.connect(server.url) for _ in range(CONNECTIONS)]
    both = await both_behind(proxy, client, server)
    for callers in both:
        assert set(await callers.crowd()) == {"BYPASS"}
        await callers.troubled(by="too many clients already")
    for each in others:
        await each.close()
    await together(Callers.recovered, both)
    await settled(both)


async def test_sessions_that_are_terminated_are_replaced(
    proxy: StartProxy, client: httpx.AsyncClient, server: PostgresServer, operator: Any
) -> None:
    """Under 20 who ask at once: right answers, and hits afterwards."""
    both = await both_behind(proxy, client, server)
    await together(Callers.known, both)
    asked = asyncio.create_task(together(Callers.crowd, both))
    await operator.execute(TERMINATE)
    await asked
    await operator.execute(TERMINATE)
    await together(Callers.crowd, both)
    await together(Callers.recovered, both)
    await settled(both)


async def test_tables_that_somebody_locks_are_waited_for_no_longer_than_told(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    impatient: None,
    server: PostgresServer,
    operator: Any,
) -> None:
    """As a migration may; what was stored is found when it has ended."""
    both = await both_behind(proxy, client, server)
    await together(Callers.known, both)
    tables = await operator.fetch(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
        "WHERE schemaname LIKE 'test_%' AND tablename = 'entries'"
    )
    async with operator.transaction():
        for (table,) in tables:
            await operator.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        await together(Callers.troubled, both)
        for callers in both:
            callers.waited_no_longer_than_told()
            await callers.without_waiting()
    await together(Callers.recovered, both)
    assert await together(Callers.ask, both, prompt="known") == ["HIT", "HIT"]
    await settled(both)


async def test_tables_that_somebody_drops_are_made_again(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    impatient: None,
    server: PostgresServer,
    operator: Any,
) -> None:
    """What was stored is lost and missed, also by memory, and stored anew."""
    both = await both_behind(proxy, client, server)
    await together(Callers.known, both)
    for (schema,) in await operator.fetch(
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'test_%'"
    ):
        await operator.execute(f"DROP SCHEMA {schema} CASCADE")
    for callers in both:
        await callers.crowd()
    await together(Callers.recovered, both)
    await together(Callers.known, both)
    await settled(both)


@pytest.mark.parametrize("end", [PostgresServer.stop, PostgresServer.kill])
async def test_one_that_comes_back_is_used_again(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    server: PostgresServer,
    end: Callable[[PostgresServer], None],
) -> None:
    """Stopped or killed: until it is back answers come from the provider, and nobody waits.

    Only what was stored just before a crash may be lost.
    """
    both = await both_behind(proxy, client, server)
    await together(Callers.known, both)
    await asyncio.to_thread(end, server)
    for why in await together(Callers.troubled, both):
        assert f"postgresql://{HOST}:{server.port}/postgres: " in why
    for callers in both:
        await callers.without_waiting()
    await asyncio.to_thread(server.start)
    await together(Callers.recovered, both)
    if end is PostgresServer.stop:
        assert await together(Callers.ask, both, prompt="known") == ["HIT", "HIT"]
    await together(Callers.known, both)
    await settled(both)
