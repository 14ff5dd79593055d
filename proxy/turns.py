"""One fetch of a question at a time, among all processes that share a cache.

Whoever holds the lease of a question fetches; the others look for its entry until it is there, or
the lease is free. A holder that dies holds nobody up for longer than the lease lasts.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence

from cache_backends.base import Entry, Key
from proxy.store import Store

LEASE_S = 5.0
# How often those who wait look: at first as soon as a fast answer could be there.
FIRST_LOOK_S = 0.02
LAST_LOOK_S = 0.25

# Entries that answer the question, if there are any by now.
Look = Callable[[], Awaitable[Sequence[Entry] | None]]


class Turn:
    """Leave to fetch, or what another process has brought meanwhile."""

    found: Sequence[Entry] | None = None

    def end(self, saving: asyncio.Task[bool] | None) -> None:
        """Let the next one fetch, once what is being saved can be found."""


class Alone:
    """No turns: each process fetches for itself."""

    async def take(self, keys: Sequence[Key], look: Look) -> Turn:  # noqa: ARG002 - needs none
        return Turn()


class Turns(Alone):
    """Turns by leases of the store. Nobody waits longer than `patience_s`, nor for a store that
    cannot be reached: then it is fetched all the same."""

    def __init__(self, store: Store, *, patience_s: float = 60.0, lease_s: float = LEASE_S) -> None:
        self._store = store
        self._patience_s = patience_s
        self._lease_s = lease_s
        self._ending: set[asyncio.Task[None]] = set()

    async def take(self, keys: Sequence[Key], look: Look) -> Turn:
        name, holder = _name(keys), secrets.token_hex(8)
        until = time.monotonic() + self._patience_s
        pause = FIRST_LOOK_S
        turn = Turn()
        while await self._store.claim(name, holder, self._lease_s) is False:
            if time.monotonic() > until:
                return turn
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LAST_LOOK_S)
            turn.found = await look()
            if turn.found is not None:
                return turn
        return await self._held(name, holder, look)

    async def _held(self, name: str, holder: str, look: Look) -> Turn:
        turn = _HeldTurn(self._store, name, holder, self._lease_s)
        # Whoever held it before may have stored the answer after it was looked for here.
        turn.found = await look()
        self._ending.add(turn.task)
        turn.task.add_done_callback(self._ending.discard)
        if turn.found is not None:
            turn.end(None)
        return turn


class _HeldTurn(Turn):
    """Holds the lease until the turn has ended."""

    def __init__(self, store: Store, name: str, holder: str, lease_s: float) -> None:
        self._store = store
        self._name = name
        self._holder = holder
        self._lease_s = lease_s
        self._over = asyncio.Event()
        self.task = asyncio.create_task(self._hold())

    def end(self, saving: asyncio.Task[bool] | None) -> None:
        if saving is None or saving.done():
            self._over.set()
        else:
            saving.add_done_callback(lambda _: self._over.set())

    async def _hold(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._lease_s / 3):
                    await self._over.wait()
            except TimeoutError:
                await self._store.claim(self._name, self._holder, self._lease_s)
            else:
                await self._store.release(self._name, self._holder)
                return


def _name(keys: Sequence[Key]) -> str:
    """One name for the question, of whatever size."""
    return hashlib.sha256("".join(key.id for key in keys).encode()).hexdigest()
