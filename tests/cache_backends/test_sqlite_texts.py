"""Texts in a SQLite file: found by signatures, which are made in time and go with their entries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random

import apsw
import orjson
import pytest
import pytest_asyncio

from cache_backends import (
    CacheError,
    ChatGeneration,
    Generation,
    SQLiteCache,
    sqlite_crews,
    sqlite_listing,
    sqlite_texts,
)
from cache_backends import sqlite as sqlite_module
from cache_backends.base import Key
from cache_backends.codec import encode
from cache_backends.shared import EVERYTHING, Filter, Narrowing
from cache_backends.sqlite_choice import Choice
from cache_backends.texts import says
from tests.cache_backends.conformance import entry_of
from tests.cache_backends.hostile import HOSTILE_VALUES
from tests.cache_backends.listed_conformance import chosen, listing, store
from tests.fakes.clock import FakeClock

VALUE = encode([Generation("")])
ALPHABET = "abcß é雨🦜\"\n%_*'"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


@pytest_asyncio.fixture
async def cache(path: Path, clock: FakeClock) -> AsyncIterator[SQLiteCache]:
    opened = SQLiteCache(path, clock=clock)
    yield opened
    await opened.aclose()


async def told(cache: SQLiteCache, text: str) -> list[int]:
    return await chosen(cache, EVERYTHING, Narrowing(text=text))


def asked(path: Path, statement: str, *values: bytes) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5000)
    found = connection.execute(statement, values).fetchall()
    connection.close()
    return found


@pytest.mark.parametrize(
    "text", ["capital of Fra", "FRANCE", 'say "Paris"', "line\nbreak", "雨が降", "雨", "straSSE"]
)
async def test_a_prompt_is_searched_as_its_writer_knows_it(
    cache: SQLiteCache, clock: FakeClock, text: str
) -> None:
    """Not as JSON writes it: in its strings, also parts of words and single signs of Chinese."""
    content = 'The capital of France? Please say "Paris". A line\nbreak. 雨が降る Straße'
    messages = {"messages": [{"role": "user", "content": [{"type": "text", "text": content}]}]}
    wanted = entry_of(orjson.dumps(messages).decode(), clock)
    await cache.put_many([wanted, entry_of("the capital of Spain", clock)])
    found = await listing(cache, narrowed=Narrowing(text=text))
    assert [each.id for each in found] == [wanted.key.id]


async def test_an_answer_is_searched_to_its_depths(cache: SQLiteCache, clock: FakeClock) -> None:
    """Tool calls, reasoning and what came with it; not names of fields, nor facts or tags."""
    call = {"function": {"name": "weather", "arguments": '{"city": "Lyon"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    answer = ChatGeneration("", {"reasoning": ["They ask"]}, message=message)
    await cache.put(entry_of("0", clock, answer, about={"client": "alice"}, tags=["tagged"]))
    for text in ("weather", '"city": "Ly', "THEY ASK"):
        assert await told(cache, text) == [0]
    for text in ("tool_calls", "reasoning", "alice", "tagged"):
        assert await told(cache, text) == []


async def test_any_text_is_found_that_is_there(cache: SQLiteCache, clock: FakeClock) -> None:
    """Whatever it is made of, and nothing else, wherever it stands."""
    random = Random(5)
    said = ["".join(random.choices(ALPHABET, k=random.randrange(60))) for _ in range(60)]
    await store(cache, clock, [{} for _ in said])
    for number, each in enumerate(said):
        await cache.put(entry_of(str(number), clock, Generation(each)))
    for _ in range(300):
        whole = random.choice(said)
        start = random.randrange(len(whole) + 1)
        text = whole[start : start + random.randrange(3, 9)].swapcase()
        if len(text.casefold().encode()) >= 3:
            holding = [n for n, each in enumerate(said) if text.casefold() in each.casefold()]
            assert sorted(await told(cache, text)) == holding


@pytest.mark.parametrize("text", ["a", "ab", "é"])
async def test_what_is_too_short_is_refused(cache: SQLiteCache, text: str) -> None:
    """No index leads to it: the message says what does."""
    with pytest.raises(ValueError, match="three characters"):
        await told(cache, text)


async def test_half_a_character_is_refused(cache: SQLiteCache, clock: FakeClock) -> None:
    """As in any filter; an empty text narrows nothing."""
    await cache.put(entry_of("0", clock))
    with pytest.raises(ValueError, match="surrogates"):
        await told(cache, "abc\ud800")
    assert await told(cache, "") == [0]


@pytest.mark.parametrize(
    "text", ['" OR 1=1 --', "':text0", "NEAR(a b)", "* OR x:", "\x00\x00\x00", "%%%", "x y" * 10**5]
)
async def test_no_text_breaks_the_search(cache: SQLiteCache, clock: FakeClock, text: str) -> None:
    """What is looked for is a value, never a part of a statement."""
    await store(cache, clock, [{}, {}])
    assert await told(cache, text) == []
    await cache.put(entry_of("2", clock, Generation(f"before{text}behind")))
    assert await told(cache, text) == [2]


async def test_a_file_in_base64_is_no_text(cache: SQLiteCache, clock: FakeClock) -> None:
    """Its text is; a long text without spaces in another script is one."""
    picture = {"image_url": "data:image/png;base64," + "QUJD" * 2000, "text": "what is this"}
    await cache.put(entry_of("0", clock, ChatGeneration("", message=picture)))
    await cache.put(entry_of("1", clock, Generation("雨" * 5000 + "晴")))
    assert await told(cache, "QUJDQUJD") == []
    assert await told(cache, "what is") == [0]
    assert await told(cache, "雨晴") == [1]


async def test_very_long_texts_are_found(
    cache: SQLiteCache, path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces, or, beyond that, by reading them."""
    said = " ".join(f"word{number}" for number in range(20_000))
    await cache.put(entry_of("0", clock, Generation(said)))
    assert await told(cache, "word19999") == [0]
    assert await told(cache, "word16384 WORD16385") == [0]
    assert await told(cache, "word20000") == []
    monkeypatch.setattr(sqlite_texts, "MAX_SIGNED", 1000)
    await cache.put(entry_of("1", clock, Generation(said)))
    assert await told(cache, "word19999") == [1, 0]
    assert await told(cache, "word20000") == []
    assert (b"\xff",) in asked(path, "SELECT bits FROM signatures")


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_a_search_takes_as_many_steps_as_it_needs(
    cache: SQLiteCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """However little of the index and of the entries each one reads."""
    monkeypatch.setattr(sqlite_listing, "NARROW_STEP_ROWS", step)
    monkeypatch.setattr(sqlite_listing, "READ_BYTES", step)
    entries = await store(cache, clock, [{} for _ in range(60)])
    for number in range(0, 60, 7):
        await cache.put(replace(entries[number], generations=[Generation("a rare word")]))
    expected = list(range(56, -1, -7))
    narrowed = Narrowing(text="RARE word")
    told = [int(each.prompt) for each in await listing(cache, narrowed=narrowed, limit=2)]
    assert told == expected
    ids = tuple(entries[number].key.id for number in (7, 8, 14))
    assert await chosen(cache, Filter(ids=ids), narrowed) == [14, 7]
    between = Filter(stored_after=entries[14].stored_at, stored_before=entries[35].stored_at)
    assert await chosen(cache, between, narrowed) == [28, 21]


async def test_an_entry_that_changes_is_found_by_what_it_says_now(
    cache: SQLiteCache, path: Path, clock: FakeClock
) -> None:
    """Also where it was stored at the very same time; a signature is there for each, no more."""
    await cache.put(entry_of("0", clock, Generation("the old answer")))
    assert await told(cache, "old answer") == [0]
    await cache.put(entry_of("0", clock, Generation("the new one")))
    assert await told(cache, "old answer") == []
    assert await told(cache, "new one") == [0]
    clock.advance(1)
    await cache.put(entry_of("0", clock, Generation("the newest one")))
    assert await told(cache, "newest") == [0]
    assert len(asked(path, "SELECT 1 FROM signatures")) == 1
    await cache.delete(Key.of("0", "llm").id)
    assert await told(cache, "newest") == []
    await cache.put(entry_of("0", clock))
    await cache.delete(Key.of("0", "llm").id)
    assert asked(path, "SELECT 1 FROM signatures UNION SELECT 1 FROM unsigned") == []


@pytest.mark.parametrize("way", ["delete", "remove", "clear", "replace"])
async def test_what_is_deleted_leaves_nothing_in_the_file(
    path: Path, clock: FakeClock, way: str
) -> None:
    """Neither its text nor its signature, from which one could guess at it."""
    cache = SQLiteCache(path, clock=clock)
    random = Random(1)
    secret = " ".join(random.randbytes(6).hex() for _ in range(300))
    entry = entry_of("0", clock, Generation(f"XYZZY {secret}"))
    await cache.put_many([entry, entry_of("1", clock)])
    assert await told(cache, "xyzzy") == [0]
    (bits,) = next(
        row for row in asked(path, "SELECT bits FROM signatures ORDER BY length(bits) DESC")
    )
    assert isinstance(bits, bytes)
    if way == "delete":
        await cache.delete(entry.key.id)
    elif way == "remove":
        await cache.remove(Filter(ids=(entry.key.id,)), before=1)
    elif way == "clear":
        await cache.aclear()
    else:
        await cache.put(replace(entry, generations=[Generation("other")]))
    await cache.aclose()
    left = path.read_bytes()  # noqa: ASYNC240 - a small file
    assert b"XYZZY" not in left
    assert bits[:32] not in left


@pytest.mark.parametrize("name", HOSTILE_VALUES)
async def test_a_row_that_is_no_answer_says_nothing(
    cache: SQLiteCache, path: Path, clock: FakeClock, name: str
) -> None:
    """Neither signing nor searching stops at it."""
    await store(cache, clock, [{}, {}, {}])
    asked(path, "UPDATE entries SET value = ? WHERE prompt = '1'", HOSTILE_VALUES[name])
    assert await told(cache, "answered") == await told(cache, "nowhere") == []
    assert await told(cache, "Answer to") == [2, 0]
    asked(path, "UPDATE signatures SET bits = x'ff'")
    assert await told(cache, "Answer to") == [2, 0]


async def test_the_writer_signs_when_it_has_nothing_to_do(
    path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts, with pauses, until nothing is left: nobody has to ask for it."""
    monkeypatch.setattr(sqlite_module, "IDLE_AFTER_S", 0.01)
    monkeypatch.setattr(sqlite_crews, "SIGN_AGAIN_AFTER_S", 0.01)
    monkeypatch.setattr(sqlite_texts, "SIGN_ROWS", 10)
    cache = SQLiteCache(path, clock=clock)
    await cache.put_many([entry_of(str(number), clock) for number in range(35)])
    await asyncio.to_thread(wait_until_signed, path)
    assert len(asked(path, "SELECT 1 FROM signatures")) == 35
    await cache.aclose()


def wait_until_signed(path: Path) -> None:
    until = time.monotonic() + 10
    while asked(path, "SELECT 1 FROM unsigned") and time.monotonic() < until:
        time.sleep(0.01)


async def test_a_search_does_not_wait_for_ever_for_the_index(
    cache: SQLiteCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how much is left; each one goes on where the last ended."""
    monkeypatch.setattr(sqlite_module, "SIGN_ALL_S", 0.0)
    monkeypatch.setattr(sqlite_texts, "SIGN_ROWS", 4)
    await store(cache, clock, [{} for _ in range(10)])
    for left in (6, 2):
        with pytest.raises(CacheError, match=f"{left} entries are still to be read"):
            await told(cache, "Answer to")
    assert len(await told(cache, "Answer to")) == 10


async def test_others_write_while_the_index_is_completed(
    cache: SQLiteCache, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store waits for one part of it only."""
    monkeypatch.setattr(sqlite_texts, "SIGN_ROWS", 1)
    await store(cache, clock, [{} for _ in range(100)])
    searching = asyncio.create_task(told(cache, "Answer to"))
    await asyncio.sleep(0)
    late = entry_of("100", clock)
    await cache.put(late)
    assert not searching.done()
    assert len(await searching) >= 100


def test_the_index_decides_before_entries_are_read(path: Path) -> None:
    """Signatures are read in their order; what they rule out is not looked up."""
    SQLiteCache(path).update("prompt", "llm", [Generation("a")])
    choice = Choice.of(EVERYTHING, Narrowing(text="Answer to"))
    names = ("at", "id", "end_at", "end_id", "limit", "now")
    connection = apsw.Connection(str(path))
    plan = connection.execute(
        f"EXPLAIN QUERY PLAN {choice.statement(sqlite_listing.LASTS)}",
        dict.fromkeys(names, 1) | choice.bindings,
    ).fetchall()
    connection.close()
    steps = [str(row[-1]) for row in plan]
    assert steps[0].startswith("SEARCH signatures USING PRIMARY KEY ((stored_at,id)>(?,?)")
    assert not [step for step in steps if "SCAN" in step or "TEMP B-TREE" in step]


def test_signatures_rule_most_entries_out() -> None:
    """Of texts that do not hold what is looked for, hardly any is read for it."""
    random = Random(2)
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE signatures (bits)").fetchall()
    for _ in range(300):
        said = "".join(random.choices("etaoin shrdlu", k=2000))
        bits = sqlite_texts._signature(said.encode(), VALUE)
        connection.execute("INSERT INTO signatures VALUES (?)", (bits,))
    conditions, bindings = sqlite_texts.wanted("qwxyzk")
    statement = f"SELECT 1 FROM signatures WHERE {' AND '.join(conditions)}"
    assert len(connection.execute(statement, bindings).fetchall()) < 10
    connection.close()


@pytest.mark.parametrize("length", [*range(12), 16, 17, 18, 19, 33, 100])
def test_each_three_bytes_in_a_row_count(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """None is lost where one piece ends and the next begins."""
    monkeypatch.setattr(sqlite_texts, "PIECE", 8)
    said = Random(length).randbytes(length)
    expected = {int.from_bytes(said[n : n + 3], "little") for n in range(length - 2)}
    assert sqlite_texts._threes(said) == expected


@pytest.mark.parametrize("prompt", ["[[", "12", '"in quotes"', "null", "true", "[" * 4000, ""])
def test_a_prompt_that_is_no_conversation_is_a_text(prompt: str) -> None:
    """As it is, whatever JSON would make of it."""
    assert says(prompt, prompt, [Generation("x")])
