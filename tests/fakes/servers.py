"""What every real server that tests start has in common: a process, a port, a folder of its own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Self

START_S = 20.0
STOP_S = 10.0
HOST = "127.0.0.1"

# Below the ports that systems give to clients: a port stays free while its server is down, and no
# client that calls it then is connected to itself. A node of a cluster also takes port + 10,000.
PORTS = range(10_000, 20_000)

# Ends a server that has lost its tests, however these ended: their end of its stdin closes.
GUARD = 'read -r _; kill -s "$1" "$2"; rm -rf "$3"'


class ServerMissing(Exception):
    """The programs of a server are not on this machine; the message says what to do."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"{package} is missing: apt-get install {package}, which `make test` does for root"
        )


class Server(ABC):
    """A server on a port that it keeps, with its data and its log in a folder that goes with it.

    All methods return when what they ask for is done, some tenths of a second later.
    """

    stop_signal: ClassVar[signal.Signals]
    kill_signal: ClassVar[signal.Signals]

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="llm-cache-proxy-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url} {'up' if self._process else 'down'}>"

    @property
    @abstractmethod
    def url(self) -> str:
        """What a backend is given."""

    @abstractmethod
    def command(self) -> Sequence[str]: ...

    @abstractmethod
    def is_up(self) -> bool:
        """Tell whether it serves."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what it needs before its first start."""

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        """Start it, and wait until it serves."""
        assert self._process is None, "it runs already"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self.surroundings(),
            )
        self._guard = _guard(self._process.pid, self.kill_signal.name, self.folder)
        wait_until(self._serves, f"{self!r} does not start")

    def stop(self) -> None:
        """End it as its operator would; clients see their connections closed."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(self.kill_signal)

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port, with what it has on disk."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def surroundings(self) -> dict[str, Any]:
        """How its programs are run: not disturbed by a Ctrl-C that is meant for the tests."""
        return {
            "cwd": self.folder,
            "env": {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            "start_new_session": True,
        }

    def _serves(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self!r} ended with {self._process.returncode}:\n{self.log}")
        return self.is_up()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert self._guard is not None
        self._guard.kill()
        self._guard.communicate()


def _guard(pid: int, how: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", GUARD, "sh", how.removeprefix("SIG"), str(pid), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def own_or_given(stack: ExitStack, kind: Callable[[], Any], variable: str) -> str:
    """The URL of a server that is started now, or of one that somebody else looks after.

    There is no third way: a test that needs a server and has none fails.
    """
    try:
        return str(stack.enter_context(kind()).url)
    except ServerMissing as missing:
        if given := os.environ.get(variable):
            return given
        missing.add_note(f"Or set {variable} to one that tests may write to.")
        raise


def free_port() -> int:
    """A port that nobody listens on. It is chosen at random: other tests may be choosing too."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def program(*names: str, beside: Sequence[Path] = ()) -> str | None:
    """Where the first of these programs is, in PATH or in other folders."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, beside)])
    return next((found for name in names if (found := shutil.which(name, path=folders))), None)


def wait_until(condition: Callable[[], bool], otherwise: str, seconds: float = START_S) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(otherwise)
        time.sleep(0.01)
