"""A cassette: a cache whose entries lie in a file that can be read and committed, for tests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import floor
from pathlib import Path
from threading import Lock, Timer
from typing import Any

from cache_backends.base import Entry, Key, require_generations
from cache_backends.cassette_file import (
    CassetteError,
    CassetteFile,
    Recording,
    Recordings,
    changed,
)
from cache_backends.memory import MemoryCache
from cache_backends.ndjson import LineError, entry_of, line_of
from cache_backends.redaction import Redaction

log = logging.getLogger(__name__)

# How long after a change the file is written: what changes meanwhile is written with it.
SETTLE_S = 0.5
# Nothing is evicted: a file of the largest size is smaller, as entries in memory.
_ROOM_BYTES = 2**40
# What is different each time an answer is made, and says nothing of it.
_VOLATILE = ("seconds", "usd")


class CassetteCache(MemoryCache):
    """Entries in memory and in an NDJSON file, sorted, in the format of `ndjson`.

    The file is read at once: one that is not there is empty, `CassetteError` for one that is
    damaged. It is written a moment after a change, by `flush` and at the end, in one step; what
    others have written to it meanwhile is kept, so that several may record. Where nothing changes
    it stays as it is, byte by byte: an answer that was fetched again and is the same keeps its
    line. What is read from the file has no end, whatever its ttl was when it was recorded.

    `redact` are regular expressions and what takes the place of their matches, in all texts of an
    entry: whatever matches is never in the file. `prune`: drop at the end what was not used.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        redact: Iterable[tuple[str, str]] = (),
        prune: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(max_bytes=_ROOM_BYTES, clock=clock)
        self.redaction = Redaction(redact)
        self._prune = prune
        self._file = CassetteFile(path)
        self._recordings: Recordings = {}
        self._changes: dict[str, Recording | None] = {}
        self._changing, self._writing = Lock(), Lock()
        self._timer: Timer | None = None
        self._used: set[str] = set()
        self._recorded: set[str] = set()
        self._open()
        self._at_start = frozenset(self._recordings)

    def __repr__(self) -> str:
        return f"<CassetteCache {self.path}: {len(self._recordings)} entries>"

    @property
    def path(self) -> Path:
        return self._file.path

    @property
    def unused(self) -> list[str]:
        """The ids of what was in the file at the start, still is, and nobody has asked for."""
        with self._changing:
            return sorted(self._at_start & self._recordings.keys() - self._used)

    def report(self) -> dict[str, Any]:
        """What became of it since the start: how many entries it has, those recorded of them, and
        the ids of those not used."""
        with self._changing:
            recorded = len(self._recorded & self._recordings.keys())
            entries = len(self._recordings)
        said = {"cassette": str(self.path), "entries": entries, "recorded": recorded}
        return said | {"unused": self.unused}

    def prune(self) -> int:
        """Drop what was not used since the start; tell how many there were."""
        return sum(map(self.discard, self.unused))

    def flush(self) -> None:
        """Write what has changed; `CassetteError` if that cannot be done, and it is kept."""
        with self._writing:
            with self._changing:
                self._stop_timer()
                changes, self._changes = self._changes, {}
            if not changes:
                return
            try:
                recordings, entries = self._file.change(changes)
            except BaseException:
                with self._changing:
                    self._changes = {**changes, **self._changes}
                raise
            self._follow(recordings, entries)

    def close(self) -> None:
        """Write what has changed; without what was not used, if that is to be dropped."""
        if self._prune:
            self.prune()
        self.flush()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)
        await super().aclose()

    def peek(self, key: Key) -> Entry | None:
        entry = super().peek(key)
        if entry is None and self.redaction:
            entry = super().peek(self.redaction.key(key))
        if entry is None:
            return None
        self._used.add(entry.key.id)
        return entry if entry.key.id == key.id else replace(entry, key=key)

    def discard(self, id: str) -> bool:
        with self._changing:
            if self._recordings.pop(id, None) is not None:
                self._change(id, None)
            return super().discard(id)

    def clear(self, **kwargs: Any) -> None:
        with self._changing:
            for key_id in self._recordings:
                self._change(key_id, None)
            self._recordings = {}
            super().clear(**kwargs)

    def _put(self, entry: Entry) -> bool:
        require_generations(entry.generations)
        entry = self.redaction.entry(entry)
        key_id = entry.key.id
        try:
            recording = Recording(entry.key, line_of(_lasting(entry)))
        except LineError as exc:
            raise CassetteError(f"{self.path}: an answer {exc}") from exc
        with self._changing:
            if not super()._put(entry):
                return False
            self._used.add(key_id)
            old = self._recordings.get(key_id)
            if old is None or _said(old) != _said(recording):
                self._recordings[key_id] = recording
                self._recorded.add(key_id)
                self._change(key_id, recording)
        return True

    def _change(self, id: str, recording: Recording | None) -> None:
        self._changes[id] = recording
        if self._timer is None:
            # No daemon: at the end of the program, what has changed is waited for.
            self._timer = Timer(SETTLE_S, self._write)
            self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write(self) -> None:
        try:
            self.flush()
        except CassetteError as exc:
            log.error("%s; what was recorded is kept in memory", exc)

    def _open(self) -> None:
        self._recordings, entries = self._file.read()
        for entry in entries:
            clean = self.redaction.entry(entry)
            if clean == entry:
                self._hold(entry)
            else:  # recorded before that was asked for
                self.discard(entry.key.id)
                self._put(_lasting(clean))
        self._used.clear()
        self._recorded.clear()

    def _follow(self, recordings: Recordings, entries: Iterable[Entry]) -> None:
        """What others have changed in the file counts here as well."""
        with self._changing:
            before, self._recordings = self._recordings, changed(recordings, self._changes)
            for key_id in before.keys() - self._recordings.keys():
                super().discard(key_id)
            for entry in entries:
                if entry.key.id not in self._changes:
                    self._hold(entry)

    def _hold(self, entry: Entry) -> None:
        # What was purged here, and is there again, another has recorded since.
        super()._put(replace(entry, expires_at=None, retained_until=None, seen=self.seen))


def _lasting(entry: Entry) -> Entry:
    """As it is written: without an end, and with no more digits of the time than people read."""
    stored_at = float(floor(entry.stored_at))
    return replace(entry, stored_at=stored_at, expires_at=None, retained_until=None)


def _said(recording: Recording) -> bytes:
    """What is the same when the same answer is fetched again."""
    entry = entry_of(recording.line)
    about = {name: said for name, said in entry.about.items() if name not in _VOLATILE}
    return line_of(replace(_lasting(entry), stored_at=0.0, about=about))
