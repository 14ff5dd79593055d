"""The caches that LangChain's users have, and ours, each made empty for one test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from langchain_community.cache import RedisCache as CommunityRedisCache
from langchain_community.cache import SQLAlchemyCache
from langchain_community.cache import SQLiteCache as CommunitySQLiteCache
from langchain_core.caches import InMemoryCache as CoreInMemoryCache
from sqlalchemy import create_engine

from cache_backends import (
    BaseCache,
    InMemoryCache,
    MemoryCache,
    PlainCache,
    PostgresCache,
    SQLiteCache,
    TieredCache,
)
from cache_backends.redis import RedisCache
from tests.fakes.redis_servers import RedisServer

# Their own warning at each hit: the list of what their `loads` may make will change.
QUIET = pytest.mark.filterwarnings(
    "ignore:The default value of `allowed_objects`:PendingDeprecationWarning"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a test's caches may keep what they are given."""

    folder: Path
    fixture: Callable[[str], Any]  # the value of a fixture of pytest's
    stack: ExitStack

    @property
    def name(self) -> str:
        return str(self.fixture("fresh_name"))


def sqlite(place: Place) -> SQLiteCache:
    return SQLiteCache(place.folder / "ours.db")


def tiered(place: Place) -> TieredCache:
    return TieredCache(MemoryCache(max_bytes=2**25), sqlite(place), lease=0.05)


def redis_cache(place: Place) -> RedisCache:
    return RedisCache(place.fixture("redis_url"), prefix=f"{place.name}:", timeout=5.0)


def postgres(place: Place) -> PostgresCache:
    return PostgresCache(place.fixture("postgres_url"), schema=place.name, timeout=5.0)


OURS: Mapping[str, Callable[[Place], BaseCache]] = {
    "InMemoryCache": lambda place: InMemoryCache(),
    "MemoryCache": lambda place: MemoryCache(max_bytes=2**25),
    "SQLiteCache": sqlite,
    "RedisCache": redis_cache,
    "PostgresCache": postgres,
    "TieredCache": tiered,
    "PlainCache": lambda place: PlainCache(InMemoryCache()),
}


def sqlalchemy(place: Place) -> SQLAlchemyCache:
    engine = create_engine(f"sqlite:///{place.folder}/sqlalchemy.db")
    place.stack.callback(engine.dispose)
    return SQLAlchemyCache(engine)


def community_sqlite(place: Place) -> CommunitySQLiteCache:
    cache = CommunitySQLiteCache(f"{place.folder}/langchain.db")
    place.stack.callback(cache.engine.dispose)
    return cache


def community_redis(place: Place) -> CommunityRedisCache:
    # A server of its own: whoever clears this cache flushes the database.
    server = place.stack.enter_context(RedisServer())
    client = place.stack.enter_context(redis.Redis.from_url(server.url))
    return CommunityRedisCache(client)


THEIRS: Mapping[str, Callable[[Place], Any]] = {
    "core InMemoryCache": lambda place: CoreInMemoryCache(),
    "community SQLAlchemyCache": sqlalchemy,
    "community SQLiteCache": community_sqlite,
    "community RedisCache": community_redis,
}
