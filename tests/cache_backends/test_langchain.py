"""Caches of LangChain as ours, and ours as LangChain's: what its own suites do not ask."""

from __future__ import annotations

import asyncio
import datetime
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from langchain_core.caches import BaseCache as LangChainBaseCache
from langchain_core.caches import InMemoryCache as CoreInMemoryCache
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration as LangChainChatGeneration
from langchain_core.outputs import Generation as LangChainGeneration
from pydantic import BaseModel

from cache_backends import (
    CacheError,
    ChatGeneration,
    EntryCache,
    Generation,
    InMemoryCache,
    Key,
    MemoryCache,
)
from cache_backends.base import Unsupported
from cache_backends.langchain import LangChainCache, to_langchain
from tests.cache_backends.conformance import EntryConformance, entry_of
from tests.cache_backends.langchain_caches import OURS, QUIET, THEIRS, Place
from tests.fakes.clock import FakeClock

pytestmark = QUIET
CLOCK = FakeClock()


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, request.getfixturevalue, stack)


class _Theirs(EntryConformance):
    """What every cache of the proxy must do, done by one of LangChain's."""

    name: str

    @pytest.fixture
    def cache(self, place: Place, clock: FakeClock) -> LangChainCache:
        return LangChainCache(THEIRS[self.name](place), allow_clear=True, clock=clock)


class TestCoreInMemoryCache(_Theirs):
    name = "core InMemoryCache"


class TestCommunityRedisCache(_Theirs):
    name = "community RedisCache"


class TestCommunitySQLiteCache(_Theirs):
    name = "community SQLiteCache"


CALLS = AIMessage(
    content=[{"type": "text", "text": "It's raining. ☂ 雨"}, "\x00"],
    additional_kwargs={"refusal": None, "lc": {"lc": 1, "type": "secret", "id": ["HOME"]}},
    response_metadata={"model_name": "m", "logprobs": {"content": [{"logprob": -0.5}]}, "lc": 1},
    tool_calls=[{"name": "f", "args": {"b": 1.0, "a": [None, True]}, "id": "1"}],
    invalid_tool_calls=[{"name": "f", "args": "{", "id": "2", "error": "cut"}],
    usage_metadata={
        "input_tokens": 1,
        "output_tokens": 2,
        "total_tokens": 3,
        "input_token_details": {"cache_read": 1},
    },
    id="run-1",
    name="me",
)
MESSAGES: list[BaseMessage] = [
    CALLS,
    AIMessage(""),
    AIMessageChunk(content="a", chunk_position="last"),
    ChatMessage("a", role="critic"),
    FunctionMessage("a", name="f"),
    HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}]),
    RemoveMessage(id="1"),
    SystemMessage("a"),
    ToolMessage("a", tool_call_id="1", artifact={"rows": [1, 2]}, status="error"),
]


def chat(message: BaseMessage, **info: Any) -> LangChainChatGeneration:
    return LangChainChatGeneration(message=message, generation_info=info or None)


@pytest.fixture(params=OURS)
def ours(place: Place, request: pytest.FixtureRequest) -> Iterator[LangChainBaseCache]:
    cache = OURS[request.param](place)
    yield to_langchain(cache)
    if isinstance(cache, EntryCache):
        asyncio.run(cache.aclose())


def test_every_message_comes_back(ours: LangChainBaseCache) -> None:
    """Tool calls, usage, metadata, names and ids, of each kind of message, in a list."""
    stored = [*(chat(each, finish_reason="stop") for each in MESSAGES), chat(CALLS)]
    ours.update(prompt="prompt", llm_string="llm", return_val=stored)
    found = ours.lookup(prompt="prompt", llm_string="llm")
    assert type(found) is list
    assert found == stored
    assert [type(each.message) for each in found] == [type(each.message) for each in stored]


def test_texts_and_messages_are_told_apart(ours: LangChainBaseCache) -> None:
    """A completion's text stays a Generation, a chat's message a ChatGeneration."""
    stored = [LangChainGeneration(text="a", generation_info={"n": 1}), chat(AIMessage("a"))]
    ours.update("prompt", "llm", stored)
    assert ours.lookup("prompt", "llm") == stored
    assert ours.lookup("prompt", "another") is None
    ours.update("prompt", "llm", stored[1:])
    assert ours.lookup("prompt", "llm") == stored[1:]


def test_a_hit_is_nobody_elses(ours: LangChainBaseCache) -> None:
    """LangChain's models change the messages that they are handed."""
    ours.update("prompt", "llm", [chat(AIMessage("a"))])
    for found in (ours.lookup("prompt", "llm"), ours.lookup("prompt", "llm")):
        assert found == [chat(AIMessage("a"))]
        found[0].message.content = "changed"
        found.clear()


async def test_an_empty_answer_is_refused() -> None:
    """As a hit it would end a model's call with an IndexError."""
    cache = to_langchain(InMemoryCache())
    with pytest.raises(ValueError, match="at least one generation"):
        cache.update("prompt", "llm", [])
    with pytest.raises(ValueError, match="at least one generation"):
        await cache.aupdate("prompt", "llm", [])
    assert cache.lookup("prompt", "llm") is None


async def test_ten_megabytes(ours: LangChainBaseCache) -> None:
    """Long answers are kept whole, also by the async methods."""
    stored = [chat(AIMessage("0123456789" * 2**20))]
    await asyncio.to_thread(ours.update, "prompt", "llm", stored)
    assert await asyncio.to_thread(ours.lookup, "prompt", "llm") == stored


class Model(BaseModel):
    a: int


def test_a_parsed_answer_is_kept_as_json() -> None:
    """As LangChain does it: what a schema's class was made of, without the class."""
    cache = to_langchain(MemoryCache(max_bytes=2**20))
    cache.update("prompt", "llm", [chat(AIMessage("", additional_kwargs={"parsed": Model(a=1)}))])
    found = cache.lookup("prompt", "llm")
    assert found is not None
    assert found[0].message.additional_kwargs == {"parsed": {"a": 1}}


class Own(AIMessage):
    """A message class of somebody's own."""


NOT_KEPT = {
    "an object": chat(AIMessage("a", additional_kwargs={"x": object()})),
    "a date": chat(AIMessage("a", response_metadata={"at": datetime.date(2026, 1, 1)})),
    "a tuple": chat(AIMessage("a", response_metadata={"x": (1, 2)})),
    "no number": chat(AIMessage("a"), logprob=float("nan")),
    "half a character": chat(AIMessage("\ud800")),
    "a huge number": LangChainGeneration(text="a", generation_info={"x": 2**70}),
    "a class of one's own": chat(Own("a")),
    "a class of a known name": chat(type("AIMessage", (AIMessage,), {})("a")),
}


@pytest.mark.parametrize("name", NOT_KEPT)
async def test_what_would_come_back_otherwise_is_not_kept(name: str) -> None:
    """JSON has no form for it: a miss, and no error that ends a call that was paid for."""
    cache = to_langchain(InMemoryCache())
    cache.update("prompt", "llm", [NOT_KEPT[name]])
    await cache.aupdate("prompt", "llm", [NOT_KEPT[name]])
    assert cache.lookup("prompt", "llm") is None


BROKEN: dict[str, dict[str, Any]] = {
    "an unknown class": {"langchain": "PromptTemplate", "fields": {"template": "{a}"}},
    "a class of the standard library": {"langchain": "Popen", "fields": {"args": ["id"]}},
    "a class that is none": {"langchain": ["AIMessage"], "fields": {"content": "a"}},
    "no fields": {"langchain": "AIMessage", "fields": None},
    "other fields": {"langchain": "AIMessage", "fields": {"text": "a"}},
    "content of no known kind": {"langchain": "AIMessage", "fields": {"content": 5}},
    "another's type": {"langchain": "AIMessage", "fields": {"content": "a", "type": "human"}},
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_cannot_be_read_is_a_miss(name: str) -> None:
    """No class is looked up by the name that is stored, and no text is made up."""
    inner = InMemoryCache()
    inner.update("prompt", "llm", [ChatGeneration("a", message=BROKEN[name])])
    assert to_langchain(inner).lookup("prompt", "llm") is None
    assert await to_langchain(inner).alookup("prompt", "llm") is None


def test_nothing_that_is_stored_names_a_secret() -> None:
    """LangChain's mark for one is data like any other."""
    inner = InMemoryCache()
    secret = {"lc": 1, "type": "secret", "id": ["HOME"]}
    fields = {"content": "a", "additional_kwargs": secret}
    kept = {"langchain": "AIMessage", "fields": fields}
    inner.update("prompt", "llm", [ChatGeneration("a", message=kept)])
    found = to_langchain(inner).lookup("prompt", "llm")
    assert found is not None
    assert found[0].message.additional_kwargs == secret


PROVIDERS = {
    "a text": ({"role": "assistant", "content": "a", "refusal": None}, AIMessage("a")),
    "calls": (
        {
            "role": "assistant",
            "content": "a",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"b":1}'}}
            ],
        },
        AIMessage("a", tool_calls=[{"name": "f", "args": {"b": 1}, "id": "1"}]),
    ),
    "broken calls": (
        {"role": "assistant", "content": "a", "tool_calls": [{"function": {"arguments": "{"}}]},
        AIMessage("a"),
    ),
    "other parts": (
        {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        AIMessage("a"),
    ),
    "another wire's": ({"type": "message", "content": [{"type": "new"}]}, AIMessage("a")),
    "nothing": ({}, AIMessage("a")),
}


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_providers_message_is_one_of_langchains(name: str) -> None:
    """What the proxy stored reads as the message that it amounts to."""
    message, expected = PROVIDERS[name]
    inner = InMemoryCache()
    inner.update("prompt", "llm", [ChatGeneration("a", {"n": 1}, message=message)])
    found = to_langchain(inner).lookup("prompt", "llm")
    assert found is not None
    assert type(found[0]) is LangChainChatGeneration
    assert (found[0].text, found[0].message.tool_calls) == ("a", expected.tool_calls)


async def test_a_failing_cache_ends_no_call(caplog: pytest.LogCaptureFixture) -> None:
    """LangChain's models fail with their cache: here it is a miss, and the log says why."""

    class Full(InMemoryCache):
        def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
            raise CacheError("the disk is gone")

        def update(self, prompt: str, llm_string: str, return_val: object) -> None:
            raise CacheError("the disk is full")

    cache = to_langchain(Full())
    assert cache.lookup("prompt", "llm") is None
    await cache.aupdate("prompt", "llm", [chat(AIMessage("a"))])
    assert "cache lookup failed: the disk is gone" in caplog.text
    assert "cache update failed: the disk is full" in caplog.text


def test_only_a_cache_of_ours_becomes_one_of_langchains() -> None:
    """One of LangChain's needs no adapter, and would be handed values that it does not know."""
    with pytest.raises(TypeError, match="InMemoryCache is none of the caches of cache_backends"):
        to_langchain(CoreInMemoryCache())  # type: ignore[arg-type]  # that is what is tested


async def test_clearing_needs_leave(place: Place) -> None:
    """The community's RedisCache would flush the whole database, with what others keep there."""
    inner = THEIRS["community RedisCache"](place)
    inner.redis.set("of somebody else", "1")
    cache = LangChainCache(inner)
    await cache.put(entry_of("prompt", CLOCK))
    with pytest.raises(Unsupported, match=r"RedisCache is not cleared: .*allow_clear permits it"):
        cache.clear()
    with pytest.raises(Unsupported, match="the whole database"):
        await cache.aclear()
    assert inner.redis.get("of somebody else") == b"1"
    assert await cache.get(Key.of("prompt", "llm")) is not None


@pytest.mark.parametrize("name", THEIRS)
async def test_what_they_are_handed_is_real(place: Place, name: str) -> None:
    """The wrapped cache sees generations of its own, with the text that its users expect."""
    inner = THEIRS[name](place)
    cache = LangChainCache(inner, clock=CLOCK)
    answer = ChatGeneration("a ☂", {"n": 1}, message={"role": "assistant", "content": "a ☂"})
    entry = entry_of("prompt", CLOCK, answer, expires=60, retained=90)
    await cache.put(entry)
    (found,) = await asyncio.to_thread(inner.lookup, "prompt", "llm")
    assert isinstance(found, LangChainChatGeneration)
    assert (found.text, found.message.content) == ("a ☂", "a ☂")
    assert await cache.get(entry.key) == entry


@pytest.mark.parametrize("name", THEIRS)
async def test_a_probe_finds_nothing_amiss(place: Place, name: str) -> None:
    """Of those that are tested here each gives back what it is given, at most in another order."""
    cache = LangChainCache(THEIRS[name](place))
    for _ in range(2):
        probe = await cache.probe()
        assert probe.works
        assert not {*probe.findings} - {"changes the order of generations"}
        assert cache.findings == probe.findings


class Mangling(CoreInMemoryCache):
    """Keeps what it is told to keep of a generation."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self._kept = kept

    def lookup(self, prompt: str, llm_string: str) -> Any:
        found = super().lookup(prompt, llm_string)
        return None if found is None else self._kept(found)


def without_info(found: list[Any]) -> list[Any]:
    return [LangChainGeneration(text=each.text) for each in found]


def as_text(found: list[Any]) -> list[Any]:
    return [
        LangChainGeneration(text=each.text, generation_info=each.generation_info) for each in found
    ]


def stripped(found: list[Any]) -> list[Any]:
    return [
        LangChainGeneration(text=each.text.strip(), generation_info=each.generation_info)
        for each in found
    ]


MANGLED = {
    "nothing": (lambda found: None, False, "does not find what it was given"),
    "an object": (lambda found: 5, False, "answers with a int in place of a list"),
    "the first": (lambda found: found[:1], False, "gives back 1 generations of 3"),
    "no info": (without_info, False, "loses or changes generation_info"),
    "no spaces": (stripped, False, "changes texts"),
    "texts": (as_text, True, "gives back another kind of generation"),
    "all backwards": (lambda found: found[::-1], True, "changes the order of generations"),
}


@pytest.mark.parametrize("name", MANGLED)
async def test_a_probe_says_what_is_mangled(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """And whether entries come back whole in spite of it."""
    kept, works, said = MANGLED[name]
    cache = LangChainCache(Mangling(kept), clock=CLOCK)
    probe = await cache.probe()
    assert (probe.works, said in probe.findings) == (works, True)
    assert said in caplog.records[0].message
    assert caplog.records[0].levelno == logging.WARNING
    await cache.put(entry := entry_of("prompt", CLOCK, Generation(" a "), Generation("b")))
    assert await cache.get(entry.key) == (entry if works else None)


async def test_a_probe_hears_a_class_that_refuses() -> None:
    """Some take no chat answers, some have methods in name only."""

    class Picky(CoreInMemoryCache):
        def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
            raise ValueError("only normal generations")

    probe = await LangChainCache(Picky()).probe()
    assert probe == (False, ("refuses an answer with ValueError",))


async def test_a_probe_hears_of_neighbours() -> None:
    """A cache that answers similar questions: its answers to others are misses here."""

    class Fuzzy(CoreInMemoryCache):
        def lookup(self, prompt: str, llm_string: str) -> Any:
            return next(iter(self._cache.values()), None)

    cache = LangChainCache(Fuzzy(), clock=CLOCK)
    assert await cache.probe() == (True, ("finds the answers of other questions",))
    assert await cache.get(Key.of("prompt", "llm")) is None


async def test_inherited_async_methods_are_not_used() -> None:
    """They would run the sync ones in the loop's own threads, which look up host names."""
    threads = []

    class SyncOnly(LangChainBaseCache):
        def lookup(self, prompt: str, llm_string: str) -> None:
            threads.append(threading.current_thread().name)

        def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
            threads.append(threading.current_thread().name)

        def clear(self, **kwargs: Any) -> None:
            threads.append(threading.current_thread().name)

    cache = LangChainCache(SyncOnly(), allow_clear=True)
    await cache.put(entry_of("prompt", CLOCK))
    await cache.get(Key.of("prompt", "llm"))
    await cache.aclear()
    assert [name.partition("_")[0] for name in threads] == ["calls of SyncOnly"] * 3
    await cache.aclose()


async def test_rows_that_others_changed_are_misses(place: Place) -> None:
    """Cut, emptied, or swapped in the file: never an answer, never an error."""
    cache = LangChainCache(THEIRS["community SQLiteCache"](place), clock=CLOCK)
    await cache.put_many([entry_of(prompt, CLOCK) for prompt in "abcd"])
    with closing(apsw.Connection(f"{place.folder}/langchain.db")) as file:
        swap = "UPDATE full_llm_cache SET prompt = ? WHERE prompt = ?"
        change = "UPDATE full_llm_cache SET response = ? WHERE prompt = ?"
        file.execute("DELETE FROM full_llm_cache WHERE prompt = 'b'")
        file.execute(swap, ("b", "a"))
        file.execute(change, ("", "c"))
        file.execute(change, ('{"lc": 1, "type": "secret", "id": ["HOME"]}', "d"))
    for prompt in "abcd":
        assert await cache.get(Key.of(prompt, "llm")) is None
        assert await cache.alookup(prompt, "llm") is None
