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
from cache_backends.extras import needing
from cache_backends.memory import InMemoryCache, MemoryCache
from cache_backends.plain import PlainCache
from cache_backends.shared import (
    Filter,
    ListedCache,
    ManagedCache,
    Narrowing,
    Page,
    Purge,
    PurgeLog,
    SharedCache,
    Summary,
)
from cache_backends.tiered import TieredCache
from cache_backends.urls import open_cache

if TYPE_CHECKING:
    from cache_backends.postgres import PostgresCache as PostgresCache
    from cache_backends.redis import RedisCache as RedisCache
    from cache_backends.sqlite import SQLiteCache

# Without the two that need an extra: `import *` works for those who have none.
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
    "ListedCache",
    "ManagedCache",
    "MemoryCache",
    "Narrowing",
    "NullCache",
    "Page",
    "PlainCache",
    "Purge",
    "PurgeLog",
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
    if name not in _WITH_DRIVERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _WITH_DRIVERS[name]
    with needing(module):
        return getattr(import_module(f"cache_backends.{module}"), name)
