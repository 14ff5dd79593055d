"""The listing of the SQLite file: entries in order of time, chosen by filters, told and removed.

It is read in steps: where a filter fits few of many entries, nobody waits for the whole of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import apsw
import orjson

from cache_backends import sqlite_rows as rows
from cache_backends import sqlite_texts as texts
from cache_backends.base import Entry
from cache_backends.codec import CodecError, Stored, are_times, decode
from cache_backends.shared import CHOSEN_BY, PREVIEW_BYTES, Summary, preview_of
from cache_backends.sqlite_choice import Choice, Place, packed, unpacked

# How much of the listing one step reads: a few milliseconds.
STEP_ROWS = 20_000
# And where more must be looked at for each row. Of what might hold a text, so much is read.
NARROW_STEP_ROWS = 5000
READ_BYTES = 2**20
# How many entries of the first layout one step lists: they must be read for it.
LIST_ROWS = 200
LIST_BYTES = 4 * 2**20

STORE = """
INSERT OR {conflict} INTO listing (stored_at, id, seen, tags, about, provider, dialect, model,
    namespace, client, run, prompt_digest, llm_digest)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
STEP_END = """
SELECT stored_at, id FROM listing WHERE (stored_at, id) < (:at, :id)
ORDER BY stored_at DESC, id DESC LIMIT 1 OFFSET :rows - 1
"""
SUMMARY = """, entries.expires_at, entries.retained_until, listing.tags,
CAST(json_object('provider', listing.provider, 'dialect', listing.dialect, 'model', listing.model,
    'namespace', listing.namespace, 'client', listing.client, 'run', listing.run,
    'prompt_digest', listing.prompt_digest, 'llm_digest', listing.llm_digest) AS BLOB),
listing.about, ifnull((SELECT hits FROM hits WHERE hits.id = listing.id), 0)
"""
LASTS = "(entries.retained_until IS NULL OR entries.retained_until > :now)"
UNLISTED = """
SELECT rowid, id, stored_at, value FROM entries
WHERE rowid <= (SELECT unlisted FROM store) ORDER BY rowid DESC LIMIT ?
"""

Listed = tuple[Any, ...]
# What a step has found or how many it has removed, and where the next one begins; `None`: nothing
# is left.
Told = tuple[list[Summary], Place | None]
Removed = tuple[int, Place | None]


def row_of(entry: Entry) -> Listed:
    """What is listed of an entry that can be stored."""
    stored = Stored(entry.generations, entry.tags, entry.about)
    return _listed(entry.stored_at, bytes.fromhex(entry.key.id), entry.seen, stored)


def store(connection: apsw.Connection, listed: Iterable[Listed]) -> None:
    """List entries that are stored right after."""
    connection.executemany(STORE.format(conflict="REPLACE"), listed)


def tell(choice: Choice, start: Place, limit: int, now: float, connection: apsw.Connection) -> Told:
    """List some of the entries below the place, those stored last first."""
    end = _end_of_step(connection, choice, start)
    asked = _between(start, end) | {"limit": limit, "now": now} | choice.bindings
    found: list[Any] = connection.execute(choice.statement(LASTS, more=SUMMARY), asked).fetchall()
    rest = _rest(choice, found, limit, end)
    if choice.text is not None:
        read = _at_most(READ_BYTES, found)
        rest = rest if read == len(found) else Place(*found[read - 1][:2])
        found = [row for row in found[:read] if texts.is_said(connection, choice.text, row[2])]
    return [_summary(connection, *row) for row in found if _is_sound(row)], rest


def remove(choice: Choice, start: Place, before: int, connection: apsw.Connection) -> Removed:
    """Remove some of the entries below the place that were begun before this purge."""
    end = _end_of_step(connection, choice, start)
    asked = _between(start, end) | {"limit": rows.BATCH_ROWS, "before": before} | choice.bindings
    statement = choice.statement("listing.seen < :before")
    found: list[Any] = connection.execute(statement, asked).fetchall()
    removed = rows.delete_some(connection, (row[2:4] for row in found), rows.BATCH_BYTES)
    if removed < len(found):
        return removed, Place(*found[removed - 1][:2])
    return removed, _rest(choice, found, rows.BATCH_ROWS, end)


def is_whole(connection: apsw.Connection) -> bool:
    """Are all entries listed? Those of the first layout are so little by little."""
    return connection.execute("SELECT 1 FROM store WHERE unlisted > 0").fetchone() is None


def complete(connection: apsw.Connection) -> bool:
    """List some entries of the first layout; `False` when none was left."""
    if is_whole(connection):
        return False
    listed, last, left = [], 0, LIST_BYTES
    found: Iterable[Any] = connection.execute(UNLISTED, (LIST_ROWS,))
    for last, key_id, stored_at, value in found:  # noqa: B007 - where it ended counts
        listed.append(_listed(stored_at, key_id, 0, _stored(value)))
        left -= len(value)
        if left < 0:
            break
    # One that was stored again meanwhile is listed as it is now.
    connection.executemany(STORE.format(conflict="IGNORE"), listed)
    connection.execute("UPDATE store SET unlisted = ?", (max(last - 1, 0),))
    return True


def _end_of_step(connection: apsw.Connection, choice: Choice, start: Place) -> Place:
    """How far down a step that begins here goes."""
    if choice.by_id:
        return choice.floor
    step_rows = NARROW_STEP_ROWS if choice.narrow else STEP_ROWS
    step = {"at": start.stored_at, "id": start.id, "rows": step_rows}
    end = connection.execute(STEP_END, step).fetchone()
    return choice.floor if end is None else max(choice.floor, Place(*end))


def _between(start: Place, end: Place) -> dict[str, Any]:
    return {"at": start.stored_at, "id": start.id, "end_at": end.stored_at, "end_id": end.id}


def _rest(choice: Choice, found: list[Any], limit: int, end: Place) -> Place | None:
    if len(found) == limit:
        return Place(*found[-1][:2])
    return end if end > choice.floor else None


def _at_most(most_bytes: int, found: list[Any]) -> int:
    """How many of these rows have so many bytes together; at least one."""
    sums = accumulate(row[3] for row in found)
    return max(1, sum(each <= most_bytes for each in sums)) if found else 0


def _is_sound(row: tuple[Any, ...]) -> bool:
    """Rows with other times are no entries: whoever asks for one finds nothing."""
    stored_at, _, _, _, expires_at, retained_until, *_ = row
    return are_times((stored_at, expires_at, retained_until))


def _summary(connection: apsw.Connection, *row: Any) -> Summary:
    stored_at, key_id, rowid, size, expires_at, retained_until, tags, known, more, hits = row
    return Summary(
        key_id.hex(),
        stored_at,
        expires_at,
        retained_until,
        size,
        _preview(connection, rowid),
        unpacked(tags),
        {name: fact for name, fact in _facts(known).items() if fact is not None} | _facts(more),
        hits,
    )


def _preview(connection: apsw.Connection, rowid: int) -> str:
    # A statement would read the whole prompt.
    with connection.blob_open("main", "entries", "prompt", rowid, False) as prompt:
        beginning = prompt.read(PREVIEW_BYTES)
    return preview_of(beginning)


def _facts(about: bytes | None) -> dict[str, Any]:
    try:
        facts = orjson.loads(about or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _listed(stored_at: float, id: bytes, seen: int, stored: Stored) -> Listed:
    more = dict(stored.about)
    known = [more.pop(name) if isinstance(more.get(name), str) else None for name in CHOSEN_BY]
    return stored_at, id, seen, packed(stored.tags), orjson.dumps(more) if more else None, *known


def _stored(value: bytes) -> Stored:
    try:
        return decode(value)
    except CodecError:
        return Stored([])  # to be removed as well
