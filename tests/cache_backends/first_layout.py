"""A SQLite file as the first release made it: its statements, word for word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw

from cache_backends.base import Entry
from cache_backends.codec import encode

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
STORE = """
INSERT INTO entries (id, stored_at, expires_at, retained_until, used_at, bytes,
    provider, model, namespace, prompt, llm_string, value)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET stored_at = excluded.stored_at, expires_at = excluded.expires_at,
    retained_until = excluded.retained_until, used_at = excluded.used_at, bytes = excluded.bytes,
    provider = excluded.provider, model = excluded.model, namespace = excluded.namespace,
    prompt = excluded.prompt, llm_string = excluded.llm_string, value = excluded.value
"""


def make(path: Path, entries: Sequence[Entry] = ()) -> None:
    """Make the file, with these entries and the fact `secret`."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL").fetchall()
    connection.pragma("journal_mode", "wal")
    connection.execute(f"BEGIN; {SCHEMA}").fetchall()
    connection.pragma("application_id", 0x4C4C4D43)
    connection.pragma("user_version", 1)
    connection.execute("INSERT INTO facts VALUES ('secret', 'kept')").fetchall()
    connection.execute("COMMIT").fetchall()
    store(connection, entries)
    connection.close()


def store(connection: apsw.Connection, entries: Sequence[Entry]) -> None:
    """Store entries as a program of the first release does that has the file open."""
    connection.execute("BEGIN IMMEDIATE").fetchall()
    connection.executemany(STORE, [_row(entry) for entry in entries])
    connection.execute("COMMIT").fetchall()


def _row(entry: Entry) -> tuple[float | str | bytes | None, ...]:
    value = encode(entry.generations, entry.tags, entry.about)
    return (
        bytes.fromhex(entry.key.id),
        entry.stored_at,
        entry.expires_at,
        entry.retained_until,
        entry.stored_at,
        256 + len(entry.key.prompt) + len(value),
        *(entry.about.get(name) for name in ("provider", "model", "namespace")),
        entry.key.prompt,
        entry.key.llm_string,
        value,
    )
