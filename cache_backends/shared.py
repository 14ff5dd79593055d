"""What caches offer beside lookups: listing and counting, a purge log and leases, purges that hold.

A purge is complete when its call returns, although every process may hold entries in memory and
fetch answers at that time. Nobody is sent a message for that: each process reads the numbered log
of purges again and again, and answers from memory only for so long after it began to read it last
as all have agreed on. Whoever purges appends to the log, deletes, and waits just as long.

An entry carries in `seen` the number of the last purge that was known when its fetch began. One
that a later purge covers is not handed out, whenever and by whomever it was stored.
"""
# ruff: noqa: ARG002 - the names of parameters are part of the contract, used or not

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import orjson

from cache_backends.base import Entry, EntryCache, Unsupported

# Of the prompt in a listing; a character has four bytes at most.
PREVIEW_CHARS = 500
PREVIEW_BYTES = 4 * PREVIEW_CHARS
# A number after those of all purges: that of an entry, in `seen`, is below.
AFTER_ALL = 2**63 - 1
# The facts in `Entry.about` that entries can be chosen by; texts.
CHOSEN_BY = (
    "provider",
    "dialect",
    "model",
    "namespace",
    "client",
    "run",
    "prompt_digest",
    "llm_digest",
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries are meant: those that fit all that is said. With nothing said, all.

    `ids` are those of keys; `stored_before` and `stored_after` are Unix seconds, neither included.
    """

    ids: tuple[str, ...] | None = None
    provider: str | None = None
    dialect: str | None = None
    model: str | None = None
    namespace: str | None = None
    client: str | None = None
    run: str | None = None
    prompt_digest: str | None = None
    llm_digest: str | None = None
    tag: str | None = None
    stored_before: float | None = None
    stored_after: float | None = None

    def covers(self, entry: Entry) -> bool:
        return (
            (self.ids is None or entry.key.id in self.ids)
            and all(
                said is None or entry.about.get(name) == said
                for name in CHOSEN_BY
                if (said := getattr(self, name)) is not None
            )
            and (self.tag is None or self.tag in entry.tags)
            and (self.stored_before is None or entry.stored_at < self.stored_before)
            and (self.stored_after is None or entry.stored_at > self.stored_after)
        )

    def as_json(self) -> dict[str, Any]:
        """What is said, as JSON values."""
        said = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in said.items() if value is not None}

    @classmethod
    def of_json(cls, said: Any) -> Filter:
        """The reverse of `as_json`; `ValueError` for anything else."""
        known = {each.name for each in fields(cls)}
        if not isinstance(said, dict) or not said.keys() <= known:
            raise ValueError(f"a filter knows {', '.join(sorted(known))}")
        values = dict(said)
        if "ids" in values:
            values["ids"] = _ids(values["ids"])
        for name in (*CHOSEN_BY, "tag"):
            if not isinstance(values.get(name, ""), str):
                raise ValueError(f"{name}: expected text")
        for name in ("stored_before", "stored_after"):
            if type(values.get(name, 0)) not in (int, float):
                raise ValueError(f"{name}: expected Unix seconds")
        return cls(**values)

    def as_bytes(self) -> bytes:
        """As a row of the log keeps it."""
        return orjson.dumps(self.as_json())

    @classmethod
    def of_bytes(cls, said: bytes) -> Filter:
        """The reverse of `as_bytes`. What cannot be read may have meant anything: everything."""
        try:
            return cls.of_json(orjson.loads(said))
        except ValueError:
            return cls()


EVERYTHING = Filter()


@dataclass(frozen=True, slots=True)
class Narrowing:
    """To what a listing is narrowed beside its filter: what changes while an entry is kept, or what
    only an index can find.

    `text` is in the prompt or in the answer, whatever its case. `min_bytes` and `max_bytes` are of
    `Summary.bytes`, both included. `expired`: past `expires_at`, or not.
    """

    text: str | None = None
    min_hits: int | None = None
    min_bytes: int | None = None
    max_bytes: int | None = None
    expired: bool | None = None


WIDE = Narrowing()


class Purge(NamedTuple):
    """One row of the log. Numbers grow; `previous` is the row's before, 0 for the first."""

    number: int
    previous: int
    filter: Filter
    at: float  # Unix seconds


class PurgeLog(NamedTuple):
    """The log from some number on.

    `store` is what the store was called when it came to be: another name means that it was lost
    and begun anew, or that another one is in its place. `head` is the number of the last row.
    """

    store: str
    head: int
    purges: tuple[Purge, ...]  # in order


@dataclass(frozen=True, slots=True)
class Summary:
    """An entry in a listing: all but the strings and the answer. `bytes` as in `Totals`; `hits` are
    those that were counted with `add_hits`."""

    id: str
    stored_at: float
    expires_at: float | None
    retained_until: float | None
    bytes: int
    prompt: str  # the first 500 characters
    tags: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    hits: int = 0

    @classmethod
    def of(cls, entry: Entry, bytes: int, prompt: str, hits: int = 0) -> Summary:
        times = (entry.stored_at, entry.expires_at, entry.retained_until)
        return cls(entry.key.id, *times, bytes, prompt, entry.tags, entry.about, hits)


class Page(NamedTuple):
    """A part of a listing; `cursor` leads to the next, `None`: this was the last."""

    entries: list[Summary]
    cursor: str | None


class ListedCache(EntryCache):
    """A cache that can be looked through, and counted in.

    Counts are sums that all who use the store add to, by group and name. `Unsupported` for what
    the store has no index for: it names who has.
    """

    @abstractmethod
    async def page(
        self,
        filter: Filter,
        *,
        narrowed: Narrowing = WIDE,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        """List entries, those stored last first, also while others come and go.

        `ValueError` for a cursor that no page gave.
        """

    async def by_ids(self, ids: Sequence[str]) -> list[Entry | None]:
        """Return the entries with these ids, in order; what is no id finds nothing."""
        raise Unsupported(f"{self!r} cannot find entries by their ids alone")

    async def set_fact(self, name: str, value: str) -> None:
        """Make this the fact that `fact` returns."""
        raise Unsupported(f"{self!r} cannot change a fact")

    async def add_hits(self, hits: Mapping[str, int]) -> None:
        """Count hits of entries, by id; of those that are gone nothing is kept.

        They are kept while the entry is, also when it is stored again.
        """
        raise Unsupported(f"{self!r} cannot count hits")

    async def add_counts(self, group: str, amounts: Mapping[str, float]) -> None:
        """Add to the counts of a group, all at once or none."""
        raise Unsupported(f"{self!r} cannot count")

    async def counts(self, group: str) -> dict[str, float]:
        """Return the counts of a group by name; nothing of one that nobody added to."""
        raise Unsupported(f"{self!r} cannot count")

    async def forget_counts(self, group: str) -> None:
        """Remove a group of counts."""
        raise Unsupported(f"{self!r} cannot count")


class ManagedCache(ListedCache):
    """A cache whose entries can be taken away and put right: everywhere, once the call returns."""

    @abstractmethod
    async def purge(self, filter: Filter) -> int:
        """Remove what the filter covers, here and everywhere; tell how many there were.

        Complete when it returns: nobody answers from one of them after that, nor stores one whose
        making began before. `CacheError` if the store cannot be reached.
        """

    @abstractmethod
    async def amend(self, entries: Sequence[Entry]) -> list[bool]:
        """Put entries in the place of those with their ids; complete as a purge is.

        Each was read and changed: one that is gone since stays so, and so does one that is another
        by now. `seen` tells that; here it is set anew. Tell of each whether it was put.
        """


class SharedCache(ListedCache):
    """A cache that several processes use at once. `CacheError` where the store cannot be reached.

    Numbers of purges are the store's time in milliseconds, or one more than the last if that is
    greater: they grow on also when a store was lost and begun anew.
    """

    @abstractmethod
    async def remove(self, filter: Filter, *, before: int) -> int:
        """Delete what the filter covers and `seen` is below `before`; tell how many.

        In batches that hold nobody up for long.
        """

    @abstractmethod
    async def purges(self, after: int) -> PurgeLog:
        """Read the rows of the log with numbers above `after`. One round trip."""

    @abstractmethod
    async def announce(self, filter: Filter) -> int:
        """Append to the log; return the number. Once this returns, every reader finds it."""

    @abstractmethod
    async def forget(self, number: int) -> None:
        """Take a row out of the log, and all before it. The last one is kept."""

    @abstractmethod
    async def claim(self, name: str, holder: str, seconds: float) -> bool:
        """Hold the lease `name` for so long from now: `True` if nobody else holds it.

        Whoever holds it already extends it so.
        """

    @abstractmethod
    async def release(self, name: str, holder: str) -> None:
        """Give the lease back, if it is this holder's."""


def is_as_read(entry: Entry, held: Entry) -> bool:
    """Is what is held what this one was made of?"""
    return (held.seen, held.stored_at) == (entry.seen, entry.stored_at)


def preview_of(beginning: bytes) -> str:
    """The preview of a prompt that begins so, cut anywhere behind it; whatever the bytes."""
    return beginning.decode(errors="replace")[:PREVIEW_CHARS]


def _ids(said: Any) -> tuple[str, ...]:
    if not isinstance(said, list | tuple) or not all(isinstance(each, str) for each in said):
        raise ValueError("ids: expected a list of texts")
    return tuple(said)
