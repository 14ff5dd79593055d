"""Compressed bodies made plain, a bounded step at a time: 200 kB of gzip can hold 200 MB."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

STEP_BYTES = 64 * 2**10


class Decoder(Protocol):
    """Both methods raise `zlib.error` if the body is damaged; `finish`, also if it has no end."""

    def feed(self, chunk: bytes) -> Iterable[bytes]: ...
    def finish(self) -> None: ...


def decoder_for(content_encoding: bytes) -> Decoder | None:
    """Return what decodes a body with this header; `None` if nothing here does."""
    match content_encoding.lower():
        case b"" | b"identity":
            return Plain()
        case b"gzip" | b"x-gzip":
            return Inflate(zlib.MAX_WBITS + 16)
        case b"deflate":
            return Inflate(zlib.MAX_WBITS)
        case _:
            return None


class Plain:
    """Nothing to decode."""

    def feed(self, chunk: bytes) -> Iterable[bytes]:
        return (chunk,)

    def finish(self) -> None:
        return None


class Inflate:
    """gzip and deflate, told apart by zlib's window bits."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._zlib = zlib.decompressobj(window)
        self._started = False
        self._whole = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        if chunk:
            self._start(chunk)
            yield from self._steps(chunk)

    def finish(self) -> None:
        if not self._whole:
            raise zlib.error("the compressed body has no end")

    def _start(self, chunk: bytes) -> None:
        # Some servers send deflate without the zlib header that RFC 9110 8.4.1.2 asks for.
        if (
            not self._started
            and self._window == zlib.MAX_WBITS
            and chunk[0] & 0x0F != zlib.DEFLATED
        ):
            self._window = -zlib.MAX_WBITS
            self._zlib = zlib.decompressobj(self._window)
        self._started = True

    def _steps(self, chunk: bytes) -> Iterator[bytes]:
        more = True
        while more:
            piece = self._zlib.decompress(chunk, STEP_BYTES)
            chunk = self._zlib.unconsumed_tail
            self._whole = self._zlib.eof
            if self._whole:  # gzip may come in several members, one after the other
                chunk = self._zlib.unused_data
                self._zlib = zlib.decompressobj(self._window)
            # A full step may leave output inside zlib though all input was taken.
            more = bool(chunk) or (not self._whole and len(piece) == STEP_BYTES)
            if piece:
                yield piece
