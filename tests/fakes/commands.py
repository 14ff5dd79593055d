"""The commands that manage a proxy, as users run them: without a terminal, and on one."""

from __future__ import annotations

import asyncio
import os
import pkgutil
import pty
import signal
import sys
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import orjson
from typer.testing import CliRunner, Result

import proxy.cli
from proxy.cli import app
from tests.fakes.admin import FULL
from tests.fakes.process import environment

ENDS_S = 30.0

# Commands import late, here on a thread: while another imports, Python 3.11's parser may fail.
for _module in pkgutil.iter_modules(proxy.cli.__path__, "proxy.cli."):
    import_module(_module.name)


@dataclass(frozen=True, slots=True)
class Commands:
    """`await run("ls", "--json")`: of the proxy at `origin`, with a token unless it is ""."""

    origin: str
    token: str = FULL
    more: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        told = {"LLM_CACHE_PROXY_URL": self.origin, "LLM_CACHE_PROXY_ADMIN__TOKEN": self.token}
        return {name: value for name, value in told.items() if value} | self.more

    async def __call__(self, *arguments: str, given: bytes | None = None) -> Result:
        """In this process, and beside its loop: that serves the proxy."""
        invoke = CliRunner().invoke
        env = self.environment
        result = await asyncio.to_thread(invoke, app, list(arguments), input=given, env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    async def done(self, *arguments: str, given: bytes | None = None) -> str:
        """What it printed, all being well."""
        result = await self(*arguments, given=given)
        assert result.exit_code == 0, result.output
        return result.stdout

    async def json(self, *arguments: str, given: bytes | None = None) -> Any:
        return orjson.loads(await self.done(*arguments, "--json", given=given))

    async def start(self, *arguments: str, **pipes: Any) -> asyncio.subprocess.Process:
        """In a process of its own."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "proxy", *arguments),
            env=environment(**self.environment, COLUMNS="80"),
            # Whoever runs the tests beside something else may have it ignore Ctrl-C.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            **{"stdin": asyncio.subprocess.DEVNULL} | pipes,
        )

    async def on_terminal(self, *arguments: str, answer: str = "") -> tuple[int, str]:
        """Its exit code and what a terminal showed. `answer` is what the user types."""
        user, terminal = pty.openpty()
        try:
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
            process = await self.start(*arguments, **pipes)
            os.close(terminal)
            if answer:
                os.write(user, f"{answer}\n".encode())
            async with asyncio.timeout(ENDS_S):
                shown = await asyncio.to_thread(_all, user)
                return await process.wait(), shown
        finally:
            os.close(user)


def _all(user: int) -> str:
    shown = b""
    while True:
        try:
            piece = os.read(user, 65536)
        except OSError:  # the other side is closed
            return shown.decode().replace("\r\n", "\n")
        if not piece:
            return shown.decode().replace("\r\n", "\n")
        shown += piece
