"""The cache in Redis: what it keeps, in a single server and in a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cache_backends.redis import RedisCache
from tests.cache_backends.shared_conformance import SharedConformance
from tests.fakes.clock import FakeClock

# The machine may be busy: what is tested here is not how fast it is.
PATIENT_S = 10.0


class TestRedisCache(SharedConformance):
    finds_text = False

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url

    @pytest_asyncio.fixture
    async def cache(self, url: str, fresh_name: str, clock: FakeClock) -> AsyncIterator[RedisCache]:
        opened = RedisCache(url, prefix=fresh_name, timeout=PATIENT_S, clock=clock)
        yield opened
        await opened.aclose()

    @pytest_asyncio.fixture
    async def other(self, url: str, fresh_name: str, clock: FakeClock) -> AsyncIterator[RedisCache]:
        opened = RedisCache(url, prefix=fresh_name, timeout=PATIENT_S, clock=clock)
        yield opened
        await opened.aclose()


class TestRedisCacheInACluster(TestRedisCache):
    @pytest.fixture
    def url(self, redis_cluster_url: str) -> str:
        return redis_cluster_url.replace("redis://", "redis+cluster://")
