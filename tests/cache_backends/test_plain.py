"""Plain caches, with everything that a proxy needs travelling inside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from langchain_core.caches import InMemoryCache as LangChainInMemoryCache

from cache_backends import (
    CacheError,
    ChatGeneration,
    Entry,
    Generation,
    InMemoryCache,
    Key,
    PlainCache,
)
from cache_backends.plain_seal import SEAL, latest_write, seal, unseal
from tests.cache_backends.conformance import CHAT, EntryConformance, entry_of
from tests.fakes.clock import FakeClock

CLOCK = FakeClock()
ENTRY = entry_of("prompt", CLOCK, Generation("a"), CHAT, Generation("c"), expires=5, retained=9)


class TestPlainCache(EntryConformance):
    @pytest.fixture
    def cache(self, clock: FakeClock) -> PlainCache:
        return PlainCache(InMemoryCache(), clock=clock)


class TestPlainCacheAroundLangChain(EntryConformance):
    @pytest.fixture
    def cache(self, clock: FakeClock) -> PlainCache:
        return PlainCache(LangChainInMemoryCache(), clock=clock)


class TestPlainCacheAroundSyncMethods(EntryConformance):
    @pytest.fixture
    def cache(self, clock: FakeClock) -> PlainCache:
        return PlainCache(SyncOnly(), clock=clock)


class SyncOnly:
    """A class of one's own with three methods, and parameters named as one likes."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Any] = {}
        self.threads: set[int] = set()

    def lookup(self, question: str, model: str) -> Any:
        self.threads.add(threading.get_ident())
        return self.held.get((question, model))

    def update(self, question: str, model: str, answer: Any) -> None:
        self.held[question, model] = answer

    def clear(self) -> None:
        self.held.clear()


class InNameOnly(SyncOnly):
    """Has async methods that raise, as some caches of LangChain's community do."""

    async def alookup(self, prompt: str, llm_string: str) -> Any:
        raise NotImplementedError

    async def aupdate(self, prompt: str, llm_string: str, return_val: Any) -> None:
        raise NotImplementedError


def mangled(change: Callable[[list[Any]], None]) -> Generation:
    """The only generation of an entry, its seal changed."""
    (generation,) = seal(entry_of("prompt", CLOCK, Generation("a")))
    assert generation.generation_info is not None
    fields = orjson.loads(generation.generation_info[SEAL])
    change(fields)
    return Generation("a", {SEAL: orjson.dumps(fields).decode()})


def test_a_langchain_user_sees_the_answer() -> None:
    """Text and message are as they were; the seal is one string beside them."""
    for sealed, generation in zip(seal(ENTRY), ENTRY.generations, strict=True):
        assert type(sealed) is type(generation)
        assert sealed.text == generation.text
        assert list(sealed.generation_info or {}) == [SEAL]
        assert isinstance((sealed.generation_info or {})[SEAL], str)
    chat = seal(ENTRY)[1]
    assert isinstance(chat, ChatGeneration)
    assert chat.message == CHAT.message


def test_a_message_that_the_store_did_not_keep_comes_back() -> None:
    """What a store keeps of a generation is text and info: that is enough."""
    reduced = [Generation(each.text, each.generation_info) for each in seal(ENTRY)]
    assert unseal(ENTRY.key, reduced) == ENTRY


OTHER = seal(replace(ENTRY, generations=[Generation(text) for text in "abc"]))
SEALED = seal(ENTRY)

BROKEN: dict[str, object] = {
    "nothing": None,
    "an empty list": [],
    "text": "a",
    "a tail of an older write": SEALED[:1] + OTHER[1:],
    "a tail that is too long": SEALED + OTHER[2:],
    "a lost tail": SEALED[:2],
    "a lost head": SEALED[1:],
    "another order": [SEALED[1], SEALED[0], SEALED[2]],
    "one of them twice": [SEALED[0], SEALED[1], SEALED[1]],
    "a neighbour's answer": seal(entry_of("prompt!", CLOCK)),
    "no seal": [Generation("a"), Generation("b")],
    "another info": [Generation("a", {"finish_reason": "stop"})],
    "a changed text": [replace(SEALED[0], text="A"), *SEALED[1:]],
    "a generation that is none": [None, *SEALED[1:]],
    "a seal that is cut": [
        Generation("a", {SEAL: str((SEALED[0].generation_info or {})[SEAL])[:-1]})
    ],
    "a seal that was parsed": [mangled(lambda seal: seal.append(1))],
    "a seal of another shape": [mangled(lambda seal: seal.reverse())],
    "times as text": [mangled(lambda seal: seal.__setitem__(4, ["1", None, None]))],
    "one time": [mangled(lambda seal: seal.__setitem__(4, [1.0]))],
    "no time of storing": [mangled(lambda seal: seal.__setitem__(4, [None, None, None]))],
    "an inside that is no answer": [mangled(lambda seal: seal.__setitem__(5, "{}"))],
    "a count as text": [mangled(lambda seal: seal.__setitem__(3, "1"))],
}


def test_an_unchanged_seal_holds() -> None:
    """The cases below are misses for what was changed, not for how they were made."""
    assert unseal(Key.of("prompt", "llm"), [mangled(lambda seal: None)]) is not None
    assert unseal(ENTRY.key, SEALED) == ENTRY
    assert unseal(ENTRY.key, tuple(SEALED)) == ENTRY


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_store_mixed_up_is_a_miss(name: str) -> None:
    """Stale, lost, reordered, foreign or mangled: never an answer."""
    assert unseal(ENTRY.key, BROKEN[name]) is None


ORDERS = {
    "as it was": SEALED,
    "another order": SEALED[::-1],
    "the end of an older write": SEALED + OTHER[1:],
    "the beginning of an older write": OTHER[:2] + SEALED,
    "what others stored": [Generation("x"), *SEALED, None],
    "twice": SEALED + SEALED,
}


@pytest.mark.parametrize("name", ORDERS)
def test_what_a_store_left_behind_is_put_right(name: str) -> None:
    """The write that is whole and was the last is found among what else there is."""
    assert unseal(ENTRY.key, latest_write(ORDERS[name])) == ENTRY


@pytest.mark.parametrize("found", [None, [], 5, SEALED[1:], [Generation("a")], "text"])
def test_nothing_whole_is_nothing(found: object) -> None:
    """What was lost is not made up for."""
    assert latest_write(found) == []
    assert unseal(ENTRY.key, latest_write(found)) is None


def test_a_seal_that_claims_to_be_one_of_billions_takes_no_time() -> None:
    """Whatever somebody else has written into the store, the loop goes on."""
    claimed = mangled(lambda seal: seal.__setitem__(3, 10**15))
    assert latest_write([claimed, *SEALED]) == SEALED


def test_of_two_whole_writes_the_last_counts() -> None:
    """Also where the store gives the older one first, or the times are equal."""
    older, newer = seal(ENTRY), seal(replace(ENTRY, generations=[Generation("new")]))
    for found in (older + newer, newer + older):
        entry = unseal(ENTRY.key, latest_write(found))
        assert entry is not None
        assert entry.generations == [Generation("new")]


async def test_threads_that_hang_are_its_own() -> None:
    """The loop's own threads look up host names: a store that hangs must not hold them."""
    release = threading.Event()

    class Hanging(SyncOnly):
        def lookup(self, question: str, model: str) -> Any:
            release.wait(10)

    cache = PlainCache(Hanging())
    asked = [asyncio.create_task(cache.get(Key.of("a", str(n)))) for n in range(64)]
    await asyncio.sleep(0)  # all have asked
    try:
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: 1) == 1
    finally:
        release.set()
        await asyncio.gather(*asked)
        await cache.aclose()


async def test_a_cache_that_answers_similar_questions_does_not_fool_it() -> None:
    """An entry of another prompt has another id in its seal."""

    class Fuzzy(SyncOnly):
        def lookup(self, question: str, model: str) -> Any:
            return next(iter(self.held.values()), None)

    cache = PlainCache(Fuzzy(), clock=CLOCK)
    await cache.put(ENTRY)
    assert await cache.get(ENTRY.key) == ENTRY
    assert await cache.get(Key.of("prompt?", "llm")) is None
    assert await cache.fact("name", "value") == "value"


async def test_what_others_stored_is_a_miss() -> None:
    """An answer without our seal may have lost anything."""
    inner = InMemoryCache()
    inner.update("prompt", "llm", [Generation("a")])
    assert await PlainCache(inner).alookup("prompt", "llm") is None


@pytest.mark.parametrize("kind", [SyncOnly, InNameOnly])
async def test_sync_methods_do_not_block_the_loop(kind: type[SyncOnly]) -> None:
    """Without native async methods the sync ones run in threads."""
    inner = kind()
    cache = PlainCache(inner, clock=CLOCK)
    await cache.put(ENTRY)
    assert await cache.get(ENTRY.key) == ENTRY
    assert threading.get_ident() not in inner.threads


async def test_native_async_methods_are_used() -> None:
    """On the loop's own thread, also where there are no sync ones."""

    class AsyncOnly:
        held: Any = None

        async def alookup(self, prompt: str, llm_string: str) -> Any:
            return self.held

        async def aupdate(self, prompt: str, llm_string: str, return_val: Any) -> None:
            self.held = return_val

    cache = PlainCache(AsyncOnly(), clock=CLOCK)
    await cache.put(ENTRY)
    assert await cache.get(ENTRY.key) == ENTRY
    with pytest.raises(CacheError, match=r"AsyncOnly has no method lookup\(\)"):
        cache.lookup("prompt", "llm")


async def test_facts_are_shared_through_the_store() -> None:
    """Two processes around one store agree; one that forgets keeps what it said first."""
    store = SyncOnly()
    one, two = PlainCache(store), PlainCache(store)
    assert await one.fact("secret", "one") == "one"
    assert await two.fact("secret", "two") == "one"
    store.clear()
    assert await one.fact("secret", "three") == "one"


async def test_what_cannot_be_done_is_said() -> None:
    """The error names the class and what it lacks."""
    cache = PlainCache(InMemoryCache())
    with pytest.raises(CacheError, match="InMemoryCache cannot delete a single entry"):
        await cache.delete(ENTRY.key.id)
    with pytest.raises(CacheError, match="InMemoryCache cannot count its entries"):
        await cache.totals()
    with pytest.raises(TypeError, match=r"object is no cache: it has neither lookup\(\)"):
        PlainCache(object())


async def test_errors_of_the_store_come_through() -> None:
    """Who asked decides what a failing store means."""

    class Down(SyncOnly):
        def lookup(self, question: str, model: str) -> Any:
            raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        await PlainCache(Down()).get(ENTRY.key)


def test_an_entry_is_not_changed_by_sealing() -> None:
    """The proxy goes on using what it stored."""
    entry = Entry(ENTRY.key, [Generation("a", {"finish_reason": "stop"})], 1.0)
    seal(entry)
    assert entry.generations == [Generation("a", {"finish_reason": "stop"})]
