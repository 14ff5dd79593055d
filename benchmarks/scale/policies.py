"""Eviction policies under a bound on bytes: the proxy's own, and those it is compared with."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Protocol

from cache_backends.s3fifo import MAX_HITS, S3Fifo

_NEVER = float("inf")


class Policy(Protocol):
    def ask(self, question: int, size: int) -> bool:
        """Is it there? It is stored if not."""


class Ours:
    """S3-FIFO as the memory tier uses it."""

    def __init__(self, space: int) -> None:
        self._held: S3Fifo[None] = S3Fifo(space)

    def ask(self, question: int, size: int) -> bool:
        name = str(question)
        cell = self._held.cells.get(name)
        if cell is None:
            self._held.put(name, None, size)
            return False
        if cell.hits < MAX_HITS:  # as `MemoryCache.peek` does
            cell.hits += 1
        return True


class Fifo:
    """The one stored first goes."""

    def __init__(self, space: int) -> None:
        self._free = space
        self._space = space
        self._held: OrderedDict[int, int] = OrderedDict()

    def ask(self, question: int, size: int) -> bool:
        if question in self._held:
            self._used(question)
            return True
        if size <= self._space:
            self._free -= size
            while self._free < 0:
                self._free += self._evict()
            self._held[question] = size
        return False

    def _used(self, _: int) -> None:
        return None

    def _evict(self) -> int:
        return self._held.popitem(last=False)[1]


class Lru(Fifo):
    """The one not used for longest goes."""

    def _used(self, question: int) -> None:
        self._held.move_to_end(question)


class Lfu(Fifo):
    """The one used least often since it came goes; of several, the one not used for longest."""

    def __init__(self, space: int) -> None:
        super().__init__(space)
        self._times: dict[int, int] = {}
        self._by_times: defaultdict[int, OrderedDict[int, None]] = defaultdict(OrderedDict)
        self._least = 1

    def ask(self, question: int, size: int) -> bool:
        there = super().ask(question, size)
        if not there and question in self._held:
            self._times[question] = self._least = 1
            self._by_times[1][question] = None
        return there

    def _used(self, question: int) -> None:
        times = self._times[question]
        del self._by_times[times][question]
        if not self._by_times[times] and self._least == times:
            self._least += 1
        self._times[question] = times + 1
        self._by_times[times + 1][question] = None

    def _evict(self) -> int:
        while not self._by_times[self._least]:
            self._least += 1
        question, _ = self._by_times[self._least].popitem(last=False)
        del self._times[question]
        return self._held.pop(question)


class Sieve(Fifo):
    """SIEVE (Zhang and others, NSDI 2024): a hand goes from the oldest to the newest, spares what
    was used since it came by last, and takes the first that was not."""

    def __init__(self, space: int) -> None:
        super().__init__(space)
        self._visited: dict[int, bool] = {}
        self._newer: dict[int, int] = {}
        self._older: dict[int, int] = {}
        self._newest = self._oldest = self._hand = -1

    def ask(self, question: int, size: int) -> bool:
        there = super().ask(question, size)
        if not there and question in self._held:
            self._visited[question] = False
            self._link(question)
        return there

    def _used(self, question: int) -> None:
        self._visited[question] = True

    def _evict(self) -> int:
        hand = self._hand if self._hand != -1 else self._oldest
        while self._visited[hand]:
            self._visited[hand] = False
            hand = self._newer.get(hand, self._oldest)
        self._hand = self._newer.get(hand, -1)
        self._unlink(hand)
        del self._visited[hand]
        return self._held.pop(hand)

    def _link(self, question: int) -> None:
        if self._newest == -1:
            self._oldest = question
        else:
            self._newer[self._newest], self._older[question] = question, self._newest
        self._newest = question

    def _unlink(self, question: int) -> None:
        newer, older = self._newer.pop(question, -1), self._older.pop(question, -1)
        if newer == -1:
            self._newest = older
        elif older == -1:
            del self._older[newer]
        else:
            self._older[newer] = older
        if older == -1:
            self._oldest = newer
        elif newer == -1:
            del self._newer[older]
        else:
            self._newer[older] = newer


class Belady:
    """Knows what comes: what is asked for again last goes, be it what has just come.

    No policy does better where all entries are of one size; else it is no bound, but near to one.
    """

    def __init__(self, space: int, questions: Sequence[int]) -> None:
        self._free = space
        self._next = iter(_next_uses(questions))
        self._held: dict[int, int] = {}
        self._uses: dict[int, float] = {}
        self._last: list[tuple[float, int]] = []

    def ask(self, question: int, size: int) -> bool:
        there = question in self._held
        if not there:
            self._held[question] = size
            self._free -= size
        self._uses[question] = following = next(self._next)
        heappush(self._last, (-following, question))
        while self._free < 0:
            self._evict()
        return there

    def _evict(self) -> None:
        use, question = heappop(self._last)
        if self._uses.get(question) == -use:  # else it was asked for since
            self._free += self._held.pop(question)
            del self._uses[question]


def _next_uses(questions: Sequence[int]) -> list[float]:
    """For each request the place of the next one for the same."""
    uses: list[float] = []
    following: dict[int, int] = {}
    for place in range(len(questions) - 1, -1, -1):
        uses.append(following.get(questions[place], _NEVER))
        following[questions[place]] = place
    return uses[::-1]


# By their names, from space and the stream to come.
POLICIES: dict[str, Callable[[int, Sequence[int]], Policy]] = {
    "FIFO": lambda space, _: Fifo(space),
    "LRU": lambda space, _: Lru(space),
    "LFU": lambda space, _: Lfu(space),
    "SIEVE": lambda space, _: Sieve(space),
    "S3-FIFO": lambda space, _: Ours(space),
    "Belady": Belady,
}
