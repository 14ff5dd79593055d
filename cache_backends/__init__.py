"""Caches for the answers of language models, usable without the proxy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cache_backends.base import (
    BaseCache,
    CacheError,
    ChatGeneration,
    Entry,
    EntryCache,
    Generation,
    Key,
    NullCache,
    Totals,
    Unsupported,
)
from cache_backends.memory import InMemoryCache, MemoryCache
from cache_backends.plain import PlainCache
from cache_backends.shared import Filter, Page, Purge, PurgeLog, SharedCache, Summary
from cache_backends.tiered import TieredCache
from cache_backends.urls import open_cache

if TYPE_CHECKING:
    from cache_backends.postgres import PostgresCache
    from cache_backends.redis import RedisCache
    from cache_backends.sqlite import SQLiteCache

__all__ = [
    "BaseCache",
    "CacheError",
    "ChatGeneration",
    "Entry",
    "EntryCache",
    "Filter",
    "Generation",
    "InMemoryCache",
    "Key",
    "MemoryCache",
    "NullCache",
    "Page",
    "PlainCache",
    "PostgresCache",
    "Purge",
    "PurgeLog",
    "RedisCache",
    "SQLiteCache",
    "SharedCache",
    "Summary",
    "TieredCache",
    "Totals",
    "Unsupported",
    "open_cache",
]

# Their drivers are loaded only for those who ask for them.
_WITH_DRIVERS = {
    "PostgresCache": "postgres",
    "RedisCache": "redis",
    "SQLiteCache": "sqlite",
}


def __getattr__(name: str) -> Any:
    if name in _WITH_DRIVERS:
        return getattr(import_module(f"cache_backends.{_WITH_DRIVERS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
