"""An export on its way: the lines of a proxy, into a pipe or a file that can be gone on with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from proxy.cli.endings import OutOfReach, Refused
from proxy.cli.printing import is_watched, progress
from proxy.cli.remote import NDJSON, Remote
from proxy.errors import ConfigError

_CURSOR = b'{"cursor":'
_ENTRY = b'{"v":'


class Export:
    """Lines of entries, and of cursors from which it could go on. `count` are the entries."""

    def __init__(self, api: Remote, which: dict[str, Any]) -> None:
        self._api = api
        self._which = which
        self.count = 0

    def lines(self, cursor: str | None = None) -> Iterator[bytes]:
        """Raises OutOfReach where not all came."""
        is_whole = False
        total = self._total() if is_watched() else None
        with progress("export") as bar:
            task = bar.add_task("", total=total, completed=self.count)
            with self._api.stream("/export", NDJSON, self._which | {"cursor": cursor}) as pieces:
                for line in _lines(pieces):
                    is_cursor = line.startswith(_CURSOR)
                    is_whole = is_cursor and orjson.loads(line)["cursor"] is None
                    self.count += not is_cursor
                    if is_cursor:
                        bar.update(task, completed=self.count)
                    yield line
        if not is_whole:
            raise OutOfReach(f"{self._api.place.url} broke off")

    def _total(self) -> int | None:
        try:
            told = self._api.ask("DELETE", "/entries", self._which | {"dry_run": True})
        except Refused:
            return None  # the export will say why
        return int(told["would_delete"])


def to_pipe(export: Export) -> None:
    out = sys.stdout.buffer
    for line in export.lines():
        out.write(line)
    out.flush()


def to_file(export: Export, name: str, *, resume: bool) -> int:
    """Write a file that only this user can read; returns how many entries are in it."""
    path = Path(name)
    try:
        with _open(path, resume=resume) as file:
            cursor = _last_cursor(file, name, export) if resume else None
            if cursor is not None or not export.count:
                _write(export, file, cursor, name)
    except OSError as exc:
        raise ConfigError(f"{name}: {exc.strerror}") from exc
    return export.count


def _open(path: Path, *, resume: bool) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | (0 if resume else os.O_EXCL)
    try:
        return os.fdopen(os.open(path, flags, 0o600), "r+b")
    except FileExistsError as exc:
        raise ConfigError(
            f"{path}: is there already. --resume goes on with it; or remove it"
        ) from exc


def _write(export: Export, file: BinaryIO, cursor: str | None, name: str) -> None:
    try:
        file.writelines(export.lines(cursor))
    except OutOfReach as exc:
        raise OutOfReach(f"{exc}; what came is in {name}, and --resume goes on with it") from exc


def _last_cursor(file: BinaryIO, name: str, export: Export) -> str | None:
    """Where to go on, at the end of what is whole; `None`: at the beginning, or it has all."""
    cursor, end, count, counted = None, 0, 0, 0
    for number, line in enumerate(file):
        if number == 0 and not _begins_export(line):
            raise ConfigError(f"{name}: is no export")
        if not line.endswith(b"\n"):
            break
        if line.startswith(_CURSOR):
            cursor, end, counted = orjson.loads(line)["cursor"], file.tell(), count
        else:
            count += 1
    export.count = counted
    file.seek(end)
    file.truncate()
    return cursor


def _begins_export(line: bytes) -> bool:
    """The first line, or what came of it."""
    return any(line.startswith(each) or each.startswith(line) for each in (_CURSOR, _ENTRY))


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines; what is cut short at the end is none."""
    rest = bytearray()
    for piece in pieces:
        rest += piece
        *whole, last = rest.split(b"\n")
        if whole:
            yield from (bytes(line) + b"\n" for line in whole)
            rest = bytearray(last)
