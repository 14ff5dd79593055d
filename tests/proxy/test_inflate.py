"""Compressed bodies, whole, in pieces and damaged."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest

from proxy.inflate import STEP_BYTES, Decoder, Plain, decoder_for

TEXT = b"data: hello\n\n" * 9 + random.Random(1).randbytes(100_000) + bytes(300_000)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED = [
    (b"gzip", gzip.compress(TEXT)),
    (b"X-GZIP", gzip.compress(TEXT)),
    (b"deflate", zlib.compress(TEXT)),
    (b"deflate", raw_deflate(TEXT)),
    (b"gzip", gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:])),
]


def decoder(encoding: bytes) -> Decoder:
    found = decoder_for(encoding)
    assert found is not None
    return found


def unpacked(encoding: bytes, *chunks: bytes) -> bytes:
    it = decoder(encoding)
    pieces = [piece for chunk in chunks for piece in it.feed(chunk)]
    it.finish()
    assert all(0 < len(piece) <= STEP_BYTES for piece in pieces)
    return b"".join(pieces)


@pytest.mark.parametrize(("encoding", "packed"), PACKED)
@pytest.mark.parametrize("size", [1, 1000, 10**9])
def test_bodies_come_out_whole_however_they_are_cut(
    encoding: bytes, packed: bytes, size: int
) -> None:
    """gzip, also of several members, and both forms of deflate."""
    chunks = [packed[start : start + size] for start in range(0, len(packed), size)]
    assert unpacked(encoding, *chunks) == TEXT


@pytest.mark.parametrize(("encoding", "packed"), PACKED)
def test_a_body_without_its_end_is_damaged(encoding: bytes, packed: bytes) -> None:
    """A cut is seen even where all of the text could be read."""
    for cut in (1, 20, len(packed) - 1):
        with pytest.raises(zlib.error):
            unpacked(encoding, packed[:cut])


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_what_is_not_compressed_is_damaged(encoding: bytes) -> None:
    """A false header does not pass for text."""
    with pytest.raises(zlib.error):
        unpacked(encoding, b'{"id": "x"}', b"more")


def test_what_follows_the_end_is_damaged() -> None:
    """Trailing bytes are not swallowed."""
    with pytest.raises(zlib.error):
        unpacked(b"gzip", gzip.compress(TEXT), b"{}")


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"", b"identity"])
def test_an_empty_body_is_whole(encoding: bytes) -> None:
    """A 204 may well claim to be compressed."""
    assert unpacked(encoding) == b""
    assert unpacked(encoding.upper()) == b""


def test_each_flush_gives_what_was_flushed() -> None:
    """An event of a compressed stream is not held back until the next one."""
    packer, it = zlib.compressobj(wbits=zlib.MAX_WBITS + 16), decoder(b"gzip")
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        sent = packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)
        assert b"".join(it.feed(sent)) == event


def test_nothing_is_held_back_between_steps() -> None:
    """What a full step left inside zlib comes too, not only with the next chunk."""
    packed = gzip.compress(bytes(STEP_BYTES + 3))[:-8]
    known = zlib.decompressobj(zlib.MAX_WBITS + 16).decompress(packed)
    assert b"".join(decoder(b"gzip").feed(packed)) == known


def test_other_encodings_are_not_decoded() -> None:
    """Whoever asks is told, and passes the body on as it is."""
    assert decoder_for(b"br") is None
    assert decoder_for(b"gzip, gzip") is None
    assert isinstance(decoder_for(b"identity"), Plain)
