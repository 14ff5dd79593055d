"""A cassette's file: entries as lines, in an order of their own, in place of the old ones at once.

It is made to be committed: the same entries are the same bytes, whoever recorded them when.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cache_backends.base import CacheError, Entry, Key
from cache_backends.ndjson import LineError, entry_of

MAX_BYTES = 2**30

_CONFLICT = (b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>")
_LINES_OF_CONFLICT = "in a git merge conflict; keep the lines of both sides, one for each question"


class CassetteError(CacheError):
    """A cassette that cannot be read or written; the message names the file, and the line."""


class Recording(NamedTuple):
    """An entry's line, and its key, by which lines are sorted."""

    key: Key
    line: bytes  # with its end


# By id.
Recordings = dict[str, Recording]
# What is to be another line, or none.
Changes = Mapping[str, Recording | None]


class CassetteFile:
    """Reads and changes one file, as others may at the same time: each keeps what others wrote."""

    def __init__(self, path: str | Path) -> None:
        # Where a link leads to: to put a file in its place would put an end to the link.
        self.path = Path(path).resolve()
        self._stamp: tuple[int, ...] | None = None
        self._known: Recordings = {}

    def read(self) -> tuple[Recordings, list[Entry]]:
        """All that is in the file; nothing, if there is none."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_size > MAX_BYTES:
                    raise CassetteError(f"{self.path}: larger than {MAX_BYTES} bytes")
                text = file.read()
        except FileNotFoundError:
            return {}, []
        except OSError as exc:
            raise CassetteError(f"{self.path}: cannot be read: {exc.strerror}") from exc
        recordings, entries = self._parsed(text)
        self._stamp, self._known = _stamp(status), recordings
        return dict(recordings), entries

    def change(self, changes: Changes) -> tuple[Recordings, list[Entry]]:
        """Write what is to be different; return what is in the file then, and the entries of it
        that came from others meanwhile."""
        with self._alone() as mode:
            before = known = self._known
            entries: list[Entry] = []
            if self._stamp != self._stamp_now():
                known, entries = self.read()
            after = changed(known, changes)
            if after != known:
                self._stamp, self._known = self._replace(_sorted(after), mode), after
        others = [each for each in entries if known[each.key.id] != before.get(each.key.id)]
        return dict(after), [each for each in others if each.key.id not in changes]

    def _parsed(self, text: bytes) -> tuple[Recordings, list[Entry]]:
        recordings: Recordings = {}
        entries: list[Entry] = []
        numbers: dict[str, int] = {}
        for number, line in enumerate(text.split(b"\n"), 1):
            line = line.rstrip(b"\r")
            if not line.strip():
                continue
            entry = self._entry(line, number)
            recording = Recording(entry.key, line + b"\n")
            first = numbers.setdefault(entry.key.id, number)
            if recordings.setdefault(entry.key.id, recording) != recording:
                raise self._wrong(number, f"another answer to the question of line {first}")
            if first == number:
                entries.append(entry)
        return recordings, entries

    def _entry(self, line: bytes, number: int) -> Entry:
        if line.startswith(_CONFLICT):
            raise self._wrong(number, _LINES_OF_CONFLICT)
        try:
            return entry_of(line)
        except LineError as exc:
            raise self._wrong(number, str(exc)) from exc

    def _wrong(self, number: int, what: str) -> CassetteError:
        return CassetteError(f"{self.path}: line {number}: {what}")

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """Keep others from changing the file meanwhile; gives its permissions."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            held = self._lock()
        except OSError as exc:
            raise CassetteError(f"{self.path}: cannot be written: {exc.strerror}") from exc
        try:
            yield os.fstat(held).st_mode & 0o777
        finally:
            os.close(held)

    def _lock(self) -> int:
        while True:
            held = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(held, fcntl.LOCK_EX)
                if _stamp(os.fstat(held)) == self._stamp_now():
                    return held
            except BaseException:
                os.close(held)
                raise
            os.close(held)  # another was put in its place while we waited

    def _stamp_now(self) -> tuple[int, ...] | None:
        try:
            return _stamp(self.path.stat())
        except FileNotFoundError:
            return None

    def _replace(self, lines: list[bytes], mode: int) -> tuple[int, ...]:
        if sum(map(len, lines)) > MAX_BYTES:
            raise CassetteError(f"{self.path}: would be larger than {MAX_BYTES} bytes")
        path = None
        try:
            made, path = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            with os.fdopen(made, "wb") as file:
                file.writelines(lines)
                os.fchmod(made, mode)
                file.flush()
                os.fsync(made)
                # Not what is there afterwards: once it is in its place, others may change it.
                stamp = _stamp(os.fstat(made))
            Path(path).replace(self.path)
        except OSError as exc:
            if path is not None:
                Path(path).unlink(missing_ok=True)
            raise CassetteError(f"{self.path}: cannot be written: {exc.strerror}") from exc
        self._settle()
        return stamp

    def _settle(self) -> None:
        """See to it that the name leads to the new file also after a loss of power."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError:
            pass  # not every file system can
        finally:
            os.close(folder)


def changed(recordings: Recordings, changes: Changes) -> Recordings:
    after = dict(recordings)
    for key_id, recording in changes.items():
        if recording is None:
            after.pop(key_id, None)
        else:
            after[key_id] = recording
    return after


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _sorted(recordings: Recordings) -> list[bytes]:
    """Similar questions beside each other, in whatever order they were recorded."""
    return [
        recording.line
        for recording in sorted(
            recordings.values(), key=lambda each: (each.key.prompt, each.key.llm_string)
        )
    ]
