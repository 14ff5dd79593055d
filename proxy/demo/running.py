"""Runs the proxy and the provider that is built in, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import uvicorn
from rich.console import Console

from proxy.app import create_app
from proxy.config import Cache, Settings, Upstream
from proxy.demo import asking
from proxy.demo.provider import JokeProvider
from proxy.protocol import Protocol


def run(
    *,
    keep_running: bool = False,
    provider: JokeProvider | None = None,
    cache_url: str = "memory://",
    console: Console | None = None,
) -> int:
    """Show it; 0 if hits were hits and all answers equal."""
    shown = console or Console(file=sys.stdout)
    # The proxy's own line for each request would fall into the table.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            return asyncio.run(_run(provider or JokeProvider(), cache_url, shown, keep_running))
        except KeyboardInterrupt:
            return 0


async def _run(provider: JokeProvider, cache_url: str, console: Console, keep_running: bool) -> int:
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(_served(provider, "off"))
        app = create_app(_settings(f"{upstream}/v1", cache_url))
        origin = await stack.enter_async_context(_served(app, "on"))
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False, timeout=30))
        console.print(f"\nThe proxy is at {origin}/v1, before a provider that is built in.\n")
        with console.status("Asking for jokes ..."):
            answers = await asking.ask_all(client, f"{origin}/v1")
        status = asking.show(answers, console)
        if keep_running:
            asking.show_how_to_ask(f"{origin}/v1", console)
            await asyncio.Event().wait()
        return status


def _settings(base_url: str, cache_url: str) -> Settings:
    """The defaults, whatever the environment says, and the demo's cache."""
    return Settings.model_construct(
        upstream=Upstream(base_url=base_url), cache=Cache(url=cache_url)
    )


class _Server(uvicorn.Server):
    """Leaves Ctrl-C to whoever runs the loop: two servers share it. Tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _served(app: Any, lifespan: Literal["on", "off"]) -> AsyncIterator[str]:
    """Serve an app on a free port of this machine; gives its origin."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = _Server(
        uvicorn.Config(
            app,
            http=Protocol,
            lifespan=lifespan,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await server.listens.wait()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
