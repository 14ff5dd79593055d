"""Asks as fast as the answers come, over a fixed number of connections, and measures.

One thread over epoll and plain sockets: per request it costs less than any server in Python.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from benchmarks.wire import NextRequest

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STALL_S = 10.0


class Rate(NamedTuple):
    """One measurement. Times in seconds."""

    answers: int
    per_s: float
    p50: float
    p99: float
    generator_share: float  # of its core; near 1 the generator is the limit


class UnexpectedError(Exception):
    """The server said something that must not be measured."""


class _Connection:
    """One connection and the answer that it waits for."""

    __slots__ = ("buffer", "end", "sock", "started")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=_STALL_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.end = 0  # of the answer in the buffer, once its head is known; -1: chunked
        self.started = 0.0

    def ask(self, request: bytes) -> None:
        self.started = time.perf_counter()
        self.sock.sendall(request)

    def complete(self, data: bytes, mark: bytes) -> bool:
        """Take what was received; tell whether the answer is whole."""
        if not data:
            raise UnexpectedError("the server closed the connection")
        self.buffer += data
        if not self.end:
            self._read_head(mark)
        if self.end == -1:
            whole = self.buffer.endswith(b"0\r\n\r\n")
        else:
            whole = 0 < self.end <= len(self.buffer)
        if whole:
            self.buffer, self.end = b"", 0
        return whole

    def _read_head(self, mark: bytes) -> None:
        head_end = self.buffer.find(b"\r\n\r\n") + 4
        if head_end < 4:
            return
        if not self.buffer.startswith(b"HTTP/1.1 200") or self.buffer.find(mark, 0, head_end) < 0:
            raise UnexpectedError(self.buffer[:2000].decode("latin-1"))
        length = _LENGTH.search(self.buffer, 0, head_end)
        self.end = head_end + int(length[1]) if length else -1


def measure(
    port: int, connections: int, seconds: float, following: NextRequest, mark: bytes = b"HTTP"
) -> Rate:
    """Keep every connection busy for so long. `mark` must stand in the head of every answer."""
    with _connected(port, connections) as (poll, by_fd):
        cpu, began = time.process_time(), time.perf_counter()
        for connection in by_fd.values():
            connection.ask(following())
        times = _ask_until(began + seconds, poll, by_fd, following, mark)
        wall = time.perf_counter() - began
        share = (time.process_time() - cpu) / wall
    times.sort()
    return Rate(len(times), len(times) / wall, quantile(times, 0.5), quantile(times, 0.99), share)


def ask_once(port: int, request: bytes, mark: bytes = b"HTTP") -> None:
    """Ask one question and read the answer to its end."""
    with _connected(port, 1) as (_, by_fd):
        connection = next(iter(by_fd.values()))
        connection.ask(request)
        while not connection.complete(connection.sock.recv(2**18), mark):
            pass


def _ask_until(
    end: float,
    poll: select.epoll,
    by_fd: dict[int, _Connection],
    following: NextRequest,
    mark: bytes,
) -> list[float]:
    times: list[float] = []
    now = 0.0
    while now < end:
        ready = poll.poll(_STALL_S)
        if not ready:
            raise UnexpectedError(f"no answer for {_STALL_S:.0f} s")
        for fd, _ in ready:
            connection = by_fd[fd]
            if connection.complete(connection.sock.recv(2**18), mark):
                now = time.perf_counter()
                times.append(now - connection.started)
                connection.ask(following())
    return times


@contextmanager
def _connected(
    port: int, connections: int
) -> Iterator[tuple[select.epoll, dict[int, _Connection]]]:
    made = [_Connection(port) for _ in range(connections)]
    poll = select.epoll()
    try:
        for connection in made:
            poll.register(connection.sock.fileno(), select.EPOLLIN)
        yield poll, {connection.sock.fileno(): connection for connection in made}
    finally:
        poll.close()
        for connection in made:
            connection.sock.close()


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
