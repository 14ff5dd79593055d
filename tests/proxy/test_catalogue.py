"""The entries as an operator sees them."""

from __future__ import annotations

import asyncio
from typing import Any

from cache_backends import MemoryCache
from cache_backends.shared import Narrowing, Page
from proxy.catalogue import ALL, SEARCHES_AT_ONCE, Catalogue, Selection


class SlowCache(MemoryCache):
    """Counts who lists at a time."""

    def __init__(self) -> None:
        super().__init__(max_bytes=2**20)
        self.now = self.most = 0

    async def page(self, *args: Any, **kwargs: Any) -> Page:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return await super().page(*args, **kwargs)


async def test_few_search_at_a_time() -> None:
    """Whoever asks for answers waits behind them; a list is found at once, and waits for none."""
    cache = SlowCache()
    catalogue = Catalogue(cache)
    search = Selection(narrowed=Narrowing(text="anything"))
    await asyncio.gather(*(catalogue.page(search) for _ in range(20)))
    assert cache.most == SEARCHES_AT_ONCE
    await asyncio.gather(*(catalogue.page(ALL) for _ in range(20)))
    assert cache.most == 20
