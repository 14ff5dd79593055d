"""Asks as fast as the answers come, over a fixed number of connections, and measures.

One thread over epoll and plain sockets: per request it costs less than any server in Python.
"""

from __future__ import annotations

import re
import resource
import select
import socket
import time
from collections.abc import Iterable, Iterator
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
    bytes_each: float


class UnexpectedError(Exception):
    """The server said something that must not be measured."""


class _Connection:
    """One connection and the answer that it waits for."""

    __slots__ = ("answer", "buffer", "end", "sock", "started")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=_STALL_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = b""  # the last one
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
            self.answer, self.buffer, self.end = self.buffer, b"", 0
        return whole

    def _read_head(self, mark: bytes) -> None:
        head_end = self.buffer.find(b"\r\n\r\n") + 4
        if head_end < 4:
            return
        if not self.buffer.startswith(b"HTTP/1.1 200") or self.buffer.find(mark, 0, head_end) < 0:
            raise UnexpectedError(self.buffer[:2000].decode("latin-1"))
        length = _LENGTH.search(self.buffer, 0, head_end)
        self.end = head_end + int(length[1]) if length else -1


ByFd = dict[int, _Connection]


def measure(
    port: int, connections: int, seconds: float, following: NextRequest, mark: bytes = b"HTTP"
) -> Rate:
    """Keep every connection busy for so long. `mark` must stand in the head of every answer."""
    with connected(port, connections) as (poll, by_fd):
        cpu, began = time.process_time(), time.perf_counter()
        for connection in by_fd.values():
            connection.ask(following())
        times, received = _ask_until(began + seconds, poll, by_fd, following, mark)
        wall = time.perf_counter() - began
        share = (time.process_time() - cpu) / wall
    times.sort()
    return Rate(
        answers=len(times),
        per_s=len(times) / wall,
        p50=quantile(times, 0.5),
        p99=quantile(times, 0.99),
        generator_share=share,
        bytes_each=received / len(times),
    )


def ask_once(port: int, request: bytes, mark: bytes = b"HTTP") -> bytes:
    """Ask one question and read the answer to its end."""
    (answer,) = ask_together(port, [request], mark)
    return answer


def ask_together(port: int, requests: list[bytes], mark: bytes = b"HTTP") -> list[bytes]:
    """Ask all of this at the same time, each over a connection of its own."""
    with connected(port, len(requests)) as (poll, by_fd):
        ask_all(poll, by_fd, requests, mark)
        return [connection.answer for connection in by_fd.values()]


def ask_all(poll: select.epoll, by_fd: ByFd, requests: list[bytes], mark: bytes = b"HTTP") -> None:
    """Ask one over each of these connections, and read the answers."""
    for connection, request in zip(by_fd.values(), requests, strict=True):
        connection.ask(request)
    waiting = len(requests)
    while waiting:
        for connection in _readable(poll, by_fd):
            waiting -= connection.complete(connection.sock.recv(2**18), mark)


def ask_each(port: int, requests: Iterable[bytes], connections: int = 32) -> None:
    """Ask all of this once."""
    coming = iter(requests)
    with connected(port, connections) as (poll, by_fd):
        waiting = 0
        for connection, request in zip(by_fd.values(), coming, strict=False):
            connection.ask(request)
            waiting += 1
        while waiting:
            for connection in _readable(poll, by_fd):
                if not connection.complete(connection.sock.recv(2**18), b"HTTP"):
                    continue
                if following := next(coming, None):
                    connection.ask(following)
                else:
                    waiting -= 1


def _ask_until(
    end: float,
    poll: select.epoll,
    by_fd: ByFd,
    following: NextRequest,
    mark: bytes,
) -> tuple[list[float], int]:
    """Seconds that each answer took, and the bytes of all."""
    times: list[float] = []
    now = 0.0
    received = 0
    while now < end:
        for connection in _readable(poll, by_fd):
            data = connection.sock.recv(2**18)
            received += len(data)
            if connection.complete(data, mark):
                now = time.perf_counter()
                times.append(now - connection.started)
                connection.ask(following())
    return times, received


def _readable(poll: select.epoll, by_fd: ByFd) -> list[_Connection]:
    ready = poll.poll(_STALL_S)
    if not ready:
        raise UnexpectedError(f"no answer for {_STALL_S:.0f} s")
    return [by_fd[fd] for fd, _ in ready]


@contextmanager
def connected(port: int, connections: int) -> Iterator[tuple[select.epoll, ByFd]]:
    """Keep so many connections open meanwhile."""
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


@contextmanager
def files(wanted: int) -> Iterator[None]:
    """Allow this process, and not the servers it started, enough open sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise UnexpectedError(f"{wanted} open files are needed, the limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
