"""A SQLite file: making it, opening it, keeping it private, putting it aside when it is damaged."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import apsw

from cache_backends import sqlite_schema as schema
from cache_backends.base import CacheError

T = TypeVar("T")

logger = logging.getLogger("cache_backends.sqlite")

# Power loss may undo the last commits, never damage the file: a lost entry costs one upstream call.
# Deleted answers are overwritten, not just forgotten.
PRAGMAS = """
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = ON;
PRAGMA journal_size_limit = 67108864;
PRAGMA cache_size = -16384;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
"""

DAMAGED = (apsw.CorruptError, apsw.NotADBError)


class DatabaseFile:
    """A connection for one thread, opened when needed and again when the file was replaced."""

    def __init__(self, path: Path, *, busy_timeout: float) -> None:
        self.path = path
        self._busy_timeout = busy_timeout
        self._connection: apsw.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def run(self, work: Callable[[apsw.Connection], T]) -> T:
        """Do the work; on a damaged file once more, on a new one. `CacheError` if it cannot be."""
        try:
            try:
                return work(self._current())
            except DAMAGED as exc:
                self._set_aside(exc)
                return work(self._current())
        except apsw.Error as exc:
            raise CacheError(f"{self.path}: {exc or type(exc).__name__}") from exc
        except OSError as exc:
            raise CacheError(f"{self.path}: {exc.strerror or exc}") from exc

    @property
    def in_place(self) -> bool:
        """Is what is open still what lies at the path?"""
        return self._connection is not None and _identity(self.path) == self._identity

    def close(self) -> None:
        if self._connection is None:
            return
        with suppress(apsw.Error):
            self._connection.close(True)
        self._connection = None

    def _current(self) -> apsw.Connection:
        if not self.in_place:
            self.close()
            self._connection = self._open()
        assert self._connection is not None
        return self._connection

    def _open(self) -> apsw.Connection:
        _make_private(self.path)
        self._identity = _identity(self.path)
        connection = apsw.Connection(str(self.path))
        try:
            connection.set_busy_timeout(int(self._busy_timeout * 1000))
            self._prepare(connection)
        except BaseException:
            connection.close(True)
            raise
        return connection

    def _prepare(self, connection: apsw.Connection) -> None:
        if not schema.is_ours(connection):
            self._set_up(connection)
        elif 0 < schema.version(connection) < schema.VERSION:
            self._upgrade(connection)
        version = schema.version(connection)
        if version != schema.VERSION:
            raise CacheError(
                f"{self.path} has layout {version}, this program knows {schema.VERSION}: "
                "use the program that made it, or another file"
            )
        connection.execute(PRAGMAS).fetchall()
        try:
            connection.execute(schema.PROBES).fetchall()
        except apsw.SQLError as exc:
            raise apsw.CorruptError(f"its tables are not as they were made ({exc})") from exc

    def _set_up(self, connection: apsw.Connection) -> None:
        self._refuse_foreign(connection)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL").fetchall()
        self._turn_on_wal(connection)
        with transaction(connection):
            # Another process may have been faster.
            if not schema.is_ours(connection):
                self._refuse_foreign(connection)
                schema.bring_up(connection)

    def _upgrade(self, connection: apsw.Connection) -> None:
        with transaction(connection):
            try:
                schema.bring_up(connection)
            except apsw.SQLError as exc:
                raise apsw.CorruptError(f"its tables are not as they were made ({exc})") from exc

    def _refuse_foreign(self, connection: apsw.Connection) -> None:
        # In this order: another thread or process may be making its tables, and it ours.
        tables = connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        if tables and not schema.is_ours(connection):
            raise CacheError(f"{self.path} is a database of another program: use another file")

    def _turn_on_wal(self, connection: apsw.Connection) -> None:
        # SQLite does not wait for others here, whatever its busy timeout.
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                connection.pragma("journal_mode", "wal")
            except apsw.BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _set_aside(self, why: Exception) -> None:
        """Rename the damaged file, its log with it, unless another thread or process just did."""
        damaged = self._identity
        self.close()
        if _identity(self.path) != damaged:
            return
        aside = _free_name(self.path)
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        logger.warning("%s is damaged (%s): kept as %s, a new one is made", self.path, why, aside)


@contextmanager
def transaction(connection: apsw.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Commit at the end, or undo all. A writer locks at once: a later upgrade could not wait."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(apsw.Error):  # SQLite has undone it already after some errors
            connection.execute("ROLLBACK")
        raise


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_private(path: Path) -> None:
    """Only the owner may read prompts and answers. SQLite gives -wal and -shm the file's mode."""
    for missing in reversed([each for each in path.parents if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with suppress(OSError):  # not ours to change
            if each.is_file():
                each.chmod(0o600)


def _free_name(path: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = (f"{path}.corrupt-{stamp}{more}" for more in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(Path(name) for name in names if not Path(name).exists())
