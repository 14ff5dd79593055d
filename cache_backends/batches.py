"""Batches: how much is sent to a store at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


def in_batches(
    items: Iterable[_T], size_of: Callable[[_T], int], *, most: int, most_bytes: int
) -> Iterator[list[_T]]:
    """Part items, in order, into lists of so many and so many bytes at most; a larger one is
    alone."""
    batch: list[_T] = []
    batch_bytes = 0
    for item in items:
        size = size_of(item)
        if batch and (len(batch) == most or batch_bytes + size > most_bytes):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(item)
        batch_bytes += size
    if batch:
        yield batch
