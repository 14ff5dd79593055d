"""Many clients at once, with credentials of their own, who leave when they like: nobody ever gets
an answer that is not his.

The provider answers with a keyed hash of the request and the credential, so that a wrong hit, a
leak or a mended half cannot look right.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cache_backends.base import Entry, Key
from cache_backends.memory import MemoryCache
from tests.fakes.chat import PATH, asking, words
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider
from tests.fakes.raw_client import RawClient

CLIENTS = 25
REQUESTS = 40  # of each client
CREDENTIALS = ("Bearer a", "Bearer b", "Bearer c")
PROMPTS = [f"Tell me joke {number}" for number in range(20)]


@dataclass
class Seen:
    """What all clients have seen."""

    whole: int = 0
    left: int = 0
    wrong: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


async def storm(live: LiveProxy, seed: int = 1) -> Seen:
    """Let all clients ask until they have had enough."""
    seen = Seen()
    await asyncio.gather(
        *(visit(live, seen, random.Random(seed * 1000 + each)) for each in range(CLIENTS))
    )
    return seen


async def visit(live: LiveProxy, seen: Seen, dice: random.Random) -> None:
    """One client's requests, on connections that last until he leaves in the middle of one."""
    raw = await RawClient.connect(live.origin)
    for _ in range(REQUESTS):
        body = asking(dice.choice(PROMPTS), stream=dice.random() < 0.5)
        credential = dice.choice(CREDENTIALS)
        await raw.post(PATH, body, {"authorization": credential})
        if dice.random() < 0.3:
            await leave(raw, dice)
            seen.left += 1
            raw = await RawClient.connect(live.origin)
        else:
            await check(raw, seen, body, credential)
    await raw.aclose()


async def leave(raw: RawClient, dice: random.Random) -> None:
    """Go away at once, after a while, or after a part of the answer."""
    if dice.random() < 0.5:
        await asyncio.sleep(dice.random() * 0.02)
    else:
        await raw.read(dice.randrange(1, 1000))
    if dice.random() < 0.5:
        raw.reset()
    else:
        raw.leave()


async def check(raw: RawClient, seen: Seen, body: dict[str, Any], credential: str) -> None:
    status = await raw.head()
    ending = await raw.rest()
    right = expected(body, credential=credential)
    if status != 200 or not ending.complete or (said := words(ending.body)) != right:
        seen.wrong.append(f"{status} {ending} in place of {right}")
        return
    assert said
    seen.whole += 1
    seen.outcomes[raw.headers["x-cache"]] += 1


@pytest.mark.parametrize(
    "cache",
    [
        {"url": "memory://"},
        {"url": "memory://", "max_bytes": 60_000},
        {"url": "sqlite:///FILE"},
        {"url": "sqlite:///FILE", "ttl": 1},
        {"url": "null://"},
    ],
    ids=lambda cache: "-".join(map(str, cache.values())).replace("/", ""),
)
async def test_nobody_gets_what_is_not_his(
    proxy: StartProxy, provider: FakeProvider, tmp_path: Path, cache: dict[str, Any]
) -> None:
    """A thousand requests, a third of them given up: all that is answered is right, and in the end
    nothing is left over."""
    provider.always = Answer(delay_s=0.002, chunk_delay_s=0.001)
    url = cache["url"].replace("FILE", str(tmp_path / "cache.db"))
    live = await proxy(cache=cache | {"url": url})
    seen = await storm(live)
    assert seen.wrong == []
    assert seen.whole + seen.left == CLIENTS * REQUESTS
    assert seen.whole > 500
    if not url.startswith("null"):
        assert seen.outcomes.keys() == {"HIT", "MISS", "COLLAPSED"}
        assert seen.outcomes["HIT"] > 50
    await live.settled()


class MixedUp(MemoryCache):
    """Finds for some questions the answer to another one."""

    def __init__(self) -> None:
        super().__init__(max_bytes=2**20)
        self._last: Entry | None = None

    def peek(self, key: Key) -> Entry | None:
        entry = super().peek(key)
        if entry is None or self._last is None:
            self._last = self._last or entry
            return entry
        return replace(entry, generations=self._last.generations)


async def test_a_wrong_answer_would_be_noticed(proxy: StartProxy) -> None:
    """The storm finds out a cache that mixes answers up."""
    live = await proxy(backend=MixedUp())
    seen = await storm(live)
    assert len(seen.wrong) > 50
    await live.settled()


async def test_a_leak_would_be_noticed(proxy: StartProxy) -> None:
    """It also finds out entries that callers share, as they do where the operator wants it."""
    live = await proxy(cache={"scope": "shared"})
    seen = await storm(live)
    assert len(seen.wrong) > 50
    await live.settled()
