"""Several proxies on one store, each a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cache_backends import SharedCache, open_cache
from tests.fakes.process import ProxyProcess

STORES = ("sqlite", "redis", "postgres")


@dataclass(frozen=True, slots=True)
class SharedStore:
    """A store that no other test uses: its URL, and what else the cache is told."""

    url: str
    options: dict[str, Any]

    @classmethod
    def of(cls, kind: str, request: pytest.FixtureRequest) -> SharedStore:
        if kind == "sqlite":
            return cls(f"sqlite:///{request.getfixturevalue('tmp_path')}/cache.db", {})
        option = {"redis": "prefix", "postgres": "schema"}[kind]
        url = request.getfixturevalue(f"{kind}_url")
        return cls(url, {option: request.getfixturevalue("fresh_name")})

    def at(self, url: str) -> SharedStore:
        """The same by another way."""
        return replace(self, url=url)

    def told(self, **options: Any) -> SharedStore:
        """The same, told more."""
        return replace(self, options=self.options | options)

    def open(self) -> SharedCache:
        cache = open_cache(self.url, **self.options)
        assert isinstance(cache, SharedCache)
        return cache

    def config(self, said: str) -> str:
        """What a proxy is told to use it; `said` are lines of `[cache]`."""
        options = "".join(
            f"{name} = {orjson.dumps(value).decode()}\n" for name, value in self.options.items()
        )
        return f'[cache]\nurl = "{self.url}"\n{said}\n[cache.options]\n{options}'


@asynccontextmanager
async def replicas(
    folder: Path, upstream: str, *configs: str
) -> AsyncGenerator[list[ProxyProcess], None]:
    """A proxy for each of these configurations, once all of them listen."""
    async with AsyncExitStack() as stack:
        processes = []
        for number, config in enumerate(configs):
            file = folder / f"{number}.toml"
            file.write_text(config)
            process = await ProxyProcess.start(
                folder, "--config", str(file), "--upstream", upstream
            )
            stack.push_async_callback(process.kill)
            processes.append(process)
        await asyncio.gather(*(process.up() for process in processes))
        yield processes
