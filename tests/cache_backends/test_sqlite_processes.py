"""The SQLite cache among processes: shared, killed, out of space, left open."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from random import Random

import apsw
import pytest

from cache_backends import SQLiteCache
from tests.cache_backends.child import answer

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
