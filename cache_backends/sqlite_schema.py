"""The tables of the SQLite file, and the steps that lead from an older layout to today's."""

from __future__ import annotations

import apsw

# "LLMC" in the header tells our files from those of other programs, which are never touched.
APPLICATION_ID = 0x4C4C4D43

# The long columns come last, so that sweeping does not read them.
ENTRIES = """
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

# `listing` is the one index for listing and choosing: in order of time, narrow enough to be read
# from end to end (a million rows: 0.2 s). An index for each thing that entries can be chosen by
# would take as much time at each store as all the rest; this one takes a twentieth. It is a table
# beside `entries`, whose layout stays, because adding a column to a STRICT table reads all of it.
# `about` holds what has no column, as JSON.
#
# Whoever stores writes the row of the listing first. What did not (an older program that has the
# file open) is listed by a trigger, as never having heard of a purge.
#
# `store.unlisted`: entries with rowids up to this are of the first layout and not yet listed.
LISTING = """
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

# What managing entries asks for. Columns stay empty for what was listed before they were there.
#
# Hits lie beside the entries, as they are counted far more often than entries are written.
FIGURES = """
ALTER TABLE listing ADD COLUMN run TEXT;
ALTER TABLE listing ADD COLUMN prompt_digest TEXT;
ALTER TABLE listing ADD COLUMN llm_digest TEXT;
CREATE TABLE hits (id BLOB PRIMARY KEY, hits INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX hits_by_number ON hits (hits);
CREATE TRIGGER entry_hit_no_more AFTER DELETE ON entries BEGIN
    DELETE FROM hits WHERE id = old.id;
END;
CREATE TABLE counts (
    part_of TEXT NOT NULL, name TEXT NOT NULL, amount REAL NOT NULL, PRIMARY KEY (part_of, name)
) STRICT, WITHOUT ROWID;
"""

# `signatures` is the index of texts (see `sqlite_texts`), in the order of the listing. Making one
# takes longer than storing an entry does, so that whoever stores only notes that one is missing.
TEXTS = """
CREATE TABLE signatures (
    stored_at REAL NOT NULL, id BLOB NOT NULL, bits BLOB NOT NULL, PRIMARY KEY (stored_at, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE unsigned (place INTEGER PRIMARY KEY) STRICT;
INSERT INTO unsigned SELECT rowid FROM entries;
CREATE TRIGGER entry_unsigned AFTER INSERT ON entries BEGIN
    INSERT INTO unsigned VALUES (new.rowid) ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER entry_rewritten AFTER UPDATE OF id, stored_at, prompt, value ON entries BEGIN
    DELETE FROM signatures WHERE stored_at = old.stored_at AND id = old.id;
    INSERT INTO unsigned VALUES (new.rowid) ON CONFLICT DO NOTHING;
END;
CREATE TRIGGER entry_signed_no_more AFTER DELETE ON entries BEGIN
    DELETE FROM signatures WHERE stored_at = old.stored_at AND id = old.id;
    DELETE FROM unsigned WHERE place = old.rowid;
END;
"""

# A new file takes all of them; one of layout n those from n on.
STEPS = (ENTRIES, LISTING, FIGURES + TEXTS)
VERSION = len(STEPS)

# Asked once per opening: fails if the tables are not those above.
PROBES = """
SELECT id, stored_at, expires_at, retained_until, used_at, bytes, provider, model, namespace,
    prompt, llm_string, value FROM entries LIMIT 0;
SELECT name, value FROM facts LIMIT 0;
SELECT entries, bytes FROM totals LIMIT 0;
SELECT stored_at, id, seen, provider, dialect, model, namespace, client, tags, about, run,
    prompt_digest, llm_digest FROM listing LIMIT 0;
SELECT number, previous, at, filter FROM purges LIMIT 0;
SELECT name, holder, until FROM leases LIMIT 0;
SELECT name, unlisted FROM store LIMIT 0;
SELECT id, hits FROM hits LIMIT 0;
SELECT part_of, name, amount FROM counts LIMIT 0;
SELECT stored_at, id, bits FROM signatures LIMIT 0;
SELECT place FROM unsigned LIMIT 0;
"""


def is_ours(connection: apsw.Connection) -> bool:
    return bool(connection.pragma("application_id") == APPLICATION_ID)


def version(connection: apsw.Connection) -> int:
    found: int = connection.pragma("user_version")
    return found


def bring_up(connection: apsw.Connection) -> None:
    """Make the tables that are missing. Within a transaction, so that it is done or not done."""
    if version(connection) >= VERSION:
        return  # another process was faster
    for step in STEPS[version(connection) :]:
        connection.execute(step).fetchall()
    connection.pragma("application_id", APPLICATION_ID)
    connection.pragma("user_version", VERSION)
