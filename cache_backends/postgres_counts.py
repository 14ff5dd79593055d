"""What is counted in the Postgres cache: hits of entries, and sums in groups."""

from __future__ import annotations

from collections.abc import Mapping

from cache_backends.base import id_bytes
from cache_backends.postgres_agreed import short_name
from cache_backends.postgres_session import Session

# What one statement counts at most: so many rows are held until it ends.
COUNT_ROWS = 10_000

# What is counted for cannot be deleted meanwhile, and what is being deleted is passed over: nobody
# waits there. Then everybody takes the rows in one order. Like entries, what was counted in the
# last half second may be lost in a crash of the server.
ADD_HITS = """
WITH there AS MATERIALIZED (
    SELECT id, more FROM {schema}.entries
        JOIN unnest($1::bytea[], $2::bigint[]) AS counted (id, more) USING (id)
    WHERE retained_until IS NULL OR retained_until > $3
    FOR KEY SHARE OF entries SKIP LOCKED
)
INSERT INTO {schema}.hits AS held (id, hits)
SELECT id, more FROM there, set_config('synchronous_commit', 'off', true) ORDER BY id
ON CONFLICT (id) DO UPDATE SET hits = held.hits + excluded.hits
"""
ADD_SUMS = """
INSERT INTO {schema}.sums AS held (group_key, name_key, name, amount)
SELECT $1, name_key, name, amount
FROM unnest($2::bytea[], $3::bytea[], $4::float8[]) AS more (name_key, name, amount),
    set_config('synchronous_commit', 'off', true)
ORDER BY name_key
ON CONFLICT (group_key, name_key) DO UPDATE SET amount = held.amount + excluded.amount
"""
SUMS = "SELECT name, amount FROM {schema}.sums WHERE group_key = $1"
# In the order in which sums are added to.
FORGET_SUMS = """
WITH held AS MATERIALIZED (
    SELECT name_key FROM {schema}.sums WHERE group_key = $1 ORDER BY name_key FOR UPDATE
)
DELETE FROM {schema}.sums WHERE group_key = $1 AND name_key IN (SELECT name_key FROM held)
"""


async def add_hits(session: Session, hits: Mapping[str, int], now: float) -> None:
    await session.fetch(ADD_HITS, [*map(id_bytes, hits)], [*hits.values()], now)


async def add_sums(session: Session, group: str, amounts: Mapping[str, float]) -> None:
    names = [short_name(name) for name in amounts], [name.encode() for name in amounts]
    await session.fetch(ADD_SUMS, short_name(group), *names, [*amounts.values()])


async def sums(session: Session, group: str) -> dict[str, float]:
    rows = await session.fetch(SUMS, short_name(group))
    return {bytes(name).decode(errors="replace"): amount for name, amount in rows}


async def forget_sums(session: Session, group: str) -> None:
    await session.fetch(FORGET_SUMS, short_name(group))
