"""The command in processes of its own, as users start it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

START_S = 20.0


class ProxyProcess:
    """`python -m proxy serve`, its output in files."""

    def __init__(self, process: asyncio.subprocess.Process, out: Path, err: Path) -> None:
        self._process = process
        self._out = out
        self._err = err
        self.origin = ""

    @classmethod
    async def start(cls, folder: Path, *arguments: str) -> ProxyProcess:
        """Start it, on a free port unless the arguments say another; wait for nothing."""
        out, err = (folder / f"{time.monotonic_ns()}.{name}" for name in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy", "serve"),
                *(() if "--port" in arguments else ("--port", "0")),
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment(),
                start_new_session=True,  # so that its workers can be killed with it
            )
        return cls(process, out, err)

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    @property
    def port(self) -> int:
        return int(self.origin.rpartition(":")[2])

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has said in JSON lines; anything else fails."""
        return [orjson.loads(line) for line in self.stdout.splitlines()]

    async def up(self) -> None:
        """Wait until it says that it listens."""
        async with asyncio.timeout(START_S):
            while not self.stdout.endswith("\n"):
                assert self._process.returncode is None, self.stderr
                await asyncio.sleep(0.02)
        (listening,) = self.lines
        assert listening["event"] == "listening"
        self.origin = listening["url"].removesuffix("/v1")

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """The exit code."""
        async with asyncio.timeout(START_S):
            return await self._process.wait()

    async def kill(self) -> None:
        """As `kill -9`, with all its workers."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()


# `await launch("--cache", "memory://")`: a process that is gone at the end of the test.
Launch = Callable[..., Awaitable[ProxyProcess]]


def environment(**more: str) -> dict[str, str]:
    """The tests' own environment without what changes the proxy's settings."""
    theirs = ("LLM_CACHE_PROXY_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    kept = {name: it for name, it in os.environ.items() if not name.upper().startswith(theirs)}
    return kept | more
