"""Caches as an operator has them, to list and to move between, and entries to put into them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from cache_backends import MemoryCache, SharedCache, TieredCache
from cache_backends.base import ChatGeneration, Entry, Key, digest

NOW = 1_700_000_000.0


def tiered(shared: SharedCache) -> TieredCache:
    """Memory before it, with as short a lease as the tests' patience."""
    return TieredCache(MemoryCache(max_bytes=2**26), shared, lease=0.1)


def an_entry(number: int = 0, **fields: Any) -> Entry:
    """A chat's, as the proxy keeps it."""
    scope = fields.pop("scope", "shared")
    how = {"provider": "openai", "url": "https://o", "scope": scope, "parameters": {"model": "m"}}
    asked = {"messages": [{"content": f"ask {number}", "role": "user"}]}
    key = Key.of(orjson.dumps(asked).decode(), orjson.dumps(how).decode())
    message = {"role": "assistant", "content": f"answer {number}"}
    choice = {"index": 0, "finish_reason": "stop"}
    info = {"choice": choice, "envelope": {"id": f"c-{number}"}, "source": "plain"}
    about = {
        "provider": "openai",
        "dialect": "chat/1",
        "model": "m",
        "namespace": "",
        "client": "",
        "run": "",
        "prompt_digest": digest(key.prompt),
        "llm_digest": digest(key.llm_string),
        **fields.pop("about", {}),
    }
    answer = [ChatGeneration(f"answer {number}", info, message=message)]
    return Entry(key, answer, NOW + number, about=about, **fields)


def by_id(entries: Iterable[Entry]) -> dict[str, Entry]:
    return {entry.key.id: entry for entry in entries}
