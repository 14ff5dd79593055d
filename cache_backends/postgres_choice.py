"""What entries in the Postgres cache are chosen by: ids, marks, times."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from cache_backends.base import Entry, id_bytes
from cache_backends.shared import CHOSEN_BY, WIDE, Filter, Narrowing

# A longer mark is told by its digest, as an index takes no more than 2,700 bytes.
MARK_CHARS = 200
# Of one entry, looked up for itself.
HITS = "coalesce((SELECT hits FROM {schema}.hits AS counted WHERE counted.id = entries.id), 0)"


class Conditions:
    """What rows must fit, as SQL; `$1` is left to the statement.

    `span` is what the order of a listing is cut by, `rest` all other conditions.
    """

    def __init__(self, filter: Filter, narrowed: Narrowing = WIDE) -> None:
        self.values: list[Any] = []
        self._span: list[str] = []
        self._rest: list[str] = []
        if filter.ids is not None:
            self.add("id = ANY ({}::bytea[])", [id_bytes(each) for each in filter.ids])
        if marks := marks_of_filter(filter):
            self.add("marks @> {}::text[]", marks)
        if filter.stored_before is not None:
            self.cut("stored_at < {}", filter.stored_before)
        if filter.stored_after is not None:
            self.cut("stored_at > {}", filter.stored_after)
        if narrowed.min_bytes is not None:
            self.add("bytes >= {}", narrowed.min_bytes)
        if narrowed.max_bytes is not None:
            self.add("bytes <= {}", narrowed.max_bytes)
        if narrowed.min_hits is not None:
            self.add(HITS + " >= {}", narrowed.min_hits)

    def __str__(self) -> str:
        return f"{self.span} AND {self.rest}"

    @property
    def span(self) -> str:
        return " AND ".join(self._span) or "true"

    @property
    def rest(self) -> str:
        return " AND ".join(self._rest) or "true"

    def cut(self, text: str, *values: Any) -> None:
        self._span.append(self._numbered(text, values))

    def add(self, text: str, *values: Any) -> None:
        self._rest.append(self._numbered(text, values))

    def _numbered(self, text: str, values: Sequence[Any]) -> str:
        for value in values:
            self.values.append(value)
            text = text.replace("{}", f"${len(self.values) + 1}", 1)
        return text


def marks_of_entry(entry: Entry) -> list[str]:
    """What the entry can be chosen by."""
    facts = [(name, entry.about.get(name)) for name in CHOSEN_BY]
    marks = [_mark(name, value) for name, value in facts if isinstance(value, str)]
    return marks + [_mark("tag", tag) for tag in dict.fromkeys(entry.tags)]


def marks_of_filter(filter: Filter) -> list[str]:
    said = [(name, getattr(filter, name)) for name in (*CHOSEN_BY, "tag")]
    return [_mark(name, value) for name, value in said if value is not None]


def _mark(name: str, value: str) -> str:
    """Such as `model=gpt-4o`: in ASCII, without commas and NUL."""
    mark = f"{name}={quote(value, safe='/')}"
    return mark if len(mark) <= MARK_CHARS else f"{name}=#{sha256(value.encode()).hexdigest()}"
