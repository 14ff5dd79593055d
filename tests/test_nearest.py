"""Offline, a miss names the stored entries that are nearest, and the fields that differ."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cache_backends import open_cache
from cache_backends.base import Entry, EntryCache, Generation, Key, NullCache, Unsupported, digest
from proxy.keys import canonical
from proxy.models import Mode
from proxy.nearest import NEAREST, Asked, Nearest, Whose
from tests.fakes.chat import YOURS, asker
from tests.fakes.live_proxy import StartProxy
from tests.fakes.provider import FakeProvider


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def cache(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EntryCache]:
    """Two that can be looked through."""
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/cache.db"}
    opened = open_cache(urls[request.param])
    yield opened
    await opened.aclose()


def message(answer: httpx.Response) -> str:
    assert answer.status_code == 424
    text: str = answer.json()["error"]["message"]
    return text


async def test_the_nearest_entry_and_what_differs_is_named(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, cache: EntryCache
) -> None:
    """A test that asks a little otherwise is told what it asks otherwise."""
    live = await proxy(backend=cache)
    ask = asker(client, live)
    stored = (await ask()).headers["x-llm-cache-id"]
    await ask(prompt="Nothing like that", seed=4)
    await live.app.switch.set(Mode.OFFLINE)
    warmer = message(await ask(temperature=0.5))
    assert f"Entry {stored} differs in parameters.temperature (stored: absent, asked: 0.5)." in (
        warmer
    )
    worded = message(await ask(prompt="Tell me a Joke"))
    first = worded.index("Entry")
    assert worded[first:].startswith(
        f"Entry {stored} differs in messages[0].content"
        ' (stored: "Tell me a joke", asked: "Tell me a Joke").'
    )
    assert len(provider.calls) == 2


async def test_entries_of_others_are_not_spoken_of(
    proxy: StartProxy, client: httpx.AsyncClient, cache: EntryCache
) -> None:
    """Not even that somebody asked the very same."""
    live = await proxy(backend=cache)
    ask = asker(client, live)
    await ask(prompt="My secret")
    await live.app.switch.set(Mode.OFFLINE)
    for prompt in ("My secret", "My secrets"):
        told = message(await ask(YOURS, prompt=prompt))
        assert "Nothing like it is stored" in told
        assert "My secret" not in told


async def test_a_cache_that_cannot_be_looked_through_names_nothing(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """The error is the same otherwise, with the id that was looked for."""
    live = await proxy(backend=NullCache(), cache={"mode": "offline"})
    told = message(await asker(client, live)())
    assert "nothing is stored for this request (POST /v1/chat/completions, model m, id " in told


async def test_the_input_that_is_missing_is_named(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """Of a batch, the first that is not stored."""
    live = await proxy()
    url = f"{live.base_url}/embeddings"
    await client.post(url, json={"model": "m", "input": ["a", "b"]}, headers=YOURS)
    await live.app.switch.set(Mode.OFFLINE)
    told = await client.post(url, json={"model": "m", "input": ["a", "c"]}, headers=YOURS)
    assert "input 1 of this request" in message(told)
    assert 'differs in input (stored: "a", asked: "c")' in message(told)


def entry(prompt: str, number: int = 0, **rest: Any) -> Entry:
    key = Key.of(canonical({"prompt": prompt}), canonical({"scope": "mine", **rest}))
    about = {
        "provider": "openai",
        "model": "m",
        "prompt_digest": digest(key.prompt),
        "llm_digest": digest(key.llm_string),
    }
    return Entry(key, [Generation("Hi")], stored_at=1_700_000_000.0 + number, about=about)


def asked(entry: Entry, **said: Any) -> Asked:
    return Asked(entry.key, "openai", "m", **said)


async def test_at_most_three_are_told_the_nearest_first(cache: EntryCache) -> None:
    """Of the same prompt, of the same parameters, of the same model."""
    near = [entry("Hi", top_p=1), entry("Hi!"), entry("Hi", top_p=1, seed=2)]
    far = [entry(f"Something else {number}", number, top_k=1) for number in range(5)]
    await cache.put_many(near + far)
    found = await Nearest(cache).find(asked(entry("Hi")))
    assert len(found) == NEAREST
    assert found[0].id in {near[0].key.id, near[1].key.id}
    assert {each.id for each in found} == {each.key.id for each in near}


async def test_whose_entries_are_compared_can_be_said(cache: EntryCache) -> None:
    """Own ones, all, or all as if they were own."""
    other = entry("Hi", scope="other")
    await cache.put_many([other])
    nearest, wanted = Nearest(cache), entry("Hi")
    assert await nearest.find(asked(wanted)) == []
    (told,) = await nearest.find(asked(wanted, whose=Whose.ALL))
    assert [each.path for each in told.comparison.differences] == ["scope"]
    (told,) = await nearest.find(asked(wanted, whose=Whose.ANYBODYS))
    assert told.comparison.differences == ()


async def test_a_client_sees_what_it_made(cache: EntryCache) -> None:
    """Though others share the scope."""
    await cache.put_many([entry("Hi")])
    assert await Nearest(cache).find(asked(entry("Hi!"), client="alice")) == []
    assert await Nearest(cache).find(asked(entry("Hi!"))) != []


async def test_a_cache_without_a_list_says_so() -> None:
    """And which have one."""
    with pytest.raises(Unsupported, match="sqlite"):
        await Nearest(NullCache()).find(asked(entry("Hi")))
