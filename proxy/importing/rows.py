"""Reads the file of LangChain's `SQLiteCache`, and of its kin that compare a digest; never writes.

Source: langchain_community.cache, `SQLAlchemyCache` and `SQLAlchemyMd5Cache`: a row holds one
generation, `idx` is its place in the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from urllib.parse import quote

import apsw

from proxy.errors import ConfigError

TABLES = ("full_llm_cache", "full_md5_llm_cache")
# Read at a time, so that whoever writes to the file never waits for long.
PAGE_ROWS = 500
# How long whoever writes to it is waited for.
BUSY_TIMEOUT_MS = 5000

# prompt, llm, idx, response
_Stored = tuple[bytes, bytes, int, bytes]


@dataclass(frozen=True, slots=True)
class Row:
    """An answer as it is stored: LangChain's two strings, and each generation's text, in order."""

    prompt: str
    llm_string: str
    responses: tuple[str, ...]


def count_rows(path: Path) -> int:
    """How many generations the file holds; `ConfigError` if it is no cache of LangChain's."""
    with _opened(path) as file:
        return sum(_count(file, table, path) for table in _tables(file, path))


def read_rows(path: Path) -> Iterator[Row]:
    """All answers; `ConfigError` if the file cannot be read."""
    with _opened(path) as file:
        for table in _tables(file, path):
            for (prompt, llm), stored in groupby(_pages(file, table, path), itemgetter(0, 1)):
                responses = tuple(_text(response) for _, _, _, response in stored)
                yield Row(_text(prompt), _text(llm), responses)


@contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    where = f"file:{quote(str(path.expanduser().absolute()))}?mode=ro"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        file = apsw.Connection(where, flags=flags)
    except apsw.Error as exc:
        raise ConfigError(f"{path}: cannot be opened: {exc}") from exc
    file.set_busy_timeout(BUSY_TIMEOUT_MS)
    try:
        yield file
    finally:
        file.close()


def _tables(file: apsw.Connection, path: Path) -> list[str]:
    try:
        names = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
    except apsw.Error as exc:
        raise ConfigError(f"{path}: is not a SQLite file that can be read: {exc}") from exc
    found = [table for table in TABLES if table in names]
    if not found:
        raise ConfigError(f"{path}: holds no table of LangChain's ({' or '.join(TABLES)})")
    return found


def _count(file: apsw.Connection, table: str, path: Path) -> int:
    try:
        ((count,),) = file.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - one of TABLES
    except apsw.Error as exc:
        raise ConfigError(f"{path}: cannot be read: {type(exc).__name__}") from exc
    return int(count)


def _pages(file: apsw.Connection, table: str, path: Path) -> Iterator[_Stored]:
    """All rows in the order of the key. Texts come as bytes: they may be no UTF-8."""
    page = (
        f"SELECT cast(prompt AS blob), cast(llm AS blob), idx, cast(response AS blob), prompt, llm"  # noqa: S608 - one of TABLES
        f" FROM {table} WHERE response IS NOT NULL AND (? OR (prompt, llm, idx) > (?, ?, ?))"
        " ORDER BY prompt, llm, idx LIMIT ?"
    )
    after: tuple[object, ...] = (True, None, None, None)
    while True:
        try:
            rows = list(file.execute(page, (*after, PAGE_ROWS)))
        except (apsw.Error, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path}: cannot be read: {type(exc).__name__}") from exc
        for prompt, llm, index, response, *_ in rows:
            yield prompt, llm, index, response
        if len(rows) < PAGE_ROWS:
            return
        after = (False, *rows[-1][4:], rows[-1][2])


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")
