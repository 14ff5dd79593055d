"""Equal questions in the air share one call to the provider."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from cache_backends.memory import MemoryCache
from tests.fakes.broken_cache import BrokenCache, Fault
from tests.fakes.chat import MINE, PATH, YOURS, asker, asking, events, words
from tests.fakes.live_proxy import StartProxy
from tests.fakes.oracle import chat_answer, chat_chunks, event, expected
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.raw_client import Connect, RawClient

WITHOUT_USAGE = list(chat_chunks(chat_answer(asking(), "", PATH, 1), usage=False))
JOKE = expected(asking(), credential="Bearer mine")


class SlowCache(MemoryCache):
    """Lookups and saves wait for their gates."""

    never_waits = False

    def __init__(self, *, lookups: Gate | None = None, saves: Gate | None = None) -> None:
        super().__init__(max_bytes=2**20)
        self._lookups, self._saves = lookups, saves

    def peek(self, key: Any) -> None:
        return None

    async def get_many(self, keys: Any) -> Any:
        if self._lookups is not None:
            await self._lookups.enter()
        return [MemoryCache.peek(self, key) for key in keys]

    async def put_many(self, entries: Any) -> None:
        if self._saves is not None:
            await self._saves.enter()
        await super().put_many(entries)


async def outcome(raw: RawClient, body: dict[str, Any]) -> tuple[str, str]:
    await raw.post(PATH, body, MINE)
    await raw.head()
    ending = await raw.rest()
    assert ending.complete
    return raw.headers["x-cache"], words(ending.body)


async def said(raw: RawClient, events: int) -> bytes:
    """The next chunks, until so many events are there."""
    body = b""
    while body.count(b"data: ") < events:
        body += await raw.chunk()
    return body


@pytest.mark.parametrize("stream", [False, True])
async def test_a_thousand_equal_calls_are_one_call(
    proxy: StartProxy, provider: FakeProvider, connect: Connect, stream: bool
) -> None:
    """All of them get the whole answer, and the provider is asked once."""
    provider.always = Answer(gate=(gate := Gate()))
    live = await proxy()
    raws = [await connect(live.base_url) for _ in range(1000)]
    asked = asyncio.gather(*(outcome(raw, asking(stream=stream)) for raw in raws))
    await live.listening(1000)
    await gate.open()
    told = await asked
    assert {text for _, text in told} == {JOKE}
    assert sorted(cache for cache, _ in told) == ["COLLAPSED"] * 999 + ["MISS"]
    assert len(provider.calls) == 1
    assert await live.stored() == 1
    await live.settled()


async def test_who_joins_in_mid_stream_gets_the_backlog_at_once(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """What was said before comes in one piece, what follows as it is said; all bytes are equal."""
    provider.script(Answer(chunk_gate=(gate := Gate())))
    live = await proxy()
    first, second = await connect(live.base_url), await connect(live.base_url)
    await first.post(PATH, asking(stream=True), MINE)
    await gate.release(5)
    await first.head()
    begun = await said(first, 5)
    await second.post(PATH, asking(stream=True), MINE)
    await second.head()
    assert await second.chunk() == begun
    await gate.release()
    assert (sixth := await said(second, 1)) == await said(first, 1)
    await gate.open()
    assert (await first.rest()).body == (ending := await second.rest()).body
    assert words(begun + sixth + ending.body) == JOKE
    assert len(provider.calls) == await live.stored() == 1
    await live.settled()


async def test_one_who_wants_it_in_one_piece_joins_a_stream(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """He gets the whole as JSON, with the usage that the stream's asker does not see."""
    provider.always = Answer(gate=(gate := Gate()))
    live = await proxy()
    ask = asker(client, live)
    streamed = asyncio.create_task(ask(stream=True))
    await live.listening(1)
    plain = asyncio.create_task(ask())
    await live.listening(2)
    await gate.open()
    answer = await plain
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-cache"] == "COLLAPSED"
    assert words(answer.content) == words((await streamed).content) == JOKE
    assert answer.json()["usage"]["completion_tokens"] == 12
    assert not any("usage" in event for event in events((await streamed).content))
    assert len(provider.calls) == await live.stored() == 1
    await live.settled()


async def test_one_who_wants_a_stream_does_not_join_a_plain_fetch(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """He would get his first word last."""
    provider.script(Answer(gate=(gate := Gate())))
    live = await proxy()
    ask = asker(client, live)
    plain = asyncio.create_task(ask())
    await provider.received()
    streamed = await ask(stream=True)
    assert streamed.headers["x-cache"] == "MISS"
    await gate.open()
    assert words(streamed.content) == words((await plain).content) == JOKE
    assert len(provider.calls) == 2
    assert await live.stored() == 1
    await live.settled()


@pytest.mark.parametrize(
    "other",
    [
        {"headers": YOURS},
        {"user": "u2"},
        {"metadata": {"run": "2"}},
        {"headers": {**MINE, "cache-control": "no-cache"}},
        {"headers": {**MINE, "cache-control": "no-store"}},
        {"headers": {**MINE, "cache-control": "max-age=60"}},
        {"headers": {**MINE, "llm-cache-control": "ttl=60"}},
        {"headers": {**MINE, "llm-cache-control": "sample=1"}},
    ],
    ids=str,
)
async def test_who_asks_on_other_terms_does_not_join(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, other: dict[str, Any]
) -> None:
    """Another credential, other echoed fields, other wishes: a call of one's own, side by side."""
    provider.always = Answer(gate=(gate := Gate()))
    live = await proxy()
    ask = asker(client, live)
    asked = [asyncio.create_task(ask(user="u1", metadata={"run": "1"}))]
    asked.append(asyncio.create_task(ask(**{"user": "u1", "metadata": {"run": "1"}, **other})))
    await provider.received(2)
    await gate.open()
    caches = {each.headers["x-cache"] for each in await asyncio.gather(*asked)}
    assert caches <= {"MISS", "BYPASS"}
    await live.settled()


async def test_two_who_ask_for_fresh_answers_get_two(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """A no-cache request joins nobody, not even its like."""
    provider.always = Answer(gate=(gate := Gate()))
    live = await proxy()
    ask = asker(client, live)
    fresh = {**MINE, "cache-control": "no-cache"}
    asked = [asyncio.create_task(ask(headers=fresh)) for _ in range(2)]
    await provider.received(2)
    await gate.open()
    assert {words(each.content) for each in await asyncio.gather(*asked)} == {JOKE}
    assert await live.stored() == 1
    await live.settled()


async def test_a_slow_lookup_is_shared(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Five who come while the cache still looks are one lookup and one call."""
    cache = BrokenCache(MemoryCache(max_bytes=2**20), Fault.HANG)
    cache.operations = frozenset({"get_many"})
    live = await proxy(cache)
    ask = asker(client, live)
    answers = await asyncio.gather(*(ask() for _ in range(5)))
    assert {words(each.content) for each in answers} == {JOKE}
    assert cache.calls.count("get_many") == 1
    assert len(provider.calls) == await live.stored() == 1
    await live.settled()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_save_is_covered(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, stream: bool
) -> None:
    """Nobody waits for it, and who asks before the entry can be found is told what was fetched."""
    live = await proxy(SlowCache(saves=(gate := Gate())))
    ask = asker(client, live)
    assert words((await ask(stream=stream)).content) == JOKE
    assert gate.waiting == 1
    for _ in range(2):
        told = await ask(stream=stream)
        assert (told.headers["x-cache"], words(told.content)) == ("COLLAPSED", JOKE)
    await gate.open()
    await live.settled()
    assert (await ask()).headers["x-cache"] == "HIT"
    assert len(provider.calls) == 1


async def test_a_slow_save_makes_nothing_last_longer(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Who wants it fresher than a save may take asks the provider."""
    live = await proxy(SlowCache(saves=(gate := Gate())))
    ask = asker(client, live)
    for number in range(2):
        told = await ask({**MINE, "llm-cache-control": "ttl=1"})
        assert told.headers["x-cache"] == "MISS"
        assert len(provider.calls) == number + 1
    await gate.open()
    await live.settled()


async def test_a_found_entry_must_do_for_each_who_waits(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """An entry without usage serves a stream, not the plain asker who joined its lookup."""
    provider.script(Answer(chunks=[event(each) for each in WITHOUT_USAGE]))
    live = await proxy(SlowCache(lookups=(lookups := Gate())))
    ask = asker(client, live)
    await lookups.release()
    await ask(stream=True)
    streamed = asyncio.create_task(ask(stream=True))
    await lookups.reached()
    plain = asyncio.create_task(ask())
    await live.listening(2)
    await lookups.open()
    assert (await streamed).headers["x-cache"] == "HIT"
    assert (await plain).json()["usage"]["completion_tokens"] == 12
    assert len(provider.calls) == 2
    await live.settled()


async def test_streams_with_and_without_usage_do_not_mix(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Where usage is not asked for on our own account, each stream is as its asker wants it."""
    provider.always = Answer(gate=(gate := Gate()))
    live = await proxy(upstream={"include_usage": False})
    ask = asker(client, live)
    bare = asyncio.create_task(ask(stream=True))
    await provider.received()
    full = asyncio.create_task(ask(stream=True, stream_options={"include_usage": True}))
    await provider.received(2)
    await gate.open()
    assert not any("usage" in event for event in events((await bare).content))
    assert events((await full).content)[-1]["usage"]["completion_tokens"] == 12
    await live.settled()
