"""The contract: ids, the default async methods, the cache that is off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from cache_backends import BaseCache, Entry, Generation, Key, NullCache
from cache_backends.base import entry_id

WHO: ContextVar[str] = ContextVar("WHO")


class Recorder(BaseCache):
    """Three methods, as a class written against LangChain's page has them."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool, Any]] = []

    def _see(self, name: str, given: Any) -> None:
        self.seen.append((WHO.get(), threading.current_thread() is threading.main_thread(), given))

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        self._see("lookup", (prompt, llm_string))
        return None

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self._see("update", (prompt, llm_string, return_val))

    def clear(self, **kwargs: Any) -> None:
        self._see("clear", kwargs)


async def test_sync_methods_serve_async_callers_from_a_thread() -> None:
    """As in LangChain: in a thread, with the caller's context and keyword arguments."""
    WHO.set("the caller")
    cache = Recorder()
    await cache.alookup(prompt="p", llm_string="l")
    await cache.aupdate(prompt="p", llm_string="l", return_val=[])
    await cache.aclear(namespace="n")
    assert cache.seen == [
        ("the caller", False, ("p", "l")),
        ("the caller", False, ("p", "l", [])),
        ("the caller", False, {"namespace": "n"}),
    ]


def test_an_id_tells_the_two_strings_apart() -> None:
    """It is fixed for good: a change would lose every stored entry."""
    assert entry_id("ab", "c") != entry_id("a", "bc")
    assert Key.of("prompt", "llm") == Key(entry_id("prompt", "llm"), "prompt", "llm")
    expected = "22d6097963846dd04ecb6533bfcda67d22cd12f8903de459ebe6b417fbd2a61a"
    assert entry_id("Wie spät?", "m") == expected


async def test_the_cache_that_is_off_keeps_nothing() -> None:
    """Every lookup misses, everything is accepted but an empty answer."""
    cache = NullCache()
    key = Key.of("prompt", "llm")
    cache.update("prompt", "llm", [Generation("a")])
    await cache.put(Entry(key, [Generation("a")], 0.0))
    assert cache.lookup("prompt", "llm") is cache.peek(key) is None
    assert await cache.get_many([key, key]) == [None, None]
    assert await cache.fact("name", "default") == "default"
    assert await cache.totals() == (0, 0)
    assert not await cache.delete(key.id)
    with pytest.raises(ValueError, match="at least one generation"):
        await cache.aupdate("prompt", "llm", [])
    await asyncio.gather(cache.aclear(), cache.aclose())
