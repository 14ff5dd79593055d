"""Sockets, workers, logs: what surrounds the app when it is served."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from proxy import server
from proxy.config import Cache, Ops, Server, Settings
from proxy.errors import ConfigError
from proxy.server import ServedApp, serve
from tests.fakes.server import Serve

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


def settings(**sections: Any) -> Settings:
    return Settings.model_construct(**{"server": Server(port=0), "ops": Ops()} | sections)


def bound(host: str, port: int = 0, **how: Any) -> list[tuple[Any, ...]]:
    """The addresses at which a host is listened to."""
    sockets = server._listen(host, port, "server", **how)
    names = [each.getsockname() for each in sockets]
    for each in sockets:
        each.close()
    return names


def test_a_host_is_taken_with_all_its_addresses() -> None:
    """`localhost` may be two of them: both have the same port, whichever was free."""
    ports = {name[1] for name in bound("localhost")}
    assert len(ports) == 1
    assert ports != {0}


def test_a_socket_says_that_it_is_tcp() -> None:
    """Else asyncio leaves Nagle's algorithm on, and each answer waits for the client's ACK."""
    (listening,) = server._listen("127.0.0.1", 0, "server")
    assert listening.proto == socket.IPPROTO_TCP
    assert listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    listening.close()


def test_only_workers_share_a_port() -> None:
    """Two proxies by mistake at one port are told; workers may all listen at theirs."""
    first = server._listen("127.0.0.1", 0, "ops", shared=True)
    port = first[0].getsockname()[1]
    assert bound("127.0.0.1", port, shared=True) == [("127.0.0.1", port)]
    with pytest.raises(ConfigError, match=f"^ops.port: {port} is taken"):
        server._listen("127.0.0.1", port, "ops")
    first[0].close()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("192.0.2.1", r"server\.host: 192\.0\.2\.1"),
        ("no.such.host.invalid", r"server\.host: no\.such\.host\.invalid: "),
    ],
)
def test_a_host_that_is_not_here(host: str, said: str) -> None:
    """It is named, with the system's own words."""
    with pytest.raises(ConfigError, match=said):
        server._listen(host, 0, "server")


def test_nothing_is_announced_that_cannot_be_served() -> None:
    """A taken port comes out before a word is said."""
    announced: list[Settings] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="is taken by another program"):
            serve(settings(server=Server(port=port)), announce=announced.append)
    assert not announced


def test_the_announcement_names_the_port_that_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where any port would do, people are told which one it is, and it takes connections."""
    told: list[str] = []

    def announce(bound: Settings) -> None:
        told.append(bound.server.url)
        with socket.create_connection(("127.0.0.1", bound.server.port), timeout=5):
            pass

    monkeypatch.setattr(server._Server, "run", lambda self, sockets: None)
    serve(settings(cache=Cache(url="memory://")), announce=announce)
    assert told
    assert not told[0].endswith(":0")


async def probed(scope: Any, receive: Any, send: Any) -> None:
    """Answers everything."""
    head = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b"ok"})


class App:
    """Stands for the application: its lifespan, and the app for probes."""

    ops = staticmethod(probed)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def test_probes_are_answered_beside_the_app(client: httpx.AsyncClient, serve: Serve) -> None:
    """The second listener lives as long as the app does."""

    sockets = server._listen("127.0.0.1", 0, "ops")
    port = sockets[0].getsockname()[1]
    await serve(ServedApp(App(), sockets))
    assert (await client.get(f"http://127.0.0.1:{port}/healthz")).text == "ok"
