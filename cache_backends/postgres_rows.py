"""Entries as rows: what the Postgres cache finds, stores and lets go by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cache_backends.base import Entry, Key, Totals, id_bytes
from cache_backends.codec import CodecError, are_times, decode, encode, encode_label
from cache_backends.postgres_choice import marks_of_entry
from cache_backends.postgres_session import Row, Session

# What a row costs beside its strings: its numbers, its places in the table and five indexes.
ROW_OVERHEAD_BYTES = 512
# What one transaction deletes at most: locks are held, and the log is written, for so many.
DELETE_ROWS = 1000
# A pinned entry counts as used by so much later, a thousand years: it is evicted after all others,
# and of several that pinned first goes first.
PINNED_S = 1000 * 365 * 86_400.0

FIND = """
SELECT stored_at, expires_at, retained_until, used_at, seen, value FROM {schema}.entries
WHERE id = $1 AND prompt = $2 AND llm_string = $3
"""
# OFFSET 0 keeps the planner from joining by the strings.
FIND_MANY = """
SELECT asked.place, found.* FROM
    unnest($1::bytea[], $2::bytea[], $3::bytea[]) WITH ORDINALITY
        AS asked (id, prompt, llm_string, place),
    LATERAL (
        SELECT stored_at, expires_at, retained_until, used_at, seen, value FROM {schema}.entries
        WHERE id = asked.id AND prompt = asked.prompt AND llm_string = asked.llm_string
        OFFSET 0
    ) AS found
"""
# Sorted, so that two who store the same entries do not wait for each other in a circle. The commit
# does not wait for the disk: a crash of the server may lose the last half second of entries, which
# costs an upstream call each. Purges and facts wait.
STORE = """
INSERT INTO {schema}.entries (id, stored_at, expires_at, retained_until, used_at, seen, bytes,
    marks, told, prompt, llm_string, value)
SELECT id, stored_at, expires_at, retained_until, used_at, seen, bytes,
    string_to_array(marks, ','), told, prompt, llm_string, value
FROM unnest($1::bytea[], $2::float8[], $3::float8[], $4::float8[], $5::float8[], $6::bigint[],
        $7::bigint[], $8::text[], $9::bytea[], $10::bytea[], $11::bytea[], $12::bytea[])
    AS new (id, stored_at, expires_at, retained_until, used_at, seen, bytes,
        marks, told, prompt, llm_string, value),
    set_config('synchronous_commit', 'off', true)
ORDER BY id
ON CONFLICT (id) DO UPDATE SET stored_at = excluded.stored_at, expires_at = excluded.expires_at,
    retained_until = excluded.retained_until, used_at = excluded.used_at, seen = excluded.seen,
    bytes = excluded.bytes, marks = excluded.marks, told = excluded.told,
    prompt = excluded.prompt, llm_string = excluded.llm_string, value = excluded.value
"""
DELETE = "DELETE FROM {schema}.entries WHERE id = $1 RETURNING true"
DELETE_BROKEN = """
DELETE FROM {schema}.entries
WHERE id = $1 AND stored_at = $2 AND expires_at IS NOT DISTINCT FROM $3
    AND retained_until IS NOT DISTINCT FROM $4 AND value = $5
"""
BY_ID = """
SELECT asked.place, prompt, llm_string, stored_at, expires_at, retained_until, used_at, seen, value
FROM unnest($1::bytea[]) WITH ORDINALITY AS asked (id, place) JOIN {schema}.entries USING (id)
"""
TOTALS = "SELECT sum(entries)::bigint, sum(bytes)::bigint FROM {schema}.counts"

# Who else is about to change a row is not waited for: it is in use.
DELETE_ENDED = """
DELETE FROM {schema}.entries WHERE id = ANY (ARRAY(
    SELECT id FROM {schema}.entries WHERE retained_until <= $1
    ORDER BY retained_until LIMIT $2 FOR UPDATE SKIP LOCKED
)) AND retained_until <= $1
RETURNING true
"""
DELETE_UNUSED = """
DELETE FROM {schema}.entries WHERE id = ANY (ARRAY(
    SELECT id FROM (
        SELECT id, sum(bytes) OVER (ORDER BY used_at, id) - bytes AS before FROM (
            SELECT id, used_at, bytes FROM {schema}.entries ORDER BY used_at, id LIMIT $2
        ) AS oldest
    ) AS summed WHERE before < $1
))
RETURNING bytes
"""
MARK_USED = """
UPDATE {schema}.entries SET used_at = greatest(used_at, marked.at)
FROM unnest($1::bytea[], $2::float8[]) AS marked (id, at)
WHERE entries.id = marked.id AND entries.id = ANY (ARRAY(
    SELECT id FROM {schema}.entries WHERE id = ANY ($1) FOR NO KEY UPDATE SKIP LOCKED
))
"""


class Found(NamedTuple):
    """A row that was asked for. `broken` has its columns if they are no entry."""

    entry: Entry | None = None
    used_at: float = 0.0
    broken: Row | None = None


NOTHING = Found()


def row_of(entry: Entry, now: float) -> Row:
    """Write an entry as a row; `CodecError` if it cannot be, `ValueError` if its id is none."""
    value = encode(entry.generations, entry.tags, entry.about)
    told = encode_label(entry.tags, entry.about)
    prompt, llm_string = entry.key.prompt.encode(), entry.key.llm_string.encode()
    return (
        bytes.fromhex(entry.key.id),
        entry.stored_at,
        entry.expires_at,
        entry.retained_until,
        now + PINNED_S if entry.pinned else now,
        entry.seen,
        sum(map(len, (value, told, prompt, llm_string))) + ROW_OVERHEAD_BYTES,
        ",".join(marks_of_entry(entry)),
        told,
        prompt,
        llm_string,
        value,
    )


def row_bytes(row: Row) -> int:
    """What the row counts for."""
    size: int = row[6]
    return size


async def find(session: Session, keys: Sequence[Key], now: float) -> list[Found]:
    """Read the rows of these keys. Postgres compares both strings."""
    ids, prompts, llm_strings = zip(*(_asked(key) for key in keys), strict=True)
    found = [NOTHING] * len(keys)
    if len(keys) == 1:
        for row in await session.fetch(FIND, ids[0], prompts[0], llm_strings[0]):
            found[0] = _read(keys[0], row, now)
        return found
    for place, *row in await session.fetch(FIND_MANY, ids, prompts, llm_strings):
        found[place - 1] = _read(keys[place - 1], row, now)
    return found


async def by_ids(session: Session, ids: Sequence[str], now: float) -> list[Found]:
    """Read the rows with these ids. One whose strings have another is none."""
    found = [NOTHING] * len(ids)
    for place, prompt, llm_string, *row in await session.fetch(BY_ID, [*map(id_bytes, ids)]):
        key = _key(ids[place - 1], prompt, llm_string)
        if key is not None:
            found[place - 1] = _read(key, row, now)
    return found


async def store(session: Session, rows: Iterable[Row]) -> None:
    """Store all rows, or none. Of several with one id the last counts."""
    by_id = {row[0]: row for row in rows}
    await session.fetch(STORE, *zip(*by_id.values(), strict=True))


async def delete(session: Session, id: bytes) -> bool:
    return bool(await session.fetch(DELETE, id))


async def delete_broken(session: Session, row: Row) -> None:
    """Delete this row as it was found: what was stored meanwhile stays."""
    await session.fetch(DELETE_BROKEN, *row)


async def delete_ended(session: Session, now: float) -> int:
    return len(await session.fetch(DELETE_ENDED, now, DELETE_ROWS))


async def delete_unused(session: Session, enough: int) -> list[int]:
    """Delete what was not used for longest, until `enough` bytes are gone, or some of it."""
    return [size for (size,) in await session.fetch(DELETE_UNUSED, enough, DELETE_ROWS)]


async def mark_used(session: Session, used: dict[bytes, float]) -> None:
    await session.fetch(MARK_USED, list(used), list(used.values()))


async def totals(session: Session) -> Totals:
    ((entries, size),) = await session.fetch(TOTALS)
    return Totals(entries, size)


def _read(key: Key, row: Row, now: float) -> Found:
    stored_at, expires_at, retained_until, used_at, seen, value = row
    times = (stored_at, expires_at, retained_until)
    broken = Found(broken=(id_bytes(key.id), *times, value))
    if not are_times(times):
        return broken
    if retained_until is not None and retained_until <= now:
        return NOTHING
    try:
        stored = decode(value)
    except CodecError:
        return broken
    entry = Entry(key, stored.generations, *times, stored.tags, stored.about, seen)
    return Found(entry, used_at)


def _key(id: str, prompt: bytes, llm_string: bytes) -> Key | None:
    """The key that was stored, if it has this id."""
    try:
        key = Key.of(prompt.decode(), llm_string.decode())
    except UnicodeDecodeError:
        return None
    return key if key.id == id else None


def _asked(key: Key) -> tuple[bytes, bytes, bytes]:
    return id_bytes(key.id), key.prompt.encode(), key.llm_string.encode()
