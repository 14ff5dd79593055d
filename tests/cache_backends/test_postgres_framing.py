"""The look at what a server says."""

from __future__ import annotations

import asyncio

import pytest

from cache_backends.postgres_framing import Framing

MESSAGES = b"".join(
    letter + (4 + len(body)).to_bytes(4) + body
    for letter, body in ((b"1", b""), (b"D", b"\x00" * 300), (b"C", b"SELECT 1\x00"), (b"Z", b"I"))
)


class Driver(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = b""

    def data_received(self, data: bytes) -> None:
        self.heard += data


class Line(asyncio.Transport):
    aborted = False

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 64, 1000])
def test_messages_pass_however_they_are_cut(piece: int) -> None:
    """All of them, at once, with nothing held back."""
    driver, line = Driver(), Line()
    framing = Framing(driver, line)
    said = MESSAGES * 3
    for first in range(0, len(said), piece):
        framing.data_received(said[first : first + piece])
        assert driver.heard == said[: first + piece]
    assert not line.aborted


@pytest.mark.parametrize("piece", [1, 4, 1000])
@pytest.mark.parametrize("junk", [b"\x00\xfe garbage", b"D\xff\xff\xff\xff", b"D\x7f\x00\x00\x00"])
def test_what_is_no_message_is_hung_up_on(junk: bytes, piece: int) -> None:
    """After messages that are whole, and before the driver has read what would drive it mad."""
    driver, line = Driver(), Line()
    framing = Framing(driver, line)
    said = MESSAGES + junk
    for first in range(0, len(said), piece):
        framing.data_received(said[first : first + piece])
        if line.aborted:
            break
    assert line.aborted
    assert len(driver.heard) < len(said)
