"""What the store alone answers, whatever memory there is before it."""

from __future__ import annotations

from collections.abc import Mapping

from cache_backends.base import Totals
from cache_backends.shared import WIDE, Filter, ManagedCache, Narrowing, Page, SharedCache


class StoreCalls(ManagedCache):
    """Handed on as they are."""

    _shared: SharedCache

    async def page(
        self,
        filter: Filter,
        *,
        narrowed: Narrowing = WIDE,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        return await self._shared.page(filter, narrowed=narrowed, cursor=cursor, limit=limit)

    async def claim(self, name: str, holder: str, seconds: float) -> bool:
        return await self._shared.claim(name, holder, seconds)

    async def release(self, name: str, holder: str) -> None:
        await self._shared.release(name, holder)

    async def fact(self, name: str, default: str) -> str:
        return await self._shared.fact(name, default)

    async def set_fact(self, name: str, value: str) -> None:
        await self._shared.set_fact(name, value)

    async def add_hits(self, hits: Mapping[str, int]) -> None:
        await self._shared.add_hits(hits)

    async def add_counts(self, group: str, amounts: Mapping[str, float]) -> None:
        await self._shared.add_counts(group, amounts)

    async def counts(self, group: str) -> dict[str, float]:
        return await self._shared.counts(group)

    async def forget_counts(self, group: str) -> None:
        await self._shared.forget_counts(group)

    @property
    def evictions(self) -> int:
        """Entries that this process pushed out of what is shared; 0 where that is not told."""
        return int(getattr(self._shared, "evictions", 0))

    async def totals(self) -> Totals:
        return await self._shared.totals()
