"""The cache in Postgres: what it keeps, and what it lets go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from cache_backends import Generation, Key, PostgresCache

from tests.cache_backends.conformance import entry_of
from tests.cache_backends.shared_conformance import SharedConformance
from tests.fakes.clock import FakeClock

Open = Callable[..., PostgresCache]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest_asyncio.fixture
async def opened(postgres_url: str, fresh_name: str, clock: FakeClock) -> AsyncIterator[Open]:
    """`opened(max_bytes=...)`: an instance on the schema of this test. The machine may be busy."""
    made: list[PostgresCache] = []

    def make(**options: Any) -> PostgresCache:
        told = {"schema": fresh_name, "clock": clock, "timeout": 10.0} | options
        made.append(PostgresCache(postgres_url, **told))
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


@pytest.fixture
def cache(opened: Open) -> PostgresCache:
    return opened()


class TestPostgresCache(SharedConformance):
    @pytest.fixture
    def cache(self, opened: Open) -> PostgresCache:
        return opened()

    @pytest.fixture
    def other(self, opened: Open) -> PostgresCache:
        return opened()
