"""Caches for the answers of language models, usable without the proxy."""

from __future__ import annotations

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
)
from cache_backends.memory import InMemoryCache, MemoryCache
from cache_backends.plain import PlainCache
from cache_backends.urls import open_cache

if TYPE_CHECKING:
    from cache_backends.sqlite import SQLiteCache

__all__ = [
    "BaseCache",
    "CacheError",
    "ChatGeneration",
    "Entry",
    "EntryCache",
    "Generation",
    "InMemoryCache",
    "Key",
    "MemoryCache",
    "NullCache",
    "PlainCache",
    "SQLiteCache",
    "Totals",
    "open_cache",
]


def __getattr__(name: str) -> Any:
    # Its driver is loaded only for those who ask for it.
    if name == "SQLiteCache":
        from cache_backends.sqlite import SQLiteCache

        return SQLiteCache
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
