"""What those who share a Postgres cache agree on: facts, the purge log, leases."""

from __future__ import annotations

from hashlib import sha256

from cache_backends.postgres_session import Session
from cache_backends.shared import Filter, Purge, PurgeLog

# A longer name is told by its digest, as an index takes no more than 2,700 bytes.
NAME_BYTES = 200

FACT = "SELECT value FROM {schema}.facts WHERE name = $1"
SUGGEST_FACT = "INSERT INTO {schema}.facts (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING"
SET_FACT = """
INSERT INTO {schema}.facts (name, value) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""

PURGES = """
SELECT store.name, store.head, log.number, log.previous, log.filter, log.at
FROM {schema}.store LEFT JOIN {schema}.purges AS log ON log.number > $1
ORDER BY log.number
"""
# The row of the store stays locked until the end: numbers become visible in their order.
ANNOUNCE = """
WITH moved AS (
    UPDATE {schema}.store SET previous = head,
        head = greatest(head + 1, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint)
    RETURNING head, previous
)
INSERT INTO {schema}.purges (number, previous, filter, at)
SELECT head, previous, $1, extract(epoch FROM clock_timestamp())::float8 FROM moved
RETURNING number
"""
FORGET = """
DELETE FROM {schema}.purges WHERE number <= $1 AND number < (SELECT head FROM {schema}.store)
"""

CLAIM = """
INSERT INTO {schema}.leases AS held (name, holder, until)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE held.holder = excluded.holder OR held.until <= clock_timestamp()
RETURNING true
"""
RELEASE = "DELETE FROM {schema}.leases WHERE name = $1 AND holder = $2"
DELETE_LEASES = "DELETE FROM {schema}.leases WHERE until < clock_timestamp() - interval '1 minute'"


async def fact(session: Session, name: str, default: str) -> str:
    # Read first: a fact that is there can be had from a full or read-only disk.
    found = await session.fetch(FACT, short_name(name))
    if not found:
        await session.fetch(SUGGEST_FACT, short_name(name), default.encode())
        found = await session.fetch(FACT, short_name(name))
    return bytes(found[0][0]).decode(errors="replace") if found else default


async def set_fact(session: Session, name: str, value: str) -> None:
    await session.fetch(SET_FACT, short_name(name), value.encode())


async def purges(session: Session, after: int) -> PurgeLog:
    rows = await session.fetch(PURGES, after)
    store, head, *_ = rows[0]
    log = (row[2:] for row in rows if row[2] is not None)
    purges = [Purge(number, last, Filter.of_bytes(said), at) for number, last, said, at in log]
    return PurgeLog(store, head, tuple(purges))


async def announce(session: Session, filter: Filter) -> int:
    ((number,),) = await session.fetch(ANNOUNCE, filter.as_bytes())
    return int(number)


async def forget(session: Session, number: int) -> None:
    await session.fetch(FORGET, number)


async def claim(session: Session, name: str, holder: str, seconds: float) -> bool:
    return bool(await session.fetch(CLAIM, short_name(name), holder.encode(), seconds))


async def release(session: Session, name: str, holder: str) -> None:
    await session.fetch(RELEASE, short_name(name), holder.encode())


async def delete_leases(session: Session) -> None:
    """Those whose holders have not come back."""
    await session.fetch(DELETE_LEASES)


def short_name(name: str) -> bytes:
    """The name as an index takes it."""
    named = name.encode()
    return named if len(named) <= NAME_BYTES else sha256(named).digest()
