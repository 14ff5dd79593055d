"""The leases in the SQLite file. Its users share one machine, and so one clock."""

from __future__ import annotations

import apsw

CLAIM = """
INSERT INTO leases (name, holder, until) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE leases.holder = excluded.holder OR leases.until <= ?
"""


def claim(connection: apsw.Connection, name: str, holder: str, until: float, now: float) -> bool:
    connection.execute(CLAIM, (name, holder, until, now))
    return connection.changes() > 0


def release(connection: apsw.Connection, name: str, holder: str) -> None:
    connection.execute("DELETE FROM leases WHERE name = ? AND holder = ?", (name, holder))


def delete_ended(connection: apsw.Connection, now: float) -> None:
    connection.execute("DELETE FROM leases WHERE until <= ?", (now,))
