"""LangChain's own suites for caches, unchanged: for ours, and for theirs through both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from langchain_core.caches import BaseCache as LangChainBaseCache
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite

from cache_backends import EntryCache
from cache_backends.langchain import LangChainCache, to_langchain
from tests.cache_backends.langchain_caches import OURS, QUIET, THEIRS, Place

pytestmark = QUIET


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, request.getfixturevalue, stack)


class TestOurs(SyncCacheTestSuite):
    @pytest.fixture(params=OURS)
    def cache(self, place: Place, request: pytest.FixtureRequest) -> Iterator[LangChainBaseCache]:
        cache = OURS[request.param](place)
        yield to_langchain(cache)
        if isinstance(cache, EntryCache):
            asyncio.run(cache.aclose())


class TestOursAsync(AsyncCacheTestSuite):
    @pytest.fixture(params=OURS)
    async def cache(
        self, place: Place, request: pytest.FixtureRequest
    ) -> AsyncIterator[LangChainBaseCache]:
        cache = OURS[request.param](place)
        yield to_langchain(cache)
        if isinstance(cache, EntryCache):
            await cache.aclose()


class TestTheirs(SyncCacheTestSuite):
    @pytest.fixture(params=THEIRS)
    def cache(self, place: Place, request: pytest.FixtureRequest) -> LangChainBaseCache:
        return to_langchain(LangChainCache(THEIRS[request.param](place), allow_clear=True))


class TestTheirsAsync(AsyncCacheTestSuite):
    @pytest.fixture(params=THEIRS)
    async def cache(
        self, place: Place, request: pytest.FixtureRequest
    ) -> AsyncIterator[LangChainBaseCache]:
        cache = LangChainCache(THEIRS[request.param](place), allow_clear=True)
        yield to_langchain(cache)
        await cache.aclose()
