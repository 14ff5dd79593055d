"""The mode of the proxy, the same for all who use one cache: a fact in it that each reads again
and again."""

from __future__ import annotations

import asyncio
import logging

from proxy.errors import CacheOutOfReach
from proxy.models import Mode
from proxy.store import Store

log = logging.getLogger("proxy.modes")

FACT = "mode"
# How often each process reads it.
READ_S = 0.5


class Switch:
    """The mode as this process knows it; while the cache cannot be reached, the last one known.

    `given`: what the settings say. It counts at once, and for all as soon as the cache can be told.
    """

    def __init__(self, store: Store, given: Mode | None = None) -> None:
        self._store = store
        self._to_tell = given
        self.shared = True  # has the cache a way to tell the others?
        self._changes = 0
        self.mode = given or Mode.NORMAL

    def __repr__(self) -> str:
        return f"<Switch {self.mode}>"

    async def read(self) -> None:
        """Learn what the mode is now."""
        if self._to_tell is not None:
            await self._tell(self._to_tell)
            return
        if not self.shared:
            return
        changes = self._changes
        said = await self._store.fact(FACT, Mode.NORMAL)
        # What was read before a change was made here is of yesterday.
        if said in set(Mode) and changes == self._changes:
            self._turn_to(Mode(said))

    async def set(self, mode: Mode) -> bool:
        """Change it, everywhere once this returns; `False`: the cache has no way to tell other
        processes. CacheOutOfReach if it cannot be reached."""
        if await self._tell(mode) is None:
            raise CacheOutOfReach("The mode cannot be changed now: the cache cannot be reached.")
        if self.shared and not self._store.one_process:
            await asyncio.sleep(self._settled_s)
        return self.shared

    @property
    def _settled_s(self) -> float:
        """When all have read what was told: a read that began before it may just have failed to
        see it, and the next takes as long as a read may."""
        return READ_S + 2 * self._store.lookup_timeout_s

    async def _tell(self, mode: Mode) -> bool | None:
        self._changes += 1
        told = await self._store.set_fact(FACT, mode)
        if told is None:
            return None
        self._changes += 1
        self.shared, self._to_tell = told, None
        self._turn_to(mode)
        return told

    def _turn_to(self, mode: Mode) -> None:
        if mode is not self.mode:
            log.warning("the mode is %s now; it was %s", mode, self.mode)
        self.mode = mode
