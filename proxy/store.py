"""The cache as the proxy uses it: whatever a backend does, the worst that comes out is a miss.

This is the only place that catches every exception: the cache may fail, the answer may not.
"""

from __future__ import annotations

import asyncio
import logging
import operator
import secrets
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal, TypeGuard, TypeVar

from cache_backends.base import (
    CacheError,
    Entry,
    EntryCache,
    Key,
    NullCache,
    Totals,
    Unsupported,
)
from cache_backends.codec import CodecError
from cache_backends.plain import PlainCache
from cache_backends.shared import ListedCache, SharedCache
from cache_backends.tiered import TieredCache
from proxy.patience import within

log = logging.getLogger("proxy.store")

_T = TypeVar("_T")

# Entries at hand: their ids, and what stands for them there.
Held = tuple[tuple[str, weakref.ref[object]], ...]

# Saves that may wait for the backend at a time; past it an answer is delivered and not kept.
MAX_PENDING_SAVES = 1000
# Looked up to see whether the backend answers.
NOBODYS = Key.of("", "")
# Written to see whether it takes anything.
TRIED = "tried"


class Breaker:
    """Skips a backend that keeps failing, and tries it again now and then.

    Opens after five faults within ten seconds; then one call every two seconds is let through.
    """

    FAULTS = 5
    WINDOW_S = 10.0
    RETRY_S = 2.0

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, what: str = "the cache"
    ) -> None:
        self._clock = clock
        self._what = what
        self._faults: list[float] = []
        self._retry_at: float | None = None
        self._closed_at = float("-inf")
        self.reason = ""

    @property
    def open(self) -> bool:
        return self._retry_at is not None

    @property
    def trouble(self) -> str:
        """What failed last, if nothing went well since: for as long as that says something."""
        recent = bool(self._faults) and self._faults[-1] > self._clock() - self.WINDOW_S
        return self.reason if self.open or recent else ""

    def allows(self) -> bool:
        if self._retry_at is None:
            return True
        now = self._clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + self.RETRY_S  # this call tries; the others go on skipping
        return True

    def failed(self, reason: str, began: float) -> None:
        """A call that began then failed. One from before the breaker closed comes too late."""
        now = self._clock()
        if began < self._closed_at:
            return
        self.reason = reason
        self._faults = [at for at in self._faults if at > now - self.WINDOW_S] + [now]
        if self._retry_at is None and len(self._faults) >= self.FAULTS:
            self._retry_at = now + self.RETRY_S
            log.warning("%s is skipped: %s", self._what, reason)

    def succeeded(self) -> None:
        if self._retry_at is not None:
            self._closed_at = self._clock()
            log.warning("%s answers again", self._what)
        if self._faults:
            self._faults = []
        self._retry_at = None
        self.reason = ""


class Store:
    """Looks up and saves entries within deadlines (seconds)."""

    def __init__(
        self,
        cache: EntryCache,
        *,
        lookup_timeout_s: float = 0.25,
        save_timeout_s: float = 5.0,
        scope_secret: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cache = cache
        self.lookup_timeout_s = lookup_timeout_s
        self._save_timeout_s = save_timeout_s
        # A full disk can still be read: each way has its own.
        self._reading, self._writing = Breaker(clock), Breaker(clock)
        # So have leases: what is late for a claim may be in time for a save.
        self._claiming = Breaker(clock, what="the table of leases")
        self._clock = clock
        self._saving: set[asyncio.Task[bool]] = set()
        self.stored = 0  # entries since the start
        # Keys the digests of credentials. Until it is known, nothing can be looked up.
        self.scope_secret = scope_secret
        self._secret_is_given = scope_secret is not None
        self._warned = False
        # Somebody else's cache is tried out once: does it give back what it is given?
        self._to_probe = cache if isinstance(cache, PlainCache) else None

    @property
    def degraded(self) -> str:
        """Why the cache cannot be used right now, or ""."""
        if trouble := self._reading.trouble or self._writing.trouble:
            return trouble
        return "" if self.scope_secret else self._reading.reason or "it is being opened"

    @property
    def state(self) -> Literal["opening", "open", "skipped"]:
        """Is the cache asked?"""
        if self.scope_secret is None:
            return "opening"
        return "skipped" if self._reading.open or self._writing.open else "open"

    async def start(self) -> None:
        """Learn the secret that all users of this store share. Asked again until it is known."""
        await self._learn_secret()
        if self._to_probe is not None and self.scope_secret is not None:
            probe, self._to_probe = self._to_probe.probe, None
            await self._guarded(probe, Breaker(), self._save_timeout_s, "probe")

    async def _learn_secret(self) -> None:
        if self.scope_secret is not None or not self._reading.allows():
            return
        default = secrets.token_hex(32)
        fact = await self._guarded(
            lambda: self._cache.fact("scope_secret", default),
            self._reading,
            self._save_timeout_s,
            "opening",
        )
        if isinstance(fact, str):
            self.scope_secret = fact.encode()
            if self._warned:
                log.warning("the cache is open")
        elif not self._warned:
            self._warned = True
            log.warning("requests go past the cache until it can be opened: %s", self.degraded)

    async def agree(self) -> None:
        """Learn the secret anew: a store that was lost and begun again has none, or another's."""
        if self._secret_is_given or self.scope_secret is None or not self._reading.allows():
            return
        known = self.scope_secret.decode()
        fact = await self._guarded(
            lambda: self._cache.fact("scope_secret", known),
            Breaker(),
            self.lookup_timeout_s,
            "reading of the secret",
        )
        if isinstance(fact, str):
            self.scope_secret = fact.encode()

    def peek(self, keys: Sequence[Key]) -> list[Entry] | None:
        """The entries of all keys, if all are at hand without waiting."""
        found = []
        for key in keys:
            try:
                entry = self._cache.peek(key)
            except Exception as exc:  # noqa: BLE001 - the cache may fail, the answer may not
                self._reading.failed(_describe("lookup", exc), self._clock())
                return None
            if not _is_of(entry, key):
                return None
            found.append(entry)
        return found

    def hold(self, keys: Sequence[Key], found: Sequence[Entry]) -> Held | None:
        """What tells whether these entries, just found under these keys, are still at hand."""
        marks = [self._cache.glance(key.id) for key in keys]
        again = self.peek(keys)  # after the marks: those of older entries would be of no use
        if again is None or None in marks or not all(map(operator.is_, again, found)):
            return None
        return tuple((key.id, weakref.ref(mark)) for key, mark in zip(keys, marks, strict=True))

    def holds(self, held: Held) -> bool:
        """Are they still at hand, the very same? Counts as a use of each."""
        glance = self._cache.glance
        for name, mark in held:
            now = glance(name)
            if now is None or now is not mark():
                return False
        return True

    @property
    def seen(self) -> int:
        """The number of the last purge that is known."""
        return self._cache.seen

    def purged(
        self, seen: int | None, since: float, entries: Callable[[], Iterable[Entry]]
    ) -> bool:
        """Were these entries, whose making began at `since`, purged after `seen` was the last purge
        known? `None`: they are still looked for; a lookup finds nothing that was purged before it
        ends.

        True also where that cannot be told. Seconds of `steady`.
        """
        if not self._cache.up_to_date(since):
            return True
        if seen is None or self._cache.seen <= seen:
            return False
        return any(map(self._cache.covered, entries()))

    async def keep_up(self) -> None:
        """Learn of the latest purges, while answers are fetched that others may join."""
        if not self._reading.open:
            # That it went well says nothing of lookups: there may have been nothing to do.
            await self._guarded(
                self._cache.keep_up,
                self._reading,
                self.lookup_timeout_s,
                "reading of purges",
                proves=False,
            )

    async def try_again(self) -> None:
        """Look something up in a backend that is skipped, now and then, or write: so no request
        has to, and none need come for it to be called well again."""
        cache = self._cache
        if self._reading.open:
            if self.scope_secret and self._reading.allows():
                await self._guarded(
                    lambda: cache.get_many([NOBODYS]),
                    self._reading,
                    self.lookup_timeout_s,
                    "lookup",
                )
        elif self._writing.open and isinstance(cache, ListedCache) and self._writing.allows():
            await self._guarded(
                lambda: cache.set_fact(TRIED, ""), self._writing, self._save_timeout_s, "save"
            )

    async def find(self, keys: Sequence[Key]) -> list[Entry | None]:
        """An entry or `None` for each key; all `None` if the backend fails or is too slow."""
        if self._reading.open:
            return [None] * len(keys)
        entries = await self._guarded(
            lambda: self._cache.get_many(keys), self._reading, self.lookup_timeout_s, "lookup"
        )
        if entries is None or len(entries) != len(keys):
            return [None] * len(keys)
        return [
            entry if _is_of(entry, key) else None for key, entry in zip(keys, entries, strict=True)
        ]

    async def save(
        self, entries: Sequence[Entry], *, patience_s: float, replacing: bool = False
    ) -> bool | asyncio.Task[bool]:
        """Store entries, and tell whether they are; after `patience_s` seconds, what will tell it.

        The save goes on by itself then, within its own deadline. `replacing`: others that are still
        good, which processes may have in memory.
        """
        if type(self._cache) is NullCache:  # one made of it may keep something
            return False
        skipped = self._writing.open
        if len(self._saving) >= MAX_PENDING_SAVES or not self._writing.allows():
            return False
        if self._cache.never_waits:
            return await self._save(entries, replacing)
        task = asyncio.create_task(self._save(entries, replacing))
        self._saving.add(task)
        task.add_done_callback(self._saving.discard)
        # Nobody waits for what has failed all the time.
        return task.result() if await _is_done(task, 0.0 if skipped else patience_s) else task

    async def _save(self, entries: Sequence[Entry], replacing: bool) -> bool:
        async def put() -> bool:
            if replacing:
                await self._cache.replace_many(entries)
                return True
            await self._cache.put_many(entries)
            return not any(map(self._cache.covered, entries))

        saved = bool(await self._guarded(put, self._writing, self._save_timeout_s, "save"))
        self.stored += len(entries) if saved else 0
        return saved

    async def claim(self, name: str, holder: str, seconds: float) -> bool | None:
        """Take a lease or extend it: `False` if another holds it, `None` if nobody can tell."""
        cache = self._cache
        if not isinstance(cache, SharedCache | TieredCache):
            return None
        # Who has just waited in vain for a lookup must not wait for this as well.
        if self._reading.reason or self._writing.open or not self._claiming.allows():
            return None
        return await self._guarded(
            lambda: cache.claim(name, holder, seconds),
            self._claiming,
            self.lookup_timeout_s,
            "claim",
        )

    async def release(self, name: str, holder: str) -> None:
        """Give a lease back."""
        cache = self._cache
        if isinstance(cache, SharedCache | TieredCache) and not self._writing.open:
            await self._guarded(
                lambda: cache.release(name, holder),
                self._claiming,
                self.lookup_timeout_s,
                "release",
            )

    async def fact(self, name: str, default: str) -> str | None:
        """A fact that all who use the store share; `None` if it cannot be read now."""
        if self._reading.open:
            return None
        # One that is slow says nothing of lookups.
        return await self._guarded(
            lambda: self._cache.fact(name, default),
            Breaker(),
            self.lookup_timeout_s,
            f"reading of the {name}",
        )

    async def set_fact(self, name: str, value: str) -> bool | None:
        """Change a fact: `False` if the store has no way to, `None` if nobody knows whether it is
        changed."""
        cache = self._cache
        if not isinstance(cache, ListedCache):
            return False

        async def change() -> bool:
            try:
                await cache.set_fact(name, value)
            except Unsupported:
                return False
            return True

        timeout_s = self._save_timeout_s
        return await self._guarded(change, Breaker(), timeout_s, f"change of the {name}")

    async def listed(self, call: Callable[[ListedCache], Awaitable[_T]], what: str) -> _T | None:
        """What a call brings that listed caches have; `None` if it fails. Raises Unsupported.

        It may take its time, and says nothing of lookups and saves.
        """
        cache = self._cache
        if not isinstance(cache, ListedCache):
            raise Unsupported("this cache can neither be listed nor counted in")
        if self._reading.open or self._writing.open:
            return None
        refused: list[Unsupported] = []

        async def ask() -> _T | None:
            try:
                return await call(cache)
            except Unsupported as exc:
                refused.append(exc)
                return None

        result = await self._guarded(ask, Breaker(), self._save_timeout_s, what)
        if refused:
            raise refused[0]
        return result

    @property
    def evictions(self) -> int:
        """Entries that this process pushed out since the start, as far as the cache tells."""
        told = getattr(self._cache, "evictions", 0)
        return told if isinstance(told, int) else 0

    @property
    def one_process(self) -> bool:
        """Is the cache in the memory of this process, for nobody else?"""
        return self._cache.never_waits

    async def totals(self) -> Totals | None:
        """What is stored, or `None` if the backend cannot tell now."""
        if self._reading.open:
            return None
        # Some cannot count at all, which says nothing of their lookups.
        return await self._guarded(self._cache.totals, Breaker(), self.lookup_timeout_s, "count")

    async def aclose(self) -> None:
        """Finish what is being saved, then close the backend."""
        if self._saving:
            await asyncio.wait(self._saving, timeout=self._save_timeout_s)
        try:
            await asyncio.wait_for(self._cache.aclose(), self._save_timeout_s)
        except Exception as exc:  # noqa: BLE001 - closing must not keep the program from ending
            log.warning("%s", _describe("closing", exc))

    async def _guarded(
        self,
        call: Callable[[], Awaitable[_T]],
        breaker: Breaker,
        timeout_s: float,
        what: str,
        *,
        proves: bool = True,
    ) -> _T | None:
        """What the call brings, or `None`. Where its success `proves` that the backend works, the
        breaker is told of it; it always is of a fault."""
        began = self._clock()
        try:
            if self._cache.never_waits:
                result = await call()
            else:
                result = await within(timeout_s, call())
        except CodecError as exc:  # the answer's fault, not the backend's
            log.debug("%s", _describe(what, exc))
            return None
        except Exception as exc:  # noqa: BLE001 - the cache may fail, the answer may not
            breaker.failed(_describe(what, exc), began)
            log.debug("%s", _describe(what, exc))
            return None
        if proves:
            breaker.succeeded()
        return result


async def _is_done(task: asyncio.Task[bool], within_s: float) -> bool:
    """As `asyncio.wait`, in a quarter of the time."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def end(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    timer = loop.call_later(within_s, end)
    task.add_done_callback(end)
    try:
        await over
    finally:
        timer.cancel()
        task.remove_done_callback(end)
    return task.done()


def _is_of(entry: object, key: Key) -> TypeGuard[Entry]:
    """A backend that finds by digest or by likeness must not hand out another's answer."""
    return isinstance(entry, Entry) and entry.key == key


def _describe(what: str, exc: Exception) -> str:
    """Name a fault by its kind: the text of a foreign exception may hold keys or passwords."""
    if isinstance(exc, TimeoutError):
        return f"cache {what} took too long"
    if isinstance(exc, CacheError):
        return f"cache {what} failed: {exc}"
    return f"cache {what} failed: {type(exc).__name__}"
