"""Entries on their way out of one cache and into another, as lines of JSON.

    {"v":1,"prompt":...}        an entry, as `cache_backends.ndjson` writes it
    {"cursor":"...","scopes":"..."}
                                where an export goes on that was interrupted; null: this is the end.
                                `scopes` tells whether two stores part callers by one secret

Either way as much is in memory as a few entries take, however many there are.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from cache_backends.base import CacheError, Entry
from cache_backends.codec import CodecError
from cache_backends.ndjson import LineError, entry_of, line_of
from cache_backends.shared import Filter
from proxy.catalogue import BATCH, Catalogue, Selection
from proxy.lines import LineSplitter
from proxy.models import Scope

# Stored with one call: so many, or so many bytes of lines.
STORED_AT_ONCE = 100
STORED_BYTES = 8 * 2**20
# The largest answer that can be stored, and its question.
MAX_LINE_BYTES = 256 * 2**20
# Of lines that were not taken so many are told; the others are counted.
MAX_FAILURES = 100

_SCOPE = re.compile('"scope":"(credential|client|shared)')
# Whom entries are for that requests find, by who shares them here.
FOUND = {
    Scope.CREDENTIAL: {Scope.CREDENTIAL},
    Scope.CLIENT: {Scope.CLIENT, Scope.CREDENTIAL},  # who has no token is told by his credential
    Scope.SHARED: {Scope.SHARED},
}

log = logging.getLogger("proxy.admin")

Rebind = Callable[[Entry], Entry]


def mark_of(scope_secret: bytes) -> str:
    """What tells secrets apart, and nothing of them."""
    return hashlib.sha256(b"scopes:" + scope_secret).hexdigest()[:16]


async def export(
    catalogue: Catalogue, which: Selection, cursor: str | None = None, *, scopes: str = ""
) -> AsyncIterator[bytes]:
    """Lines of all that fits, those stored last first. `scopes`: the mark of the store's secret."""
    async for page in catalogue.pages(which, cursor=cursor):
        async for entry in catalogue.whole(page.entries):
            try:
                yield line_of(entry)
            except LineError as exc:
                log.warning("the entry %s is not exported: %s", entry.key.id, exc)
        place = {"cursor": page.cursor, "scopes": scopes}
        yield orjson.dumps(place, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(slots=True)
class Imported:
    """What became of the lines so far. `skipped`: there is such an entry already, or its time is
    over. `unreachable`: they are for who presents a credential, by another store's secret, or
    entries are shared otherwise here."""

    lines: int = 0
    imported: int = 0
    skipped: int = 0
    unreachable: int = 0
    failures: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)

    def fail(self, line: int, error: str) -> None:
        self.failures += 1
        if len(self.failed) < MAX_FAILURES:
            self.failed.append({"line": line, "error": error})


class Importer:
    """Puts lines into a cache; run again, it changes nothing.

    An entry that is there already stays unless the line's was stored later. `rebind` gives an
    entry to others than whom it was made for. `scope` says who shares entries here.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        rebind: Rebind | None = None,
        scopes: str = "",
        scope: Scope = Scope.CREDENTIAL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._catalogue = catalogue
        self._cache = catalogue.cache
        self._rebind = rebind
        self._scopes = scopes
        self._found = FOUND[scope]
        self._credentials = 0  # entries in the scope of one, since the last line with a cursor
        self._clock = clock
        self._waiting: list[tuple[int, Entry]] = []
        self._waiting_bytes = 0
        self.sums = Imported()

    async def run(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[Imported]:
        """Import what comes; gives the sums after each batch, and at the end."""
        splitter = LineSplitter(MAX_LINE_BYTES)
        try:
            async for piece in pieces:
                for number, line in splitter.feed(piece):
                    self._take(number, line)
                    if self._is_full():
                        await self._store()
                        yield self.sums
            for number, line in splitter.finish():
                self._take(number, line)
        finally:
            await self._store()  # also what came whole of a body that broke off
        yield self.sums

    def _take(self, number: int, line: bytes | None) -> None:
        self.sums.lines = number
        if line is None:
            self.sums.fail(number, f"more than {MAX_LINE_BYTES} bytes")
            return
        if line.startswith(b'{"cursor":'):
            self._end_page(line)
            return
        try:
            entry = entry_of(line)
            if self._rebind is not None:
                entry = self._rebind(entry)
        except LineError as exc:
            self.sums.fail(number, str(exc))
            return
        self._look_for_scope(entry)
        self._waiting.append((number, entry))
        self._waiting_bytes += len(line)

    def _look_for_scope(self, entry: Entry) -> None:
        """Will any request find it?"""
        said = _SCOPE.search(entry.key.llm_string)
        if said is not None and said[1] not in self._found:
            self.sums.unreachable += 1
        elif said is not None and said[1] == Scope.CREDENTIAL:
            self._credentials += 1

    def _end_page(self, line: bytes) -> None:
        if self._rebind is None and f'"scopes":"{self._scopes}"'.encode() not in line:
            self.sums.unreachable += self._credentials
        self._credentials = 0

    def _is_full(self) -> bool:
        return len(self._waiting) >= STORED_AT_ONCE or self._waiting_bytes >= STORED_BYTES

    async def _store(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not waiting:
            return
        await self._cache.keep_up()  # a purge of old does not cover what comes in now
        known = await self._known([entry.key.id for _, entry in waiting])
        now, seen = self._clock(), self._cache.seen
        wanted: dict[str, tuple[int, Entry]] = {}
        for number, entry in waiting:
            given = wanted.get(entry.key.id)
            held = given[1].stored_at if given else known.get(entry.key.id)
            if _is_gone(entry, now) or (held is not None and held >= entry.stored_at):
                self.sums.skipped += 1
                continue
            self.sums.skipped += given is not None  # twice in one file: the later one
            wanted[entry.key.id] = (number, replace(entry, seen=seen))
        await self._put([wanted[name] for name in wanted if name not in known], new=True)
        await self._put([wanted[name] for name in wanted if name in known], new=False)

    async def _known(self, ids: list[str]) -> dict[str, float]:
        """When what is there was stored."""
        which = Selection(Filter(ids=tuple(dict.fromkeys(ids))))
        page = await self._catalogue.page(which, limit=BATCH)
        return {each.id: each.stored_at for each in page.entries}

    async def _put(self, wanted: list[tuple[int, Entry]], *, new: bool) -> None:
        if not wanted:
            return
        put = self._cache.put_many if new else self._cache.replace_many
        try:
            await put([entry for _, entry in wanted])
        except CodecError as exc:  # one of them is what cannot be kept
            if len(wanted) == 1:
                self.sums.fail(wanted[0][0], str(exc))
                return
            for each in wanted:
                await self._put([each], new=new)
            return
        except CacheError as exc:
            raise CacheError(
                f"{exc}. {self.sums.imported} entries were imported before that: "
                "import the same again, and the others follow"
            ) from exc
        self.sums.imported += len(wanted)


def _is_gone(entry: Entry, now: float) -> bool:
    return entry.retained_until is not None and entry.retained_until <= now
