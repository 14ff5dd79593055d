"""Entries as the memory cache holds them: their strings, the rest as bytes, and the times."""

from __future__ import annotations

from sys import getsizeof

from cache_backends.base import Entry, Key
from cache_backends.codec import decode, encode

# What an entry costs beside its texts: cell, tuple, times, id, its places in dict and queue.
ENTRY_OVERHEAD_BYTES = 400

# Prompt, llm_string, the rest as `codec` writes it, stored_at, expires_at, retained_until, seen. A
# plain tuple of plain values is one that the garbage collector lets be.
Packed = tuple[str, str, bytes, float, float | None, float | None, int]


def packed(entry: Entry) -> Packed:
    """`CodecError` for what cannot be written as JSON."""
    value = encode(entry.generations, entry.tags, entry.about)
    return (
        entry.key.prompt,
        entry.key.llm_string,
        memoryview(value).tobytes(),  # orjson's own bytes hold on to a buffer of 8 KiB
        entry.stored_at,
        entry.expires_at,
        entry.retained_until,
        entry.seen,
    )


def size_of(held: Packed) -> int:
    """The bytes that Python takes for it and for its place."""
    return ENTRY_OVERHEAD_BYTES + sum(map(getsizeof, held[:3]))


def unpacked(id: str, held: Packed) -> Entry:
    """The reverse of `packed`."""
    return unpacked_as(Key(id, held[0], held[1]), held)


def unpacked_as(key: Key, held: Packed) -> Entry:
    """The same, for one who has the key."""
    _, _, value, stored_at, expires_at, retained_until, seen = held
    generations, tags, about = decode(value)
    return Entry(key, generations, stored_at, expires_at, retained_until, tags, about, seen)
