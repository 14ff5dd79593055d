"""Bytes that come in pieces, as lines: for bodies of any size."""

from __future__ import annotations

from collections.abc import Iterator


class LineSplitter:
    """Fed the pieces of a body, gives its lines with their numbers, from 1 on. Blank ones are
    counted and left out; `None` stands for one of more than `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: list[bytes] = []
        self._size = 0
        self._number = 0

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes | None]]:
        *ended, rest = piece.split(b"\n")
        for end in ended:
            self._hold(end)
            yield from self._end()
        self._hold(rest)

    def finish(self) -> Iterator[tuple[int, bytes | None]]:
        """The last line, if it has no end."""
        if self._size:
            yield from self._end()

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._max_bytes:
            self._held.clear()
        elif piece:
            self._held.append(piece)

    def _end(self) -> Iterator[tuple[int, bytes | None]]:
        line = b"".join(self._held).strip() if self._size <= self._max_bytes else None
        self._held.clear()
        self._size = 0
        self._number += 1
        if line is None or line:
            yield self._number, line
