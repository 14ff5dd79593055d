"""The SQLite cache among processes: shared, killed, out of space, left open."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from random import Random

import apsw
import pytest

from cache_backends import Entry, Key, SQLiteCache
from cache_backends.shared import EVERYTHING
from tests.cache_backends import first_layout
from tests.cache_backends.child import answer
from tests.cache_backends.listed_conformance import listing

ROOT = Path(__file__).parents[2]


def start(mode: str, path: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.cache_backends.child", mode, str(path), name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def run(mode: str, path: Path, name: str) -> list[str]:
    """What the process said; it must end by itself, in order."""
    process = start(mode, path, name)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return said.splitlines()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


def test_killed_at_any_time_it_has_lost_and_damaged_nothing(path: Path) -> None:
    """Six times SIGKILL while it writes: what was acknowledged is there, whole; all else too."""
    random = Random(20)
    acknowledged: list[str] = []
    for life in range(6):
        process = start("write", path, f"life {life}")
        assert process.stdout is not None
        lines = random.randrange(1, 300)
        acknowledged.extend(process.stdout.readline().strip() for _ in range(lines))
        process.kill()
        said, _ = process.communicate(timeout=60)
        acknowledged.extend(said.splitlines()[:-1])  # the last one may be cut
        assert apsw.Connection(str(path)).pragma("integrity_check") == "ok"
    cache = SQLiteCache(path)
    assert all(cache.lookup(prompt, "llm") == answer(prompt) for prompt in acknowledged)
    stored = apsw.Connection(str(path)).execute("SELECT prompt, bytes FROM entries").fetchall()
    assert all(cache.lookup(prompt, "llm") == answer(prompt) for prompt, _ in stored)
    assert asyncio.run(cache.totals()) == (len(stored), sum(size for _, size in stored))
    assert cache.broken == 0
    cache.close()


def test_processes_share_one_file(path: Path) -> None:
    """Three at once, from its making on: nobody is locked out, all see all, one fact for all."""
    others = [start("share", path, name) for name in ("a", "b")]
    cache = SQLiteCache(path)
    fact = asyncio.run(cache.fact("secret", "ours"))
    facts = {other.communicate(timeout=60)[0].strip() for other in others}
    assert [other.returncode for other in others] == [0, 0]
    assert facts == {fact}
    for turn in range(100):
        for prompt in (f"a {turn}", f"b {turn}", f"all {turn}"):
            assert cache.lookup(prompt, "llm") == answer(prompt)
    assert asyncio.run(cache.totals()).entries == 300
    cache.close()


def test_on_a_full_disk_reading_goes_on(path: Path) -> None:
    """Storing says what is wrong with which file; what was stored is found, then and later."""
    error, goes_on = run("fill", path, "x")
    assert error.startswith(f"{path}: ")
    assert goes_on == "read on"
    cache = SQLiteCache(path)
    assert cache.lookup("first", "llm") == answer("first")
    cache.update("new", "llm", answer("new"))
    cache.close()


def test_a_program_that_forgets_to_close_ends_and_keeps_its_answers(path: Path) -> None:
    """Neither a hang at exit nor a lost answer."""
    assert run("leave", path, "prompt") == []
    cache = SQLiteCache(path)
    assert cache.lookup("prompt", "llm") == answer("prompt")
    cache.close()


def test_killed_at_any_time_the_log_is_whole(path: Path) -> None:
    """Four times SIGKILL: each purge that was announced is there, each row leads to the next."""
    random = Random(21)
    announced: list[int] = []
    for life in range(4):
        process = start("purge", path, f"life {life}")
        assert process.stdout is not None
        announced.extend(int(process.stdout.readline()) for _ in range(random.randrange(1, 60)))
        process.kill()
        said, _ = process.communicate(timeout=60)
        announced.extend(int(line) for line in said.splitlines()[:-1])  # the last may be cut
    cache = SQLiteCache(path)
    log = asyncio.run(cache.purges(0))
    assert set(announced) <= {purge.number for purge in log.purges}
    assert log.head == log.purges[-1].number
    assert all(later.previous == earlier.number for earlier, later in pairwise(log.purges))
    cache.close()


def test_processes_write_one_log(path: Path) -> None:
    """Three who purge at once: all numbers differ, all rows are there, each names its previous."""
    others = [start("purge_some", path, name) for name in "abc"]
    said = [other.communicate(timeout=60)[0].split() for other in others]
    numbers = sorted(int(number) for each in said for number in each)
    cache = SQLiteCache(path)
    log = asyncio.run(cache.purges(0))
    assert [purge.number for purge in log.purges] == numbers
    assert len(set(numbers)) == 300
    assert all(later.previous == earlier.number for earlier, later in pairwise(log.purges))
    cache.close()


def test_processes_take_turns(path: Path) -> None:
    """While one holds the lease, no other does: each finds only its own entry."""
    others = [start("take_turns", path, name) for name in "abc"]
    assert [other.communicate(timeout=60)[0] for other in others] == ["done\n"] * 3


def test_killed_while_it_brings_a_file_up_it_has_lost_nothing(path: Path) -> None:
    """Entries of the first layout are all there and listed, however often it was begun."""
    entries = [Entry(Key.of(str(n), "llm"), answer(str(n)), float(n)) for n in range(6000)]
    first_layout.make(path, entries)
    random = Random(22)
    for life in range(6):
        process = start("page", path, f"life {life}")
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        with suppress(subprocess.TimeoutExpired):
            process.wait(random.uniform(0, 0.05))
        process.kill()
        process.communicate(timeout=60)
        assert apsw.Connection(str(path)).pragma("integrity_check") == "ok"
    cache = SQLiteCache(path, clock=lambda: 1.0)
    told = asyncio.run(listing(cache, limit=1000))
    assert [each.prompt for each in told] == [str(n) for n in range(5999, -1, -1)]
    assert all(cache.lookup(str(n), "llm") == answer(str(n)) for n in range(0, 6000, 37))
    assert asyncio.run(cache.remove(EVERYTHING, before=1)) == 6000
    cache.close()


def test_processes_bring_a_file_up_together(path: Path) -> None:
    """Three at once: it is done once, and nobody fails."""
    first_layout.make(
        path, [Entry(Key.of(str(n), "llm"), answer(str(n)), float(n)) for n in range(900)]
    )
    others = [start("page", path, name) for name in "abc"]
    said = [other.communicate(timeout=60)[0] for other in others]
    assert said == [f"begun\n{name} 900\n" for name in "abc"]
