"""Any cache with LangChain's methods as an EntryCache: what six methods cannot say travels inside.

A plain cache keeps a list of Generations and nothing else. So each Generation carries, as one
string in its `generation_info`, a seal: the entry it belongs to, which write it came from, its
index, how many there are, what it was made of, and, in the first one, the entry's times, tags and
facts. Where a store lost, mixed or mangled something, the seals do not fit together: a miss.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from math import isfinite
from secrets import token_hex
from typing import Any, NamedTuple

import orjson

from cache_backends.base import (
    CacheError,
    Entry,
    EntryCache,
    Generation,
    Key,
    Totals,
    Unsupported,
    require_generations,
)
from cache_backends.codec import CodecError, decode, encode
from cache_backends.plain_probe import ANSWER, QUESTION, Probe, try_out

# The name in `generation_info` under which a seal is kept.
SEAL = "llm_cache_proxy"
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


class _Seal(NamedTuple):
    """What one seal says. `inside` is the generation's JSON, and the first one's entry."""

    id: str
    nonce: str
    place: int
    of: int
    times: tuple[float, float | None, float | None]
    inside: str


def seal(entry: Entry) -> list[Generation]:
    """Return the entry's generations, each with its seal."""
    require_generations(entry.generations)
    # Greater than that of every earlier write.
    nonce, count = f"{time.time_ns():016x}{token_hex(4)}", len(entry.generations)
    times = (entry.stored_at, entry.expires_at, entry.retained_until)
    sealed = []
    for index, generation in enumerate(entry.generations):
        about = (entry.tags, entry.about) if index == 0 else ()
        inside = encode([generation], *about).decode()
        told = _Seal(entry.key.id, nonce, index, count, times, inside)
        text = orjson.dumps(tuple(told)).decode()
        sealed.append(replace(generation, generation_info={SEAL: text}))
    return sealed


def unseal(key: Key, found: object) -> Entry | None:
    """Put the entry together again, or `None` if anything is missing, added, mixed or mangled."""
    if not isinstance(found, (list, tuple)) or not found:
        return None
    try:
        seals = [_read(each) for each in found]
        parts = [decode(each.inside.encode()) for each in seals]
    except CodecError:
        return None
    first = seals[0]
    count = len(seals)
    for index, each in enumerate(seals):
        if each[:5] != (key.id, first.nonce, index, count, first.times):
            return None
    generations = [part.generations[0] for part in parts]
    if any(part.text != each.text for part, each in zip(generations, found, strict=True)):
        return None
    return Entry(key, generations, *first.times, parts[0].tags, parts[0].about)


def latest_write(found: object) -> list[object]:
    """Of what a store gives back, what is whole and was stored last, in its order.

    Some leave rows of a longer, older answer behind a shorter one.
    """
    writes: dict[str, dict[int, object]] = {}
    whole = [""]
    for each in found if isinstance(found, (list, tuple)) else ():
        with suppress(CodecError):
            seal = _read(each)
            rows = writes.setdefault(seal.nonce, {})
            rows[seal.place] = each
            if rows.keys() == set(range(seal.of)):
                whole.append(seal.nonce)
    rows = writes.get(max(whole), {})
    return [rows[place] for place in sorted(rows)]


def _read(generation: object) -> _Seal:
    info = getattr(generation, "generation_info", None)
    text = info.get(SEAL) if isinstance(info, dict) else None
    if not isinstance(text, str):
        raise CodecError("no seal")
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise CodecError("a broken seal") from exc
    match found:
        case [str(entry), str(nonce), int(index), int(count), [at, expires, until], str(inside)]:
            times = (at, expires, until)
            if _is_time(at) and all(each is None or _is_time(each) for each in times[1:]):
                return _Seal(entry, nonce, index, count, times, inside)
    raise CodecError("not a seal")


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _require_methods(cache: object) -> None:
    for sync, native in (("lookup", "alookup"), ("update", "aupdate")):
        if not callable(getattr(cache, sync, None)) and not callable(getattr(cache, native, None)):
            raise TypeError(
                f"{type(cache).__name__} is no cache: it has neither {sync}() nor {native}()"
            )
