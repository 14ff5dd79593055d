"""A provider that nobody here wrote: the aimock of tests/node, in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson

from tests.fakes.node import FOLDER, NODE

COMMAND = FOLDER / "node_modules" / ".bin" / "llmock"
LISTENING = "listening on "
START_S = 20.0


class Aimock:
    """aimock, listening on a free port, with its answers from a file and its output in another."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.origin = ""

    @classmethod
    async def start(cls, folder: Path, *answers: dict[str, Any]) -> Aimock:
        """Start it with `{"match": ..., "response": ...}`; the first match answers.

        What nothing matches is an error, 503.
        """
        fixtures, log = folder / "aimock.json", folder / "aimock.log"
        fixtures.write_bytes(orjson.dumps({"fixtures": answers}))
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(NODE, COMMAND, "--strict", "--validate-on-load"),
                *("--port", "0", "--fixtures", fixtures),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={},
            )
        return cls(process, log)

    @property
    def base_url(self) -> str:
        """For clients of OpenAI; those of Anthropic are given the origin."""
        return f"{self.origin}/v1"

    async def up(self) -> None:
        """Wait until it says where it listens."""
        async with asyncio.timeout(START_S):
            while not (said := self._log.read_text()).endswith("\n") or LISTENING not in said:
                assert self._process.returncode is None, said
                await asyncio.sleep(0.01)
        self.origin = said.partition(LISTENING)[2].split()[0]

    async def calls(self) -> list[dict[str, Any]]:
        """Its own journal: `method`, `path`, `headers`, `body` and `response` of each request."""
        async with httpx.AsyncClient(trust_env=False) as http:
            told: list[dict[str, Any]] = (await http.get(f"{self.origin}/__aimock/journal")).json()
            return told

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


# `await aimock({"match": {"userMessage": "joke"}, "response": {"content": "..."}})`
StartAimock = Callable[..., Awaitable[Aimock]]
