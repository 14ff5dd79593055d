"""The contract of a cache: LangChain's six methods, and the more that a proxy needs.

`BaseCache` follows LangChain's reference page name for name
(`langchain_core.caches.BaseCache`), so that keyword arguments keep working and any class written
against that page plugs in. Nothing here imports LangChain.
"""
# ruff: noqa: ARG002 - the names of parameters are part of the contract, used or not

from __future__ import annotations

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

_T = TypeVar("_T")


class CacheError(Exception):
    """A cache cannot do what was asked; the message names the store and what is wrong with it.

    What every backend raises to its caller: store full, locked, read-only, closed, out of reach.
    The message is logged and shown to probes: it holds no password and nothing that was stored.
    """


class Unsupported(CacheError):
    """This kind of cache has no way to do what was asked, or is not let: trying again is no use."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer of a model: `text`, and what came with it as JSON values.

    Fields are those of `langchain_core.outputs.Generation`.
    """

    text: str
    generation_info: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ChatGeneration(Generation):
    """One answer of a chat model; `message` is the provider's message object, as JSON values."""

    message: dict[str, Any] = field(default_factory=dict, kw_only=True)


class Key(NamedTuple):
    """What an entry is found by: the two strings, and their digest.

    The digest only finds; a backend compares both strings before it answers.
    """

    id: str
    prompt: str
    llm_string: str

    @classmethod
    def of(cls, prompt: str, llm_string: str) -> Key:
        return cls(entry_id(prompt, llm_string), prompt, llm_string)


def entry_id(prompt: str, llm_string: str) -> str:
    """SHA-256 over both strings, each preceded by its length in bytes, as 64 hex digits.

    The lengths keep `("ab", "c")` and `("a", "bc")` apart.
    """
    asked, how = prompt.encode(), llm_string.encode()
    digest = hashlib.sha256(b"%d:%b%d:%b" % (len(asked), asked, len(how), how))
    return digest.hexdigest()


def digest(text: str) -> str:
    """16 hex digits by which entries with an equal string are looked for. They prove nothing."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def id_bytes(id: str) -> bytes:
    """The id as databases keep it; what is no id becomes nothing, and finds nothing."""
    try:
        found = bytes.fromhex(id)
    except ValueError:
        return b""
    return found if found.hex() == id else b""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored answer. Times are Unix seconds; `None` means without end.

    `expires_at` ends freshness; the backend keeps the entry until `retained_until` (freshness and
    the window in which a stale answer may still serve). `about` holds facts for people and
    filters, as JSON values: provider, dialect, model, namespace, what making it cost. `seen` is
    the number of the last purge that was known when its making began (see `shared`).
    """

    key: Key
    generations: list[Generation]
    stored_at: float
    expires_at: float | None = None
    retained_until: float | None = None
    tags: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    seen: int = 0

    @property
    def pinned(self) -> bool:
        """Is it to stay: does it go only after all others when the cache is full?"""
        return self.about.get("pinned") is True


class Totals(NamedTuple):
    """What a cache holds. `bytes` counts keys and values as they are kept."""

    entries: int
    bytes: int


class BaseCache(ABC):
    """LangChain's cache interface. A miss is `None`; a hit is a non-empty list.

    Source: LangChain reference, `langchain_core.caches.BaseCache`. The async methods run the sync
    ones in a thread unless a subclass has native ones.
    """

    @abstractmethod
    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """Return the generations stored under both strings, or `None`."""

    @abstractmethod
    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Store `return_val` in place of what was there; `ValueError` if it is empty."""

    @abstractmethod
    def clear(self, **kwargs: Any) -> None:
        """Remove all entries of this cache, and nothing else."""

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return await _in_thread(partial(self.lookup, prompt, llm_string))

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        await _in_thread(partial(self.update, prompt, llm_string, return_val))

    async def aclear(self, **kwargs: Any) -> None:
        await _in_thread(partial(self.clear, **kwargs))


async def _in_thread(call: Callable[[], _T]) -> _T:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, copy_context().run, call)


class EntryCache(BaseCache):
    """A cache of entries: what six methods cannot say and a proxy needs.

    Entries handed out are shared and must not be changed by whoever reads them. Entries past
    `retained_until` are never handed out; an expired one within it is, and the reader judges.
    `lookup` and `alookup` know no stale answers: to them an expired entry is a miss, and what they
    return is a copy.
    """

    # True where no async method ever waits: then no deadline is needed around it.
    never_waits: ClassVar[bool] = False
    # The number of the last purge that is known (see `shared`).
    seen: int = 0
    _clock: Callable[[], float] = staticmethod(time.time)

    def peek(self, key: Key) -> Entry | None:
        """Return the entry if it is at hand without waiting (in memory), else `None`."""
        return None

    def glance(self, id: str) -> object | None:
        """Return what stands for the entry that `peek` would find: the same object for as long as
        that is the very same entry, and one that can be weakly referenced. Never raises.

        It counts as a use as `peek` does, but nothing is unpacked. `None`: not at hand, or it
        cannot be told.
        """
        return None

    @abstractmethod
    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        """Return one entry or `None` for each key, in order."""

    @abstractmethod
    async def put_many(self, entries: Sequence[Entry]) -> None:
        """Store all entries; visible to every reader when the call returns."""

    @abstractmethod
    async def delete(self, id: str) -> bool:
        """Remove the entry with this id; tell whether there was one."""

    @abstractmethod
    async def fact(self, name: str, default: str) -> str:
        """Return the fact shared by all users of this store; `default` becomes it if there is none.

        Atomic across processes: everyone gets the same value.
        """

    @abstractmethod
    async def totals(self) -> Totals:
        """Count what is held."""

    @abstractmethod
    async def aclose(self) -> None:
        """Finish what is being written and let go of files, threads and connections."""

    async def get(self, key: Key) -> Entry | None:
        return (await self.get_many((key,)))[0]

    async def put(self, entry: Entry) -> None:
        await self.put_many((entry,))

    async def replace_many(self, entries: Sequence[Entry]) -> None:
        """Store entries in place of others that are still good, also where those are in memory."""
        await self.put_many(entries)

    def covered(self, entry: Entry) -> bool:
        """Is there a purge of this entry that was not known when its making began?"""
        return False

    def up_to_date(self, since: float) -> bool:
        """Are all purges known that were complete since then, in seconds of `steady`?"""
        return True

    async def keep_up(self) -> None:
        """Learn of the latest purges."""

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return self._answer(await self.get(Key.of(prompt, llm_string)))

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        await self.put(self._entry(prompt, llm_string, return_val))

    def _answer(self, entry: Entry | None) -> list[Generation] | None:
        if entry is None or (entry.expires_at is not None and entry.expires_at <= self._clock()):
            return None
        return deepcopy(entry.generations)

    def _entry(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> Entry:
        require_generations(return_val)
        return Entry(Key.of(prompt, llm_string), deepcopy(list(return_val)), self._clock())


class NullCache(EntryCache):
    """Keeps nothing: every lookup is a miss. The cache that is "off"."""

    never_waits = True

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return None

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        require_generations(return_val)

    def clear(self, **kwargs: Any) -> None:
        return None

    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        return [None] * len(keys)

    async def put_many(self, entries: Sequence[Entry]) -> None:
        return None

    async def delete(self, id: str) -> bool:
        return False

    async def fact(self, name: str, default: str) -> str:
        return default

    async def totals(self) -> Totals:
        return Totals(0, 0)

    async def aclose(self) -> None:
        return None


def require_generations(return_val: Sequence[object]) -> None:
    """Refuse an empty answer: as a hit it would break every LangChain model (`IndexError`)."""
    if not return_val:
        raise ValueError("return_val must hold at least one generation")
