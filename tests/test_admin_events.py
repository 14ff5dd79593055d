"""Events over the admin API: one line for each request, of all workers of this host."""

from __future__ import annotations

import httpx
import orjson
import pytest

from proxy import broadcast
from proxy.broadcast import Broadcast
from proxy.errors import Overloaded
from proxy.models import Event
from tests.fakes.admin import TOKENS
from tests.fakes.chat import asker
from tests.fakes.live_proxy import StartProxy
from tests.fakes.watching import watching


async def test_a_request_is_told_as_it_ends(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """With what it was and how long it took, and not a word of it."""
    live = await proxy(admin=TOKENS)
    ask = asker(client, live)
    async with watching(live.origin) as watcher:
        body = (await ask(prompt="my secret prompt")).content
        await ask(prompt="my secret prompt")
        miss, hit = await watcher.next(), await watcher.next()
    assert miss is not None
    assert hit is not None
    assert (miss["outcome"], hit["outcome"]) == ("MISS", "HIT")
    assert {
        "event": "request",
        "model": "m",
        "status": 200,
        "tier": "memory",
    }.items() <= hit.items()
    assert hit["age"] >= 0
    assert hit["seconds"] > 0
    assert hit["answer_bytes"] == len(body)
    assert "secret" not in str(miss)
    assert orjson.loads(body)["choices"][0]["message"]["content"] not in str(miss)


async def test_they_end_when_the_proxy_drains(proxy: StartProxy) -> None:
    """So that it need not wait for who watches."""
    live = await proxy(admin=TOKENS)
    async with watching(live.origin) as watcher:
        live.app.health.draining = True
        assert await watcher.next() is None
    await live.settled()


async def test_who_leaves_is_forgotten(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """And another may watch in his place."""
    live = await proxy(admin=TOKENS)
    for _ in range(broadcast.MAX_LISTENERS // 8):
        async with watching(live.origin):
            pass
    await live.settled()
    async with watching(live.origin) as watcher:
        await asker(client, live)()
        assert [each["outcome"] for each in await watcher.told_within(0.5)] == ["MISS"]


async def test_who_reads_slowly_is_told_what_he_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, whoever watches."""
    monkeypatch.setattr(broadcast, "MAX_WAITING", 3)
    events = Broadcast(lambda: 1.0)
    events.tell(Event("/before"))
    with events.listener() as listener:
        for number in range(5):
            events.tell(Event(f"/{number}"))
        *first, dropped = map(orjson.loads, await listener.next(1))
        assert [each["path"] for each in first] == ["/0", "/1", "/2"]
        assert dropped == {"event": "dropped", "count": 2}
        assert await listener.next(0.001) == []
        events.tell(Event("/later"))
        assert [orjson.loads(each)["path"] for each in await listener.next(1)] == ["/later"]


async def test_not_all_may_watch_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs something for every request."""
    monkeypatch.setattr(broadcast, "MAX_LISTENERS", 1)
    events = Broadcast()
    with events.listener(), pytest.raises(Overloaded), events.listener():
        pass
    with events.listener():
        pass
