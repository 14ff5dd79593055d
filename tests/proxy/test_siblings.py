"""Workers ask each other at their sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy import siblings
from proxy.siblings import Siblings

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


@asynccontextmanager
async def another(folder: Path, *pieces: bytes) -> AsyncIterator[list[bytes]]:
    """A worker that answers everything in these pieces; the heads of what it was asked."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.01)
        finally:
            writer.close()

    async with await asyncio.start_unix_server(answer, folder / "another.sock"):
        yield asked


async def test_an_answer_is_read_to_its_end(tmp_path: Path) -> None:
    """However many pieces it comes in; asked with the token of who asks, and with nothing else."""
    headers = [(b"authorization", b"Bearer x"), (b"cookie", b"y")]
    async with another(tmp_path, HEAD, b'{"requests": [', b"1, 2", b"]}") as asked:
        knows = Siblings()
        knows.join(tmp_path)
        assert await knows.ask("/admin/why", headers) == [{"requests": [1, 2]}]
    (head,) = asked
    assert b"authorization: Bearer x\r\n" in head
    assert b"cookie" not in head


@pytest.mark.parametrize(
    "pieces",
    [(b"HTTP/1.1 401 No\r\n\r\n{}",), (HEAD, b"[1"), (HEAD, b"[" + b"1," * 60 + b"1]"), ()],
)
async def test_who_does_not_answer_well_is_left_out(
    tmp_path: Path, pieces: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that refuses, breaks off, says too much or nothing."""
    monkeypatch.setattr(siblings, "MAX_ANSWER_BYTES", 100)
    async with another(tmp_path, *pieces):
        knows = Siblings()
        knows.join(tmp_path)
        assert await knows.ask("/admin/why", []) == []
