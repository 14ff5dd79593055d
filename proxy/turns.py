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
# How long it is known that a fetch was in vain: until all who wait have looked several times.
IN_VAIN_S = 5.0
# To hold a lease for so long is to ask whether somebody else does.
GLANCE_S = 0.01

# Entries that answer the question, if there are any by now.
Look = Callable[[], Awaitable[Sequence[Entry] | None]]
# Is what is fetched of no use to those who wait?
Obsolete = Callable[[], bool]


class Turn:
    """Leave to fetch, or what another process has brought meanwhile."""

    def __init__(self, found: Sequence[Entry] | None = None) -> None:
        self.found = found

    def end(self, stored: bool, saving: asyncio.Task[bool] | None) -> None:
        """It is fetched. Others go on once what is being saved can be found."""


class Alone:
    """No turns: each process fetches for itself."""

    async def take(self, keys: Sequence[Key], look: Look, obsolete: Obsolete) -> Turn:  # noqa: ARG002 - needs none
        return Turn()

    async def aclose(self) -> None:
        return None


class Turns(Alone):
    """Turns by leases of the store. Nobody waits longer than `patience_s`, nor for a store that
    cannot be reached: then it is fetched all the same."""

    def __init__(self, store: Store, *, patience_s: float = 60.0, lease_s: float = LEASE_S) -> None:
        self._store = store
        self._patience_s = patience_s
        self._lease_s = lease_s
        self._held: dict[str, _HeldTurn] = {}

    async def take(self, keys: Sequence[Key], look: Look, obsolete: Obsolete) -> Turn:
        name, holder = _name(keys), secrets.token_hex(8)
        until = time.monotonic() + self._patience_s
        pause = FIRST_LOOK_S
        # What this process itself fetches can be joined; whoever has not had a reason.
        while name not in self._held and time.monotonic() < until:
            claimed = await self._store.claim(name, holder, self._lease_s)
            if claimed is None:
                break
            if claimed:
                return await self._begin(name, holder, look, obsolete, waited=pause > FIRST_LOOK_S)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LAST_LOOK_S)
            found = await look()
            if found is not None:
                return Turn(found)
        return Turn()

    async def _begin(
        self, name: str, holder: str, look: Look, obsolete: Obsolete, *, waited: bool
    ) -> Turn:
        turn = _HeldTurn(self._store, name, holder, self._lease_s, obsolete)
        self._held[name] = turn
        turn.task.add_done_callback(lambda _: self._held.pop(name, None))
        try:
            # Whoever held it before may have stored the answer after it was looked for here.
            turn.found = await look()
            if turn.found is not None or (waited and await turn.is_in_vain()):
                turn.end(True, None)
        except BaseException:
            turn.end(True, None)
            raise
        return turn

    async def aclose(self) -> None:
        """Give all leases back; what is fetched under them must have ended."""
        tasks = [turn.task for turn in self._held.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._lease_s)
            for task in late:
                task.cancel()


class _HeldTurn(Turn):
    """Holds the lease until the turn has ended, or nobody is to wait for it.

    One that ends with nothing stored leaves a mark for those who wait: they need not take turns,
    one vain fetch after the other.
    """

    def __init__(
        self, store: Store, name: str, holder: str, lease_s: float, obsolete: Obsolete
    ) -> None:
        super().__init__()
        self._store = store
        self._name = name
        self._holder = holder
        self._lease_s = lease_s
        self._obsolete = obsolete
        self._stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._hold())

    def end(self, stored: bool, saving: asyncio.Task[bool] | None) -> None:
        if saving is None:
            self._end(stored)
        else:
            saving.add_done_callback(lambda task: self._end(not task.cancelled() and task.result()))

    async def is_in_vain(self) -> bool:
        """Has the one who held it before brought nothing that could be stored?"""
        return await self._store.claim(self._mark, self._holder, GLANCE_S) is False

    @property
    def _mark(self) -> str:
        return f"{self._name} in vain"

    def _end(self, stored: bool) -> None:
        if not self._stored.done():
            self._stored.set_result(stored)

    async def _hold(self) -> None:
        while not (self._stored.done() or self._obsolete()):
            await asyncio.wait({self._stored}, timeout=self._lease_s / 3)
            if not self._stored.done():
                await self._store.claim(self._name, self._holder, self._lease_s)
        if self._stored.done() and not self._stored.result():
            await self._store.claim(self._mark, self._holder, IN_VAIN_S)
        await self._store.release(self._name, self._holder)


def _name(keys: Sequence[Key]) -> str:
    """One name for the question, of whatever size."""
    return hashlib.sha256("".join(key.id for key in keys).encode()).hexdigest()
