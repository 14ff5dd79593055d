"""A SQLite file as the second release made it: its statements, word for word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw

from cache_backends.base import Entry
from cache_backends.sqlite_choice import packed
from tests.cache_backends import first_layout

SCHEMA = """
CREATE TABLE listing (
    stored_at REAL NOT NULL,
    id BLOB NOT NULL,
    seen INTEGER NOT NULL,
    provider TEXT,
    dialect TEXT,
    model TEXT,
    namespace TEXT,
    client TEXT,
    tags BLOB,
    about BLOB,
    PRIMARY KEY (stored_at, id)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER entry_not_listed AFTER INSERT ON entries
WHEN NOT EXISTS (SELECT 1 FROM listing WHERE stored_at = new.stored_at AND id = new.id) BEGIN
    INSERT INTO listing (stored_at, id, seen, provider, model, namespace)
    VALUES (new.stored_at, new.id, 0, new.provider, new.model, new.namespace);
END;
CREATE TRIGGER entry_moved AFTER UPDATE OF id, stored_at ON entries
WHEN old.stored_at <> new.stored_at OR old.id <> new.id BEGIN
    DELETE FROM listing WHERE stored_at = old.stored_at AND id = old.id;
    INSERT INTO listing (stored_at, id, seen, provider, model, namespace)
    SELECT new.stored_at, new.id, 0, new.provider, new.model, new.namespace
    WHERE NOT EXISTS (SELECT 1 FROM listing WHERE stored_at = new.stored_at AND id = new.id);
END;
CREATE TRIGGER entry_unlisted AFTER DELETE ON entries BEGIN
    DELETE FROM listing WHERE stored_at = old.stored_at AND id = old.id;
END;
CREATE TABLE purges (
    number INTEGER PRIMARY KEY,
    previous INTEGER NOT NULL,
    at REAL NOT NULL,
    filter BLOB NOT NULL
) STRICT;
CREATE TABLE leases (
    name TEXT PRIMARY KEY, holder TEXT NOT NULL, until REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE store (name BLOB NOT NULL, unlisted INTEGER NOT NULL) STRICT;
INSERT INTO store SELECT randomblob(16), ifnull(max(rowid), 0) FROM entries;
"""
LIST = """
INSERT OR REPLACE INTO listing
    (stored_at, id, seen, provider, dialect, model, namespace, client, tags, about)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)
"""
COLUMNS = ("provider", "dialect", "model", "namespace", "client")


def make(path: Path, entries: Sequence[Entry] = ()) -> None:
    """Make the file, with these entries and the fact `secret`."""
    first_layout.make(path)
    connection = apsw.Connection(str(path))
    connection.execute(f"BEGIN; {SCHEMA}; PRAGMA user_version = 2; COMMIT").fetchall()
    store(connection, entries)
    connection.close()


def store(connection: apsw.Connection, entries: Sequence[Entry]) -> None:
    """Store entries as a program of the second release does that has the file open."""
    connection.executemany(LIST, [_listed(entry) for entry in entries])
    first_layout.store(connection, entries)


def _listed(entry: Entry) -> tuple[float | str | bytes | None, ...]:
    return (
        entry.stored_at,
        bytes.fromhex(entry.key.id),
        entry.seen,
        *(entry.about.get(name) for name in COLUMNS),
        packed(entry.tags),
    )
