"""Cassettes: entries in a file that can be committed."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from cache_backends import ChatGeneration, Entry, Generation, Key
from cache_backends.cassette import CassetteCache
from cache_backends.cassette_file import CassetteError, CassetteFile, Recording
from cache_backends.ndjson import line_of
from cache_backends.shared import Filter
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.managed_conformance import ManagedConformance
from tests.fakes.clock import FakeClock

Open = Callable[..., CassetteCache]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cassettes" / "chat.ndjson"


@pytest.fixture
def opened(path: Path) -> Open:
    """`opened(prune=True)`: the cassette, as one more process would open it."""
    return lambda **options: CassetteCache(path, **options)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class TestCassetteCache(ManagedConformance):
    @pytest.fixture
    def cache(self, path: Path, clock: FakeClock) -> CassetteCache:
        return CassetteCache(path, clock=clock)


def asked(prompt: str, clock: FakeClock, *generations: Generation, **about: Any) -> Entry:
    entry = entry_of("", clock, *generations, about=about, tags=())
    prompt = orjson.dumps({"messages": [{"role": "user", "content": prompt}]}).decode()
    return replace(entry, key=Key.of(prompt, '{"scope":"shared"}'))


def recorded(opened: Open, *entries: Entry, **options: Any) -> None:
    cassette = opened(**options)
    for entry in entries:
        cassette.hold(entry)
    cassette.close()


def test_what_was_recorded_is_replayed(opened: Open, clock: FakeClock) -> None:
    """In another process, long after any ttl."""
    chat = ChatGeneration("Hello", {"n": 1.0}, message={"content": "Hello"})
    entry = replace(asked("Hi", clock, chat), expires_at=clock() + 1, retained_until=clock() + 2)
    recorded(opened, entry)
    found = opened().peek(entry.key)
    assert found is not None
    assert (found.generations, found.stored_at) == ([chat], entry.stored_at // 1)
    assert found.expires_at is found.retained_until is None


def test_a_missing_file_is_an_empty_cassette(opened: Open, path: Path) -> None:
    """And none is made where nothing is recorded."""
    opened().flush()
    assert not path.parent.exists()


def test_the_file_is_the_same_whoever_recorded_when(
    opened: Open, path: Path, clock: FakeClock
) -> None:
    """Similar questions are beside each other, in whatever order they were asked."""
    entries = [asked(prompt, clock) for prompt in ("b", "aa", "c", "a", "ab")]
    recorded(opened, *entries)
    first = path.read_bytes()
    path.unlink()
    for entry in reversed(entries):
        recorded(opened, entry)
    assert path.read_bytes() == first
    prompts = [
        orjson.loads(line)["prompt"]["messages"][0]["content"] for line in first.splitlines()
    ]
    assert prompts == ["a", "aa", "ab", "b", "c"]


def test_replaying_leaves_the_file_alone(opened: Open, path: Path, clock: FakeClock) -> None:
    """Not even its time is another: hits are not counted in it, and no line is written anew."""
    entry = asked("Hi", clock)
    path.parent.mkdir()
    path.write_bytes(line_of(entry).replace(b'"v":1', b'"v": 1'))
    before = path.stat()
    cassette = opened()
    assert cassette.peek(entry.key) is not None
    assert cassette.unused == []
    cassette.close()
    assert path.stat() == before


def test_an_answer_that_is_the_same_keeps_its_line(
    opened: Open, path: Path, clock: FakeClock
) -> None:
    """Fetched again, later and slower, it makes no difference; another answer changes one line."""
    recorded(opened, asked("a", clock, seconds=1.5), asked("b", clock))
    before = path.read_bytes()
    clock.advance(1000)
    recorded(opened, asked("a", clock, seconds=2.5))
    assert path.read_bytes() == before
    recorded(opened, asked("a", clock, Generation("new"), seconds=2.5))
    changed = path.read_bytes()
    assert changed.splitlines()[1] == before.splitlines()[1]
    assert b'"new"' in changed.splitlines()[0]


def test_it_is_written_a_moment_after_a_change(
    opened: Open, path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without being closed."""
    monkeypatch.setattr("cache_backends.cassette.SETTLE_S", 0.001)
    cassette = opened()
    cassette.hold(asked("Hi", clock))
    timer = cassette._timer
    assert timer is not None
    timer.join(10)
    assert path.read_bytes().count(b"\n") == 1


def test_two_processes_record_on_one_cassette(opened: Open, path: Path, clock: FakeClock) -> None:
    """Each keeps what the other recorded, learns of it, and removes what it removes."""
    recorded(opened, asked("old", clock), asked("gone", clock))
    one, other = opened(), opened()
    one.hold(asked("one", clock))
    one.discard(asked("gone", clock).key.id)
    other.hold(asked("other", clock))
    one.flush()
    other.flush()
    assert path.read_bytes().count(b"\n") == 3
    assert other.peek(asked("one", clock).key) is not None
    assert other.peek(asked("gone", clock).key) is None
    assert len(other._cells) == len(opened()._cells) == 3


async def test_what_was_purged_is_gone_from_the_file(
    opened: Open, path: Path, clock: FakeClock
) -> None:
    """And what was being fetched meanwhile does not come into it; what others record later does."""
    recorded(opened, asked("a", clock, model="m"), asked("b", clock))
    cassette = opened()
    assert await cassette.purge(Filter(model="m")) == 1
    cassette.hold(asked("a", clock, model="m"))
    cassette.flush()
    recorded(opened, asked("c", clock, model="m"))
    cassette.hold(replace(asked("d", clock), seen=cassette.seen))
    cassette.close()
    assert len(opened()._cells) == len(cassette._cells) == 3
    assert cassette.peek(asked("c", clock).key) is not None


def test_whoever_writes_last_has_the_last_word(opened: Open, path: Path, clock: FakeClock) -> None:
    """Two who recorded the same question leave one answer, and no damage."""
    one, other = opened(), opened()
    one.hold(asked("Hi", clock, Generation("one")))
    other.hold(asked("Hi", clock, Generation("other")))
    one.flush()
    other.flush()
    found = opened().peek(asked("Hi", clock).key)
    assert found is not None
    assert found.generations == [Generation("other")]


def test_many_write_at_once(path: Path, clock: FakeClock) -> None:
    """Each waits for the others, also where the file is replaced meanwhile: no line is lost."""

    def write(writer: int) -> None:
        file = CassetteFile(path)
        for turn in range(20):
            entry = asked(f"{writer} {turn}", clock)
            file.change({entry.key.id: Recording(entry.key, line_of(entry))})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(CassetteFile(path).read()[1]) == 160


def test_a_file_keeps_its_permissions(opened: Open, path: Path, clock: FakeClock) -> None:
    """A new one has the usual ones; what somebody gave it stays."""
    before = os.umask(0o022)
    try:
        recorded(opened, asked("a", clock))
        assert path.stat().st_mode & 0o777 == 0o644
        path.chmod(0o664)
        recorded(opened, asked("b", clock))
        assert path.stat().st_mode & 0o777 == 0o664
        assert [each.name for each in path.parent.iterdir()] == [path.name]
    finally:
        os.umask(before)


def test_a_link_stays_one(opened: Open, path: Path, clock: FakeClock) -> None:
    """What it leads to is written."""
    path.parent.mkdir()
    path.symlink_to(target := path.parent / "target.ndjson")
    recorded(opened, asked("a", clock))
    assert path.is_symlink()
    assert target.read_bytes().count(b"\n") == 1


def test_what_cannot_be_written_is_kept(
    opened: Open, path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller is told at the end, the log at once; what is in the file stays whole."""
    cassette = opened()
    path.parent.touch()  # a file where the folder should be
    cassette.hold(asked("a", clock))
    cassette._write()
    assert "cassettes/chat.ndjson: cannot be written: " in caplog.text
    assert cassette.peek(asked("a", clock).key) is not None
    with pytest.raises(CassetteError, match="cannot be written"):
        cassette.close()


def test_a_file_broken_meanwhile_is_not_overwritten(
    opened: Open, path: Path, clock: FakeClock
) -> None:
    """A merge in the middle of a session: its conflict is told, and both sides stay."""
    cassette = opened()
    cassette.hold(asked("a", clock))
    path.parent.mkdir()
    path.write_bytes(conflict := b"<<<<<<< HEAD\n=======\n>>>>>>> theirs\n")
    with pytest.raises(CassetteError, match="line 1: in a git merge conflict"):
        cassette.flush()
    assert path.read_bytes() == conflict
    path.unlink()
    cassette.flush()
    assert path.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"{", "line 2: not JSON"),
        (b"<<<<<<< HEAD", "line 2: in a git merge conflict; keep the lines of both sides"),
        (b"||||||| 1f2e3d", "line 2: in a git merge conflict"),
        (b"=======", "line 2: in a git merge conflict"),
        (b'{"v":1}', "line 2: generations: is missing"),
        (b"\xff", "line 2: not JSON"),
    ],
)
def test_a_damaged_line_is_named(
    opened: Open, path: Path, clock: FakeClock, damage: bytes, message: str
) -> None:
    """With the file and the number of the line; nothing is left out silently."""
    path.parent.mkdir()
    path.write_bytes(line_of(asked("a", clock)) + damage + b"\n")
    with pytest.raises(CassetteError, match=f"chat.ndjson: {message}"):
        opened()


def test_two_answers_to_one_question_are_refused(
    opened: Open, path: Path, clock: FakeClock
) -> None:
    """As a merge that keeps both sides may leave them; the same line twice is one."""
    line = line_of(asked("a", clock))
    other = line_of(asked("a", clock, Generation("other")))
    path.parent.mkdir()
    path.write_bytes(line + b"\r\n\n" + line.rstrip(b"\n"))
    assert repr(opened()).endswith(": 1 entries>")
    path.write_bytes(line + other)
    with pytest.raises(CassetteError, match="line 2: another answer to the question of line 1"):
        opened()


def test_what_nobody_asked_for_can_be_dropped(opened: Open, path: Path, clock: FakeClock) -> None:
    """Of what was there at the start; an answer that was stored anew is used as well."""
    recorded(opened, *[asked(prompt, clock) for prompt in "abc"])
    cassette = opened(prune=True)
    cassette.peek(asked("a", clock).key)
    cassette.hold(asked("b", clock, Generation("new")))
    cassette.hold(asked("d", clock))
    assert cassette.unused == [asked("c", clock).key.id]
    cassette.close()
    assert len(path.read_bytes().splitlines()) == 3
    assert opened().peek(asked("c", clock).key) is None


def test_what_is_cleared_is_gone_from_the_file(opened: Open, path: Path, clock: FakeClock) -> None:
    """An empty file is a cassette too."""
    recorded(opened, asked("a", clock))
    cassette = opened()
    cassette.clear()
    cassette.close()
    assert path.read_bytes() == b""


CARD: tuple[tuple[str, str], ...] = ((r"\d{4}-\d{4}", "CARD"), ("sk-[a-z]+", "KEY"))


def test_what_matches_is_never_in_the_file(opened: Open, path: Path, clock: FakeClock) -> None:
    """Neither of the question, nor of the answer, nor of facts; and yet it is found."""
    answer = ChatGeneration(
        "Yours is 1234-5678",
        {"choice": {"logprobs": {"content": [{"token": "1234"}, {"token": "-5678"}]}}},
        message={"content": "Yours is 1234-5678", "sk-name": ["sk-value"]},
    )
    entry = replace(asked('My "1234-5678"?', clock, answer, client="sk-me"), tags=("sk-tag",))
    recorded(opened, entry, redact=CARD)
    text = path.read_text()
    for secret in ("1234", "5678", "sk-"):
        assert secret not in text
    found = opened(redact=CARD).peek(entry.key)
    assert found is not None
    assert (found.key, found.generations[0].text) == (entry.key, "Yours is CARD")
    assert found.generations[0].generation_info == {"choice": {"logprobs": None}}


def test_what_was_recorded_before_is_redacted(opened: Open, path: Path, clock: FakeClock) -> None:
    """Where a pattern comes later, lines that match are written anew."""
    recorded(opened, asked("sk-abc", clock), asked("b", clock))
    cassette = opened(redact=CARD)
    assert cassette.peek(asked("KEY", clock).key) is not None
    assert cassette.peek(asked("sk-xyz", clock).key) is not None
    cassette.close()
    assert b"sk-" not in path.read_bytes()
    assert path.read_bytes().count(b"\n") == 2
