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

from cache_backends.base import CacheError

T = TypeVar("T")

logger = logging.getLogger("cache_backends.sqlite")

# "LLMC" in the header tells our files from those of other programs, which are never touched.
APPLICATION_ID = 0x4C4C4D43
SCHEMA_VERSION = 1

# The long columns come last, so that listing and sweeping do not read them.
SCHEMA = """
CREATE TABLE entries (
    id BLOB NOT NULL UNIQUE,
    stored_at REAL NOT NULL,
    expires_at REAL,
    retained_until REAL,
    used_at REAL NOT NULL,
    bytes INTEGER NOT NULL,
    provider TEXT,
    model TEXT,
    namespace TEXT,
    prompt TEXT NOT NULL,
    llm_string TEXT NOT NULL,
    value BLOB NOT NULL
) STRICT;
CREATE INDEX entries_by_use ON entries (used_at);
CREATE INDEX entries_by_end ON entries (retained_until) WHERE retained_until IS NOT NULL;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE totals (entries INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
INSERT INTO totals VALUES (0, 0);
CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN
    UPDATE totals SET entries = entries + 1, bytes = bytes + new.bytes;
END;
CREATE TRIGGER entry_replaced AFTER UPDATE OF bytes ON entries BEGIN
    UPDATE totals SET bytes = bytes + new.bytes - old.bytes;
END;
CREATE TRIGGER entry_removed AFTER DELETE ON entries BEGIN
    UPDATE totals SET entries = entries - 1, bytes = bytes - old.bytes;
END;
"""

# Asked once per opening: fails if the tables are not those above.
PROBES = """
SELECT id, stored_at, expires_at, retained_until, used_at, bytes, provider, model, namespace,
    prompt, llm_string, value FROM entries LIMIT 0;
SELECT name, value FROM facts LIMIT 0;
SELECT entries, bytes FROM totals LIMIT 0;
"""

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
        if connection.pragma("application_id") != APPLICATION_ID:
            self._set_up(connection)
        version = connection.pragma("user_version")
        if version != SCHEMA_VERSION:
            raise CacheError(
                f"{self.path} has layout {version}, this program knows {SCHEMA_VERSION}: "
                "use the program that made it, or another file"
            )
        connection.execute(PRAGMAS).fetchall()
        try:
            connection.execute(PROBES).fetchall()
        except apsw.SQLError as exc:
            raise apsw.CorruptError(f"its tables are not as they were made ({exc})") from exc

    def _set_up(self, connection: apsw.Connection) -> None:
        self._refuse_foreign(connection)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL").fetchall()
        self._turn_on_wal(connection)
        with transaction(connection):
            # Another process may have been faster.
            if connection.pragma("application_id") != APPLICATION_ID:
                self._refuse_foreign(connection)
                connection.execute(SCHEMA).fetchall()
                connection.pragma("application_id", APPLICATION_ID)
                connection.pragma("user_version", SCHEMA_VERSION)

    def _refuse_foreign(self, connection: apsw.Connection) -> None:
        if connection.pragma("application_id") == APPLICATION_ID:
            return
        if connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall():
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
