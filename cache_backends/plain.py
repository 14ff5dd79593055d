"""Any cache with LangChain's methods as an EntryCache: what six methods cannot say travels inside.

A plain cache keeps a list of Generations and nothing else: so each of them carries a seal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

from cache_backends.base import (
    CacheError,
    Entry,
    EntryCache,
    Generation,
    Key,
    Totals,
    Unsupported,
)
from cache_backends.plain_probe import ANSWER, QUESTION, Probe, try_out
from cache_backends.plain_seal import latest_write, seal, unseal

# Facts live beside the entries, under a key that no model has.
FACTS = "llm-cache-proxy/fact"
# Threads of its own: a store that hangs must not take the ones that look up host names.
MAX_THREADS = 16


class PlainCache(EntryCache):
    """Wraps `cache`, which has LangChain's methods: sync, async, or both; the async ones are used.

    Stored generations keep the text (and message) that a LangChain user expects. What that user
    stored without us has no seal and is a miss. `delete` and `totals` cannot be done: `CacheError`.
    Facts are as durable as the cache's entries; two processes that start with an empty cache at
    the same instant may disagree on one. What `cache` raises goes through unchanged.

    A store that leaves rows of older answers behind, or changes their order, is put right. What
    else it changes makes a miss; `probe` tells, and `findings` has what it told.
    """

    def __init__(self, cache: Any, *, clock: Callable[[], float] = time.time) -> None:
        _require_methods(cache)
        self._cache = cache
        self._clock = clock
        self._facts: dict[str, str] = {}
        self._threads = ThreadPoolExecutor(MAX_THREADS, f"calls of {type(cache).__name__}")
        self.findings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<PlainCache around {self._cache!r}>"

    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        return list(await asyncio.gather(*(self._get(key) for key in keys)))

    async def put_many(self, entries: Sequence[Entry]) -> None:
        sealed = [(entry.key, self._sealed(entry)) for entry in entries]
        await asyncio.gather(*(self._put(key, generations) for key, generations in sealed))

    async def delete(self, id: str) -> bool:  # noqa: ARG002 - the contract's name
        raise Unsupported(f"{self._name} cannot delete a single entry: it has no method for it")

    async def fact(self, name: str, default: str) -> str:
        if name not in self._facts:
            found = await self._fact(name, default)
            self._facts.setdefault(name, found)
        return self._facts[name]

    async def totals(self) -> Totals:
        raise Unsupported(f"{self._name} cannot count its entries: it has no method for it")

    async def aclose(self) -> None:
        """Wait for nothing more; who made the wrapped cache closes it."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def probe(self) -> Probe:
        """Find out whether the wrapped cache gives back what it is given; warn of what it does not.

        One row is left in it, always the same.
        """
        probe = await try_out(
            partial(self._call, "update"),
            partial(self._call, "lookup"),
            self._sealed(ANSWER),
            lambda found: self._current(QUESTION, found) == ANSWER,
        )
        self.findings = probe.findings
        probe.tell(self._name)
        return probe

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        key = Key.of(prompt, llm_string)
        found = self._sync("lookup")(prompt, llm_string)
        return self._answer(self._current(key, found))

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        sealed = self._sealed(self._entry(prompt, llm_string, return_val))
        self._sync("update")(prompt, llm_string, sealed)

    def clear(self, **kwargs: Any) -> None:
        self._sync("clear")(**kwargs)

    async def aclear(self, **kwargs: Any) -> None:
        await self._call("clear", **kwargs)

    @property
    def _name(self) -> str:
        return type(self._cache).__name__

    async def _get(self, key: Key) -> Entry | None:
        found = await self._call("lookup", key.prompt, key.llm_string)
        return self._current(key, found)

    async def _put(self, key: Key, sealed: list[Any]) -> None:
        await self._call("update", key.prompt, key.llm_string, sealed)

    async def _fact(self, name: str, default: str) -> str:
        key = Key.of(name, FACTS)
        found = await self._get(key)
        if found is None:
            said = Entry(key, [Generation(default)], self._clock())
            await self._put(key, self._sealed(said))
            found = await self._get(key)  # another process may have been faster
        return default if found is None else found.generations[0].text

    def _sealed(self, entry: Entry) -> list[Any]:
        """What is handed to the wrapped cache."""
        return seal(entry)

    def _current(self, key: Key, found: object) -> Entry | None:
        entry = unseal(key, found) or unseal(key, latest_write(found))
        if entry is None or entry.retained_until is None:
            return entry
        return entry if entry.retained_until > self._clock() else None

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        native = self._native(name)
        if native is not None:
            try:
                return await native(*args, **kwargs)
            except NotImplementedError:  # some caches have async methods in name only
                pass
        call = partial(copy_context().run, self._sync(name), *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _native(self, name: str) -> Callable[..., Awaitable[Any]] | None:
        return getattr(self._cache, f"a{name}", None)

    def _sync(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Any] | None = getattr(self._cache, name, None)
        if method is None:
            raise CacheError(f"{self._name} has no method {name}()")
        return method


def _require_methods(cache: object) -> None:
    for sync, native in (("lookup", "alookup"), ("update", "aupdate")):
        if not callable(getattr(cache, sync, None)) and not callable(getattr(cache, native, None)):
            raise TypeError(
                f"{type(cache).__name__} is no cache: it has neither {sync}() nor {native}()"
            )
