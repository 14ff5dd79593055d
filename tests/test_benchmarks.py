"""The benchmarks measure what they say, and say what they could not measure."""

from __future__ import annotations

import re

import pytest

from benchmarks import codec
from benchmarks.backend_report import tables
from benchmarks.backends import Plan, Results, measure
from benchmarks.entries import entry, size_of
from benchmarks.load import UnexpectedError
from benchmarks.servers import Cores
from benchmarks.stores import STORES, Missing, Place, Store

PLAN = Plan(sizes=(10, 1_000), rounds=2, seconds=0.01, codec_rounds=1)
UNPINNED = Cores(None, None)
BY_TITLE = {store.title: store for store in STORES}


def measured(*stores: Store) -> Results:
    return measure(UNPINNED, PLAN, lambda _: None, stores)


def test_a_line_for_each_work_and_size() -> None:
    """Memory and a SQLite file are filled in processes of their own; the last size is judged."""
    told = tables(measured(BY_TITLE["memory"], BY_TITLE["SQLite"]))
    for what in ("lookup in SQLite", "store in SQLite", "lookup in memory", "store in memory"):
        assert re.search(rf"^{what} +10 +1 +[\d,]+ ", told, re.MULTILINE), told
        assert re.search(rf"^{what} +1,000 +1 +[\d,]+ ", told, re.MULTILINE), told
    assert len(re.findall(r"^lookup in SQLite .*< 1.5  (?:pass|short)$", told, re.MULTILINE)) == 2


def test_space_is_that_of_the_entries() -> None:
    """A file that holds a thousand entries takes no less than they have, and not twice as much."""
    only_filled = BY_TITLE["SQLite"]._replace(lookups=(), storing=())
    filled = measured(only_filled).measured[0].filled[1_000]
    assert filled.entry_bytes == size_of(entry(1_000))
    assert 1.0 < filled.bytes_each / filled.entry_bytes < 2.0


def test_a_missing_server_is_told() -> None:
    """What cannot be started is named in place of its figures; the others are measured."""

    def nowhere(_: Place, __: str) -> str:
        raise Missing("redis-server is missing: apt-get install redis-server")

    told = tables(measured(BY_TITLE["Redis"]._replace(make=nowhere), BY_TITLE["memory"]))
    assert "Not measured: Redis: redis-server is missing: apt-get install redis-server" in told
    assert "lookup in Redis" not in told
    assert "lookup in memory" in told


def test_a_lost_entry_ends_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    """A cache that does not hold what it was given is not measured."""

    def forgetful(_: Place, __: str) -> str:
        return "null://"

    with pytest.raises(UnexpectedError, match="the worker of null:// has ended"):
        measured(BY_TITLE["memory"]._replace(make=forgetful))
    assert "holds 0 of 10 entries" in capfd.readouterr().err


def test_both_codecs_bring_the_text_back() -> None:
    """What is compared does the same work."""
    ours, theirs = codec.round_trips()
    assert theirs is not None
    (ours_read,) = ours().generations
    assert theirs().text == ours_read.text
