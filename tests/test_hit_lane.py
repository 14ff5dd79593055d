"""What the hit lane answers, and what it must not: over real sockets."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import orjson
import pytest

from cache_backends import MemoryCache, TieredCache
from cache_backends.shared import EVERYTHING, Filter
from proxy.lane_protocol import LaneProtocol
from proxy.models import Mode
from tests.fakes.admin import FULL, TOKENS, bearing
from tests.fakes.chat import MINE, YOURS, asker, asking, words
from tests.fakes.clock import FakeClock
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.provider import FakeProvider
from tests.fakes.raw_client import Connect, RawClient
from tests.fakes.shapes import LAST, post
from tests.fakes.shared_cache import FakeSharedCache, World

Ask = Callable[..., Awaitable[httpx.Response]]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def laned(proxy: StartProxy) -> StartProxy:
    """A proxy with its lane on, whatever the tests are told."""

    async def start(*args: Any, **sections: Any) -> LiveProxy:
        sections["server"] = {"hit_lane": True} | sections.get("server", {})
        return await proxy(*args, **sections)

    return start


async def warmed(ask: Ask, live: LiveProxy, **fields: Any) -> httpx.Response:
    """The last of three equal answers; it came from the lane."""
    for _ in range(2):
        await ask(**fields)
    return await from_lane(ask, live, **fields)


async def from_lane(ask: Ask, live: LiveProxy, **fields: Any) -> httpx.Response:
    before = live.app.lane.served
    told = await ask(**fields)
    assert live.app.lane.served == before + 1
    assert told.headers["x-cache"] == "HIT"
    return told


async def past_lane(ask: Ask, live: LiveProxy, **fields: Any) -> httpx.Response:
    before = live.app.lane.served
    told = await ask(**fields)
    assert live.app.lane.served == before
    return told


@pytest.mark.parametrize("stream", [False, True])
async def test_the_third_equal_request_takes_the_lane(
    laned: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, stream: bool
) -> None:
    """The first is a miss, the second a hit of the full path; the third is told the same."""
    live = await laned()
    ask = asker(client, live)
    await ask(stream=stream)
    second = await past_lane(ask, live, stream=stream)
    third = await from_lane(ask, live, stream=stream)
    assert third.content == second.content
    assert third.headers.keys() == second.headers.keys()
    assert third.headers["x-request-id"] != second.headers["x-request-id"]
    assert len(provider.calls) == 1
    await live.settled()


async def test_what_came_once_or_never_comes_again_stays_out(
    laned: StartProxy, client: httpx.AsyncClient
) -> None:
    """As it is where each request has a trace of its own."""
    live = await laned()
    live.app.lane.times = 2
    ask = asker(client, live)
    for number in range(5):
        await past_lane(ask, live, headers={**MINE, "traceparent": f"{TRACE[:-4]}{number}-01"})
    assert len(live.app.lane) == 0
    for _ in range(2):
        await past_lane(ask, live)
    await from_lane(ask, live)


async def test_off_means_off(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """`server.hit_lane = false`: every request goes the full path, and nothing is kept."""
    live = await proxy(server={"hit_lane": False})
    ask = asker(client, live)
    for _ in range(4):
        await past_lane(ask, live)
    assert len(live.app.lane) == 0


async def test_age_and_time_to_live_are_right_to_the_second(
    laned: StartProxy, client: httpx.AsyncClient
) -> None:
    """Also where the seconds of the two do not end together; then it has expired."""
    live = await laned(clock=(clock := FakeClock()), cache={"ttl": 10.5})
    ask = asker(client, live)
    await warmed(ask, live)
    for tenths in range(1, 105):
        clock.now = FakeClock().now + tenths / 10
        told = await from_lane(ask, live)
        assert told.headers["age"] == str(tenths // 10)
        assert f"; ttl={(105 - tenths) // 10};" in told.headers["cache-status"]
    clock.advance(0.1)
    assert (await past_lane(ask, live)).headers["x-cache"] == "MISS"


async def test_a_clock_that_was_set_back_is_believed(
    laned: StartProxy, client: httpx.AsyncClient
) -> None:
    """Age is what the full path would say."""
    live = await laned(clock=(clock := FakeClock()))
    ask = asker(client, live)
    clock.advance(100)
    await warmed(ask, live)
    clock.advance(50)
    assert (await from_lane(ask, live)).headers["age"] == "50"
    clock.advance(-30)
    assert (await from_lane(ask, live)).headers["age"] == "20"


@pytest.mark.parametrize("tiered", [False, True])
@pytest.mark.parametrize("filter", [EVERYTHING, Filter(model="m"), None], ids=str)
async def test_what_was_purged_is_not_told(
    laned: StartProxy, client: httpx.AsyncClient, filter: Filter | None, tiered: bool
) -> None:
    """By filter, or by its id; not by this process either, where another one purges."""
    memory = MemoryCache(max_bytes=2**20)
    world = World()
    mine = TieredCache(memory, FakeSharedCache(world), lease=0.1) if tiered else memory
    other = TieredCache(memory, FakeSharedCache(world), lease=0.1) if tiered else memory
    live = await laned(mine)
    ask = asker(client, live)
    told = await warmed(ask, live)
    if filter is None:
        await other.delete(told.headers["x-llm-cache-id"])
    else:
        await other.purge(filter)
    assert (await past_lane(ask, live)).headers["x-cache"] == "MISS"
    await past_lane(ask, live)
    await from_lane(ask, live)
    await live.settled()


async def test_without_news_of_purges_memory_is_not_trusted(
    laned: StartProxy, client: httpx.AsyncClient
) -> None:
    """One lease for all that is known: when it has run out, the store is asked."""
    seconds = [100.0]
    memory, world = MemoryCache(max_bytes=2**20), World()
    cache = TieredCache(memory, FakeSharedCache(world), lease=1.0, monotonic=lambda: seconds[0])
    live = await laned(cache)
    ask = asker(client, live)
    await warmed(ask, live)
    seconds[0] += 1.1
    assert (await past_lane(ask, live)).headers["x-cache"] == "HIT"
    await from_lane(ask, live)


async def test_another_answer_in_its_place_is_told(
    laned: StartProxy, client: httpx.AsyncClient
) -> None:
    """An operator corrects it: nobody is told the former one any more."""
    live = await laned(admin=TOKENS)
    ask = asker(client, live)
    told = await warmed(ask, live)
    url = f"{live.origin}/admin/entries/{told.headers['x-llm-cache-id']}"
    done = await client.put(url, json={"text": "Corrected."}, headers=bearing(FULL))
    assert done.status_code == 200, done.text
    assert words((await past_lane(ask, live)).content) == "Corrected."
    assert words((await from_lane(ask, live)).content) == "Corrected."


async def test_a_refresh_is_told_to_those_who_come_after_it(
    laned: StartProxy, client: httpx.AsyncClient
) -> None:
    """`no-cache` goes past the lane, and what it brings takes the place of what was there."""
    live = await laned()
    ask = asker(client, live)
    first = await warmed(ask, live)
    fresh = await past_lane(ask, live, headers={**MINE, "cache-control": "no-cache"})
    assert fresh.json()["id"] != first.json()["id"]
    assert (await past_lane(ask, live)).json() == fresh.json()
    assert (await from_lane(ask, live)).json() == fresh.json()


@pytest.mark.parametrize("mode", [Mode.BYPASS, Mode.REFRESH])
async def test_a_change_of_the_mode_is_heeded_at_once(
    laned: StartProxy, client: httpx.AsyncClient, mode: Mode
) -> None:
    """And when it is taken back, the lane serves again."""
    live = await laned()
    ask = asker(client, live)
    await warmed(ask, live)
    await live.app.switch.set(mode)
    for _ in range(3):
        assert (await past_lane(ask, live)).headers["x-cache"] in ("BYPASS", "MISS")
    await live.app.switch.set(Mode.NORMAL)
    await ask()
    await from_lane(ask, live)


@pytest.mark.parametrize("mode", [Mode.OFFLINE, Mode.READ_ONLY])
async def test_modes_that_read_have_the_lane(
    laned: StartProxy, client: httpx.AsyncClient, mode: Mode
) -> None:
    """Once it has learned what they tell."""
    live = await laned()
    ask = asker(client, live)
    await warmed(ask, live)
    await live.app.switch.set(mode)
    await past_lane(ask, live)
    await from_lane(ask, live)


async def test_an_evicted_entry_leaves_the_lane(
    laned: StartProxy, client: httpx.AsyncClient
) -> None:
    """The cache's bound counts for all: it is a miss."""
    live = await laned(memory := MemoryCache(max_bytes=2**15))
    ask = asker(client, live)
    await warmed(ask, live)
    for number in range(100):
        for _ in range(2):
            await ask(prompt=f"{number}" + "x" * 500)
    assert memory.evictions
    assert (await past_lane(ask, live)).headers["x-cache"] == "MISS"


async def test_who_asks_often_keeps_the_entry(laned: StartProxy, client: httpx.AsyncClient) -> None:
    """A hit of the lane is a use, as the cache sees it."""
    live = await laned(memory := MemoryCache(max_bytes=2**15))
    ask = asker(client, live)
    await warmed(ask, live)
    for number in range(60):
        await ask(prompt=f"{number}" + "x" * 500)
        await from_lane(ask, live)
    assert memory.evictions


async def test_another_credential_finds_nothing(
    laned: StartProxy, client: httpx.AsyncClient
) -> None:
    """It is not the same request: the head has every header in it."""
    live = await laned()
    ask = asker(client, live)
    mine = await warmed(ask, live)
    assert (await past_lane(ask, live, headers=YOURS)).headers["x-cache"] == "MISS"
    assert (await warmed(ask, live, headers=YOURS)).content != mine.content


async def test_a_token_is_asked_for_in_the_lane_too(
    laned: StartProxy, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a wrong one or none it is 401; once all is forgotten, the full path is asked anew."""
    monkeypatch.setenv("CI_TOKEN", "token-of-ci-00001")
    live = await laned(clients={"ci": {"token_env": "CI_TOKEN"}})
    ask = asker(client, live)
    ci = {"authorization": "Bearer token-of-ci-00001"}
    await warmed(ask, live, headers=ci)
    for headers in ({}, {"authorization": "Bearer token-of-ci-00002"}):
        assert (await past_lane(ask, live, headers=headers)).status_code == 401
    live.app.lane.clear()
    await past_lane(ask, live, headers=ci)
    assert live.app.lane.bytes > 0


async def test_hits_are_counted_and_logged_as_on_the_full_path(
    laned: StartProxy, client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has its line, its place in the sums, and is a hit of its entry."""
    live = await laned(admin=TOKENS)
    ask = asker(client, live)
    told = await warmed(ask, live)
    for _ in range(20):
        await from_lane(ask, live)
    admin = {"headers": bearing(FULL)}
    stats = (await client.get(f"{live.origin}/admin/stats", **admin)).json()
    assert (stats["hits_by_kind"]["memory"], stats["misses"]) == (22, 1)
    usage = told.json()["usage"]
    assert stats["saved"]["tokens"] == 22 * usage["total_tokens"]
    entry = f"{live.origin}/admin/entries/{told.headers['x-llm-cache-id']}"
    assert (await client.get(entry, **admin)).json()["hits"] == 22
    live.app.journal.close()
    lines = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    hits = [line for line in lines if line["outcome"] == "HIT"]
    assert len(hits) == 22
    of_full_path, of_lane = hits[0], hits[-1]
    own = {"time", "seconds", "age", "saved_seconds"}
    assert {n: v for n, v in of_lane.items() if n not in own} == {
        n: v for n, v in of_full_path.items() if n not in own
    }
    assert 0 < of_lane["seconds"] < 1
    assert of_lane["age"] >= of_full_path["age"]


async def test_a_body_that_comes_late_is_waited_for(laned: StartProxy, connect: Connect) -> None:
    """Of a known head; by one who then sends another, the full path is asked."""
    live = await laned()
    raw = await connect(live.origin)
    head, end, body = post().partition(b"\r\n\r\n")
    other = body.replace(b"hi", b"ho")
    for sent, served in ((body, 0), (body, 0), (body, 1), (other, 1), (body, 2)):
        await raw.send_bytes(head + end)
        await asyncio.sleep(0.01)
        for byte in sent:
            await raw.send_bytes(bytes([byte]))
        assert await raw.head() == 200
        answer = orjson.loads((await raw.rest()).body)
        assert answer["choices"]
        assert live.app.lane.served == served


async def test_a_body_that_never_comes_ends_the_connection(
    laned: StartProxy, connect: Connect
) -> None:
    """As it does where the head is not known."""
    live = await laned()
    raw = await connect(live.origin)
    for _ in range(3):
        await raw.send_bytes(post())
        await answered(raw)
    (connection,) = connections(live)
    connection.timeout_keep_alive = 0.1  # type: ignore[assignment]  # uvicorn wants whole seconds
    await raw.send_bytes(post()[:-5])
    async with asyncio.timeout(5):
        assert await raw.read(100) == b""


async def test_a_connection_in_the_lane_is_idle_from_its_last_answer_on(
    laned: StartProxy, connect: Connect
) -> None:
    """The keep-alive is that of any connection."""
    live = await laned()
    raw = await connect(live.origin)
    for _ in range(3):
        await raw.send_bytes(post())
        await answered(raw)
    loop = asyncio.get_running_loop()
    (connection,) = connections(live)
    connection.timeout_keep_alive = 0.3
    for _ in range(5):
        await asyncio.sleep(0.1)
        await raw.send_bytes(post())
        await answered(raw)
    assert live.app.lane.served == 6
    began = loop.time()
    connection.timeout_keep_alive_handler()  # as if it went off too early
    async with asyncio.timeout(5):
        assert await raw.read(100) == b""
    assert loop.time() - began > 0.2


async def test_a_connection_may_know_nothing_but_the_lane(
    laned: StartProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline for its first head ends with an answer; each is one that the server counts."""
    live = await laned()
    first = await connect(live.origin)
    for _ in range(3):
        await first.send_bytes(post())
        await answered(first)
    monkeypatch.setattr(LaneProtocol, "head_deadline_s", 0.2)
    second = await connect(live.origin)
    for _ in range(3):
        await second.send_bytes(post())
        await answered(second)
        await asyncio.sleep(0.1)
    assert live.app.lane.served == 4
    assert {each.server_state.total_requests for each in connections(live)} == {6}


async def test_one_who_was_asking_when_the_server_stops_is_answered(
    laned: StartProxy, connect: Connect
) -> None:
    """Half a request with a known head is a request; then the connection ends."""
    live = await laned()
    raw = await connect(live.origin)
    for _ in range(3):
        await raw.send_bytes(post())
        await answered(raw)
    await raw.send_bytes(post()[:-5])
    (connection,) = connections(live)
    while not connection._missing:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.001)
    connection.shutdown()
    await raw.send_bytes(post()[-5:])
    assert b'"choices"' in await answered(raw)
    assert await raw.read(100) == b""


async def test_one_who_asks_ahead_and_takes_nothing_fills_no_memory(
    laned: StartProxy, connect: Connect
) -> None:
    """The lane stops where the connection does not take more, and order is kept."""
    live = await laned()
    large = post(orjson.dumps(asking("x" * 40, n=100)))
    raw = await connect(live.origin, receive_buffer=4096)
    for _ in range(3):
        await raw.send_bytes(large)
        await answered(raw)
    asked = asyncio.create_task(raw.send_bytes(large * 2000 + LAST))
    (connection,) = connections(live)
    while not connection.flow.write_paused:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.001)
    assert connection.transport.get_write_buffer_size() < 2**20
    for _ in range(2000):
        assert await answered(raw)
    assert await raw.head() == 404
    await asked


@pytest.mark.parametrize(("size", "served"), [(2**20 - 200, 1), (2**20 + 1, 0)])
async def test_bodies_above_a_megabyte_stay_out(
    laned: StartProxy, client: httpx.AsyncClient, size: int, served: int
) -> None:
    """The server would have to gather them."""
    live = await laned()
    ask = asker(client, live)
    for _ in range(3):
        await ask(prompt="x" * size)
    assert live.app.lane.served == served


async def test_digests_that_are_equal_mix_nothing_up(
    laned: StartProxy, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They only find an answer: the bytes of the requests are compared."""
    monkeypatch.setattr("proxy.lane.xxh3_64_intdigest", lambda _: 1)
    live = await laned()
    ask = asker(client, live)
    told = {words((await warmed(ask, live, prompt=prompt)).content) for prompt in "abc"}
    assert len(told) == 3
    assert len(live.app.lane) == 1


async def test_the_lane_is_bounded_by_bytes(laned: StartProxy, client: httpx.AsyncClient) -> None:
    """Those of the requests count; who is asked for stays."""
    live = await laned()
    live.app.lane._max_bytes = 100_000
    ask = asker(client, live)
    await warmed(ask, live)
    for number in range(100):
        for _ in range(2):
            await ask(prompt=f"{number}" + "x" * 2000)
        await from_lane(ask, live)
        assert live.app.lane.bytes <= 100_000
    assert 5 < len(live.app.lane) < 100
    heads = live.app.lane._heads.values()
    assert sum(head.answers for head in heads) == len(live.app.lane)
    assert all(head.answers for head in heads)


async def test_no_cutting_of_requests_mixes_answers_up(laned: StartProxy, connect: Connect) -> None:
    """5,000 requests on ten connections, known and new, some at once, in pieces of any size: each
    has its answer, in its place."""
    live = await laned()
    answers: dict[str, str] = {}
    await asyncio.gather(*(storm(live, connect, random.Random(n), answers) for n in range(10)))
    assert len(set(answers.values())) == len(answers) == len(PROMPTS)
    assert live.app.lane.served > 1000
    await live.settled()


PROMPTS = [f"prompt {number} " + "x" * (number % 3 * 2000) for number in range(100)]


async def storm(
    live: LiveProxy, connect: Connect, dice: random.Random, answers: dict[str, str]
) -> None:
    """500 requests on one connection; `answers` has what each prompt was told at first."""
    raw = await connect(live.origin)
    left = 500
    while left:
        burst = min(left, dice.randrange(1, 8))
        left -= burst
        chosen = [PROMPTS[min(dice.randrange(100), dice.randrange(100))] for _ in range(burst)]
        sent = b"".join(post(orjson.dumps(asking(prompt))) for prompt in chosen)
        asked = asyncio.create_task(in_pieces(raw, sent, dice))
        for prompt in chosen:
            told = words(await answered(raw))
            assert told == answers.setdefault(prompt, told)
        await asked


async def in_pieces(raw: RawClient, sent: bytes, dice: random.Random) -> None:
    at = 0
    while at < len(sent):
        size = dice.choice([1, 7, 100, 400, 1000, 5000, 60_000])
        await raw.send_bytes(sent[at : at + size])
        at += size
        if dice.random() < 0.3:
            await asyncio.sleep(0)


async def answered(raw: RawClient) -> bytes:
    assert await raw.head() == 200
    return (await raw.rest()).body


def connections(live: LiveProxy) -> list[LaneProtocol]:
    """What serves those who are connected now."""
    return [
        each
        for each in gc.get_objects()
        if type(each) is LaneProtocol and each in each.connections and each._lane is live.app.lane
    ]
