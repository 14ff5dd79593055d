"""Starts what is measured: processes of their own, each on its core."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
_START_S = 20.0
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
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]

    def cpu_s(self) -> float:
        """Processor time so far, in steps of 10 ms: neighbours do not change it."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


class Servers:
    """Starts servers and stops them at the end; what they print goes to files in `folder`."""

    def __init__(self, folder: Path, cores: Cores) -> None:
        self._folder = folder
        self._cores = cores
        self._started: list[Started] = []

    def provider(self) -> Started:
        return self._module(
            "provider", self._cores.load, lambda port: ["benchmarks.provider", port]
        )

    def bare(self) -> Started:
        return self._asgi("bare", "bare")

    def forwarder(self, name: str, upstream: Started) -> Started:
        return self._asgi("forwarder", name, BENCHMARK_UPSTREAM=f"http://127.0.0.1:{upstream.port}")

    def _asgi(self, app: str, name: str, **environment: str) -> Started:
        """An app of `benchmarks` under uvicorn as fast as it goes."""
        fast = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]

        def command(port: str) -> list[str]:
            return ["uvicorn", f"benchmarks.{app}:app", "--port", port, *fast]

        return self._module(name, self._cores.server, command, environment)

    def proxy(self, name: str, upstream: Started, cache: str) -> Started:
        """The proxy as anybody starts it."""
        url = f"http://127.0.0.1:{upstream.port}/v1"

        def command(port: str) -> list[str]:
            return ["proxy", "serve", "--port", port, "--upstream", url, "--cache", cache]

        return self._module(name, self._cores.server, command)

    def sqlite(self, name: str) -> str:
        """The URL of a new database."""
        return f"sqlite:///{self._folder}/{name}.db"

    def stop(self) -> None:
        for server in self._started:
            server.process.terminate()
        for server in self._started:
            try:
                server.process.wait(10)
            except subprocess.TimeoutExpired:
                server.process.kill()

    def _module(
        self,
        name: str,
        core: int | None,
        command: Callable[[str], list[str]],
        environment: dict[str, str] | None = None,
    ) -> Started:
        return self.start(
            name,
            core,
            lambda port: [sys.executable, "-m", *command(port)],
            cwd=ROOT,
            env=clean_environment() | (environment or {}),
        )

    def start(
        self, name: str, core: int | None, command: Callable[[str], list[str]], **surroundings: Any
    ) -> Started:
        """Start what listens on the port that its command is given."""
        port = _free_port()
        printed = self._folder / f"{name}.log"
        with printed.open("wb") as out:
            process = subprocess.Popen(
                command(str(port)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                **surroundings,
            )
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        started = Started(port, process)
        self._started.append(started)
        _wait_until_it_listens(started, name, printed)
        return started


@contextmanager
def running(folder: Path, cores: Cores) -> Iterator[Servers]:
    servers = Servers(folder, cores)
    try:
        yield servers
    finally:
        servers.stop()


def _wait_until_it_listens(server: Started, name: str, printed: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and server.process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise StartError(f"{name} did not start:\n{printed.read_text(errors='replace')[-4000:]}")


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """Settings of the proxy that the user may have are not what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX)}
