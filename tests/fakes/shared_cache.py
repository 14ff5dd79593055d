"""FakeSharedCache: a store that several caches share, in a dict; it does what a test tells it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cache_backends.base import CacheError, Entry, Generation, Key, Totals
from cache_backends.codec import encode
from cache_backends.shared import (
    PREVIEW_CHARS,
    WIDE,
    Filter,
    Narrowing,
    Page,
    Purge,
    PurgeLog,
    SharedCache,
    Summary,
)
from tests.fakes.provider import Gate


@dataclass(slots=True)
class World:
    """What is in the store, for all caches that share it."""

    name: str = "first"
    entries: dict[str, Entry] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)  # of entries in a listing; they grow
    stored: int = 0
    log: list[Purge] = field(default_factory=list)
    head: int = 0  # the number of the last purge
    facts: dict[str, str] = field(default_factory=dict)
    leases: dict[str, tuple[str, float]] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)
    counts: dict[str, dict[str, float]] = field(default_factory=dict)

    def lose_everything(self) -> None:
        """As a server that was restarted without its disk."""
        self.name, self.head = "another", 0
        kept = (
            self.entries,
            self.places,
            self.log,
            self.facts,
            self.leases,
            self.hits,
            self.counts,
        )
        for held in kept:
            held.clear()

    def store(self, entry: Entry) -> None:
        encode(entry.generations, entry.tags, entry.about)  # what cannot be written is refused
        self.stored += 1
        self.entries[entry.key.id] = entry
        self.places[entry.key.id] = self.stored

    def drop(self, id: str) -> bool:
        self.hits.pop(id, None)
        return self.entries.pop(id, None) is not None


class FakeSharedCache(SharedCache):
    """One process's view. `down` fails every call; gates hold the next ones of their kind."""

    def __init__(self, world: World, clock: Callable[[], float] = time.time) -> None:
        self.world = world
        self._clock = clock
        self.down = False
        self.calls: list[str] = []
        self.gates: dict[str, Gate] = {}

    async def _called(self, what: str) -> None:
        self.calls.append(what)
        if self.down:
            raise CacheError("the store is down")
        if what in self.gates:
            await self.gates[what].enter()

    async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
        found = [self._held(key) for key in keys]  # then it takes long to arrive
        await self._called("get")
        return found

    async def put_many(self, entries: Sequence[Entry]) -> None:
        await self._called("put")
        for entry in entries:
            self.world.store(entry)

    async def delete(self, id: str) -> bool:
        await self._called("delete")
        return self.world.drop(id)

    async def page(
        self,
        filter: Filter,
        *,
        narrowed: Narrowing = WIDE,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page:
        await self._called("page")
        below = float("inf") if cursor is None else _place(cursor)
        covered = [
            (self.world.places[name], entry)
            for name, entry in self.world.entries.items()
            if self.world.places[name] < below
            and self._current(entry)
            and filter.covers(entry)
            and self._fits(narrowed, entry)
        ]
        covered.sort(key=lambda each: each[0], reverse=True)
        more = str(covered[limit - 1][0]) if len(covered) > limit else None
        return Page([self._summary(entry) for _, entry in covered[:limit]], more)

    async def by_ids(self, ids: Sequence[str]) -> list[Entry | None]:
        found = [self._with_id(name) for name in ids]
        await self._called("by_ids")
        return found

    async def remove(self, filter: Filter, *, before: int) -> int:
        await self._called("remove")
        covered = [
            name
            for name, entry in self.world.entries.items()
            if entry.seen < before and filter.covers(entry)
        ]
        for name in covered:
            self.world.drop(name)
        return len(covered)

    async def purges(self, after: int) -> PurgeLog:
        await self._called("purges")
        rows = tuple(purge for purge in self.world.log if purge.number > after)
        return PurgeLog(self.world.name, self.world.head, rows)

    async def announce(self, filter: Filter) -> int:
        await self._called("announce")
        now, previous = self._clock(), self.world.head
        self.world.head = max(previous + 1, int(now * 1000))
        self.world.log.append(Purge(self.world.head, previous, filter, now))
        return self.world.head

    async def forget(self, number: int) -> None:
        await self._called("forget")
        kept = [purge for purge in self.world.log if purge.number > number]
        self.world.log = kept or self.world.log[-1:]

    async def claim(self, name: str, holder: str, seconds: float) -> bool:
        await self._called("claim")
        held_by, until = self.world.leases.get(name, (holder, 0.0))
        if held_by != holder and until > self._clock():
            return False
        self.world.leases[name] = (holder, self._clock() + seconds)
        return True

    async def release(self, name: str, holder: str) -> None:
        await self._called("release")
        if self.world.leases.get(name, ("", 0.0))[0] == holder:
            del self.world.leases[name]

    async def fact(self, name: str, default: str) -> str:
        await self._called("fact")
        return self.world.facts.setdefault(name, default)

    async def set_fact(self, name: str, value: str) -> None:
        await self._called("set_fact")
        self.world.facts[name] = value

    async def add_hits(self, hits: Mapping[str, int]) -> None:
        await self._called("add_hits")
        for name in hits.keys() & self.world.entries.keys():
            self.world.hits[name] = self.world.hits.get(name, 0) + hits[name]

    async def add_counts(self, group: str, amounts: Mapping[str, float]) -> None:
        await self._called("add_counts")
        counted = self.world.counts.setdefault(group, {})
        for name, amount in amounts.items():
            counted[name] = counted.get(name, 0) + amount

    async def counts(self, group: str) -> dict[str, float]:
        await self._called("counts")
        return dict(self.world.counts.get(group, {}))

    async def forget_counts(self, group: str) -> None:
        await self._called("forget_counts")
        self.world.counts.pop(group, None)

    async def totals(self) -> Totals:
        await self._called("totals")
        held = self.world.entries.values()
        return Totals(len(held), sum(_bytes(entry) for entry in held))

    async def aclose(self) -> None:
        return None

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return self._answer(self._held(Key.of(prompt, llm_string)))

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self.world.store(self._entry(prompt, llm_string, return_val))

    def clear(self, **kwargs: Any) -> None:
        self.world.entries.clear()
        self.world.hits.clear()

    def _held(self, key: Key) -> Entry | None:
        entry = self._with_id(key.id)
        return entry if entry is not None and entry.key == key else None

    def _with_id(self, id: str) -> Entry | None:
        entry = self.world.entries.get(id)
        return entry if entry is not None and self._current(entry) else None

    def _fits(self, narrowed: Narrowing, entry: Entry) -> bool:
        told = self._summary(entry)
        ended = entry.expires_at is not None and entry.expires_at <= self._clock()
        return (
            (narrowed.text is None or _says(entry, narrowed.text.casefold()))
            and (narrowed.min_hits is None or told.hits >= narrowed.min_hits)
            and (narrowed.min_bytes is None or told.bytes >= narrowed.min_bytes)
            and (narrowed.max_bytes is None or told.bytes <= narrowed.max_bytes)
            and (narrowed.expired is None or narrowed.expired is ended)
        )

    def _summary(self, entry: Entry) -> Summary:
        hits = self.world.hits.get(entry.key.id, 0)
        return Summary.of(entry, _bytes(entry), entry.key.prompt[:PREVIEW_CHARS], hits)

    def _current(self, entry: Entry) -> bool:
        return entry.retained_until is None or entry.retained_until > self._clock()


def _place(cursor: str) -> int:
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 20):
        raise ValueError(f"no cursor of a listing: {cursor!r}")
    return int(cursor)


def _bytes(entry: Entry) -> int:
    strings = len(entry.key.prompt.encode()) + len(entry.key.llm_string.encode())
    return strings + len(encode(entry.generations, entry.tags, entry.about))


def _says(entry: Entry, text: str) -> bool:
    said = (entry.key.prompt, *(generation.text for generation in entry.generations))
    return any(text in each.casefold() for each in said)
