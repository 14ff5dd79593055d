"""Filters as SQL: which rows of the listing are meant, and between which places they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Any, NamedTuple

import orjson

from cache_backends import sqlite_texts as texts
from cache_backends.base import id_bytes
from cache_backends.shared import CHOSEN_BY, WIDE, Filter, Narrowing

# Tags stand between these; UTF-8 has no such byte.
SEPARATOR = b"\xff"
# How many ids are looked for at a time.
PART_IDS = 500
LAST_ID = b"\xff" * 33
# SQLite counts no further.
MOST = 2**63 - 1

# From the listing to the entries, or, where ids are given, the other way round. Where a text is
# looked for, signatures come before what they decide.
BY_TIME = """
listing CROSS JOIN entries ON entries.id = listing.id AND entries.stored_at = listing.stored_at
"""
BY_ID = """
json_each(:ids) CROSS JOIN entries ON entries.id = unhex(json_each.value)
CROSS JOIN listing ON listing.stored_at = entries.stored_at AND listing.id = entries.id
"""
BY_TEXT = """
signatures CROSS JOIN listing ON listing.stored_at = signatures.stored_at
    AND listing.id = signatures.id
CROSS JOIN entries ON entries.id = signatures.id AND entries.stored_at = signatures.stored_at
"""
BY_ID_AND_TEXT = f"""
{BY_ID} CROSS JOIN signatures ON signatures.stored_at = entries.stored_at
    AND signatures.id = entries.id
"""
CHOOSE = """
SELECT listing.stored_at, listing.id, entries.rowid, entries.bytes {more} FROM {tables}
WHERE ({leader}.stored_at, {leader}.id) < (:at, :id)
    AND ({leader}.stored_at, {leader}.id) >= (:end_at, :end_id)
    AND {conditions}
ORDER BY {leader}.stored_at DESC, {leader}.id DESC LIMIT :limit
"""
# What each thing that is said beside the filter asks of an entry.
NARROWED = {
    "min_hits": "(SELECT hits FROM hits WHERE hits.id = listing.id) >= :min_hits",
    "min_bytes": "entries.bytes >= :min_bytes",
    "max_bytes": "entries.bytes <= :max_bytes",
}
EXPIRED = "ifnull(entries.expires_at <= :now, 0) = :expired"


class Place(NamedTuple):
    """When an entry was stored, and its id: the order of the listing, from the greatest on."""

    stored_at: float
    id: bytes


HIGHEST = Place(inf, LAST_ID)
LOWEST = Place(-inf, b"")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a filter says. Its entries lie below `top`, and not below `floor`.

    Not all that are chosen hold the `text`, which is casefolded. What is `narrow` asks for more
    than the listing says.
    """

    by_id: bool
    narrow: bool
    text: str | None
    conditions: tuple[str, ...]
    bindings: dict[str, Any]
    top: Place
    floor: Place

    @classmethod
    def of(cls, filter: Filter, narrowed: Narrowing = WIDE) -> Choice:
        """Read a filter; `ValueError` if it holds what no database can be asked for.

        What expires is asked for with `now` bound.
        """
        said = {name: getattr(filter, name) for name in CHOSEN_BY}
        bindings: dict[str, Any] = {
            name: sayable(each) for name, each in said.items() if each is not None
        }
        conditions = [f"listing.{name} = :{name}" for name in bindings]
        if filter.tag is not None:
            bindings["tag"] = packed((filter.tag,))
            conditions.append("instr(listing.tags, :tag)")
        if filter.ids is not None:
            bindings["ids"] = orjson.dumps(
                [each for each in set(filter.ids) if id_bytes(each)]
            ).decode()
        for name, condition in NARROWED.items():
            bound: int | None = getattr(narrowed, name)
            if bound is not None and not (name == "min_hits" and bound <= 0):
                bindings[name] = max(-MOST, min(bound, MOST))
                conditions.append(condition)
        if narrowed.expired is not None:
            bindings["expired"] = int(narrowed.expired)
            conditions.append(EXPIRED)
        text = None
        if narrowed.text:
            text = sayable(narrowed.text).casefold()
            wanted, bound_by_text = texts.wanted(text)
            conditions += wanted
            bindings |= bound_by_text
        top, floor = HIGHEST, LOWEST
        if filter.stored_before is not None:
            top = Place(float(filter.stored_before), b"")
        if filter.stored_after is not None:
            floor = Place(float(filter.stored_after), LAST_ID)
        by_id = filter.ids is not None
        return cls(by_id, narrowed != WIDE, text, tuple(conditions), bindings, top, floor)

    def statement(self, *conditions: str, more: str = "") -> str:
        """Select place, rowid and bytes of what is chosen, and what else is asked for."""
        return CHOOSE.format(
            more=more,
            tables=self._tables(),
            leader="signatures" if self.text is not None and not self.by_id else "listing",
            conditions=" AND ".join((*self.conditions, *conditions)),
        )

    def _tables(self) -> str:
        if self.text is None:
            return BY_ID if self.by_id else BY_TIME
        return BY_ID_AND_TEXT if self.by_id else BY_TEXT


def parts(filter: Filter) -> Iterator[Filter]:
    """The filter, in as many parts as it takes for none to name many ids."""
    if filter.ids is None:
        yield filter
        return
    ids = tuple(dict.fromkeys(filter.ids))
    for first in range(0, len(ids), PART_IDS):
        yield replace(filter, ids=ids[first : first + PART_IDS])


def packed(tags: tuple[str, ...]) -> bytes | None:
    """Tags as they are listed: a tag is found between separators."""
    if not tags:
        return None
    return b"".join((SEPARATOR, *(tag.encode() + SEPARATOR for tag in tags)))


def unpacked(tags: bytes | None) -> tuple[str, ...]:
    """The reverse of `packed`, whatever the bytes."""
    return tuple(tag.decode(errors="replace") for tag in (tags or b"").split(SEPARATOR)[1:-1])


def sayable(said: str) -> str:
    """The text as it is; `ValueError` for half a surrogate pair, which nothing can be asked for."""
    said.encode()
    return said
