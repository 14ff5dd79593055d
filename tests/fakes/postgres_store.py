"""PostgresStore: a schema of one's own, the caches that are opened on it, and a way past them."""

from __future__ import annotations

from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it comes without types

from cache_backends import PostgresCache
from tests.fakes.clock import FakeClock


class PostgresStore:
    """`store.open(max_bytes=...)`: a cache; `await store.run("DELETE FROM {schema}.entries")`.

    The caches are patient unless told otherwise: the machine may be busy.
    """

    def __init__(self, url: str, schema: str) -> None:
        self.url = url
        self.schema = schema
        self.clock = FakeClock()
        self._opened: list[PostgresCache] = []

    def open(self, url: str | None = None, **options: Any) -> PostgresCache:
        told = {"schema": self.schema, "clock": self.clock, "timeout": 10.0} | options
        self._opened.append(PostgresCache(url or self.url, **told))
        return self._opened[-1]

    async def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Do to the database what another program could."""
        connection = await asyncpg.connect(self.url)
        try:
            rows = await connection.fetch(statement.replace("{schema}", self.schema), *values)
            return [tuple(row) for row in rows]
        finally:
            await connection.close()

    async def aclose(self) -> None:
        for each in self._opened:
            await each.aclose()
