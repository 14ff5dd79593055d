"""Starts what is measured: processes of their own, each on its core."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
_START_S = 90.0
_PREFIX = "LLM_CACHE_PROXY_"


class StartError(Exception):
    """A server did not come up; the message has what it printed."""


class Cores(NamedTuple):
    """Which core the servers run on, and which one all that asks and answers them."""

    server: int | None
    load: int | None

    @classmethod
    def found(cls) -> Cores:
        usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        return cls(usable[0], usable[1]) if len(usable) > 1 else cls(None, None)


class Started(NamedTuple):
    """A running server, with the processes that it has started."""

    port: int
    process: subprocess.Popen[bytes]
    ready_s: float

    def cpu_s(self) -> float:
        """Processor time so far, in steps of 10 ms: neighbours do not change it."""
        return sum(map(_cpu_s, _family(self.process.pid)))

    def rss_mib(self) -> float:
        return sum(map(_rss_mib, _family(self.process.pid)))


class Servers:
    """Starts servers and stops them at the end; what they print goes to files in `folder`."""

    def __init__(self, folder: Path, cores: Cores) -> None:
        self.folder = folder
        self.cores = cores
        self._started: list[subprocess.Popen[bytes]] = []

    def provider(self) -> Started:
        return self._module("provider", self.cores.load, lambda port: ["benchmarks.provider", port])

    def asked(self, provider: Started) -> int:
        """How many questions have reached the provider."""
        connection = HTTPConnection("127.0.0.1", provider.port, timeout=10.0)
        try:
            connection.request("GET", "/")
            return int(connection.getresponse().read())
        finally:
            connection.close()

    def bare(self, name: str, model: str) -> Started:
        return self._asgi(name, "bare:app", ready="/", BENCHMARK_MODEL=model)

    def forwarder(self, name: str, app: str, upstream: Started) -> Started:
        """One of the apps of `benchmarks.forwarder`."""
        url = f"http://127.0.0.1:{upstream.port}"
        return self._asgi(name, f"forwarder:{app}", BENCHMARK_UPSTREAM=url)

    def _asgi(self, name: str, app: str, ready: str = "", **environment: str) -> Started:
        """An app of `benchmarks` under uvicorn as fast as it goes."""
        fast = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]

        def command(port: str) -> list[str]:
            return ["uvicorn", f"benchmarks.{app}", "--port", port, *fast]

        return self._module(name, self.cores.server, command, environment, ready)

    def proxy(self, name: str, upstream: Started, cache: str, **environment: str) -> Started:
        """The proxy as anybody starts it."""
        url = f"http://127.0.0.1:{upstream.port}/v1"

        def command(port: str) -> list[str]:
            return ["proxy", "serve", "--port", port, "--upstream", url, "--cache", cache]

        return self._module(name, self.cores.server, command, environment, "/readyz")

    def sqlite(self, name: str) -> str:
        """The URL of a new database."""
        return f"sqlite:///{self.folder}/{name}.db"

    def stop(self) -> None:
        for process in self._started:
            process.terminate()
        for process in self._started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def _module(
        self,
        name: str,
        core: int | None,
        command: Callable[[str], list[str]],
        environment: dict[str, str] | None = None,
        ready: str = "",
    ) -> Started:
        return self.start(
            name,
            core,
            lambda port: [sys.executable, "-m", *command(port)],
            ready,
            cwd=ROOT,
            env=clean_environment() | (environment or {}),
        )

    def start(
        self,
        name: str,
        core: int | None,
        command: Callable[[str], list[str]],
        ready: str = "",
        **surroundings: Any,
    ) -> Started:
        """Start what listens on the port that its command is given.

        It is there when it gives a good answer to `ready`; without one, when it listens.
        """
        port = _free_port()
        printed = self.folder / f"{name}.log"
        began = time.monotonic()
        # What it starts itself, threads too, is on the core from the beginning.
        with printed.open("wb") as out, on(core):
            process = subprocess.Popen(
                command(str(port)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                **surroundings,
            )
        self._started.append(process)
        _wait(process, port, ready, printed)
        return Started(port, process, time.monotonic() - began)


@contextmanager
def on(core: int | None) -> Iterator[None]:
    """Run on this core alone meanwhile."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(folder: Path, cores: Cores) -> Iterator[Servers]:
    servers = Servers(folder, cores)
    try:
        yield servers
    finally:
        servers.stop()


def _wait(process: subprocess.Popen[bytes], port: int, ready: str, printed: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        if _answers(port, ready) if ready else _listens(port):
            return
        time.sleep(0.02)
    told = printed.read_text(errors="replace")[-4000:]
    raise StartError(f"{printed.stem} did not start:\n{told}")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=_START_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 400
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    born = map(int, children.read_text(encoding="ascii").split())
    return [pid, *(each for child in born for each in _family(child))]


def _cpu_s(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """Settings of the proxy that the user may have are not what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX)}
