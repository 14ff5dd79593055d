"""Entries and facts as rows: every statement that the SQLite cache runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import apsw

from cache_backends.base import Entry, Key, Totals, id_bytes
from cache_backends.codec import CodecError, are_times, decode, encode

# A pinned entry is used so long after now: it goes after all that are not, the oldest first.
PINNED_AHEAD_S = 1e12
# What a row costs beside its strings: its numbers, its places in the table and three indexes.
ROW_OVERHEAD_BYTES = 256
# What the listing says of an entry of the proxy.
LISTED_BYTES = 216
# Its signature, beside an eighth of its strings: few of them say something new, nothing in the end.
SIGNATURE_BYTES = 64
MOST_SIGNATURE_BYTES = 2**16
PAGE_BYTES = 4096
# How much one transaction deletes at most: overwriting goes through the log.
DELETE_ROWS = 20_000
DELETE_BYTES = 256 * 2**20
# And where it is one of many that others' writes come between: about 15 milliseconds.
BATCH_ROWS = 250
BATCH_BYTES = 16 * 2**20
# How many pages one transaction returns: others are moved into their place.
GIVE_BACK_PAGES = 2000

FIND = """
SELECT stored_at, expires_at, retained_until, used_at, value,
    (SELECT seen FROM listing WHERE listing.stored_at = entries.stored_at
        AND listing.id = entries.id)
FROM entries WHERE id = ? AND prompt = ? AND llm_string = ?
"""
FIND_BY_ID = """
SELECT stored_at, expires_at, retained_until, value, CAST(prompt AS BLOB),
    CAST(llm_string AS BLOB), (SELECT seen FROM listing
        WHERE listing.stored_at = entries.stored_at AND listing.id = entries.id)
FROM entries WHERE id = ?
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
SET_FACT = """
INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

DELETE_BROKEN = """
DELETE FROM entries
WHERE id = ? AND stored_at IS ? AND expires_at IS ? AND retained_until IS ? AND value = ?
"""

Row = tuple[Any, ...]


class Found(NamedTuple):
    """A row that was asked for. `broken` has its columns if they are no entry."""

    entry: Entry | None = None
    used_at: float = 0.0
    broken: Row | None = None


NOTHING = Found()


def row_of(entry: Entry, now: float) -> Row:
    """Write an entry as a row; `CodecError` if it cannot be, `ValueError` if its id is none."""
    value = encode(entry.generations, entry.tags, entry.about)
    about, key = entry.about, entry.key
    return (
        bytes.fromhex(key.id),
        entry.stored_at,
        entry.expires_at,
        entry.retained_until,
        now + PINNED_AHEAD_S if entry.pinned else now,
        _size(len(key.prompt.encode()) + len(key.llm_string.encode()) + len(value)),
        *(_text(about.get(name)) for name in ("provider", "model", "namespace")),
        key.prompt,
        key.llm_string,
        value,
    )


def row_bytes(row: Row) -> int:
    """What the row counts for."""
    size: int = row[5]
    return size


def find(connection: apsw.Connection, key: Key, now: float) -> Found:
    """Read the row of this key. SQLite compares both strings."""
    asked = (id_bytes(key.id), key.prompt, key.llm_string)
    row = connection.execute(FIND, asked).fetchone()
    if row is None:
        return NOTHING
    stored_at, expires_at, retained_until, used_at, value, seen = row
    if retained_until is not None and retained_until <= now:
        return NOTHING
    times = (stored_at, expires_at, retained_until)
    broken = Found(broken=(asked[0], *times, value))
    if not are_times(times):
        return broken
    try:
        stored = decode(value)
    except CodecError:
        return broken
    # What is not listed yet is older than the log.
    entry = Entry(key, stored.generations, *times, stored.tags, stored.about, seen or 0)
    return Found(entry, used_at)


def find_by_id(connection: apsw.Connection, id: str, now: float) -> Found:
    """Read the row with this id, whatever its strings."""
    row = connection.execute(FIND_BY_ID, (id_bytes(id),)).fetchone()
    if row is None:
        return NOTHING
    stored_at, expires_at, retained_until, value, prompt, llm_string, seen = row
    if retained_until is not None and retained_until <= now:
        return NOTHING
    times = (stored_at, expires_at, retained_until)
    broken = Found(broken=(id_bytes(id), *times, value))
    if not are_times(times):
        return broken
    try:
        key = Key(id, prompt.decode(), llm_string.decode())
        stored = decode(value)
    except (CodecError, UnicodeDecodeError):
        return broken
    return Found(Entry(key, stored.generations, *times, stored.tags, stored.about, seen or 0))


def store(connection: apsw.Connection, rows: Iterable[Row]) -> None:
    connection.executemany(STORE, rows)


def mark_used(connection: apsw.Connection, marks: Iterable[tuple[float, bytes]]) -> None:
    connection.executemany("UPDATE entries SET used_at = max(used_at, ?) WHERE id = ?", marks)


def delete(connection: apsw.Connection, id: bytes) -> bool:
    connection.execute("DELETE FROM entries WHERE id = ?", (id,))
    return connection.changes() > 0


def delete_broken(connection: apsw.Connection, broken: Iterable[Row]) -> None:
    """Delete these rows as they were found: what was stored meanwhile stays."""
    connection.executemany(DELETE_BROKEN, broken)


def last_row(connection: apsw.Connection) -> int:
    (last,) = _row(connection, "SELECT ifnull(max(rowid), 0) FROM entries")
    return int(last)


def delete_up_to(connection: apsw.Connection, row: int) -> bool:
    """Delete some of the rows up to this one; `False` when none was left."""
    rows = connection.execute(
        "SELECT rowid, bytes FROM entries WHERE rowid <= ? ORDER BY rowid LIMIT ?",
        (row, BATCH_ROWS),
    )
    return delete_some(connection, rows, BATCH_BYTES) > 0


def delete_expired(connection: apsw.Connection, now: float) -> int:
    rows = connection.execute(
        "SELECT rowid, bytes FROM entries WHERE retained_until <= ? ORDER BY retained_until", (now,)
    )
    return delete_some(connection, rows, DELETE_BYTES)


def delete_unused(connection: apsw.Connection, enough: int) -> int:
    """Delete what was not used for longest, until `enough` bytes are gone; return how many."""
    rows = connection.execute("SELECT rowid, bytes FROM entries ORDER BY used_at, rowid")
    return delete_some(connection, rows, min(enough, DELETE_BYTES))


def delete_some(connection: apsw.Connection, rows: Iterable[tuple[int, int]], enough: int) -> int:
    """Delete the first of these rows, until `enough` bytes are gone; return how many."""
    victims: list[tuple[int]] = []
    for rowid, size in rows:
        if enough <= 0 or len(victims) >= DELETE_ROWS:
            break
        victims.append((rowid,))
        enough -= size
    connection.executemany("DELETE FROM entries WHERE rowid = ?", victims)
    return len(victims)


def give_back(connection: apsw.Connection) -> bool:
    """Return some free pages to the file system; `False` when none was left."""
    before: int = connection.pragma("freelist_count")
    connection.execute(f"PRAGMA incremental_vacuum({GIVE_BACK_PAGES})").fetchall()
    after: int = connection.pragma("freelist_count")
    return 0 < after < before


def totals(connection: apsw.Connection) -> Totals:
    return Totals(*_row(connection, "SELECT entries, bytes FROM totals"))


def fact(connection: apsw.Connection, name: str) -> str | None:
    row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def set_fact(connection: apsw.Connection, name: str, value: str) -> None:
    connection.execute(SET_FACT, (name, value))


def fact_or(connection: apsw.Connection, name: str, default: str) -> str:
    connection.execute("INSERT INTO facts VALUES (?, ?) ON CONFLICT DO NOTHING", (name, default))
    found = fact(connection, name)
    return default if found is None else found


def _row(connection: apsw.Connection, query: str) -> Row:
    """The row of a query that always has one; without it the file is damaged."""
    row = connection.execute(query).fetchone()
    if row is None:
        raise apsw.CorruptError("a row that was always there is gone")
    return tuple(row)


def _size(payload: int) -> int:
    """What a payload takes in the file, with what is listed of it and its signature."""
    beside = LISTED_BYTES + SIGNATURE_BYTES + min(payload // 8, MOST_SIGNATURE_BYTES)
    size = payload + ROW_OVERHEAD_BYTES
    if size <= PAGE_BYTES // 4:
        return size + beside
    # Large ones do not fill their pages up.
    return -(-size // (PAGE_BYTES // 2)) * (PAGE_BYTES // 2) + beside


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
