"""Values of Redis keys: what is written comes back, and nothing else passes for an entry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from math import inf, nan
from struct import pack as numbers_of
from typing import Any

import orjson
import pytest
import pytest_asyncio
from redis import Redis

from cache_backends import CacheError, Entry, Generation, Key
from cache_backends.redis import RedisCache
from cache_backends.redis_rows import Names, pack, read_label, unpack
from cache_backends.shared import EVERYTHING
from tests.cache_backends.conformance import CHAT, entry_of
from tests.cache_backends.hostile import HOSTILE_VALUES, WHOLE
from tests.fakes.clock import FakeClock

CLOCK = FakeClock()
ENTRY = replace(entry_of("prompt", CLOCK, CHAT, expires=60.5, retained=120.25), seen=7)
VALUE = pack(ENTRY)
ANSWER = orjson.dumps(WHOLE)


def value_of(
    answer: bytes = ANSWER,
    *,
    version: bytes = b"LLM1",
    times: tuple[float, ...] = (CLOCK(), nan, nan),
    label: bytes = b"[[],{}]",
    prompt: bytes = b"prompt",
    llm_string: bytes = b"llm",
) -> bytes:
    """A value as the cache writes it, but for what is said here."""
    parts = (label, prompt, llm_string, answer)
    return numbers_of(">4sdddQIIII", version, *times, 0, *map(len, parts)) + b"".join(parts)


# How the parts around the answer may be wrong. Those in front are seen by a listing too.
HOSTILE_HEADS: dict[str, bytes] = {
    "one byte": b"L",
    "numbers only": VALUE[:52],
    "cut numbers": VALUE[:51],
    "no version": value_of(version=b"\x00" * 4),
    "another version": value_of(version=b"LLM2"),
    "stored at no time": value_of(times=(nan, nan, nan)),
    "stored after all time": value_of(times=(inf, nan, nan)),
    "expired before all time": value_of(times=(CLOCK(), -inf, nan)),
    "retained for ever and ever": value_of(times=(CLOCK(), nan, inf)),
    "a label that is no JSON": value_of(label=b"[[],{}"),
    "a label of one part": value_of(label=b"[[]]"),
    "a label of three parts": value_of(label=b"[[],{},{}]"),
    "a label that is a number": value_of(label=b"7"),
    "a label that is null": value_of(label=b"null"),
    "no label": value_of(label=b""),
    "tags as text": value_of(label=b'["ab",{}]'),
    "tags as numbers": value_of(label=b"[[1],{}]"),
    "facts as a list": value_of(label=b"[[],[]]"),
    "a label longer than all": b"LLM1" + VALUE[4:36] + b"\xff" * 16 + VALUE[52:],
}
HOSTILE_TAILS: dict[str, bytes] = {
    "one byte less": VALUE[:-1],
    "one byte more": VALUE + b"\x00",
    "twice": VALUE * 2,
    "no answer": value_of(b""),
    "the strings of another": value_of(prompt=b"another prompt"),
    "another llm_string": value_of(llm_string=b"another"),
    "strings joined elsewhere": value_of(prompt=b"promptl", llm_string=b"lm"),
    "strings that are no text": value_of(prompt=b"\xff", llm_string=b"\xfe"),
    **{f"an answer: {name}": value_of(answer) for name, answer in HOSTILE_VALUES.items()},
}
# Things under the name of an entry that are no strings.
HOSTILE_KINDS: dict[str, Callable[[Redis, str], Any]] = {
    "a list": lambda raw, key: raw.rpush(key, VALUE),
    "a set": lambda raw, key: raw.sadd(key, VALUE),
    "a sorted set": lambda raw, key: raw.zadd(key, {VALUE: 1.0}),
    "a hash": lambda raw, key: raw.hset(key, "value", VALUE),
    "a stream": lambda raw, key: raw.xadd(key, {"value": VALUE}),
    "a hyperloglog": lambda raw, key: raw.pfadd(key, "a"),
    "a bitmap": lambda raw, key: raw.setbit(key, 1000, 1),
}


@pytest.fixture
def raw(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest_asyncio.fixture
async def cache(redis_url: str, fresh_name: str) -> AsyncIterator[RedisCache]:
    opened = RedisCache(redis_url, prefix=fresh_name, timeout=10, clock=CLOCK)
    yield opened
    await opened.aclose()


def test_there_are_enough_hostile_values() -> None:
    """Sixty, each another one."""
    values = [*HOSTILE_VALUES.values(), *HOSTILE_HEADS.values(), *HOSTILE_TAILS.values()]
    assert len(set(values)) + len(HOSTILE_KINDS) >= 60


def test_a_value_gives_the_entry_back() -> None:
    """All of it, to whoever asks with both strings."""
    assert unpack(ENTRY.key, VALUE) == ENTRY
    assert unpack(Key(ENTRY.key.id, "prompt!", "llm"), VALUE) is None


def test_a_label_is_read_from_the_beginning() -> None:
    """What a listing tells needs neither the strings nor the answer."""
    label = read_label(ENTRY.key.id, VALUE[: VALUE.index(b"prompt") + 6])
    assert label.preview == "prompt"
    assert label.entry == replace(ENTRY, key=Key(ENTRY.key.id, "", ""), generations=[])
    assert label.summary().bytes > len(VALUE)


def test_a_preview_ends_between_characters() -> None:
    """However many bytes they take."""
    entry = entry_of("🦜" * 501, CLOCK)
    assert read_label(entry.key.id, pack(entry)).preview == "🦜" * 500


@pytest.mark.parametrize("name", HOSTILE_HEADS)
async def test_a_value_with_a_wrong_beginning_is_neither_found_nor_listed(
    cache: RedisCache, raw: Redis, fresh_name: str, name: str
) -> None:
    """It is counted and deleted, and harms no other entry."""
    other = entry_of("other", CLOCK)
    await cache.put_many([ENTRY, other])
    raw.set(fresh_name + ENTRY.key.id, HOSTILE_HEADS[name])
    listed = await cache.page(EVERYTHING)
    assert [each.id for each in listed.entries if each.id != ENTRY.key.id] == [other.key.id]
    raw.set(fresh_name + ENTRY.key.id, HOSTILE_HEADS[name])
    assert await cache.get_many([ENTRY.key, other.key]) == [None, other]
    assert cache.broken >= 1
    assert not raw.exists(fresh_name + ENTRY.key.id)


@pytest.mark.parametrize("name", HOSTILE_TAILS)
async def test_a_value_that_is_no_answer_is_a_miss_and_goes(
    cache: RedisCache, raw: Redis, fresh_name: str, name: str
) -> None:
    """It is counted and deleted, and a new answer takes its place."""
    other = entry_of("other", CLOCK)
    await cache.put_many([ENTRY, other])
    raw.set(fresh_name + ENTRY.key.id, HOSTILE_TAILS[name])
    assert await cache.get_many([ENTRY.key, other.key]) == [None, other]
    assert cache.broken == 1
    assert not raw.exists(fresh_name + ENTRY.key.id)
    raw.set(fresh_name + ENTRY.key.id, HOSTILE_TAILS[name])
    assert await cache.by_ids([ENTRY.key.id, other.key.id]) == [None, other]
    assert cache.broken == 2
    await cache.put(ENTRY)
    assert await cache.get(ENTRY.key) == ENTRY


@pytest.mark.parametrize("kind", HOSTILE_KINDS)
async def test_a_key_that_holds_something_else_is_a_miss_and_goes(
    cache: RedisCache, raw: Redis, fresh_name: str, kind: str
) -> None:
    """Also those are listed by nobody, and overwritten by the next answer."""
    for use in (cache.get(ENTRY.key), cache.by_ids([ENTRY.key.id]), cache.page(EVERYTHING)):
        await cache.put(ENTRY)
        raw.delete(fresh_name + ENTRY.key.id)
        HOSTILE_KINDS[kind](raw, fresh_name + ENTRY.key.id)
        assert await use in (None, [None], ([], None))
        assert not raw.exists(fresh_name + ENTRY.key.id)
    assert cache.broken == 3
    HOSTILE_KINDS[kind](raw, fresh_name + ENTRY.key.id)
    await cache.put(ENTRY)
    assert await cache.get(ENTRY.key) == ENTRY


async def test_the_first_broken_value_is_logged_the_others_counted(
    cache: RedisCache, raw: Redis, fresh_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line, without what the value held."""
    entries = [entry_of(prompt, CLOCK) for prompt in "abc"]
    for entry in entries:
        raw.set(fresh_name + entry.key.id, b"secret")
        await cache.get(entry.key)
    (record,) = caplog.records
    assert record.name.startswith("cache_backends.redis")
    assert fresh_name in record.getMessage()
    assert "secret" not in record.getMessage()
    assert cache.broken == 3


async def test_entries_are_found_by_their_ids_alone(cache: RedisCache) -> None:
    """In order, each as often as it is asked for; also more than are read at once."""
    entries = [ENTRY, *(entry_of(str(number), CLOCK, retained=5) for number in range(200))]
    await cache.put_many(entries)
    ids = [entry.key.id for entry in entries]
    asked = ["no id", *ids, "0" * 64, ids[0].upper(), ids[0]]
    assert await cache.by_ids(asked) == [None, *entries, None, None, ENTRY]
    assert await cache.by_ids([]) == []


async def test_an_entry_that_has_ended_is_not_found_by_its_id(
    redis_url: str, fresh_name: str
) -> None:
    """Also where the server has not let go of it yet."""
    clock = FakeClock()
    cache = RedisCache(redis_url, prefix=fresh_name, timeout=10, clock=clock)
    entry = entry_of("prompt", clock, retained=60)
    await cache.put(entry)
    assert await cache.by_ids([entry.key.id]) == [entry]
    clock.advance(60)
    assert await cache.by_ids([entry.key.id]) == [None]
    await cache.aclose()


async def test_an_entry_asked_for_by_a_wrong_id_stays(cache: RedisCache) -> None:
    """The fault is the asker's."""
    await cache.put(ENTRY)
    assert await cache.get(Key(ENTRY.key.id, "another", "llm")) is None
    assert await cache.get(Key("no id", "prompt", "llm")) is None
    assert cache.broken == 0
    assert await cache.get(ENTRY.key) == ENTRY


@pytest.mark.parametrize(
    "entry",
    [
        replace(ENTRY, about={"model": object()}),
        replace(ENTRY, generations=[Generation("a", {"n": {1, 2}})]),
        replace(ENTRY, stored_at=nan),
        replace(ENTRY, retained_until=inf),
    ],
)
async def test_what_cannot_be_kept_is_refused(cache: RedisCache, entry: Entry) -> None:
    """Nothing of the call is stored then."""
    with pytest.raises(CacheError):
        await cache.put_many([entry_of("fine", CLOCK), entry])
    assert await cache.totals() == (0, 0)


def test_keys_begin_with_the_prefix_and_share_a_slot() -> None:
    """All but the entries, which are spread."""
    names = Names("cache:")
    beside = (
        names.index,
        names.ends,
        names.records,
        names.prompts,
        names.hits,
        names.log,
        names.facts,
        names.counts("x" * 999),
        names.lease("x" * 999),
    )
    assert all(each.startswith("cache:{cache}:") and len(each) < 64 for each in beside)
    assert names.entry("0" * 64) == "cache:" + "0" * 64
