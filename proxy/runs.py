"""Which sample of a run comes next: in a run the k-th equal request is sample k, counted from 0.

A number belongs to one attempt. An attempt that fails gives it back, so that whoever tries again
gets the same; nobody in a run is told the same sample twice.

Where the cache lends leases, a number is held by one: all processes that use the cache count as
one. Where it does not, or cannot be reached, each process counts for itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush

from cache_backends.base import Key
from proxy.store import Store

# A run ends when nothing of it was asked for so long.
RUN_S = 86400.0
# Questions of runs that are counted at a time; the one that was asked least lately goes first.
MAX_QUESTIONS = 100_000
# Numbers that other processes have, and may give back: so many are remembered.
MAX_OTHERS = 16
# How long it is known that a process gave a number back: until those who try again have done so.
GIVEN_BACK_S = 60.0
# To hold a lease for so long is to ask whether somebody else does. All who ask are one holder.
GLANCE_S = 0.01
_ASKING, _GIVING = "who asks", "who gives back"


class Attempt:
    """One request of a run, and its number."""

    def __init__(self, number: int, count: _Count, store: Store, lease: _Lease | None) -> None:
        self.number = number
        self._count = count
        self._store = store
        self._lease = lease
        self._failed = False

    async def failed(self) -> None:
        """Give the number back."""
        if self._failed:
            return
        self._failed = True
        if self._lease is not None:
            await self._let_others_know(self._lease)
        self._count.give_back(self.number)

    async def _let_others_know(self, lease: _Lease) -> None:
        await self._store.release(lease.name, lease.holder)
        mark = self._count.mark
        for _ in range(3):
            if await self._store.claim(mark, _GIVING, GIVEN_BACK_S) is not False:
                return
            await asyncio.sleep(GLANCE_S)  # somebody has a look at this moment


@dataclass(frozen=True, slots=True)
class _Lease:
    name: str
    holder: str


@dataclass(slots=True)
class _Count:
    """The numbers of one question in one run, as far as this process knows."""

    name: str
    holder: str = field(default_factory=partial(secrets.token_hex, 8))
    used_at: float = 0.0
    next: int = 0  # all below are taken, but for these
    free: list[int] = field(default_factory=list)
    others: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_OTHERS))

    @property
    def mark(self) -> str:
        return f"{self.name} given back"

    def lease(self, number: int) -> _Lease:
        """Always the same: who was interrupted while he claimed it can claim it again."""
        return _Lease(f"{self.name} {number}", f"{self.holder} {number}")

    def pick(self) -> int:
        if self.free:
            return heappop(self.free)
        self.next += 1
        return self.next - 1

    def give_back(self, number: int) -> None:
        heappush(self.free, number)


class Runs:
    """Counts the attempts of runs. `clock` tells seconds."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    async def begin(self, run: str, keys: Sequence[Key]) -> Attempt:
        """Take the next number for these keys, which are those of sample 0."""
        count = self._count(_name(run, keys))
        attempt = await self._given_back_elsewhere(count) if count.others else None
        while attempt is None:
            attempt = await self._claim(count, count.pick())
        return attempt

    async def _claim(self, count: _Count, number: int) -> Attempt | None:
        lease = count.lease(number)
        try:
            claimed = await self._store.claim(lease.name, lease.holder, RUN_S)
        except BaseException:
            count.give_back(number)
            raise
        if claimed is False:
            count.others.append(number)
            return None
        return Attempt(number, count, self._store, lease if claimed else None)

    async def _given_back_elsewhere(self, count: _Count) -> Attempt | None:
        """A number that another process had, if one of them has given any back lately."""
        if await self._store.claim(count.mark, _ASKING, GLANCE_S) is not False:
            return None
        for number in sorted(count.others):
            if number in count.others:  # and nobody here is trying it
                count.others.remove(number)
                if (attempt := await self._claim(count, number)) is not None:
                    return attempt
        return None

    def _count(self, name: str) -> _Count:
        now, counts = self._clock(), self._counts
        while counts and next(iter(counts.values())).used_at < now - RUN_S:
            counts.popitem(last=False)
        count = counts.setdefault(name, _Count(name))
        counts.move_to_end(name)
        if len(counts) > MAX_QUESTIONS:
            counts.popitem(last=False)
        count.used_at = now
        return count


def _name(run: str, keys: Sequence[Key]) -> str:
    """One name for a question in a run, of whatever size."""
    digest = hashlib.sha256("".join(key.id for key in keys).encode())
    digest.update(run.encode())
    return f"run {digest.hexdigest()}"
