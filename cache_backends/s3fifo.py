"""The memory cache's policy: which values stay, under a bound on their bytes.

S3-FIFO (Yang and others, "FIFO queues are all you need for cache eviction", SOSP 2023). A new value
enters a small queue, a tenth of the space; asked for again it moves to the main queue, else only
its id is remembered, as a ghost; a ghost that returns goes to the main queue at once. Prompts that
are seen once, and most are, so never push out what is asked often.

Pinned values have a queue of their own: the oldest of them goes only where there is nothing else,
and only for another pinned one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")

SMALL_SHARE = 0.1
# How many rounds through the main queue hits can buy.
MAX_HITS = 3


@dataclass(slots=True, eq=False, weakref_slot=True)
class Cell(Generic[V]):
    """A value, the bytes it counts for, and how often it was asked for since it was last judged.

    Another value has another cell. `counted` is its owner's: it stays when the value is replaced.
    """

    value: V
    size: int
    hits: int = 0
    in_main: bool = False
    pinned: bool = False
    counted: int = 0


class S3Fifo(Generic[V]):
    """Values by id, as many as fit. Not locked: its owner does that.

    Readers take `cells.get(id)` and mark what they used with `cell.hits`, which needs no lock.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.cells: dict[str, Cell[V]] = {}
        self.bytes = 0
        self.evictions = 0
        self._small: OrderedDict[str, Cell[V]] = OrderedDict()
        self._main: OrderedDict[str, Cell[V]] = OrderedDict()
        self._pinned: OrderedDict[str, Cell[V]] = OrderedDict()
        self._ghosts: OrderedDict[str, None] = OrderedDict()
        self._small_bytes = self._pinned_bytes = 0

    def put(self, id: str, value: V, size: int, *, pinned: bool = False) -> bool:
        """Keep the value in place of an older one; `False` if it is larger than all the space.

        That of pinned values is not there for others.
        """
        old = self.discard(id)
        if size > self.max_bytes - (0 if pinned else self._pinned_bytes):
            return False
        cell = Cell(value, size, pinned=pinned)
        if old is not None:
            cell.hits, cell.in_main, cell.counted = old.hits, old.in_main, old.counted
        elif id in self._ghosts:
            del self._ghosts[id]
            cell.in_main = True
        # Room is made first: a new value is never its own victim.
        while self.bytes + size > self.max_bytes:
            self._evict()
        self._insert(id, cell)
        return True

    def discard(self, id: str) -> Cell[V] | None:
        """Remove and return the cell, if there is one; no ghost stays behind."""
        cell = self.cells.get(id)
        if cell is not None:
            self._remove(id, cell)
        return cell

    def clear(self) -> None:
        """Forget everything, ghosts too. Not counted as evictions."""
        for held in (self.cells, self._small, self._main, self._pinned, self._ghosts):
            held.clear()
        self.bytes = self._small_bytes = self._pinned_bytes = 0

    def _insert(self, id: str, cell: Cell[V]) -> None:
        self.cells[id] = cell
        self.bytes += cell.size
        if cell.pinned:
            self._pinned[id] = cell
            self._pinned_bytes += cell.size
        elif cell.in_main:
            self._main[id] = cell
        else:
            self._small[id] = cell
            self._small_bytes += cell.size

    def _remove(self, id: str, cell: Cell[V]) -> None:
        del self.cells[id]
        self.bytes -= cell.size
        if cell.pinned:
            del self._pinned[id]
            self._pinned_bytes -= cell.size
        elif cell.in_main:
            del self._main[id]
        else:
            del self._small[id]
            self._small_bytes -= cell.size

    def _evict(self) -> None:
        """Judge the oldest value of one queue: it goes, or gets another round in the main queue."""
        if self._small and (self._small_bytes > SMALL_SHARE * self.max_bytes or not self._main):
            self._judge_small()
        elif self._main:
            self._judge_main()
        else:
            self._remove(*next(iter(self._pinned.items())))
            self.evictions += 1

    def _judge_small(self) -> None:
        oldest, cell = next(iter(self._small.items()))
        self._remove(oldest, cell)
        if cell.hits:
            cell.hits, cell.in_main = 0, True
            self._insert(oldest, cell)
            return
        self.evictions += 1
        self._ghosts[oldest] = None
        while len(self._ghosts) > len(self.cells):
            self._ghosts.popitem(last=False)

    def _judge_main(self) -> None:
        oldest, cell = next(iter(self._main.items()))
        if cell.hits:
            cell.hits -= 1
            self._main.move_to_end(oldest)
            return
        self._remove(oldest, cell)
        self.evictions += 1
