"""Callers of a proxy whose cache breaks: each of their answers is held against the oracle."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from statistics import median
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from tests.fakes.chat import MINE, asker, asking, words
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import expected

T = TypeVar("T")

# Within so many seconds after it was repaired a cache is in use again.
RECOVERY_S = 5.0
# What a lookup may take by default, and more where the machine is busy.
LOOKUP_MS = 4 * 250.0
# What it may take where nobody is asked; and once, where the machine has something else to do.
SKIPPED_MS, SKIPPED_ONCE_MS = 5.0, 200.0


# How an option is called that keeps those apart who share a server.
PLACES = {"redis": "prefix", "postgresql": "schema"}


class Callers:
    """`await callers.ask()`: what `X-Cache` says of a right answer to a question of its own."""

    def __init__(self, client: httpx.AsyncClient, live: LiveProxy) -> None:
        self._client = client
        self.live = live
        self._ask = asker(client, live)
        self._numbers = count()
        self._lookups: list[float] = []  # what they took, in milliseconds

    async def ask(self, prompt: str | None = None, *, stream: bool = False) -> str:
        """Ask; the answer is 200 and what the provider says, told as it was asked for."""
        said = prompt or f"question {next(self._numbers)}"
        answer = await self._ask(MINE, prompt=said, stream=stream)
        assert answer.status_code == 200, answer.text
        assert answer.content.startswith(b"data: ") is stream
        assert words(answer.content) == expected(asking(said), credential=MINE["authorization"])
        if took := re.search(r"cache;dur=([\d.]+)", answer.headers.get("server-timing", "")):
            self._lookups.append(float(took[1]))
        return answer.headers["x-cache"]

    async def crowd(self, prompt: str | None = None) -> Counter[str]:
        """What 20 are told who ask at once, every second of them for a stream."""
        asked = (self.ask(prompt, stream=bool(number % 2)) for number in range(20))
        return Counter(await asyncio.gather(*asked))

    async def known(self, prompt: str = "known") -> None:
        """Have an answer stored, and found."""
        async with asyncio.timeout(RECOVERY_S):
            while await self.ask(prompt) != "HIT":  # noqa: ASYNC110 - as a client does
                await asyncio.sleep(0.02)

    async def trouble(self) -> str:
        """Why the cache cannot be used, as `/readyz` tells it; or ""."""
        told = await self._client.get(f"{self.live.origin}/readyz")
        assert told.status_code == 200
        assert "secret" not in told.text
        state: dict[str, str] = told.json()
        assert state["status"] == ("degraded" if "reason" in state else "ready")
        return state.get("reason", "")

    async def troubled(self, by: str = "") -> str:
        """Ask until `/readyz` says that the cache is in trouble, by this; and what it says."""
        async with asyncio.timeout(RECOVERY_S):
            while not (why := await self.trouble()) or by not in why:
                await self.crowd()
        return why

    async def without_waiting(self) -> None:
        """Ask while lookups are skipped: they take no time."""
        self._lookups.clear()
        assert set(await self.crowd() + await self.crowd()) == {"MISS"}
        assert median(self._lookups) < SKIPPED_MS
        assert max(self._lookups) < SKIPPED_ONCE_MS

    def waited_no_longer_than_told(self) -> None:
        """None of the lookups went on for much more than the quarter of a second it may take."""
        assert max(self._lookups) < LOOKUP_MS

    async def recovered(self) -> None:
        """Return once answers are stored and found again and nothing is wrong; in time."""
        async with asyncio.timeout(RECOVERY_S):
            while not await self._stores() or await self.trouble():  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.02)

    async def _stores(self) -> bool:
        said = f"question {next(self._numbers)}"
        await self.ask(said)
        return await self.ask(said) == "HIT"


async def with_and_without_memory(
    proxy: StartProxy, client: httpx.AsyncClient, url: str, **cache: Any
) -> list[Callers]:
    """Callers of two proxies, the first without memory before its cache, each with its own cache.

    `options` are passed on to the cache.
    """
    made = []
    for memory_bytes in (0, 2**26):
        options = cache.get("options", {}) | _place_of_its_own(url)
        told = {"url": url, **cache, "options": options, "memory_bytes": memory_bytes}
        live = await proxy(cache=told, server={"log_level": "warning"})
        made.append(Callers(client, live))
    return made


def _place_of_its_own(url: str) -> dict[str, str]:
    place = PLACES.get(urlsplit(url).scheme)
    return {place: f"test_{uuid4().hex}"} if place else {}


async def together(
    do: Callable[..., Awaitable[T]], all_callers: Sequence[Callers], **said: Any
) -> list[T]:
    """Have all of them do it at once."""
    return list(await asyncio.gather(*(do(callers, **said) for callers in all_callers)))


async def settled(all_callers: Sequence[Callers]) -> None:
    """Return when nothing is under way any more in any of the proxies."""
    await all_callers[-1].live.settled()  # which came last, and knows the tasks of the others
    for _ in range(200):  # a flight leaves a moment after its task has ended
        if not any(callers.live.app.flights for callers in all_callers):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("a flight is left")
