"""The tables of the Postgres cache, and how they came to be: a step for each version."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256

from cache_backends.base import CacheError
from cache_backends.postgres_session import Session, is_missing, is_refused

# To see that all is there. A connection that died meanwhile must not keep its place in the pool.
LOOK_S = 2.0
# Making tables, or waiting for another process that makes them.
SET_UP_S = 10.0

# Strings are bytes, as Postgres' text knows no NUL; they may be megabytes, so that none of them is
# in an index. `marks` are what entries are chosen by. `told` is the part of the value that a
# listing shows. The counts are spread over rows, so that writers do not wait for each other.
VERSION_1 = """
CREATE TABLE {schema}.store (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    name text NOT NULL,
    head bigint NOT NULL DEFAULT 0,
    previous bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO {schema}.store (version, name) VALUES (0, gen_random_uuid());

CREATE TABLE {schema}.entries (
    id bytea PRIMARY KEY CHECK (octet_length(id) = 32),
    stored_at float8 NOT NULL,
    expires_at float8,
    retained_until float8,
    used_at float8 NOT NULL,
    seen bigint NOT NULL,
    bytes bigint NOT NULL,
    marks text[] COLLATE "C" NOT NULL,
    told bytea NOT NULL,
    prompt bytea NOT NULL,
    llm_string bytea NOT NULL,
    value bytea NOT NULL
);
CREATE INDEX entries_by_time ON {schema}.entries (stored_at, id);
CREATE INDEX entries_by_end ON {schema}.entries (retained_until) WHERE retained_until IS NOT NULL;
CREATE INDEX entries_by_use ON {schema}.entries (used_at, id);
CREATE INDEX entries_by_marks ON {schema}.entries USING gin (marks)
    WITH (gin_pending_list_limit = 256);

CREATE TABLE {schema}.counts (
    slot integer PRIMARY KEY,
    entries bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO {schema}.counts (slot) SELECT generate_series(0, 15);

CREATE FUNCTION {schema}.count_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    more_entries bigint := 0;
    more_bytes bigint := 0;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        SELECT count(*), coalesce(sum(bytes), 0) INTO more_entries, more_bytes FROM added;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        SELECT more_entries - count(*), more_bytes - coalesce(sum(bytes), 0)
            INTO more_entries, more_bytes FROM gone;
    END IF;
    IF more_entries <> 0 OR more_bytes <> 0 THEN
        UPDATE {schema}.counts
            SET entries = entries + more_entries, bytes = bytes + more_bytes
            WHERE slot = pg_backend_pid() % 16;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER entries_added AFTER INSERT ON {schema}.entries
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.count_entries();
CREATE TRIGGER entries_replaced AFTER UPDATE ON {schema}.entries
    REFERENCING OLD TABLE AS gone NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.count_entries();
CREATE TRIGGER entries_removed AFTER DELETE ON {schema}.entries
    REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.count_entries();

CREATE TABLE {schema}.purges (
    number bigint PRIMARY KEY,
    previous bigint NOT NULL,
    filter bytea NOT NULL,
    at float8 NOT NULL
);
CREATE TABLE {schema}.facts (name bytea PRIMARY KEY, value bytea NOT NULL);
CREATE UNLOGGED TABLE {schema}.leases (
    name bytea PRIMARY KEY,
    holder bytea NOT NULL,
    until timestamptz NOT NULL
);
"""

# Hits are beside their entries: there, each would write all places in the indexes anew. They go
# with them by the function that is called anyway, as a new trigger would have to wait for whoever
# vacuums the table. Its only new part is the one about hits.
VERSION_2 = """
CREATE TABLE {schema}.hits (
    id bytea PRIMARY KEY,
    hits bigint NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX hits_by_number ON {schema}.hits (hits);

CREATE TABLE {schema}.sums (
    group_key bytea NOT NULL,
    name_key bytea NOT NULL,
    name bytea NOT NULL,
    amount float8 NOT NULL,
    PRIMARY KEY (group_key, name_key)
) WITH (fillfactor = 50);

CREATE OR REPLACE FUNCTION {schema}.count_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    more_entries bigint := 0;
    more_bytes bigint := 0;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        SELECT count(*), coalesce(sum(bytes), 0) INTO more_entries, more_bytes FROM added;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        SELECT more_entries - count(*), more_bytes - coalesce(sum(bytes), 0)
            INTO more_entries, more_bytes FROM gone;
    END IF;
    IF TG_OP = 'DELETE' THEN
        DELETE FROM {schema}.hits WHERE id = ANY (ARRAY(SELECT id FROM gone));
    END IF;
    IF more_entries <> 0 OR more_bytes <> 0 THEN
        UPDATE {schema}.counts
            SET entries = entries + more_entries, bytes = bytes + more_bytes
            WHERE slot = pg_backend_pid() % 16;
    END IF;
    RETURN NULL;
END
$$;
"""

# Whoever changes a step that was released breaks the stores that were made with it: add one.
STEPS = (VERSION_1, VERSION_2)


async def set_up(session: Session, steps: Sequence[str] = STEPS) -> None:
    """Bring the schema up to the version that these steps lead to; make it if it is not there.

    Of several processes one does it, the others wait. `CacheError` if it is a later version's.
    """
    async with asyncio.timeout(LOOK_S):
        if await _version(session) == len(steps):
            return
    async with asyncio.timeout(SET_UP_S), session.transaction():
        await session.fetch_once("SELECT pg_advisory_xact_lock($1)", _lock_of(session.schema))
        await _take_the_steps(session, steps)


async def _take_the_steps(session: Session, steps: Sequence[str]) -> None:
    # Only now, as another process may have been faster.
    version = await _version_or_nothing(session)
    if version > len(steps):
        raise CacheError(
            f"schema {session.schema} has layout {version}, this program knows {len(steps)}: "
            "use the program that made it, or another schema"
        )
    if version == 0 and not await _is_there(session, session.schema, "to_regnamespace"):
        await session.run("CREATE SCHEMA {schema}")
    try:
        for step in steps[version:]:
            await session.run(step)
        await session.fetch_once("UPDATE {schema}.store SET version = $1", len(steps))
    except Exception as exc:
        if version == 0 or not is_refused(exc):
            raise
        raise CacheError(
            f"schema {session.schema} has layout {version} and must be brought to {len(steps)}, "
            f"which is refused ({exc}): let the user who made it open it once, for writing"
        ) from exc


async def _version(session: Session) -> int:
    try:
        ((version,),) = await session.fetch_once("SELECT version FROM {schema}.store")
    except Exception as exc:
        if is_missing(exc):
            return 0
        raise
    return int(version)


async def _version_or_nothing(session: Session) -> int:
    # An error would end the transaction: look before.
    if not await _is_there(session, f"{session.schema}.store", "to_regclass"):
        return 0
    return await _version(session)


async def _is_there(session: Session, name: str, function: str) -> bool:
    ((found,),) = await session.fetch_once(f"SELECT {function}($1) IS NOT NULL", name)
    return bool(found)


def _lock_of(schema: str) -> int:
    """A number that nobody else locks by chance."""
    digest = sha256(b"llm-cache-proxy " + schema.encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
