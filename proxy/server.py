"""Serves the app with uvicorn: workers, draining, the listener for probes, what uvicorn lacks."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.app import create_app
from proxy.application import Application
from proxy.config import Settings, load_settings
from proxy.routes.caller import ABORT_EXTENSION

# Request heads above this are no API client's; uvicorn's httptools would read on for ever.
MAX_HEAD_BYTES = 64 * 2**10
# From the first byte of a head to its last: who takes longer only holds a place.
HEAD_DEADLINE_S = 10.0

log = logging.getLogger("proxy.server")


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on request heads, and a way to cut a connection at once.

    Relies on uvicorn's `connection_made`, `data_received`, `on_message_begin`,
    `on_headers_complete`, `connection_lost`, `scope` and `transport`.
    """

    _head_bytes = 0
    _in_head = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrower than asyncio's, as in uvicorn
        super().connection_made(transport)
        # asyncio leaves Nagle's algorithm on for sockets that uvicorn bound for its workers: each
        # answer then waits 40 ms for the client's delayed ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if self._deadline is None:
                self._start_deadline()
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        extensions = self.scope.setdefault("extensions", {})
        extensions[ABORT_EXTENSION] = {"abort": self.transport.abort}

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._stop_deadline()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def _refuse_head(self) -> None:
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
            b"content-length: 0\r\nconnection: close\r\n\r\n"
        )
        self.transport.close()

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEAD_DEADLINE_S, self._head_is_late)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_is_late(self) -> None:
        self._deadline = None
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which tells the app that it drains and exits with 0 after a signal."""

    def __init__(self, config: uvicorn.Config, on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_drain = on_drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_drain()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own raises the signal again once it is done, which ends the process with 143.
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {each: signal.signal(each, self.handle_exit) for each in signals}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def serve(settings: Settings, *, announce: Callable[[], None] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; the exit code. `announce` is called before the first request
    can come in."""
    configure_logging(settings.server.log_level)
    _allow_many_files()
    if settings.server.workers > 1:
        return _serve_with_workers(settings, announce)
    app = served_app(settings)
    server = _Server(uvicorn.Config(app, **_options(settings)), app.drain)
    if announce:
        announce()
    server.run()
    return 0 if server.started else 1


def _allow_many_files() -> None:
    """A stream takes two: 1,024, the usual soft limit, would end at 500 streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _serve_with_workers(settings: Settings, announce: Callable[[], None] | None) -> int:
    """Processes that share a port. They read the settings from the environment, as this one did."""
    if announce:
        announce()
    uvicorn.run(
        "proxy.server:worker_app",
        factory=True,
        workers=settings.server.workers,
        **_options(settings),
    )
    return 0


def worker_app() -> ServedApp:
    """What a worker process serves."""
    settings = load_settings()
    configure_logging(settings.server.log_level)
    return served_app(settings)


def served_app(settings: Settings) -> ServedApp:
    return ServedApp(create_app(settings), settings)


class ServedApp:
    """The app, with a listener of its own for probes if one is configured."""

    def __init__(self, app: Application, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._ops: uvicorn.Server | None = None

    def drain(self) -> None:
        self._app.health.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" or self._settings.ops.port is None:
            await self._app(scope, receive, send)
            return
        async with self._ops_listener(self._app.ops):
            await self._app(scope, receive, send)

    @asynccontextmanager
    async def _ops_listener(self, app: ASGIApp) -> AsyncIterator[None]:
        ops = self._settings.ops
        listening = socket.socket(socket.AF_INET6 if ":" in (ops.host or "") else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Each worker has a listener at the same port; any of them can answer for itself.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((ops.host or self._settings.server.host, ops.port))
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", server_header=False
        )
        server = _QuietServer(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield
        finally:
            server.should_exit = True
            await task
            listening.close()


class _QuietServer(uvicorn.Server):
    """A second server in the process: signals are the first one's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _options(settings: Settings) -> dict[str, Any]:
    server = settings.server
    return {
        "host": server.host,
        "port": server.port,
        "http": Protocol,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # whoever asks could say that somebody else does
        "timeout_keep_alive": round(server.keep_alive_s),
        "timeout_graceful_shutdown": round(server.drain_s),
    }


def configure_logging(level: str) -> None:
    """Warnings and errors to stderr, a line each; requests are the journal's business."""
    logging.basicConfig(
        level=level.upper(), format="%(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    for noisy in ("asyncio", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_not_a_cut)


def _is_not_a_cut(record: logging.LogRecord) -> bool:
    # A stream that the provider broke off is cut here on purpose, and told in the journal.
    return "without completing response" not in record.getMessage()
