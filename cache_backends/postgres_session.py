"""A database and the sessions with it: how they are opened, and what is said when they fail.

The driver is asyncpg: half the CPU time of psycopg 3 for a lookup, and a deadline of 250 ms holds
also against a server that hangs, where psycopg waits another 5 s for its cancel request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]  # it comes without types

from cache_backends.base import CacheError
from cache_backends.postgres_framing import Framing

logger = logging.getLogger("cache_backends.postgres")

# Nobody waits for so long: who asks is told after the cache's own timeout, and the session serves
# the next one. Longer than the first retry of a lost packet.
CONNECT_S = 2.0
# For a statement that was given up: the server is asked to end it before its session is closed.
CLOSE_S = 1.0

Row = Sequence[Any]


class Database:
    """Where `url` leads, and the schema in it that is ours. `place` names both, without a login.

    Statements are prepared under names that no other session has, so that behind a pooler that
    changes the server below us (PgBouncer in transaction mode, before 1.21 or with
    `max_prepared_statements = 0`) one is missed and never mistaken. Then they are no longer.
    """

    def __init__(self, url: str, schema: str) -> None:
        self._url = url
        self.schema = schema
        self.place = _place(url)
        self.prepares = True

    def __repr__(self) -> str:
        return f"{self.place} schema {self.schema}"

    async def connect(self) -> Session:
        # Without a cache of its own: it would give statements names that other processes use too.
        connection = await asyncpg.connect(
            self._url, timeout=CONNECT_S, statement_cache_size=0, command_timeout=None
        )
        Framing.put_before(connection)
        return Session(self, connection)

    def fault(self, exc: Exception) -> CacheError:
        """What the caller is told: neither a password nor what was stored."""
        return CacheError(f"{self.place}: {_told(exc)}")

    def do_without_preparing(self) -> None:
        if self.prepares:
            self.prepares = False
            logger.warning(
                "%s: prepared statements get lost, probably in a pooler; going on without, which "
                "takes a round trip more for each statement",
                self.place,
            )


class Session:
    """A connection that does one statement at a time. Each is a transaction of its own.

    In the text of a statement, `{schema}` stands for the schema's name.
    """

    def __init__(self, database: Database, connection: Any) -> None:
        self._database = database
        self._connection = connection
        self._prepared: dict[str, Any] = {}
        self.used_at = 0.0  # by the clock of the event loop

    @property
    def closed(self) -> bool:
        return bool(self._connection.is_closed())

    @property
    def schema(self) -> str:
        return self._database.schema

    async def fetch(self, statement: str, *values: Any) -> list[Row]:
        """Do one of the fixed statements; it is prepared the first time."""
        if not self._database.prepares:
            return await self.fetch_once(statement, *values)
        try:
            prepared = self._prepared.get(statement)
            if prepared is None:
                prepared = self._prepared[statement] = await self._connection.prepare(
                    self._text(statement), name=f"llm_cache_{token_hex(8)}"
                )
            found: list[Row] = await prepared.fetch(*values)
        except asyncpg.InvalidSQLStatementNameError:
            self._database.do_without_preparing()
            raise
        return found

    async def fetch_once(self, statement: str, *values: Any) -> list[Row]:
        """Do a statement that is planned for these very values."""
        found: list[Row] = await self._connection.fetch(self._text(statement), *values)
        return found

    async def run(self, script: str) -> None:
        """Do several statements, separated by semicolons: all of them, or none."""
        await self._connection.execute(self._text(script))

    def transaction(self) -> Any:
        return self._connection.transaction()

    async def close(self) -> None:
        """Say goodbye, within a second; what still runs is cancelled."""
        with suppress(Exception):  # it may be in any state, and nobody wants to know
            async with asyncio.timeout(CLOSE_S):
                await self._connection.close(timeout=CLOSE_S)
        self._connection.terminate()
        await asyncio.sleep(0)  # the socket is closed in the next round of the loop

    def _text(self, statement: str) -> str:
        return statement.replace("{schema}", self._database.schema)


def _place(url: str) -> str:
    """Where it leads, without the login; `ValueError` where a part of that may stand elsewhere."""
    parts = urlsplit(url)
    if "@" in parts.path + parts.fragment or (not parts.path and "@" in parts.query):
        raise ValueError(
            "url cannot be read: a /, ? or # in its user or password must be written %2F, %3F, %23"
        )
    return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"


def is_missing(exc: Exception) -> bool:
    """Was a table or a schema not there?"""
    return isinstance(exc, asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError)


def is_refused(exc: Exception) -> bool:
    """Is the user not let, or is nobody?"""
    return isinstance(exc, asyncpg.InsufficientPrivilegeError | asyncpg.ReadOnlySQLTransactionError)


def _told(exc: Exception) -> str:
    if isinstance(exc, CacheError):
        return str(exc)
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, asyncpg.PostgresError):
        # The first line: details may show what was stored.
        return str(exc.args[0] if exc.args else type(exc).__name__).partition("\n")[0]
    if isinstance(exc, OSError):
        return exc.strerror or str(exc) or type(exc).__name__
    return type(exc).__name__  # the driver's own messages may show values
