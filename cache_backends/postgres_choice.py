"""What entries in the Postgres cache are chosen by: ids, marks, times."""

from __future__ import annotations

from hashlib import sha256
from typing import Any
from urllib.parse import quote

from cache_backends.base import Entry, id_bytes
from cache_backends.shared import CHOSEN_BY, Filter

# A longer mark is told by its digest, as an index takes no more than 2,700 bytes.
MARK_CHARS = 200


class Conditions:
    """What rows must fit, as SQL; `$1` is left to the statement."""

    def __init__(self, filter: Filter) -> None:
        self.values: list[Any] = []
        self._texts: list[str] = []
        if filter.ids is not None:
            self.add("id = ANY ({}::bytea[])", [id_bytes(each) for each in filter.ids])
        if marks := _marks_of_filter(filter):
            self.add("marks @> {}::text[]", marks)
        if filter.stored_before is not None:
            self.add("stored_at < {}", filter.stored_before)
        if filter.stored_after is not None:
            self.add("stored_at > {}", filter.stored_after)

    def __str__(self) -> str:
        return " AND ".join(self._texts) or "true"

    def add(self, text: str, *values: Any) -> None:
        first = len(self.values) + 2
        self.values += values
        self._texts.append(text.format(*(f"${first + place}" for place in range(len(values)))))


def marks_of_entry(entry: Entry) -> list[str]:
    """What the entry can be chosen by."""
    facts = [(name, entry.about.get(name)) for name in CHOSEN_BY]
    marks = [_mark(name, value) for name, value in facts if isinstance(value, str)]
    return marks + [_mark("tag", tag) for tag in dict.fromkeys(entry.tags)]


def _marks_of_filter(filter: Filter) -> list[str]:
    said = [(name, getattr(filter, name)) for name in (*CHOSEN_BY, "tag")]
    return [_mark(name, value) for name, value in said if value is not None]


def _mark(name: str, value: str) -> str:
    """Such as `model=gpt-4o`: in ASCII, without commas and NUL."""
    mark = f"{name}={quote(value, safe='/')}"
    return mark if len(mark) <= MARK_CHARS else f"{name}=#{sha256(value.encode()).hexdigest()}"
