"""Which of the entries in memory are meant, and the page that tells of them."""

from __future__ import annotations

from heapq import heappop, heappush

from cache_backends.base import Entry
from cache_backends.cursors import cursor_of, place_of
from cache_backends.memory_packing import Packed, unpacked
from cache_backends.s3fifo import Cell
from cache_backends.shared import PREVIEW_CHARS, Filter, Narrowing, Page, Summary
from cache_backends.texts import says


def chosen(
    id: str, cell: Cell[Packed], filter: Filter, narrowed: Narrowing, now: float
) -> Entry | None:
    """The entry, if it is one of those that are meant; what is told most easily is asked first."""
    if not _fits(cell, narrowed, now):
        return None
    entry = unpacked(id, cell.value)
    if not filter.covers(entry):
        return None
    text = narrowed.text
    if text is not None and not says(text.casefold(), entry.key.prompt, entry.generations):
        return None
    return entry


def _fits(cell: Cell[Packed], narrowed: Narrowing, now: float) -> bool:
    *_, expires_at, retained_until, _ = cell.value
    if retained_until is not None and retained_until <= now:
        return False
    expired = expires_at is not None and expires_at <= now
    return (
        (narrowed.expired is None or narrowed.expired is expired)
        and (narrowed.min_hits is None or cell.counted >= narrowed.min_hits)
        and (narrowed.min_bytes is None or cell.size >= narrowed.min_bytes)
        and (narrowed.max_bytes is None or cell.size <= narrowed.max_bytes)
    )


class Newest:
    """Those stored last of what it is given, in any order: a page that goes on from a cursor."""

    def __init__(self, limit: int, cursor: str | None) -> None:
        self._limit = limit
        self._below = None if cursor is None else place_of(cursor)
        # One more than asked for tells whether others follow. The oldest is the first in the heap.
        self._found: list[tuple[float, str, Summary]] = []

    def wants(self, id: str, cell: Cell[Packed]) -> bool:
        """Would it be told, if it is one of those that are meant?"""
        place = (cell.value[3], id)
        if self._below is not None and place >= self._below:
            return False
        return len(self._found) <= self._limit or place > self._found[0][:2]

    def add(self, entry: Entry, cell: Cell[Packed]) -> None:
        preview = entry.key.prompt[:PREVIEW_CHARS]
        told = Summary.of(entry, cell.size, preview, cell.counted)
        heappush(self._found, (entry.stored_at, entry.key.id, told))
        if len(self._found) > self._limit + 1:
            heappop(self._found)

    def page(self) -> Page:
        told = [summary for *_, summary in sorted(self._found, reverse=True)]
        if len(told) <= self._limit:
            return Page(told, None)
        last = told[self._limit - 1]
        return Page(told[: self._limit], cursor_of(last.stored_at, last.id))
