"""Reading LangChain's SQLite file: page by page, whatever is in it, and never writing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from proxy.errors import ConfigError
from proxy.importing import Row, count_rows, read_rows
from proxy.importing.rows import PAGE_ROWS

FULL = "CREATE TABLE full_llm_cache (prompt, llm, idx, response, PRIMARY KEY (prompt, llm, idx))"
MD5 = "CREATE TABLE full_md5_llm_cache (id, prompt_md5, prompt, llm, idx, response)"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lang chain?.db"


def write(file: Path, table: str, rows: Iterable[tuple[object, ...]] = ()) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute(table)
        name = table.split()[2]
        insert = f"INSERT INTO {name} (prompt, llm, idx, response) VALUES (?, ?, ?, ?)"
        database.executemany(insert, rows)
        database.commit()


def test_answers_are_read_whole(file: Path) -> None:
    """All generations of a key are one row, in their order, also where a page ends among them."""
    keys = [(f"{number:04}", f"llm {number % 2}") for number in range(PAGE_ROWS)]
    stored = [(*key, index, f"{index}") for key in keys for index in (2, 0, 1)]
    write(file, FULL, stored)
    assert count_rows(file) == 3 * PAGE_ROWS
    assert list(read_rows(file)) == [Row(*key, ("0", "1", "2")) for key in keys]


def test_both_tables_are_read(file: Path) -> None:
    """That of the class which compares a digest has the same columns."""
    write(file, FULL, [("a", "llm", 0, "1")])
    write(file, MD5, [("b", "llm", 0, "2")])
    assert list(read_rows(file)) == [Row("a", "llm", ("1",)), Row("b", "llm", ("2",))]


def test_any_bytes_are_read(file: Path) -> None:
    """What is no text is text that nobody understands; what is nothing is left out."""
    rows = [(b"\xff", "llm", 0, "1"), ("b", "llm", 0, None), ("c\x00d", "llm", 0, 5)]
    write(file, FULL, rows)
    assert sorted(map(str, read_rows(file))) == sorted(
        map(str, [Row("\ufffd", "llm", ("1",)), Row("c\x00d", "llm", ("5",))])
    )


def test_a_file_that_somebody_writes_to(file: Path) -> None:
    """What is committed is read, while another process has the file open and changes it."""
    write(file, FULL, [("a", "llm", 0, "1")])
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode = wal")
        database.execute("INSERT INTO full_llm_cache VALUES ('b', 'llm', 0, '2')")
        database.commit()
        database.execute("INSERT INTO full_llm_cache VALUES ('c', 'llm', 0, '3')")
        assert [row.prompt for row in read_rows(file)] == ["a", "b"]


def test_what_is_no_cache_of_langchains(file: Path) -> None:
    """A missing file is not created, and another's is named as such."""
    with pytest.raises(ConfigError, match="cannot be opened"):
        count_rows(file)
    assert not file.exists()
    write(file, "CREATE TABLE entries (prompt, llm, idx, response)")
    with pytest.raises(ConfigError, match="holds no table of LangChain's"):
        list(read_rows(file))
    file.write_bytes(b"no database " * 100)
    with pytest.raises(ConfigError, match="is not a SQLite file that can be read"):
        count_rows(file)
