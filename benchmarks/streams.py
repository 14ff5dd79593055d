"""Measures streamed answers: how soon they begin, how fast they flow, how many at a time."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import NamedTuple

from benchmarks import wire
from benchmarks.load import UnexpectedError, files

_PATIENCE_S = 60.0
_PAUSE_S = 0.01


class Flow(NamedTuple):
    """One streamed answer, asked alone."""

    first_chunk_s: float
    chunks_per_s: float


class Crowd(NamedTuple):
    """Many streamed answers at a time."""

    right: int
    asked: int
    seconds: float
    ideal_s: float
    chunks_per_s: float
    worst_first_chunk_s: float


class _Stream:
    def __init__(self, port: int, prompt: str, chunks: int, interval_s: float) -> None:
        self.prompt, self.chunks = prompt, chunks
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.first_chunk_s = 0.0
        self.request = wire.stream_request(prompt, chunks, interval_s)
        self.began = 0.0

    def ask(self) -> None:
        self.began = time.perf_counter()
        self.sock.sendall(self.request)

    def read(self) -> bool:
        """Take what is there; tell whether the stream is over."""
        data = self.sock.recv(2**18)
        self.received += data
        if not self.first_chunk_s and b"data: " in self.received:
            self.first_chunk_s = time.perf_counter() - self.began
        return not data or self.received.endswith(b"0\r\n\r\n")

    def right(self) -> bool:
        """Is every word there, in order, and of this answer?"""
        head, _, body = self.received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200") or not body.endswith(b"0\r\n\r\n"):
            return False
        told = [event for event in _unchunked(body).split(b"\n\n") if event]
        words = [
            choice["delta"].get("content", "")
            for event in told[:-1]
            for choice in json.loads(event[6:])["choices"]
        ]
        said = [word for word in words if word]
        return told[-1] == b"data: [DONE]" and said == [
            wire.piece(self.prompt, number) for number in range(self.chunks)
        ]


def flow(port: int, name: str, chunks: int) -> Flow:
    """Ask for a stream with pauses, then for one that the provider sends as fast as it can.

    The second would not do for the first chunk: this process shares a core with the provider,
    and has to wait until it is done.
    """
    first_chunk_s, _ = _alone(port, f"{name}-paused", 2, _PAUSE_S)
    _, seconds = _alone(port, f"{name}-burst", chunks, 0.0)
    return Flow(first_chunk_s, chunks / seconds)


def _alone(port: int, prompt: str, chunks: int, interval_s: float) -> tuple[float, float]:
    """Seconds until the first chunk and until the end."""
    stream = _Stream(port, prompt, chunks, interval_s)
    time.sleep(_PAUSE_S)  # the server accepts the connection meanwhile: clients keep theirs
    stream.ask()
    while not stream.read():
        pass
    seconds = time.perf_counter() - stream.began
    stream.sock.close()
    if not stream.right():
        raise UnexpectedError(stream.received[:2000].decode("latin-1"))
    return stream.first_chunk_s, seconds


def crowd(port: int, name: str, streams: int, chunks: int, interval_s: float) -> Crowd:
    """Ask for many different streams at a time; the provider sends a chunk of each now and then."""
    with files(streams + 100), select.epoll() as poll:
        began = time.perf_counter()
        running: dict[int, _Stream] = {}
        for number in range(streams):
            stream = _Stream(port, f"{name}-{number}", chunks, interval_s)
            running[stream.sock.fileno()] = stream
            stream.ask()
            poll.register(stream.sock.fileno(), select.EPOLLIN)
        every = list(running.values())
        while running and time.perf_counter() - began < _PATIENCE_S:
            for fd, _ in poll.poll(1.0):
                if running[fd].read():
                    poll.unregister(fd)
                    running.pop(fd).sock.close()
        seconds = time.perf_counter() - began
        for stream in running.values():
            stream.sock.close()
    return Crowd(
        right=sum(stream.right() for stream in every),
        asked=streams,
        seconds=seconds,
        ideal_s=(chunks + 1) * interval_s,
        chunks_per_s=streams * chunks / seconds,
        worst_first_chunk_s=max(stream.first_chunk_s for stream in every),
    )


def _unchunked(body: bytes) -> bytes:
    parts = []
    at = 0
    while size := int(body[at : (line := body.index(b"\r\n", at))], 16):
        parts.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
    return b"".join(parts)
