"""Serves the app with uvicorn: sockets, workers, draining, the listener for probes."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import orjson
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from cache_backends.cassette import CassetteCache
from proxy import __version__, prices
from proxy.app import create_app
from proxy.application import Application
from proxy.config import Settings, environment_of, load_settings
from proxy.errors import ConfigError
from proxy.journal import utc
from proxy.lane_protocol import LaneProtocol
from proxy.logs import configure_logging
from proxy.metrics import FOLDER, mark_process_dead
from proxy.protocol import Protocol

# The folder, only this user's, in which workers find each other's sockets.
RUN_FOLDER = "LLM_CACHE_PROXY_RUN_FOLDER"
BACKLOG = 2048  # connections that wait to be accepted, as uvicorn has it

log = logging.getLogger("proxy.server")

Announce = Callable[[Settings], None]


def serve(settings: Settings, *, announce: Announce | None = None) -> int:
    """Serve until SIGINT or SIGTERM; the exit code. Raises ConfigError.

    `announce` is called once connections are taken, with the port that it is; without one, a JSON
    line says where.
    """
    configure_logging(settings.server.log_level)
    _allow_many_files()
    with ExitStack() as stack:
        sockets = _listen(settings.server.host, settings.server.port, "server")
        stack.callback(_close, sockets)
        ops = _ops_sockets(settings, listen=settings.server.workers == 1)
        stack.callback(_close, ops)
        settings = _with_ports(settings, sockets, ops)
        if settings.server.workers > 1:
            (announce or _say_where)(settings)
            return _serve_with_workers(settings, sockets)
        app = _served(settings, ops)
        server = _Server(uvicorn.Config(app, **_options(settings)), app.drain)
        (announce or _say_where)(settings)
        server.run(sockets)
        if app.cassette is not None:
            _say_what_became(app.cassette)
        return 0 if server.started else 1


def _served(
    settings: Settings, ops: list[socket.socket], run_folder: str | None = None
) -> ServedApp:
    app = ServedApp(create_app(settings), ops, Path(run_folder) if run_folder else None)
    prices.load()
    # What is there now stays: the garbage collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    # A request leaves few cycles. At the usual 700 the young ones are looked through with every
    # third miss: a twentieth of its time.
    gc.set_threshold(10_000, 20, 20)
    return app


def _allow_many_files() -> None:
    """A stream takes two: 1,024, the usual soft limit, would end at 500 streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _ops_sockets(settings: Settings, *, listen: bool = True) -> list[socket.socket]:
    """Those of the listener for probes, if it has a port. Each worker listens at the same one, any
    of them can answer for itself; the parent only holds it for them."""
    if settings.ops.port is None:
        return []
    host = settings.ops.host or settings.server.host
    shared = settings.server.workers > 1
    return _listen(host, settings.ops.port, "ops", shared=shared, listen=listen)


def _listen(
    host: str, port: int, section: str, *, shared: bool = False, listen: bool = True
) -> list[socket.socket]:
    """Take a port at all addresses of a host. `shared`: other processes of ours take it too."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise ConfigError(f"{section}.host: {host}: {exc.strerror}") from exc
    addresses = dict.fromkeys((family, at) for family, _, _, _, at in found)
    sockets: list[socket.socket] = []
    for family, address in addresses:
        if port == 0 and sockets:
            address = (address[0], sockets[0].getsockname()[1], *address[2:])
        try:
            sockets.append(_bound(family, address, len(addresses) > 1, shared))
            if listen:
                sockets[-1].listen(BACKLOG)
        except OSError as exc:
            if exc.errno == errno.EADDRNOTAVAIL and len(addresses) > 1:
                continue  # "localhost" where IPv6 is off
            _close(sockets)
            raise ConfigError(f"{section}.{_refusal(host, port, exc)}") from exc
    if not sockets:
        raise ConfigError(f"{section}.host: {host} is no address of this machine")
    return sockets


def _bound(family: int, address: tuple[Any, ...], one_of_many: bool, shared: bool) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where a socket says that it is TCP.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6 and one_of_many:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _refusal(host: str, port: int, exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        return f"port: {port} is taken by another program at {host}; choose another"
    if exc.errno == errno.EACCES:
        return f"port: {port} is not for every user to take; choose one above 1023"
    return f"host: {host}: {exc.strerror}"


def _with_ports(
    settings: Settings, sockets: list[socket.socket], ops: list[socket.socket]
) -> Settings:
    """The settings, with the ports that were taken where any would do."""
    port = {"port": sockets[0].getsockname()[1]}
    update: dict[str, Any] = {"server": settings.server.model_copy(update=port)}
    if ops:
        port = {"port": ops[0].getsockname()[1]}
        update["ops"] = settings.ops.model_copy(update=port)
    return settings.model_copy(update=update)


def _say_where(settings: Settings) -> None:
    line = {
        "time": utc(time.time()),
        "event": "listening",
        "url": f"{settings.server.url}/v1",
        "workers": settings.server.workers,
        "version": __version__,
    }
    if settings.ops.port is not None:
        at = {"host": settings.ops.host or settings.server.host, "port": settings.ops.port}
        line["ops_url"] = settings.server.model_copy(update=at).url
    sys.stdout.write(f"{orjson.dumps(line).decode()}\n")
    sys.stdout.flush()


def _say_what_became(cassette: CassetteCache) -> None:
    """Of a cassette: a JSON line, or one for people."""
    said = cassette.report()
    line = orjson.dumps({"time": utc(time.time()), "event": "cassette", **said}).decode()
    if sys.stdout.isatty():
        unused = len(said["unused"])
        line = f"{said['cassette']}: {said['entries']} entries, {said['recorded']} recorded"
        line += f", {unused} not used (--cassette-prune drops them)" if unused else ""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _serve_with_workers(settings: Settings, sockets: list[socket.socket]) -> int:
    """Processes that share a port. They read the settings from the environment, as this one did."""
    ports = {"server": {"port": settings.server.port}}
    if settings.ops.port is not None:
        ports["ops"] = {"port": settings.ops.port}
    os.environ.update(environment_of(None, ports))
    config = uvicorn.Config(
        "proxy.server:worker_app",
        factory=True,
        workers=settings.server.workers,
        **_options(settings),
    )
    with TemporaryDirectory(prefix="llm-cache-proxy-") as folder:
        os.environ[FOLDER] = os.environ[RUN_FOLDER] = folder
        workers = _Workers(config, sockets)
        workers.run()
    return int(any(process.exitcode == STARTUP_FAILURE for process in workers.processes))


class _Workers(Multiprocess):
    """uvicorn's keeper of processes."""

    def keep_subprocess_alive(self) -> None:
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for pid in before - {process.pid for process in self.processes}:
            mark_process_dead(pid)  # what it counted stays, what it held is gone

    def terminate_all(self) -> None:
        # While this process holds the port, the kernel lets callers in whom nobody will serve.
        _close(self.sockets)
        super().terminate_all()


def worker_app() -> ServedApp:
    """What a worker process serves."""
    settings = load_settings()
    configure_logging(settings.server.log_level)
    try:
        return _served(settings, _ops_sockets(settings), os.environ.get(RUN_FOLDER))
    except ConfigError as error:
        log.error("%s", error)
        sys.exit(STARTUP_FAILURE)  # which keeps the parent from trying again


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


class ServedApp:
    """The app, and a listener of its own for probes where there are sockets for it.

    `run_folder` is where other workers of this host are to find it.
    """

    def __init__(
        self, app: Application, ops: list[socket.socket], run_folder: Path | None = None
    ) -> None:
        self._app = app
        self._ops = ops
        self._run_folder = run_folder

    @property
    def cassette(self) -> CassetteCache | None:
        return self._app.cassette

    def drain(self) -> None:
        self._app.health.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" or not (self._ops or self._run_folder):
            await self._app(scope, receive, send)
            return
        private = self._private_sockets()
        server = _QuietServer(_ops_config(self._app.ops))
        serving = asyncio.create_task(server.serve(sockets=[*self._ops, *private]))

        async def send_at_last(message: Message) -> None:
            # Probes are answered until the app has ended; told before, uvicorn would not wait.
            if message["type"] == "lifespan.shutdown.complete":
                server.should_exit = True
                await serving
            await send(message)

        await self._app(scope, receive, send_at_last)

    def _private_sockets(self) -> list[socket.socket]:
        """The one at which other workers ask; none where there is only one."""
        if self._run_folder is None:
            return []
        place = self._app.siblings.join(self._run_folder)
        private = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            private.bind(str(place))
            private.listen(BACKLOG)
        except OSError as exc:
            private.close()
            log.warning("events of this worker are not told by the others: %s: %s", place, exc)
            return []
        return [private]


def _ops_config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )


class _QuietServer(uvicorn.Server):
    """A second server in the process: signals are the first one's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _options(settings: Settings) -> dict[str, Any]:
    server = settings.server
    return {
        "http": LaneProtocol if server.hit_lane else Protocol,
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,  # whoever asks could say that somebody else does
        "timeout_keep_alive": server.keep_alive_s,
        "timeout_graceful_shutdown": server.drain_s,
    }
