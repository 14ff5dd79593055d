"""The fault proxy breaks connections in the ways that the tests of the backends rely on."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.fakes.fault_proxy import JUNK, FaultProxy
from tests.fakes.servers import wait_until

SOON_S = 0.05
PING = b"PING\r\n"
PONG = b"+PONG\r\n"


@pytest.fixture
def faults(redis_url: str) -> Iterator[FaultProxy]:
    with FaultProxy(redis_url) as faults:
        yield faults


class Caller:
    """A client that says bytes and hears bytes."""

    def __init__(self, faults: FaultProxy) -> None:
        self.socket = socket.create_connection(("127.0.0.1", faults.port), timeout=5.0)

    def say(self, words: bytes = PING) -> Caller:
        self.socket.sendall(words)
        return self

    def hear(self) -> bytes:
        return self.socket.recv(2**16)

    def hears_nothing(self) -> bool:
        self.socket.settimeout(SOON_S)
        try:
            return not self.hear()
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(5.0)


@pytest.fixture
def call(faults: FaultProxy) -> Iterator[Callable[[], Caller]]:
    """`call()`: a connection, closed at the end of the test."""
    callers: list[Caller] = []

    def start() -> Caller:
        callers.append(Caller(faults))
        return callers[-1]

    yield start
    for caller in callers:
        caller.socket.close()


def test_it_passes_on(faults: FaultProxy, call: Callable[[], Caller]) -> None:
    """Until told otherwise it is not noticed; it counts who comes, and sees who leaves."""
    callers = [call().say() for _ in range(3)]
    assert [caller.hear() for caller in callers] == [PONG] * 3
    assert (faults.accepted, faults.open) == (3, 3)
    callers[0].socket.close()
    wait_until(lambda: faults.open == 2, "it does not see who leaves")


def test_its_url_is_the_servers(faults: FaultProxy) -> None:
    """All but the address stays."""
    other = FaultProxy("rediss://u:p@10.0.0.1:6379/3?a=b")
    assert other.url == f"rediss://u:p@127.0.0.1:{other.port}/3?a=b"


def test_it_refuses(faults: FaultProxy, call: Callable[[], Caller]) -> None:
    """Open connections are reset and new ones refused, until it passes on again."""
    caller = call().say()
    caller.hear()
    faults.refuse()
    with pytest.raises(ConnectionResetError):
        caller.hear()
    with pytest.raises(ConnectionRefusedError):
        call()
    faults.pass_on()
    assert call().say().hear() == PONG


def test_it_hangs(faults: FaultProxy, call: Callable[[], Caller]) -> None:
    """Connections are accepted and get no answer; what hung comes when it passes on."""
    old = call().say()
    old.hear()
    faults.hang()
    new = call().say()
    assert old.say().hears_nothing()
    assert new.hears_nothing()
    faults.pass_on()
    assert [old.hear(), new.hear()] == [PONG, PONG]


def test_it_sees_who_leaves_while_it_hangs(faults: FaultProxy, call: Callable[[], Caller]) -> None:
    """A client that gave up is not counted as connected."""
    faults.hang()
    call().say().socket.close()
    wait_until(lambda: faults.accepted == 1 and not faults.open, "it keeps who left")


@pytest.mark.parametrize("after", [0, 3])
def test_it_resets_in_mid_reply(faults: FaultProxy, call: Callable[[], Caller], after: int) -> None:
    """So many bytes of the next reply come, and then a reset."""
    caller = call().say()
    caller.hear()
    faults.reset(after=after)
    caller.say()
    if after:
        assert caller.hear() == PONG[:after]
    with pytest.raises(ConnectionResetError):
        caller.hear()


def test_it_says_garbage(faults: FaultProxy, call: Callable[[], Caller]) -> None:
    """As many bytes as the reply had, and none of its own."""
    caller = call()
    faults.garbage()
    assert caller.say().hear() == JUNK[: len(PONG)]


def test_it_is_slow(faults: FaultProxy, call: Callable[[], Caller]) -> None:
    """A reply comes in pieces, each of them late."""
    caller = call()
    faults.slow(0.01, piece=2)
    caller.say()
    assert [caller.hear() for _ in range(4)] == [b"+P", b"ON", b"G\r", b"\n"]
    faults.slow(60.0)
    assert caller.say().hears_nothing()


def test_it_loses_what_is_open(faults: FaultProxy, call: Callable[[], Caller]) -> None:
    """Nothing more comes on connections that were open, and new ones pass."""
    old = call().say()
    old.hear()
    faults.lose()
    assert old.say().hears_nothing()
    assert call().say().hear() == PONG
