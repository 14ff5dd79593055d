"""Each request, told to those who watch, as it ends."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proxy.errors import Overloaded
from proxy.journal import as_json
from proxy.models import Event

MAX_LISTENERS = 64
# Of one who reads slowly so many wait; what comes then is counted, not kept.
MAX_WAITING = 1000


class Listener:
    """What is told to one who watches."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._told = asyncio.Event()

    def tell(self, line: str) -> None:
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(line)
        else:
            self._dropped += 1
        self._told.set()

    async def next(self, patience_s: float) -> list[str]:
        """What was told since, JSON objects; none if nothing is within so long."""
        try:
            async with asyncio.timeout(patience_s):
                await self._told.wait()
        except TimeoutError:
            return []
        self._told.clear()
        lines = list(self._waiting)
        self._waiting.clear()
        if self._dropped:
            lines.append(f'{{"event":"dropped","count":{self._dropped}}}')
            self._dropped = 0
        return lines


class Broadcast:
    """Tells events to all who listen. While nobody does, an event costs nothing."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._listeners: set[Listener] = set()

    def tell(self, event: Event) -> None:
        if not self._listeners:
            return
        line = as_json(self._clock(), event)
        for listener in self._listeners:
            listener.tell(line)

    @contextmanager
    def listener(self) -> Iterator[Listener]:
        """One who listens until he leaves. Raises Overloaded where too many do."""
        if len(self._listeners) >= MAX_LISTENERS:
            raise Overloaded(f"{MAX_LISTENERS} watch already.", retry_after=10)
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
