"""BrokenCache: a cache that fails in the way a test asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum
from typing import Any

from cache_backends.base import Entry, EntryCache, Generation, Key, NullCache, Totals


class Fault(Enum):
    """What goes wrong."""

    NONE = "nothing"
    ERROR = "every call raises"
    HANG = "no call returns"
    GARBAGE = "entries hold nonsense"
    OTHER_ENTRY = "another key's entry is returned"


class BrokenCache(EntryCache):
    """Passes everything on to `inner` until `fault` says otherwise; counts the calls.

    `operations` limits the fault to some methods by name (`{"get_many"}`); empty: all of them.
    """

    def __init__(self, inner: EntryCache | None = None, fault: Fault = Fault.ERROR) -> None:
        self.inner = inner if inner is not None else NullCache()
        self.fault = fault
        self.operations: frozenset[str] = frozenset()
        self.calls: list[str] = []

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        self._fail_now("lookup")
        return self.inner.lookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self._fail_now("update")
        self.inner.update(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        self._fail_now("clear")
        self.inner.clear(**kwargs)

    def peek(self, key: Key) -> Entry | None:
        self._fail_now("peek")
        return self.inner.peek(key)

    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        await self._fail("get_many")
        if self._broken("get_many", Fault.GARBAGE):
            return [_garbage(key) for key in keys]
        if self._broken("get_many", Fault.OTHER_ENTRY):
            return [_other(key) for key in keys]
        return await self.inner.get_many(keys)

    async def put_many(self, entries: Sequence[Entry]) -> None:
        await self._fail("put_many")
        await self.inner.put_many(entries)

    async def delete(self, id: str) -> bool:
        await self._fail("delete")
        return await self.inner.delete(id)

    async def fact(self, name: str, default: str) -> str:
        await self._fail("fact")
        return await self.inner.fact(name, default)

    async def totals(self) -> Totals:
        await self._fail("totals")
        return await self.inner.totals()

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def _fail(self, operation: str) -> None:
        if self._broken(operation, Fault.HANG):
            self.calls.append(operation)
            await asyncio.Event().wait()
        self._fail_now(operation)

    def _fail_now(self, operation: str) -> None:
        self.calls.append(operation)
        if self._broken(operation, Fault.ERROR):
            raise OSError(f"{operation} failed as it was told to")

    def _broken(self, operation: str, fault: Fault) -> bool:
        return self.fault is fault and (not self.operations or operation in self.operations)


def _garbage(key: Key) -> Entry:
    return Entry(key, [Generation("half an ans", {"choice": 7})], stored_at=0.0)


def _other(key: Key) -> Entry:
    other = Key.of(key.prompt + " of another", key.llm_string)
    return Entry(other, [Generation("the other's answer")], stored_at=0.0)
