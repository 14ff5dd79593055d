"""LangChain's caches as ours, and ours as LangChain's (extra `langchain`).

`LangChainCache` lets the proxy keep its entries in any cache that was written for LangChain.
`to_langchain` lets LangChain's models use any cache of ours: `set_llm_cache(to_langchain(cache))`,
or `cache=` of one model. Not to be confused with `BaseCache` of LangGraph, which is another
interface of the same name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cache_backends.base import (
    BaseCache,
    CacheError,
    ChatGeneration,
    Entry,
    Generation,
    Key,
    Unsupported,
    require_generations,
)
from cache_backends.codec import CodecError
from cache_backends.extras import needing
from cache_backends.plain import PlainCache

with needing("langchain"):
    import langchain_core.outputs as lc
    from langchain_core.caches import BaseCache as LangChainBaseCache
    from langchain_core.messages import AIMessage

    from cache_backends import langchain_values as values

log = logging.getLogger(__name__)

# The caches on SQL look for a row, then insert it: of two who store one answer at once, one fails.
MAX_TRIES = 5


class LangChainCache(PlainCache):
    """Makes `cache`, any of LangChain's, a backend of the proxy, with nothing of an entry lost.

    Its own async methods are used where it has them, else the sync ones in threads. It is handed
    real `Generation`s and `ChatGeneration`s. Their text is the answer's; all the rest is in one
    opaque string of their `generation_info` (`plain_seal`), whatever of a message `cache` keeps.
    What `cache` raises goes through unchanged.

    `clear` raises `Unsupported` unless `allow_clear` is set: many of LangChain's caches remove more
    by it than what is theirs, those of Redis the whole database. Whoever can write to the store can
    choose what `cache` makes of its rows: most use LangChain's `loads`, with its own defaults.
    """

    def __init__(
        self, cache: Any, *, allow_clear: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(cache, clock=clock)
        self._allow_clear = allow_clear

    def __repr__(self) -> str:
        return f"<LangChainCache around {self._name}>"

    def clear(self, **kwargs: Any) -> None:
        self._require_leave()
        super().clear(**kwargs)

    async def aclear(self, **kwargs: Any) -> None:
        self._require_leave()
        await super().aclear(**kwargs)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        for left in reversed(range(MAX_TRIES)):
            with _another_try(left):
                super().update(prompt, llm_string, return_val)
                return

    async def _put(self, key: Key, sealed: list[Any]) -> None:
        for left in reversed(range(MAX_TRIES)):
            with _another_try(left):
                await super()._put(key, sealed)
                return

    def _require_leave(self) -> None:
        if not self._allow_clear:
            raise Unsupported(
                f"{self._name} is not cleared: it may remove what is not the proxy's, up to the "
                "whole database; allow_clear permits it"
            )

    def _sealed(self, entry: Entry) -> list[Any]:
        return [_carrier(each) for each in super()._sealed(entry)]

    def _native(self, name: str) -> Callable[..., Awaitable[Any]] | None:
        inherited = getattr(LangChainBaseCache, f"a{name}")
        if getattr(type(self._cache), f"a{name}", None) is inherited:
            return None  # it would run the sync one in threads that others need
        return super()._native(name)


@contextmanager
def _another_try(left: int) -> Iterator[None]:
    """Bear a lost race if so many tries are left."""
    try:
        yield
    except Exception as exc:
        # By its name: SQLAlchemy and each driver have a class of their own.
        if not left or type(exc).__name__ != "IntegrityError":
            raise


def _carrier(sealed: Generation) -> lc.Generation:
    """What a LangChain user would see of a generation, and its seal.

    Tool calls stay out of the message: some caches keep no answers with them, and the seal has it.
    """
    if isinstance(sealed, ChatGeneration):
        message = AIMessage(content=sealed.text)
        return lc.ChatGeneration(message=message, generation_info=sealed.generation_info)
    return lc.Generation(text=sealed.text, generation_info=sealed.generation_info)


def to_langchain(cache: BaseCache) -> CacheForLangChain:
    """Make `cache`, any of ours, one for `set_llm_cache` and for `cache=` of a model."""
    return CacheForLangChain(cache)


class CacheForLangChain(LangChainBaseCache):
    """A cache of ours behind LangChain's interface; a hit is a list of real `ChatGeneration`s.

    Messages are kept as a typed JSON form of our own (see `langchain_values`): the name of one of
    thirteen message classes of langchain_core and its fields. No pickle and no `loads`. What would
    not come back equal, because JSON cannot hold it, is not kept; what cannot be read is a miss.

    LangChain's models fail with their cache, after an answer was paid for too. Therefore a
    `CacheError` is logged here, and is a miss or an answer that is not kept. An empty list is a
    `ValueError`: as a hit it would break the model. `clear` removes all entries of `cache`.
    """

    def __init__(self, cache: BaseCache) -> None:
        if not isinstance(cache, BaseCache):
            raise TypeError(f"{type(cache).__name__} is none of the caches of cache_backends")
        self._cache = cache

    def __repr__(self) -> str:
        return f"to_langchain({self._cache!r})"

    def lookup(self, prompt: str, llm_string: str) -> list[lc.Generation] | None:
        with _forgiving("lookup"):
            return _hit(self._cache.lookup(prompt, llm_string))
        return None

    def update(self, prompt: str, llm_string: str, return_val: Sequence[lc.Generation]) -> None:
        require_generations(return_val)
        with _forgiving("update"):
            self._cache.update(prompt, llm_string, _kept(return_val))

    def clear(self, **kwargs: Any) -> None:
        self._cache.clear(**kwargs)

    async def alookup(self, prompt: str, llm_string: str) -> list[lc.Generation] | None:
        with _forgiving("lookup"):
            return _hit(await self._cache.alookup(prompt, llm_string))
        return None

    async def aupdate(
        self, prompt: str, llm_string: str, return_val: Sequence[lc.Generation]
    ) -> None:
        require_generations(return_val)
        with _forgiving("update"):
            await self._cache.aupdate(prompt, llm_string, _kept(return_val))

    async def aclear(self, **kwargs: Any) -> None:
        await self._cache.aclear(**kwargs)


@contextmanager
def _forgiving(what: str) -> Iterator[None]:
    try:
        yield
    except CodecError as exc:  # the answer's fault, not the store's
        log.info("cache %s: an answer is passed over: %s", what, exc)
    except (CacheError, UnicodeError) as exc:
        log.warning("cache %s failed: %s", what, exc)


def _hit(found: list[Generation] | None) -> list[lc.Generation] | None:
    return None if found is None else [values.to_langchain(each) for each in found]


def _kept(return_val: Sequence[lc.Generation]) -> list[Generation]:
    return [values.from_langchain(each) for each in return_val]
