"""A served proxy, and what must hold when nothing is asked of it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.provider import FakeProvider

SETTLE_S = 5.0


@dataclass(frozen=True, slots=True)
class LiveProxy:
    """The app at `origin`; `base_url` is what a client of OpenAI is given."""

    app: Any
    origin: str
    provider: FakeProvider
    _known: frozenset[asyncio.Task[Any]] = field(
        default_factory=lambda: frozenset(asyncio.all_tasks())
    )

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    async def stored(self) -> int:
        """How many entries the cache holds."""
        totals = await self.app.store.totals()
        return int(totals.entries)

    async def listening(self, callers: int) -> None:
        """Return when just so many callers listen to fetches that others may join."""
        async with asyncio.timeout(SETTLE_S):
            while self.app.flights.listening != callers:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.001)

    async def settled(self) -> None:
        """Wait until nothing is under way: no flight, no task, no call to the provider.

        Idle connections are pooled and may stay. What does not end within five seconds leaks.
        """
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            if not (self.provider.busy_connections or self._left_over() or self.app.flights):
                assert self.app.flights.backlogs.bytes == 0
                return
            await asyncio.sleep(0.005)
        calls = self.provider.busy_connections
        flights = len(self.app.flights)
        raise AssertionError(f"{calls} calls, {flights} flights, {self._left_over()} are left")

    def _left_over(self) -> set[asyncio.Task[Any]]:
        mine = {asyncio.current_task(), *self.provider.tasks}
        return {task for task in asyncio.all_tasks() if task not in self._known | mine}


# `await proxy(cache={"ttl": 60})`: sections of the settings, as the fixture takes them.
StartProxy = Callable[..., Awaitable[LiveProxy]]
