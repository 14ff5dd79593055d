"""The ASGI application: what goes where, and what begins and ends with it."""

from __future__ import annotations

import asyncio
import sys
import time

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from cache_backends.cassette import CassetteCache
from proxy.engine import Engine
from proxy.flights import Flights
from proxy.journal import Journal, in_all, summary
from proxy.lane import LANE, Lane
from proxy.ledger import Ledger
from proxy.modes import READ_S, Switch
from proxy.routes.caller import SEND_TIMEOUT
from proxy.routes.llm import LLMRoute
from proxy.routes.ops import ADMIN, OPS_PATHS, Health
from proxy.siblings import Siblings
from proxy.store import Store

# How long the start waits for the cache.
OPEN_S = 0.25
# How often a cache that could not be reached at the start is tried again.
REOPEN_S = 1.0
# How often all who use the cache see to it that they part callers alike.
AGREE_S = 30.0
# How often it is seen to that all purges are known, while there are fetches that others may join,
# and to a cache that is skipped, when its time has come.
KEEP_UP_S = 0.1


class Application:
    """The ASGI app: the data path is plain ASGI, everything else is FastAPI's."""

    def __init__(
        self,
        *,
        llm: LLMRoute,
        lane: Lane,
        ops: FastAPI,
        engine: Engine,
        store: Store,
        flights: Flights,
        switch: Switch,
        health: Health,
        siblings: Siblings,
        ledger: Ledger,
        journal: Journal,
        ops_apart: bool,
        cassette: CassetteCache | None = None,
    ) -> None:
        self._llm = llm
        self.lane = lane
        self.ops = ops
        self.engine = engine
        self.store = store
        self.flights = flights
        self.switch = switch
        self.health = health
        self.siblings = siblings
        self.ledger = ledger
        self.journal = journal
        self._ops_apart = ops_apart
        self.cassette = cassette
        self._opening: asyncio.Task[None] | None = None
        self._keeping_up: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._counting: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_for_ops(scope["path"]):
            if not self.health.started:  # a server without lifespan
                await self.start()
            await self._llm(scope, receive, send)
        elif scope["type"] == "lifespan":
            if "state" in scope:  # not every server has it
                state = {LANE: self.lane, SEND_TIMEOUT: self._llm.send_timeout_s}
                scope["state"].update(state)
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        else:
            await self.ops(scope, receive, send)

    def _is_for_ops(self, path: str) -> bool:
        if self._ops_apart:  # they have a listener of their own, and only that
            return False
        return path in OPS_PATHS or path.startswith(ADMIN)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def start(self) -> None:
        """Open the cache. If it does not answer soon, requests are served without it until it
        does."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._keeping_up = asyncio.create_task(self._keep_up())
            self._following = asyncio.create_task(self._follow_mode())
            self._counting = asyncio.create_task(self.ledger.run())
        await asyncio.wait({self._opening}, timeout=OPEN_S)
        self.health.started = True

    async def _open(self) -> None:
        await self.store.start()
        while self.store.scope_secret is None:
            await asyncio.sleep(REOPEN_S)
            await self.store.start()
        await self.switch.read()

    async def _follow_mode(self) -> None:
        while True:
            await asyncio.sleep(READ_S)
            await self.switch.read()

    async def _keep_up(self) -> None:
        agree_at = time.monotonic() + AGREE_S
        while True:
            await asyncio.sleep(KEEP_UP_S)
            if self.flights:
                await self.store.keep_up()
            await self.store.try_again()
            if time.monotonic() >= agree_at:
                await self.store.agree()
                agree_at = time.monotonic() + AGREE_S

    async def aclose(self) -> None:
        """Let go of everything; what is being saved is saved first."""
        self.health.draining = True
        for task in (self._opening, self._keeping_up, self._following, self._counting):
            if task is not None:
                task.cancel()
        await self.ledger.flush()
        said = await self._summary() if sys.stdout.isatty() else ""
        await self.engine.aclose()
        self.journal.close()
        if said:
            sys.stdout.write(f"\n{said}\n")

    async def _summary(self) -> str:
        """What was saved since the start; and in all, if that is more."""
        own = self.ledger.own
        said, ever = summary(own), await self.ledger.in_all()
        if not said or ever is None or ever.saved() == own.saved():
            return said
        return f"{said}\n{in_all(ever, await self.ledger.counted_since())}"
