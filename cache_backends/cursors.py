"""Where a listing goes on: when the last entry told was stored, and its id, as opaque text."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from math import isfinite
from typing import Any

import orjson


def cursor_of(stored_at: float, id: str) -> str:
    return urlsafe_b64encode(orjson.dumps([stored_at, id])).decode()


def place_of(cursor: str) -> tuple[float, str]:
    """The reverse of `cursor_of`; `ValueError` for anything else."""
    try:
        found: Any = orjson.loads(urlsafe_b64decode(cursor.encode()))
    except ValueError as exc:
        raise ValueError("the cursor is not one that a page gave") from exc
    match found:
        case [float() | int() as stored_at, str() as key_id] if isfinite(stored_at):
            return float(stored_at), key_id
    raise ValueError("the cursor is not one that a page gave")
